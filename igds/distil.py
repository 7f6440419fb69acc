"""Distil a whole data set: IPC images of every class, by processes that may be stopped and may share the classes.

A class is made whole or not at all, and its images depend on settings, bundle and number of threads only: what was
killed and started again, or spread over processes, ends with the same bytes as what was not.
"""

import errno
import json
import math
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import igds
from igds.bundle import Bundle
from igds.data import to_bytes, to_unit
from igds.distilled import INDEX, write_class, write_index
from igds.files import write_json
from igds.locks import alone, hold_place
from igds.rng import image_seeds
from igds.runs import MAX_IPC, Run, class_folder, figures_of
from igds.sampling import Step
from igds.selection import herding
from igds.verdict import judge

CLAIM, CARD = "distil.json", "card.json"
WORK = ".distil"  # locks, and a record a class: its time and its verdict
TILES = 4


@dataclass(frozen=True)
class Distillation:
    """The settings that the runs of all classes share, as in Run; `beta_from` says how β came about."""

    bundle: str
    ipc: int
    beta: float
    eta: float
    steps: int
    seed: int = 0
    solver: str = "ddpm"
    reference: str = "batch"
    at: str = "x_prev"
    scaling: str = "constant"
    interval: tuple[float, float] = (0.0, 1.0)
    beta_from: str = field(default="given", compare=False)

    @classmethod
    def of(cls, bundle: Bundle, **settings) -> "Distillation":
        """As Run.of: what is absent or None is the card's default. `beta` may be "auto", which `auto_beta` chooses."""
        beta, beta_from = settings.get("beta"), "given"
        if beta is None:
            beta_from = "the default of the bundle's card"
        elif beta == "auto":
            ipc = Run.of(bundle, **{**settings, "beta": None}).ipc
            beta, beta_from = auto_beta(bundle, ipc)
        run = Run.of(bundle, **{**settings, "beta": beta}, label=bundle.classes[0], columns=("contextual",))
        return cls(**{name: getattr(run, name) for name in _SHARED}, beta_from=beta_from)

    def run(self, bundle: Bundle, label: int, *, composite: bool = False, candidates: int = 1) -> Run:
        """The run of class `label`: its images are those of `igds sample --label` with these settings.

        They are `candidates`·IPC, and for a composite four times as many. A single image is sampled with the class
        reference, as in a study, since β has no effect on one that is held against itself.
        """
        settings = {name: getattr(self, name) for name in _SHARED if name != "bundle"}
        settings["ipc"] *= candidates * (TILES if composite else 1)
        if settings["ipc"] == 1 and self.beta > 0:
            settings["reference"] = "class"
        return Run.of(bundle, **settings, label=bundle.classes[label], columns=("contextual",))


_SHARED = tuple(f.name for f in fields(Distillation) if f.name != "beta_from")


@dataclass(frozen=True)
class Progress:
    """`classes_done` of this process's `classes`, and `step` of `steps` of the class `label`.

    At the last step of a class its folder is there; a class that was there before has this one event. Before the last
    step, `x0` is x̃0 of the class's images, (n, *shape) in [-1, 1] but for noise; for a composite those before tiling.
    """

    classes_done: int
    classes: int
    step: int
    steps: int
    label: str
    x0: Tensor | None = field(default=None, repr=False, compare=False)


def auto_beta(bundle: Bundle, ipc: int) -> tuple[float, str]:
    """β for `ipc` images a class, and a sentence on where it comes from.

    The card's `auto_beta` {"table": [[ipc, beta], …], "how": "…"} is read linearly in log IPC, and held at its ends;
    without one, β is the card's default. ValueError where the table is none.
    """
    if "auto_beta" not in bundle.card:
        return float(bundle.card["defaults"]["beta"]), (
            f"{bundle.name} has no table of β by IPC: the default of its card"
        )
    try:
        entry = bundle.card["auto_beta"]
        ipcs, betas = np.array(entry["table"], dtype=np.float64).reshape(-1, 2).T
        how = entry["how"]
    except (KeyError, TypeError, ValueError):
        ipcs, betas, how = np.array([]), np.array([]), ""
    if not len(ipcs) or ipcs[0] < 1 or (np.diff(ipcs) <= 0).any() or not (np.isfinite(betas) & (betas >= 0)).all():
        raise ValueError(f"the card of {bundle.name} has no proper table of β by IPC: get the bundle again, or give β")
    beta = float(np.interp(math.log(ipc), np.log(ipcs), betas))
    table = ", ".join(f"{n:g}: {beta:g}" for n, beta in zip(ipcs, betas))
    return beta, f"read in {bundle.name}'s table of β by IPC ({table}), linearly in log IPC; {how}"


def distil(
    bundle: Bundle,
    folder: str | Path,
    settings: Distillation,
    *,
    rank: int = 0,
    world: int = 1,
    composite: bool = False,
    candidates: int = 1,
) -> Iterator[Progress]:
    """Make every class's images in `folder`, an event a step; classes that are there already are kept.

    Process `rank` of `world` makes the classes rank, rank + world, …; whichever ends last writes card.json. With
    `composite` each image is four, at half their size (section 5.1): the 4·IPC of a class are one batch of the method.
    With `candidates` above 1 so many times IPC images are that batch, of which herding in f keeps those that stand best
    for all of them: beyond the paper.
    distil.json claims the folder; it keeps the number of threads, on which rounding depends, and every later process
    computes with that number.

    Raises ValueError at the call, having touched nothing, for a wrong setting, where another run is at work in
    `folder`, and where it holds something else: of another bundle, other settings, other software, or no distillation
    at all. OSError, at the call or later, for a full disk, which leaves whole classes.
    """
    folder = Path(folder)
    if not 0 <= rank < world:
        raise ValueError(f"rank must be between 0 and the number of processes less one, got {rank} of {world}")
    if settings.bundle != bundle.name:
        raise ValueError(f"the settings are for {settings.bundle} and the bundle is {bundle.name}: make them with it")
    check_batch(bundle, settings.ipc, composite=composite, candidates=candidates)
    claim = _claim(bundle, settings, composite, candidates)
    _found(folder, claim)
    with _disk(folder), ExitStack() as held:
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        with alone(folder / WORK / "lock"):
            held.enter_context(hold_place(folder, folder / WORK, rank, world))
            found = _found(folder, claim)
            _check_records(folder, bundle)
            if found is None:
                write_json(folder / CLAIM, claim)
            if not (folder / INDEX).exists():
                write_index(folder, bundle.classes)
        labels = range(rank, len(bundle.classes), world)
        return _distil(bundle, folder, settings, found or claim, labels, held.pop_all())


def _distil(
    bundle: Bundle, folder: Path, settings: Distillation, claim: dict, labels: Sequence[int], held: ExitStack
) -> Iterator[Progress]:
    composite, candidates = claim["settings"]["composite"], claim["settings"]["candidates"]
    with held:
        for done, label in enumerate(labels):
            name = bundle.classes[label]
            run = settings.run(bundle, label, composite=composite, candidates=candidates)
            if not _class_path(folder, bundle, label).exists():
                seconds, x = 0.0, None
                for step, spent in _timed(run.start(bundle), claim["threads"]):
                    (batch,) = step.batches
                    seconds, x = seconds + spent, batch.x
                    if step.index + 1 < step.steps:
                        yield Progress(done, len(labels), step.index + 1, step.steps, name, batch.x0)
                images = to_bytes(x).cpu()
                with _threads(claim["threads"]):
                    chosen = best_of(bundle, images, len(images) // candidates)
                    images = images[chosen]
                    verdict = judge(bundle, images, label, reference=run.reference if len(images) > 1 else "class")
                record = {"seconds": round(seconds, 3), "chosen": chosen.tolist(), "verdict": figures_of(verdict)}
                with _disk(folder):
                    write_json(_record_path(folder, label), record)  # first, since a class that is there has a record
                    write_class(folder, label, name, tiled(images) if composite else images)
            if label == labels[-1]:
                with _disk(folder), alone(folder / WORK / "lock"):
                    _write_card(bundle, folder, claim)
            yield Progress(done + 1, len(labels), run.steps, run.steps, name)


def tiled(images: Tensor) -> Tensor:
    """Four uint8 images at half their size in one, 2 × 2, row by row: (4n, C, H, W) to (n, C, H, W)."""
    halves = F.avg_pool2d(images.float(), 2).round().to(torch.uint8)
    rows = [torch.cat((halves[i::TILES], halves[i + 1 :: TILES]), dim=3) for i in (0, 2)]
    return torch.cat(rows, dim=2)


@torch.no_grad()
def best_of(bundle: Bundle, images: Tensor, n: int) -> Tensor:
    """The rows (n,) of the uint8 images (m, C, H, W) whose mean in f stands nearest to that of all m: herding."""
    if n == len(images):
        return torch.arange(n)
    features = bundle.estimator.encoder(to_unit(images.to(bundle.device))).cpu()
    return herding(features, torch.zeros(len(images), dtype=torch.long), n).sort().values


def check_batch(bundle: Bundle, ipc: int, *, composite: bool, candidates: int) -> None:
    """ValueError where the images of a class cannot be made together, or cannot be tiled."""
    height, width = bundle.prior.shape[1:]
    if composite and (height % 2 or width % 2):
        raise ValueError(f"a composite halves its images, which {height}×{width} pixels cannot be: go without it")
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    together = ipc * candidates * (TILES if composite else 1)
    if together > MAX_IPC:
        raise ValueError(f"{together} images of a class would be made together, {MAX_IPC} can be: ask for fewer")


def _claim(bundle: Bundle, settings: Distillation, composite: bool, candidates: int) -> dict:
    """Everything that decides the bytes of the result, as JSON gives it back."""
    run = asdict(settings.run(bundle, 0, composite=composite, candidates=candidates))
    run |= {"ipc": settings.ipc, "composite": composite, "candidates": candidates}
    claim = {
        "settings": {name: value for name, value in run.items() if name not in ("label", "columns")},
        "beta_from": settings.beta_from,
        "bundle_sha256": bundle.checksum(),
        "bfloat16": bundle.prior.bfloat16,
        "threads": torch.get_num_threads(),
        "software": {
            "igds": igds.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": bundle.device.type,
        },
    }
    return json.loads(json.dumps(claim))


def _found(folder: Path, claim: dict) -> dict | None:
    """The claim in `folder`, None where it is free. ValueError where it is another than `claim`; touches nothing."""
    path = folder / CLAIM
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose another folder")
    # Listed before looking for the claim, which a process that starts beside this one writes before anything else.
    others = sorted(entry.name for entry in folder.glob("*") if not entry.name.startswith("."))
    if not path.exists():
        if others:
            raise ValueError(f"{folder} holds {others[0]}, and no distillation: choose another folder")
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        found = None
    remedy = "choose another folder, or delete this one to start afresh"
    if not isinstance(found, dict) or {k: type(v) for k, v in found.items()} != {k: type(v) for k, v in claim.items()}:
        raise ValueError(f"{path} is damaged: {remedy}")
    if found["bundle_sha256"] != claim["bundle_sha256"]:
        raise ValueError(f"{folder} was begun with another bundle than {claim['settings']['bundle']}: {remedy}")
    for part in ("settings", "software"):
        for name, value in claim[part].items():
            if name != "bundle" and found[part].get(name) != value:
                raise ValueError(f"{folder} was begun with {name} {found[part].get(name)}, not {value}: {remedy}")
    if found["bfloat16"] != claim["bfloat16"]:
        raise ValueError(f"{folder} was begun with{'' if found['bfloat16'] else 'out'} bfloat16: {remedy}")
    return found


def _check_records(folder: Path, bundle: Bundle) -> None:
    for label in range(len(bundle.classes)):
        path = _class_path(folder, bundle, label)
        if path.exists() and not _record_path(folder, label).exists():
            raise ValueError(f"{path} was not finished here: delete it, and the same command makes it again")


def _class_path(folder: Path, bundle: Bundle, label: int) -> Path:
    return folder / class_folder(label, bundle.classes[label])


def _record_path(folder: Path, label: int) -> Path:
    return folder / WORK / f"{label:04d}.json"


def _write_card(bundle: Bundle, folder: Path, claim: dict) -> None:
    """Write the card, unless a class is missing or the card is there."""
    labels = range(len(bundle.classes))
    if (folder / CARD).exists() or not all(_class_path(folder, bundle, label).exists() for label in labels):
        return
    records = [json.loads(_record_path(folder, label).read_text(encoding="utf-8")) for label in labels]
    settings = claim["settings"]
    made = settings["ipc"] * settings["candidates"] * (TILES if settings["composite"] else 1)
    classes = [
        {
            "label": label,
            "folder": _class_path(folder, bundle, label).name,
            "name": bundle.classes[label],
            "image_seeds": [seeds[row] for row in record["chosen"]],
            **record["verdict"],
        }
        for label, record in zip(labels, records)
        for seeds in [image_seeds(settings["seed"], label, made)]
    ]
    seconds = [record["seconds"] for record in records]
    notes = ["With beta > 0 the images of a class depend on each other: a seed alone does not identify one."]
    if settings["composite"]:
        notes.append("Each image is four of the method's at half their size; the figures are of those, at full size.")
    card = {
        **claim,
        "tau": bundle.estimator.tau,
        "classes": classes,
        "times": {"seconds": round(sum(seconds), 3), "seconds_by_class": seconds},
        "note": " ".join(notes),
    }
    write_json(folder / CARD, card)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"{folder} is on a full disk: free some space and give the same command again, whole classes are kept"
        ) from None


def _timed(steps: Iterator[Step], threads: int) -> Iterator[tuple[Step, float]]:
    """The steps, each computed with so many threads, and the seconds it took."""
    while True:
        began = time.monotonic()
        with _threads(threads):
            step = next(steps, None)
        if step is None:
            return
        yield step, time.monotonic() - began


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads and put back what there was: a page may take each step in another thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
