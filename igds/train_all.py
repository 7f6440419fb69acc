"""All parts of a bundle of one's own images, one after the other: planned, resumable, with one measure of progress."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from igds.bundle import HELD_OUT, Bundle
from igds.card import SAMPLES_PER_CLASS, assemble
from igds.data import ImageSet
from igds.encoders import Encoder, smooth
from igds.estimator import VariationalEstimator
from igds.files import write_json
from igds.locks import hold_place
from igds.own_images import LEAST_TO_MEASURE, OwnImages
from igds.own_recipe import most_images, start_from
from igds.priors.base import Prior
from igds.priors.unet import UNetPrior
from igds.recipes import Recipe
from igds.rng import image_seeds
from igds.sampling import ClassBatch, Guidance, sample

WORK = ".training"  # within the bundle's folder, until it is complete
ORDER = ("estimator", HELD_OUT, "classifier", "prior")  # the prior last: it takes what time the others leave
MEASURING = "measuring"
_PLAN = "plan.json"
_TIME = {"prior": 0.55, "estimator": 0.17, HELD_OUT: 0.11, "classifier": 0.17}
_MEASURING_TIME = 0.2  # of a budget, at the most, for the samples that are judged
_MOST_SAMPLES = 2000
_SAVE_SECONDS = 15
SPEED_SECONDS = 2.5


@dataclass(frozen=True)
class Speeds:
    """Of this machine: images a second of each part's training, and of one step of sampling."""

    training: dict[str, float]
    sampling: float


@dataclass(frozen=True)
class Plan:
    """How many images each part sees, how many samples of a class are judged, and what that takes at `speeds`.

    `minutes` is the budget it was made for, None without one, and `spent` how many seconds of it are gone.
    """

    images: dict[str, int]
    samples_per_class: int
    measuring_seconds: float
    speeds: Speeds
    minutes: float | None
    spent: float = 0.0

    def seconds(self, part: str) -> float:
        return self.images[part] / self.speeds.training[part]

    @property
    def total(self) -> float:
        return sum(map(self.seconds, self.images)) + self.measuring_seconds


@dataclass(frozen=True)
class Progress:
    """`images` of `total` seen by `part`, its recent mean `loss`, and seconds of work `done` of `work`, by the plan."""

    part: str
    images: int
    total: int
    loss: float
    done: float
    work: float


def measure_speeds(
    recipe: Recipe,
    data: ImageSet,
    *,
    device: torch.device,
    prior: Prior | None = None,
    minutes: float | None = None,
) -> Speeds:
    """Train every part afresh for two or three seconds, less for a budget of under a minute, and draw a few samples.

    Nothing of it is kept.
    """
    seconds = SPEED_SECONDS if minutes is None else min(SPEED_SECONDS, 2 * minutes)
    training = {part: _training_speed(recipe, part, data, device, seconds) for part in recipe.budgets}
    with torch.random.fork_rng():
        encoder = Encoder(recipe.encoder)
        smooth(encoder)
        estimator = VariationalEstimator(encoder, len(data.classes), features=recipe.encoder.features, tau=recipe.tau)
        prior = prior if prior is not None else UNetPrior(recipe.prior)
    for network in (estimator, prior):
        network.to(device).eval().requires_grad_(False)
    batch = ClassBatch(0, image_seeds(0, 0, 16), Guidance())
    started = time.monotonic()
    sample(prior, estimator, [batch], steps=2, solver=recipe.defaults["solver"])
    return Speeds(training, 32 / (time.monotonic() - started))


def _training_speed(recipe: Recipe, part: str, data: ImageSet, device: torch.device, seconds: float) -> float:
    with tempfile.TemporaryDirectory() as folder:
        events = recipe.training(part, data, folder=Path(folder), images=10**9, device=device).run(every=0)
        first = event = next(events)  # which also allocates
        started = time.monotonic()
        while event is first or time.monotonic() - started < seconds:
            event = next(events)
        speed = (event.images - first.images) / (time.monotonic() - started)
        events.close()
    return speed


def plan(recipe: Recipe, images: OwnImages, speeds: Speeds, *, minutes: float | None = None) -> Plan:
    """Divide `minutes` over the parts, or without them take the recipe's own budgets.

    Of the time that the last measuring leaves, the prior gets about a half; whatever a part cannot use (`most_images`)
    goes to the prior. Every part sees a batch at the least, so a very short budget is overrun.
    """
    count, classes = len(images.train), len(images.train.classes)
    rarest = int(torch.bincount(images.test.labels).min())
    per_class = max(LEAST_TO_MEASURE, min(SAMPLES_PER_CLASS, rarest, _MOST_SAMPLES // classes))
    second = speeds.sampling / recipe.defaults["steps"] / classes  # samples of every class in a second
    if minutes is not None:
        per_class = max(LEAST_TO_MEASURE, min(per_class, int(_MEASURING_TIME * minutes * 60 * second)))
    # g and the figures ask every part for about two passes over the images, a third of training's work each.
    passes = sum(2 * (count + len(images.test)) / (3 * speed) for speed in speeds.training.values())
    measuring = per_class / second + passes
    if minutes is None:
        return Plan({p: recipe.budgets[p].images for p in recipe.budgets}, per_class, measuring, speeds, None)
    left = max(minutes * 60 - measuring, minutes * 12)
    shares = {part: _TIME[part] for part in recipe.budgets}
    seen = {part: left * share / sum(shares.values()) * speeds.training[part] for part, share in shares.items()}
    capped = {part: min(wanted, most_images(part, count)) for part, wanted in seen.items()}
    if "prior" in capped:
        spare = sum((seen[part] - capped[part]) / speeds.training[part] for part in capped if part != "prior")
        capped["prior"] = min(seen["prior"] + spare * speeds.training["prior"], most_images("prior", count))
    whole = {part: _whole(recipe, part, wanted) for part, wanted in capped.items()}
    return Plan(whole, per_class, measuring, speeds, minutes)


def _whole(recipe: Recipe, part: str, images: float) -> int:
    """A number of whole batches, at least one."""
    size = recipe.budgets[part].batch_size
    return max(1, round(images / size)) * size


def replan(made: Plan, recipe: Recipe, waiting: list[str], count: int) -> Plan:
    """The same plan with the parts that have not begun made longer or shorter, by what is left of the budget.

    Within a factor of 4, since a machine that is busy now may be free later, and never beyond `most_images`.
    """
    if made.minutes is None:
        return made
    left = made.minutes * 60 - made.spent - made.measuring_seconds
    factor = min(4.0, max(0.25, left / sum(map(made.seconds, waiting))))
    longer = {part: _whole(recipe, part, min(made.images[part] * factor, most_images(part, count))) for part in waiting}
    return replace(made, images={**made.images, **longer})


def is_complete(out: Path) -> bool:
    """Whether the bundle in `out` is written and its training at an end."""
    return (out / "card.json").exists() and not (out / WORK / _PLAN).exists()


def check_out(out: Path) -> None:
    """ValueError where `out` is neither new, nor empty, nor a bundle that `train_all` has begun or made."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose another place for the bundle")
    found = sorted(path.name for path in out.iterdir() if path.name != WORK) if out.exists() else []
    if found and not is_complete(out) and not (out / WORK / _PLAN).exists():
        raise ValueError(f"{out} holds something else ({found[0]}): choose a new folder for the bundle")


def write_plan(made: Plan, work: Path, *, key: Mapping) -> None:
    """Write the plan with its `key`, the options and the fingerprint of the data that it belongs to."""
    write_json(work / _PLAN, {"key": dict(key), **asdict(made)})


def read_plan(work: Path, *, key: Mapping) -> Plan | None:
    """The plan of an earlier start in `work`, None where there was none.

    ValueError where that start had other options or other images, which `key` holds by name.
    """
    path = work / _PLAN
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        theirs = found.pop("key")
        made = Plan(**{**found, "speeds": Speeds(**found["speeds"])})
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the plan of a training ({error}): delete {work} to start afresh") from None
    if different := [name for name in key if theirs.get(name) != key[name]]:
        raise ValueError(
            f"{work.parent} was begun with other {' and other '.join(different)}: give what it was begun with to go "
            f"on, or delete {work} to start afresh"
        )
    return made


def train_all(
    recipe: Recipe,
    images: OwnImages,
    made: Plan,
    *,
    out: Path,
    key: Mapping,
    device: torch.device,
    prior: Prior | None = None,
    base: Bundle | None = None,
    compile: bool = False,
    about: Mapping | None = None,
    command: str = "",
) -> Iterator[Progress | str]:
    """Train what is not trained yet, measure it and write the bundle `out`: progress, and lines of text to keep.

    Stopped in any way, it goes on by the same call with the plan that `read_plan` finds. `prior` is the one of a recipe
    that trains none, `base` the bundle whose prior the training starts from. ValueError where another process is at it.
    """
    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    with hold_place(out, work, 0, 1):
        yield from _train_all(recipe, images, made, out, key, device, prior, base, compile, about, command)


def _train_all(
    recipe, images, made, out, key, device, prior, base, compile, about, command
) -> Iterator[Progress | str]:
    work, count = out / WORK, len(images.train)
    write_plan(made, work, key=key)
    parts = [part for part in ORDER if part in made.images]
    done = 0.0
    for i, part in enumerate(parts):
        if not (work / f"{part}.pt").exists():
            made = replan(made, recipe, parts[i:], count) if i else made
            write_plan(made, work, key=key)
        training = recipe.training(
            part, images.train, folder=work, images=made.images[part], device=device, compile=compile
        )
        if part == "prior" and base is not None and not training.seen:
            start_from(training.objective, base, images.train.classes)
        saved = last = time.monotonic()
        for event in training.run():
            now = time.monotonic()
            made, last = replace(made, spent=made.spent + now - last), now
            if now - saved > _SAVE_SECONDS:
                write_plan(made, work, key=key)
                saved = now
            seconds = made.seconds(part) * min(1.0, event.images / event.total)
            yield Progress(part, event.images, event.total, event.loss, done + seconds, made.total)
        done += made.seconds(part)
        write_plan(made, work, key=key)
    yield Progress(MEASURING, 0, 1, float("nan"), done, made.total)
    lengths = {part: replace(budget, images=made.images[part]) for part, budget in recipe.budgets.items()}
    steps = assemble(
        replace(recipe, budgets=lengths),
        images.train,
        images.test,
        work=work,
        out=out,
        device=device,
        prior=prior,
        samples_per_class=made.samples_per_class,
        about=about,
        command=command,
    )
    for step in steps:
        if isinstance(step, str):
            yield step
        else:
            seconds = made.measuring_seconds * step.count / step.total
            yield Progress(MEASURING, step.count, step.total, float("nan"), done + seconds, made.total)
    (work / _PLAN).unlink()  # first: a bundle whose plan is gone is complete
    shutil.rmtree(work)
    yield Progress(MEASURING, 1, 1, float("nan"), made.total, made.total)
