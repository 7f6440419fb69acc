"""From trained parts to a bundle: fit g, measure everything on held-out data, write the card."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from igds.bundle import Bundle, save_bundle
from igds.data import ImageSet, picture, to_bytes
from igds.estimator import VariationalEstimator, estimate
from igds.measures import features_and_logits, frechet_distance, manifold, nearest
from igds.priors.base import Prior
from igds.recipes import Recipe
from igds.rng import image_seeds
from igds.sampling import ClassBatch, Guidance, sample
from igds.selection import random_subset

GALLERY_PER_CLASS = 24
SAMPLES_PER_CLASS = 200
SHEET_COLUMNS = 12
PICTURE_PIXELS = 2**25


@dataclass(frozen=True)
class Sampled:
    """How many of the samples that are judged have been drawn."""

    count: int
    total: int


def assemble(
    recipe: Recipe,
    train: ImageSet,
    test: ImageSet,
    *,
    work: Path,
    out: Path,
    device: torch.device,
    base: Bundle | None = None,
    prior: Prior | None = None,
    samples_per_class: int = SAMPLES_PER_CLASS,
    about: Mapping | None = None,
    command: str = "",
) -> Iterator[str | Sampled]:
    """Write the bundle `out` from the checkpoints in `work`; yields a line of text for every stage that is done.

    While it samples, it yields how far it is.

    A part without a checkpoint is taken from `base`. Raises FileNotFoundError where it is in neither. A `recipe` that
    trains no prior needs the `prior` that it has without. `about` are entries of the card beside those made here, and
    `command` is what made the parts, where that was not one `train` a part.
    """
    for part in recipe.budgets:
        if not (work / f"{part}.pt").exists() and (base is None or getattr(base, part) is None):
            raise FileNotFoundError(
                f"{work / f'{part}.pt'} is missing: run `train {part}` first, or name a bundle that has it with --base"
            )
    return _assemble(recipe, train, test, work, out, device, base, prior, samples_per_class, about, command)


def _assemble(
    recipe, train, test, work, out, device, base, prior, samples_per_class, about, command
) -> Iterator[str | Sampled]:
    parts, training = {}, {}
    if prior is not None:
        parts["prior"] = prior.to(device).eval()
    for part in recipe.budgets:
        if not (work / f"{part}.pt").exists():
            parts[part], training[part] = getattr(base, part), base.card.get("training", {}).get(part, {})
            yield f"{part}: from {base.path.name}"
            continue
        run = recipe.training(part, train, folder=work, device=device)
        parts[part] = run.objective.result.eval().requires_grad_(False)
        training[part] = {"images": run.seen, "batch_size": run.batch_size}
        if part in recipe.contrastive:
            parts[part] = recipe.estimator(part, parts[part], train)
            training[part] |= asdict(recipe.contrastive[part])
        if run.seen < run.images:
            yield f"{part}: only {run.seen:,} of {run.images:,} images seen, the learning rate is not at rest"
    for network in parts.values():
        network.half().float()  # what is measured is what the bundle will hold
    prior, estimator, classifier = parts["prior"], parts["estimator"], parts["classifier"]
    judged = {part: estimate(parts[part], test) for part in recipe.contrastive}
    for part, on_test in judged.items():
        yield f"{part}: {on_test.accuracy:.1%} linear accuracy on the test set"

    features, logits = features_and_logits(classifier, test.images)
    judge_accuracy = float((logits.argmax(1) == test.labels).float().mean())
    yield f"classifier: {judge_accuracy:.1%} on the test set"

    rarest = min(int(torch.bincount(data.labels).min()) for data in (train, test))
    per_class = min(samples_per_class, rarest)
    labels = torch.arange(len(train.classes)).repeat_interleave(per_class)
    drawn = []
    for label in range(len(train.classes)):
        settings = {name: recipe.defaults[name] for name in ("steps", "solver")}
        drawn.append(unguided_images(prior, estimator, label, per_class, **settings))
        yield Sampled((label + 1) * per_class, len(labels))
    images = torch.cat(drawn)
    sampled, sampled_logits = features_and_logits(classifier, images)
    real = train.images[random_subset(train.labels, per_class, seed=1, classes=train.classes)]
    real_features, _ = features_and_logits(classifier, real)
    train_features, _ = features_and_logits(classifier, train.images)
    copies, originals = nearest(sampled, train_features)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    halves = features[order].chunk(2)
    unseen, _ = nearest(halves[0][: len(images)], train_features)
    lies = [manifold(features[test.labels == y], sampled[labels == y]) for y in range(len(train.classes))]
    recognised = float((sampled_logits.argmax(1) == labels).float().mean())
    yield f"prior: {len(images)} samples, of which the classifier recognises {recognised:.1%}"

    parameters = {part: sum(p.numel() for p in network.parameters()) for part, network in parts.items()}
    card = {
        "title": recipe.title,
        "source": recipe.source,
        "license": recipe.license,
        "classes": list(train.classes),
        "defaults": recipe.defaults,
        "beta_range": list(recipe.beta_range),
        **({"auto_beta": recipe.auto_beta} if recipe.auto_beta else {}),
        "parameters": parameters,
        "training": {**training, "command": command or f"python -m igds train {'|'.join(parts)}|bundle"},
        **(about or {}),
        "measured": {
            **{
                part: {
                    "linear_accuracy_on_test": round(on_test.accuracy, 4),
                    "prototype_information_on_test_nats": round(on_test.prototype, 4),
                    "contextual_information_on_test_nats": round(on_test.contextual, 4),
                    "contextual_information_by_class_nats": [round(v, 4) for v in on_test.contextual_by_class],
                    "classifier_rank": parts[part].classifier_rank(),
                }
                for part, on_test in judged.items()
            },
            "classifier": {"accuracy_on_test": round(judge_accuracy, 4)},
            "prior": {
                "unguided_samples": len(images),
                "steps": recipe.defaults["steps"],
                "solver": recipe.defaults["solver"],
                "classifier_recognises_samples": round(recognised, 4),
                "frechet_distance_samples_to_test": round(frechet_distance(sampled, features), 3),
                "frechet_distance_as_many_training_images_to_test": round(frechet_distance(real_features, features), 3),
                "frechet_distance_between_halves_of_test": round(frechet_distance(*halves), 3),
                "precision": round(sum(one.precision for one in lies) / len(lies), 4),
                "recall": round(sum(one.recall for one in lies) / len(lies), 4),
                "nearest_training_image_of_samples": round(float(copies.mean()), 4),
                "nearest_training_image_of_test_images": round(float(unseen.mean()), 4),
                # Of samples that copy nothing, a half and a hundredth: those of the test images themselves.
                "samples_nearer_than_half_of_test_images": round(float((copies < unseen.median()).float().mean()), 4),
                "samples_nearer_than_a_hundredth_of_test_images": round(
                    float((copies < unseen.quantile(0.01)).float().mean()), 4
                ),
            },
        },
    }
    gallery = nearest_images = None
    if recipe.shows_images:
        rarest = int(torch.bincount(test.labels).min())
        count = tiles_per_class(min(GALLERY_PER_CLASS, rarest), classes=len(test.classes), side=test.images.shape[-1])
        gallery = torch.stack([test.of_class(label)[:count] for label in range(len(test.classes))])
        nearest_images = train.images[originals]
    save_bundle(out, card, **parts, gallery=gallery)
    columns = tiles_per_class(SHEET_COLUMNS, classes=2 * len(test.classes), side=images.shape[-1])
    sheet = contact_sheet(images, nearest_images, per_class, columns=columns)
    sheet.save(out / "samples.png", optimize=True)
    yield f"written to {out}"


def tiles_per_class(wanted: int, *, classes: int, side: int) -> int:
    """How many tiles a row of a picture has, with a row a class, so that the picture can be opened anywhere."""
    return max(1, min(wanted, PICTURE_PIXELS // (classes * side**2)))


def unguided_images(
    prior: Prior, estimator: VariationalEstimator, label: int, count: int, *, steps: int, solver: str
) -> Tensor:
    """`count` images of a class from the prior alone, as bytes on the CPU."""
    batch = ClassBatch(label, image_seeds(0, label, count), Guidance())
    return to_bytes(sample(prior, estimator, [batch], steps=steps, solver=solver)[0]).cpu()


def contact_sheet(
    images: Tensor, nearest: Tensor | None, per_class: int, *, columns: int = SHEET_COLUMNS
) -> Image.Image:
    """A row of samples a class, and below it, where they are given, the training image nearest to each."""
    rows = []
    for start in range(0, len(images), per_class):
        for tiles in (images, nearest) if nearest is not None else (images,):
            rows.append(torch.cat(list(tiles[start : start + min(columns, per_class)]), dim=2))
    return picture(torch.cat(rows, dim=1))
