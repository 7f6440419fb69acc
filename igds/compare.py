"""Comparisons: distilled sets held against baselines by the networks that learn from them, one protocol for all.

A set is made once for each method, IPC and generation seed, and every network learns from it once for each training
seed; each is a file of its own, so that a comparison which was stopped goes on where it stood.
"""

import json
import math
import platform
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import igds
from igds.bundle import Bundle
from igds.data import ImageSet, to_unit
from igds.distil import Distillation, auto_beta, distil
from igds.distilled import read_image_folder, write_json
from igds.evaluation import PROTOCOLS, epochs_of, train_network
from igds.networks import NETWORKS
from igds.selection import contextual_scores, herding, k_center, random_subset, weighted_subset
from igds.statistics import mean_and_error
from igds.verdict import information, judge

SPLITS = ("test", "validation")
VALIDATION_PER_CLASS = 1000
SELECTIONS = ("random", "herding", "k-center", "weighted")
BASELINES = {
    "random": {"select": "random"},
    "herding": {"select": "herding"},
    "k-center": {"select": "k-center"},
    "weighted, α = 1": {"select": "weighted", "alpha": 1.0},
    "unguided": {"eta": 0.0},
    "IGDS, β = 0": {"beta": 0.0},
    "IGDS": {"beta": "auto"},
}


@dataclass(frozen=True)
class Comparison:
    """`methods` maps a name to how its set is made: {"select": one of SELECTIONS} of the real images, with "alpha" for
    eq. 37, or the settings of a Run, with "beta": "auto" for the bundle's own at each IPC.

    Networks learn under `protocol`, for its epochs unless `epochs` gives others by IPC, the same for all methods.
    They are tested on the data's test split, or on a validation split held out of its training images ("validation"),
    on which settings are chosen.
    """

    name: str
    bundle: str
    methods: dict[str, dict]
    ipcs: tuple[int, ...] = (1, 10, 50)
    networks: tuple[str, ...] = ("convnet3",)
    generation_seeds: tuple[int, ...] = (0, 1, 2)
    training_seeds: tuple[int, ...] = (0, 1, 2)
    protocol: str = "paper"
    epochs: dict[int, int] | None = None
    split: str = "test"

    def sets(self) -> list["SetOf"]:
        """Every set; herding has but one for all generation seeds, as it draws nothing."""
        return [
            SetOf(method, ipc, seed)
            for seed in self.generation_seeds
            for ipc in self.ipcs
            for method, how in self.methods.items()
            if seed == self.generation_seeds[0] or how.get("select") != "herding"
        ]

    def epochs_for(self, ipc: int) -> int:
        return self.epochs[ipc] if self.epochs else epochs_of(self.protocol, ipc)


@dataclass(frozen=True)
class SetOf:
    method: str
    ipc: int
    seed: int

    @property
    def stem(self) -> str:
        return f"{re.sub(r'[^a-z0-9.]+', '-', self.method.lower()).strip('-')}-ipc{self.ipc:04d}-g{self.seed}"


def baselines(bundle: Bundle, **size) -> Comparison:
    """IGDS at the bundle's β for each IPC against what else one could take."""
    return Comparison("baselines", bundle.name, BASELINES, **size)


def beta_curve(bundle: Bundle, betas: Sequence[float] | None = None, **size) -> Comparison:
    """Figure 5: accuracy against β for each IPC, with unguided and random real images beside it."""
    betas = betas or (0.0, 0.2, 0.5, 1.0, 2.0)
    methods = {"random": {"select": "random"}, "unguided": {"eta": 0.0}}
    methods |= {f"β = {beta:g}": {"beta": float(beta)} for beta in betas}
    return Comparison("beta", bundle.name, methods, **{"split": "validation", **size})


def subsets(bundle: Bundle, alphas: Sequence[float] | None = None, **size) -> Comparison:
    """Figure 2: accuracy against H̲(X|Y) of real subsets drawn with the weights of eq. 37."""
    alphas = alphas or (0.0, 1.0, 1.5, 2.0, 3.0)
    methods = {f"α = {alpha:g}": {"select": "weighted", "alpha": float(alpha)} for alpha in alphas}
    return Comparison("subsets", bundle.name, methods, **{"split": "validation", **size})


COMPARISONS = {"baselines": baselines, "beta": beta_curve, "subsets": subsets}


@dataclass(frozen=True)
class Progress:
    """Networks that have learnt, of all; `what` is at work, `share` of it done."""

    done: int
    total: int
    what: str
    share: float


def compare(
    comparison: Comparison,
    bundle: Bundle,
    folder: Path,
    train: ImageSet,
    test: ImageSet,
    *,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    compile: bool = False,
) -> Iterator[Progress]:
    """Make every set and let every network learn from it, a file each in `folder`; what is there is kept.

    Of `world` processes that share the folder, this one, number `rank`, takes every `world`-th set. Raises ValueError
    at the call where a setting is wrong, a class has too few images for an IPC, or `folder` holds another comparison.
    """
    _check(comparison, bundle, train)
    _claim(folder, comparison, bundle)
    return _compare(comparison, bundle, folder, train, test, rank, world, device, compile)


def _check(comparison: Comparison, bundle: Bundle, train: ImageSet) -> None:
    if comparison.split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {comparison.split!r}")
    if comparison.protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {comparison.protocol!r}")
    unknown = [name for name in comparison.networks if name not in NETWORKS]
    if unknown or not comparison.networks:
        raise ValueError(f"networks must be of {', '.join(NETWORKS)}, got {', '.join(unknown) or 'none'}")
    if not comparison.ipcs or not comparison.generation_seeds or not comparison.training_seeds:
        raise ValueError("a comparison needs at least one IPC, one generation seed and one training seed")
    lacking = [str(ipc) for ipc in comparison.ipcs if comparison.epochs and ipc not in comparison.epochs]
    if lacking:
        raise ValueError(f"epochs are given by IPC, and those of IPC {', '.join(lacking)} are missing")
    if train.classes != bundle.classes or train.images.shape[1:] != bundle.prior.shape:
        raise ValueError(f"the real images are not of the classes and size of {bundle.name}: give those it was made of")
    kept = VALIDATION_PER_CLASS if comparison.split == "validation" else 0
    counts = torch.bincount(train.labels, minlength=len(train.classes)) - kept
    selects = any("select" in how for how in comparison.methods.values())
    if selects and int(counts.min()) < max(comparison.ipcs):
        poorest = train.classes[int(counts.argmin())]
        raise ValueError(
            f"class {poorest} has {int(counts.min())} images to select from, too few for IPC {max(comparison.ipcs)}: "
            "leave out that IPC or the baselines of real images"
        )
    for how in comparison.methods.values():
        if how.get("select", "random") not in SELECTIONS:
            raise ValueError(f"select must be one of {', '.join(SELECTIONS)}, got {how['select']!r}")
    for ipc in comparison.ipcs:
        for how in comparison.methods.values():
            if "select" not in how:
                Distillation.of(bundle, ipc=ipc, seed=0, **how)


def _claim(folder: Path, comparison: Comparison, bundle: Bundle) -> None:
    """Write down what `folder` holds, of which IPCs, networks and seeds may grow; ValueError for another comparison."""
    path = folder / "comparison.json"
    identity = {"name": comparison.name, "methods": comparison.methods, "split": comparison.split}
    identity |= {
        "protocol": comparison.protocol,
        "bundle_sha256": bundle.checksum(),
        "defaults": bundle.card["defaults"],
    }
    identity |= {"bfloat16": bundle.prior.bfloat16}
    identity = json.loads(json.dumps(identity))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = None
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds something that is not a comparison: choose another --work") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{path} is damaged: choose another --work, or delete the folder") from None
    if found is not None and found != identity:
        raise ValueError(f"{folder} holds another comparison: choose another --work, or delete the folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, identity)


def _compare(comparison, bundle, folder, train, test, rank, world, device, compile) -> Iterator[Progress]:
    if comparison.split == "validation":
        train, test = hold_out(train, VALIDATION_PER_CLASS)
    pool = _Pool(bundle, train)
    soft = PROTOCOLS[comparison.protocol].soft_labels
    own = comparison.sets()[rank::world]
    done, total = 0, len(own) * len(comparison.networks) * len(comparison.training_seeds)
    for chosen in own:
        what, images, figures = f"{chosen.method}, IPC {chosen.ipc}", None, {}
        epochs = comparison.epochs_for(chosen.ipc)
        for network in comparison.networks:
            for seed in comparison.training_seeds:
                path = training_path(folder, chosen, network, seed)
                if not path.exists():
                    if images is None:
                        yield Progress(done, total, f"{what}: the set", 0.0)
                        images = yield from _images_of(chosen, comparison, pool, folder, done, total)
                        figures = figures_of_set(bundle, images)
                    for epoch in train_network(
                        network,
                        images,
                        test,
                        protocol=comparison.protocol,
                        seed=seed,
                        epochs=epochs,
                        tests=1,
                        teacher=bundle.classifier if soft else None,
                        device=device,
                        bfloat16=bundle.prior.bfloat16,
                        compile=compile,
                    ):
                        yield Progress(done, total, f"{what}: {network}", (epoch.index + 1) / epochs)
                    record = {**asdict(chosen), "network": network, "training_seed": seed, "epochs": epochs}
                    record |= {"accuracy": epoch.accuracy, "seconds": round(epoch.seconds, 1), **figures}
                    write_json(path, record)
                done += 1
                yield Progress(done, total, f"{what}: {network}", 0.0)


def figures_of_set(bundle: Bundle, images: ImageSet) -> dict[str, float]:
    """Means over classes: H̲(X|Y) in nats against the data's Q^y (eq. 15), and the share recognised as its class."""
    found = [
        (
            information(bundle.estimator, images.of_class(label), label, reference="class")[1],
            judge(bundle, images.of_class(label), label).accuracy,
        )
        for label in range(len(images.classes))
    ]
    contextual, recognised = (sum(values) / len(values) for values in zip(*found))
    return {"contextual": round(contextual, 5), "recognised": round(recognised, 5)}


def training_path(folder: Path, chosen: SetOf, network: str, seed: int) -> Path:
    return folder / f"{chosen.stem}-{network}-t{seed}.json"


def hold_out(data: ImageSet, per_class: int) -> tuple[ImageSet, ImageSet]:
    """The rest, and `per_class` images of every class, always the same; ValueError where a class has no more."""
    generator = torch.Generator().manual_seed(0)
    held = torch.zeros(len(data), dtype=torch.bool)
    for label, name in enumerate(data.classes):
        own = (data.labels == label).nonzero()[:, 0]
        if len(own) <= per_class:
            raise ValueError(f"class {name} has {len(own)} images, too few to hold out {per_class} for validation")
        held[own[torch.randperm(len(own), generator=generator)[:per_class]]] = True
    return _subset(data, (~held).nonzero()[:, 0]), _subset(data, held.nonzero()[:, 0])


def _subset(data: ImageSet, rows: Tensor) -> ImageSet:
    return ImageSet(data.images[rows], data.labels[rows], data.classes)


class _Pool:
    """The real images that baselines select from; features and scores are computed when first asked for."""

    def __init__(self, bundle: Bundle, data: ImageSet):
        self.bundle, self.data = bundle, data
        self._features = self._scores = None

    def select(self, how: dict, ipc: int, seed: int) -> ImageSet:
        labels, classes = self.data.labels, self.data.classes
        if how["select"] == "random":
            return _subset(self.data, random_subset(labels, ipc, seed=seed, classes=classes))
        if how["select"] == "weighted":
            self._scores = self._scores or contextual_scores(self.bundle.estimator, self.data)
            rows = weighted_subset(*self._scores, labels, ipc, alpha=how["alpha"], seed=seed, classes=classes)
            return _subset(self.data, rows)
        if self._features is None:
            self._features = _features(self.bundle, self.data.images)
        if how["select"] == "herding":
            return _subset(self.data, herding(self._features, labels, ipc, classes=classes))
        return _subset(self.data, k_center(self._features, labels, ipc, seed=seed, classes=classes))


@torch.no_grad()
def _features(bundle: Bundle, images: Tensor) -> Tensor:
    """f(x), (N, d) on the CPU."""
    return torch.cat([bundle.estimator.encoder(to_unit(part.to(bundle.device))).cpu() for part in images.split(500)])


def _images_of(chosen: SetOf, comparison: Comparison, pool: _Pool, folder: Path, done: int, total: int):
    how = comparison.methods[chosen.method]
    if "select" in how:
        return pool.select(how, chosen.ipc, chosen.seed)
    place = folder / "sets" / chosen.stem
    settings = Distillation.of(pool.bundle, ipc=chosen.ipc, seed=chosen.seed, **how)
    for event in distil(pool.bundle, place, settings):
        share = (event.classes_done + event.step / event.steps) / event.classes
        yield Progress(done, total, f"{chosen.method}, IPC {chosen.ipc}: the set", share)
    return read_image_folder(place)


def summarise(comparison: Comparison, bundle: Bundle, folder: Path) -> dict | None:
    """The comparison's JSON; None where other processes have still networks to train. ValueError for a damaged file."""
    records = []
    for chosen in comparison.sets():
        for network in comparison.networks:
            for seed in comparison.training_seeds:
                path = training_path(folder, chosen, network, seed)
                try:
                    record = json.loads(path.read_text(encoding="utf-8"))
                    _ = record["accuracy"] + record["contextual"] + record["recognised"]
                except FileNotFoundError:
                    return None
                except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
                    raise ValueError(f"{path} is damaged: delete it, the same command makes it again") from None
                if record["epochs"] != comparison.epochs_for(chosen.ipc):
                    raise ValueError(
                        f"{path} has {record['epochs']} epochs and {comparison.epochs_for(chosen.ipc)} are asked for: "
                        "ask for as many, or choose another --work"
                    )
                records.append(record)
    return {
        "comparison": comparison.name,
        "bundle": bundle.name,
        "bundle_sha256": bundle.checksum(),
        "methods": comparison.methods,
        "auto_beta": {ipc: auto_beta(bundle, ipc)[0] for ipc in comparison.ipcs},
        "protocol": comparison.protocol,
        "labels": "soft" if PROTOCOLS[comparison.protocol].soft_labels else "hard",
        "split": comparison.split,
        "resolution": bundle.prior.shape[-1],
        "epochs": {ipc: comparison.epochs_for(ipc) for ipc in comparison.ipcs},
        "ipcs": list(comparison.ipcs),
        "networks": list(comparison.networks),
        "generation_seeds": list(comparison.generation_seeds),
        "training_seeds": list(comparison.training_seeds),
        "defaults": bundle.card["defaults"],
        "bfloat16": bundle.prior.bfloat16,
        "software": {"igds": igds.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "summary": summary_of(records),
        "records": records,
    }


def summary_of(records: list[dict]) -> list[dict]:
    """A row an IPC, network and method: final accuracy, its standard error, and its deviation over all networks.

    The error is over sets, each counting with the mean of its networks, since networks that learnt from one set are
    not independent; where a method has a single set, it is over that set's networks. `against` holds the difference to
    every other method, and its error, the root of both errors' squares.
    """
    groups: dict = {}
    for record in records:
        key = record["ipc"], record["network"], record["method"]
        groups.setdefault(key, {}).setdefault(record["seed"], []).append(record)
    rows = [_row(*key, list(by_set.values())) for key, by_set in groups.items()]
    for row in rows:
        row["against"] = {
            other["method"]: {
                "mean": row["accuracy"]["mean"] - other["accuracy"]["mean"],
                "standard_error": math.hypot(*(_error(one["accuracy"]) for one in (row, other))),
            }
            for other in rows
            if other is not row and (other["ipc"], other["network"]) == (row["ipc"], row["network"])
        }
    return rows


def _row(ipc: int, network: str, method: str, sets: list[list[dict]]) -> dict:
    every = [record["accuracy"] for records in sets for record in records]
    means = [statistics.fmean(record["accuracy"] for record in records) for records in sets]
    accuracy = mean_and_error(means if len(means) > 1 else every) | {"mean": statistics.fmean(every)}
    return {
        "ipc": ipc,
        "network": network,
        "method": method,
        "accuracy": accuracy | {"deviation": statistics.stdev(every) if len(every) > 1 else None},
        **{
            measure: mean_and_error([records[0][measure] for records in sets])
            for measure in ("contextual", "recognised")
        },
        "sets": len(sets),
        "trainings": len(every),
    }


def _error(figure: dict) -> float:
    return math.nan if figure["standard_error"] is None else figure["standard_error"]


def table_markdown(results: dict) -> str:
    """A row a method and network, a column an IPC: final accuracy in per cent ± standard error."""
    head = ["method", "network", *(f"IPC {ipc} ({results['epochs'][ipc]} epochs)" for ipc in results["ipcs"])]
    rows = [head, ["---"] * len(head)]
    cells = {(row["method"], row["network"], row["ipc"]): row["accuracy"] for row in results["summary"]}
    for network in results["networks"]:
        for method in results["methods"]:
            rows.append([method, network, *(_cell(cells[method, network, ipc]) for ipc in results["ipcs"])])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _cell(accuracy: dict) -> str:
    error = accuracy["standard_error"]
    return f"{100 * accuracy['mean']:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")
