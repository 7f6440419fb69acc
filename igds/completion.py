"""What an imported prior lacks, made from the user's own images: estimator, gallery and classifier."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from igds.augmentation import classifier_view
from igds.bundle import Bundle, add_to_bundle
from igds.classifiers import ImageClassifier
from igds.data import ImageSet
from igds.encoders import EncoderConfig
from igds.estimator import estimate
from igds.measures import features_and_logits
from igds.training import ClassifierObjective, Training, TrainingEvent, train_linear_classifier

GALLERY_PER_CLASS = 24
HELD_OUT_SHARE = 5  # one image of so many of each class measures, where the data has no test split
_BATCH = 32  # a ResNet-50 at 224 pixels


def fitted(data: ImageSet, bundle: Bundle) -> ImageSet:
    """`data` with the labels of the bundle's classes, found by name in any case or by WordNet id.

    ValueError where a class of either is not in the other, or the images have another shape than the bundle's.
    """
    if data.images.shape[1:] != bundle.prior.shape:
        raise ValueError(
            f"the images are {tuple(data.images.shape[1:])} and the prior's {bundle.prior.shape}: resize them"
        )
    known = {name.casefold(): label for label, name in enumerate(bundle.classes)}
    known |= {wnid: label for label, wnid in enumerate(bundle.card.get("wnids", ()))}
    if strange := [name for name in data.classes if name.casefold() not in known]:
        raise ValueError(f"{bundle.name} has no class {strange[0]!r}: name folders after its classes, see `igds info`")
    labels = torch.tensor([known[name.casefold()] for name in data.classes])
    if empty := sorted(set(range(len(bundle.classes))) - set(labels.tolist())):
        raise ValueError(
            f"there are no images of {len(empty):,} of the {len(bundle.classes):,} classes of {bundle.name} "
            f"({bundle.classes[empty[0]]}): import it again with --classes, or add images"
        )
    return ImageSet(data.images, labels[data.labels], bundle.classes)


def split(data: ImageSet) -> tuple[ImageSet, ImageSet]:
    """(to learn from, to measure on): every fifth image of each class, in their order, measures."""
    order = torch.zeros(len(data), dtype=torch.long)
    for label in range(len(data.classes)):
        rows = (data.labels == label).nonzero()[:, 0]
        if len(rows) < HELD_OUT_SHARE:
            raise ValueError(
                f"the class {data.classes[label]!r} has {len(rows)} images: {HELD_OUT_SHARE} are the least, "
                "so that one can measure"
            )
        order[rows] = torch.arange(len(rows))
    measures = order % HELD_OUT_SHARE == HELD_OUT_SHARE - 1
    return tuple(ImageSet(data.images[rows], data.labels[rows], data.classes) for rows in (~measures, measures))


def add_estimator(bundle: Bundle, encoder: nn.Module, train: ImageSet, test: ImageSet, *, tau: float) -> float:
    """Fit g on frozen features of `train`, after ReLU became SoftPlus, and write the estimator; its test accuracy."""
    estimator = train_linear_classifier(encoder.to(bundle.device), train, tau=tau, batch_size=_BATCH)
    on_test = estimate(estimator, test, batch_size=_BATCH)
    measured = {
        "linear_accuracy_on_test": round(on_test.accuracy, 4),
        "prototype_information_on_test_nats": round(on_test.prototype, 4),
        "contextual_information_on_test_nats": round(on_test.contextual, 4),
    }
    add_to_bundle(bundle.path, estimator=estimator, half=False, measured={"estimator": measured})
    return on_test.accuracy


def add_gallery(bundle: Bundle, test: ImageSet) -> None:
    """Write as many real images of every class as the smallest has, 24 at most."""
    count = min(GALLERY_PER_CLASS, int(torch.bincount(test.labels).min()))
    add_to_bundle(bundle.path, gallery=torch.stack([test.of_class(y)[:count] for y in range(len(test.classes))]))


def classifier_training(bundle: Bundle, train: ImageSet, *, images: int) -> Training:
    """The resumable training of the judge, a small residual network that never sees a generated image."""
    channels, side = bundle.prior.shape[:2]
    # Its first stage works at 32 pixels or less, whatever the images' side: it judges, and need not be the best.
    factor = next((f for f in (2, 4, 8, 16) if side % f == 0 and side // f <= 32), 1)
    config = EncoderConfig(channels=channels, widths=(64, 128, 256), space_to_depth=factor)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = ClassifierObjective(ImageClassifier(config, len(bundle.classes)), classifier_view)
    return Training(
        objective,
        train,
        images=images,
        batch_size=min(128, len(train)),
        learning_rate=2e-3,
        weight_decay=5e-2,
        decay=1.0,
        checkpoint=judge_checkpoint(bundle),
        device=bundle.device,
    )


def judge_checkpoint(bundle: Bundle) -> Path:
    return bundle.path / ".classifier.pt"


def add_classifier(
    bundle: Bundle, training: Training, test: ImageSet, *, minutes: float | None = None
) -> Iterator[TrainingEvent]:
    """Train the judge and, once all its images are seen, write it into the bundle with its accuracy on `test`."""
    yield from training.run(minutes=minutes)
    if training.seen >= training.images:
        classifier = training.objective.result.eval().requires_grad_(False)
        _, logits = features_and_logits(classifier, test.images)
        accuracy = float((logits.argmax(1) == test.labels).float().mean())
        measured = {"accuracy_on_test": round(accuracy, 4)}
        add_to_bundle(bundle.path, classifier=classifier, measured={"classifier": measured})
        judge_checkpoint(bundle).unlink(missing_ok=True)
