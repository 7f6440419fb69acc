"""Comparisons: distilled sets held against baselines by the networks that learn from them, one protocol for all.

A set is made once for each method, IPC and generation seed, and every network learns from it once for each training
seed; each is a file of its own, so that a comparison which was stopped goes on where it stood.
"""

import hashlib
import itertools
import json
import math
import platform
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import igds
from igds.bundle import Bundle
from igds.data import ImageSet, to_unit
from igds.distil import Distillation, auto_beta, distil
from igds.distilled import read_image_folder
from igds.evaluation import PROTOCOLS, epochs_of, train_network
from igds.files import write_json
from igds.locks import alone, hold_place
from igds.networks import build_network
from igds.selection import contextual_scores, herding, k_center, random_subset, weighted_subset
from igds.statistics import difference, mean_and_error
from igds.verdict import information, judge

CLAIM = "comparison.json"
PLACES = ".places"  # who is at work in a folder
SPLITS = ("test", "validation")
MOST_HELD_OUT = 1000  # images a class, and never more than a fifth of them
SELECTIONS = ("random", "herding", "k-center", "weighted")
BASELINES = {
    "random": {"select": "random"},
    "herding": {"select": "herding"},
    "k-center": {"select": "k-center"},
    "weighted, α = 1": {"select": "weighted", "alpha": 1.0},
    "unguided": {"eta": 0.0},
    "IGDS, β = 0": {"beta": 0.0},
    "IGDS": {"beta": "auto"},
    "IGDS, chosen of 50": {"beta": "auto", "chosen_of": 50},
}


@dataclass(frozen=True)
class Comparison:
    """`methods` maps a name to how its set is made: {"select": one of SELECTIONS} of the real images, with "alpha" for
    eq. 37, or the settings of a Run, with "beta": "auto" for the bundle's own at each IPC, and "chosen_of", the
    number of candidates that a class's images are chosen from.

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

    def trainings(self) -> Iterator[tuple["SetOf", str, int]]:
        """Every set with each network and training seed that learns from it."""
        for chosen in self.sets():
            for network, seed in itertools.product(self.networks, self.training_seeds):
                yield chosen, network, seed

    def epochs_for(self, ipc: int) -> int:
        return self.epochs[ipc] if self.epochs else epochs_of(self.protocol, ipc)


@dataclass(frozen=True)
class SetOf:
    method: str
    ipc: int
    seed: int

    @property
    def stem(self) -> str:
        """What its files are called."""
        return f"{_file_name(self.method)}-ipc{self.ipc:04d}-g{self.seed}"


def _file_name(method: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", method.lower()).strip("-")


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
    alphas = alphas or (-4.0, 0.0, 1.5, 3.0, 6.0)
    methods = {f"α = {alpha:g}": {"select": "weighted", "alpha": float(alpha)} for alpha in alphas}
    return Comparison("subsets", bundle.name, methods, **{"split": "validation", **size})


COMPARISONS = {"baselines": baselines, "beta": beta_curve, "subsets": subsets}


def only(comparison: Comparison, methods: Sequence[str]) -> Comparison:
    """The comparison with these of its methods, in its own order; ValueError for a name that it does not have."""
    unknown = [name for name in methods if name not in comparison.methods]
    if unknown:
        raise ValueError(f"there is no method {unknown[0]!r}: choose from {', '.join(map(repr, comparison.methods))}")
    return replace(comparison, methods={name: how for name, how in comparison.methods.items() if name in methods})


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

    Of `world` processes that share the folder, this one, number `rank`, takes every `world`-th set. The classes of
    `train` and `test`, real images of the bundle's size, are matched to the bundle's by name. Raises ValueError at the
    call where a setting is wrong, the images do not fit or are too few in a class, and where `folder` is in use, or
    holds a damaged file, networks that learnt for other epochs, or anything but this comparison.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank must be between 0 and the number of processes less one, got {rank} of {world}")
    train, test = (_fitted(images, bundle) for images in (train, test))
    if comparison.split == "validation":
        fewest = int(torch.bincount(train.labels, minlength=len(train.classes)).min())
        train, test = hold_out(train, min(MOST_HELD_OUT, max(1, fewest // 5)))
    if not len(test):
        raise ValueError("there are no images to test on: give another data set")
    _check(comparison, bundle, train)
    _claim(folder, comparison, bundle, train, test)
    with ExitStack() as held:
        (folder / PLACES).mkdir(exist_ok=True)
        held.enter_context(hold_place(folder, folder / PLACES, rank, world))
        _records(comparison, folder)
        return _compare(comparison, bundle, folder, train, test, rank, world, device, compile, held.pop_all())


def _fitted(images: ImageSet, bundle: Bundle) -> ImageSet:
    """`images` with the bundle's labels; ValueError where they are of another size or of other classes."""
    if images.images.shape[1:] != bundle.prior.shape:
        sizes = ["×".join(map(str, shape)) for shape in (images.images.shape[1:], bundle.prior.shape)]
        raise ValueError(f"the real images are {sizes[0]} and those of {bundle.name} are {sizes[1]}: load them so")
    labels = torch.tensor([bundle.label_of(name) for name in images.classes])
    missing = sorted(set(range(len(bundle.classes))) - set(labels.tolist()))
    if missing:
        name = bundle.classes[missing[0]]
        raise ValueError(f"the real images have no class {name!r}: give the data set that {bundle.name} was made of")
    return ImageSet(images.images, labels[images.labels], bundle.classes)


def _check(comparison: Comparison, bundle: Bundle, train: ImageSet) -> None:
    if comparison.split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {comparison.split!r}")
    if comparison.protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {comparison.protocol!r}")
    if not (comparison.ipcs and comparison.networks and comparison.generation_seeds and comparison.training_seeds):
        raise ValueError("a comparison needs at least one IPC, network, generation seed and training seed")
    if min(comparison.ipcs) < 1:
        raise ValueError(f"each IPC must be at least 1, got {min(comparison.ipcs)}")
    lacking = [str(ipc) for ipc in comparison.ipcs if comparison.epochs and ipc not in comparison.epochs]
    if lacking:
        raise ValueError(f"epochs are given by IPC, and those of IPC {', '.join(lacking)} are missing")
    if comparison.epochs and min(comparison.epochs.values()) < 1:
        raise ValueError(f"epochs must be at least 1, got {min(comparison.epochs.values())}")
    names = [training_path(Path(), *training).name for training in comparison.trainings()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"two networks would be written to {twice[0]}: give each IPC, network and seed once, and each method "
            "letters or digits of its own"
        )
    channels, size = bundle.prior.shape[:2]
    for network in comparison.networks:
        with torch.device("meta"):  # without weights: it is built to hear now if it cannot be
            build_network(network, channels=channels, size=size, classes=len(bundle.classes))
    counts = torch.bincount(train.labels, minlength=len(train.classes))
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
        if how.get("select") == "weighted" and not math.isfinite(how.get("alpha", math.nan)):
            raise ValueError(f"alpha must be a finite number of nats, got {how.get('alpha')}")
    for chosen in comparison.sets():
        if "select" not in comparison.methods[chosen.method]:
            _distillation(chosen, comparison, bundle)


def _claim(folder: Path, comparison: Comparison, bundle: Bundle, train: ImageSet, test: ImageSet) -> None:
    """Write down what `folder` holds; ValueError for another comparison.

    Its methods, IPCs, networks and seeds may grow.
    """
    uses_auto = any(how.get("beta") == "auto" for how in comparison.methods.values())
    identity = {
        "name": comparison.name,
        "methods": comparison.methods,
        "split": comparison.split,
        "protocol": comparison.protocol,
        "bundle_sha256": bundle.checksum(),
        "defaults": bundle.card["defaults"],
        "auto_beta": bundle.card.get("auto_beta", {}).get("table", []) if uses_auto else None,
        "bfloat16": bundle.prior.bfloat16,
        "data_sha256": _checksum(train, test),
    }
    identity = json.loads(json.dumps(identity))
    _checked_claim(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / ".lock"):  # processes that share the comparison start at the same moment
        found = _checked_claim(folder, identity)
        grown = {**identity, "methods": {**found.get("methods", {}), **identity["methods"]}}
        if not uses_auto:
            grown["auto_beta"] = found.get("auto_beta")
        if grown != found:
            write_json(folder / CLAIM, grown)


def _checked_claim(folder: Path, identity: dict) -> dict:
    """What `folder` says that it holds, nothing where it is new; ValueError where that is not what `identity` says."""
    path = folder / CLAIM
    # Listed before looking for the claim, which a process that starts beside this one writes before anything else.
    others = [entry for entry in folder.glob("*") if not entry.name.startswith(".")]
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if others:
            raise ValueError(f"{folder} holds something that is not a comparison: choose another --work") from None
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError):
        found = None
    remedy = "choose another --work, or delete the folder"
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: {remedy}")
    for name, value in identity.items():
        if name not in found or not _agree(name, found[name], value):
            raise ValueError(f"{folder} holds another comparison, by its {name.removesuffix('_sha256')}: {remedy}")
    return found


def _agree(name: str, found: object, now: object) -> bool:
    """Whether a folder's entry can be that of this comparison too, which may have other methods besides."""
    if name == "methods" and isinstance(found, dict):
        both = found | now
        own_files = len({_file_name(method) for method in both}) == len(both)
        return own_files and both == now | found
    if name == "auto_beta" and (found is None or now is None):
        return True  # no method of one of them uses it
    return found == now


def _checksum(*sets: ImageSet) -> str:
    """sha256 over pixels and labels."""
    digest = hashlib.sha256()
    for images in sets:
        digest.update(images.images.contiguous().numpy())
        digest.update(images.labels.contiguous().numpy())
    return digest.hexdigest()


def _compare(comparison, bundle, folder, train, test, rank, world, device, compile, held) -> Iterator[Progress]:
    with held:
        pool = _Pool(bundle, train)
        if None in _records(comparison, folder):
            pool.check(comparison)
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

    def check(self, comparison: Comparison) -> None:
        """ValueError where a weighted subset of the largest IPC lacks images that g recognises: now, not in hours."""
        for how in comparison.methods.values():
            if how.get("select") == "weighted":
                self.select(how, max(comparison.ipcs), 0)

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
    settings = _distillation(chosen, comparison, pool.bundle)
    candidates = max(1, how.get("chosen_of", 1) // chosen.ipc)
    for event in distil(pool.bundle, place, settings, candidates=candidates):
        share = (event.classes_done + event.step % event.steps / event.steps) / event.classes
        yield Progress(done, total, f"{chosen.method}, IPC {chosen.ipc}: the set", share)
    return read_image_folder(place)


def _distillation(chosen: SetOf, comparison: Comparison, bundle: Bundle) -> Distillation:
    settings = {name: value for name, value in comparison.methods[chosen.method].items() if name != "chosen_of"}
    return Distillation.of(bundle, ipc=chosen.ipc, seed=chosen.seed, **settings)


def _records(comparison: Comparison, folder: Path) -> list[dict | None]:
    """What is written of every network, None where nothing is; ValueError for a damaged file, and for other epochs."""
    records = []
    for chosen, network, seed in comparison.trainings():
        path, epochs = training_path(folder, chosen, network, seed), comparison.epochs_for(chosen.ipc)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            whole = {**record, **asdict(chosen), "network": network, "training_seed": seed} == record
            _ = record["epochs"] + record["accuracy"] + record["contextual"] + record["recognised"]
        except FileNotFoundError:
            records.append(None)
            continue
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
            whole = False
        if not whole:
            raise ValueError(f"{path} is damaged: delete it, the same command makes it again")
        if record["epochs"] != epochs:
            raise ValueError(
                f"{path} has {record['epochs']} epochs and {epochs} are asked for: ask for as many, or choose another "
                "--work"
            )
        records.append(record)
    return records


def summarise(comparison: Comparison, bundle: Bundle, folder: Path) -> dict | None:
    """The comparison's JSON; None where other processes have still networks to train. ValueError for a damaged file."""
    records = _records(comparison, folder)
    if None in records:
        return None
    return {
        "comparison": comparison.name,
        "bundle": bundle.name,
        "bundle_sha256": bundle.checksum(),
        "methods": comparison.methods,
        "auto_beta": {str(ipc): auto_beta(bundle, ipc)[0] for ipc in comparison.ipcs},
        "protocol": comparison.protocol,
        "labels": "soft" if PROTOCOLS[comparison.protocol].soft_labels else "hard",
        "split": comparison.split,
        "resolution": bundle.prior.shape[-1],
        "epochs": {str(ipc): comparison.epochs_for(ipc) for ipc in comparison.ipcs},
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
    not independent; where a method has a single set, it is over that set's networks, and too small. `against` holds the
    difference to every other method, its error, and the p of Welch's t-test on the same values.
    """
    groups: dict = {}
    for record in records:
        key = record["ipc"], record["network"], record["method"]
        groups.setdefault(key, {}).setdefault(record["seed"], []).append(record)
    return [
        {
            **_row(*key, by_set),
            "against": {
                method: difference(_values(by_set), _values(other))
                for (ipc, network, method), other in groups.items()
                if (ipc, network) == key[:2] and method != key[2]
            },
        }
        for key, by_set in groups.items()
    ]


def _values(by_set: dict[int, list[dict]]) -> list[float]:
    """What counts as one value each: the mean accuracy of a set's networks, or each network's of a single set."""
    sets = [[record["accuracy"] for record in records] for records in by_set.values()]
    return sets[0] if len(sets) == 1 else [statistics.fmean(values) for values in sets]


def _row(ipc: int, network: str, method: str, by_set: dict[int, list[dict]]) -> dict:
    every = [record["accuracy"] for records in by_set.values() for record in records]
    return {
        "ipc": ipc,
        "network": network,
        "method": method,
        "accuracy": {
            **mean_and_error(_values(by_set)),
            "deviation": statistics.stdev(every) if len(every) > 1 else None,
        },
        **{
            measure: mean_and_error([records[0][measure] for records in by_set.values()])
            for measure in ("contextual", "recognised")
        },
        "sets": len(by_set),
        "trainings": len(every),
    }


def swept(results: dict) -> list[str]:
    """The methods that are values of one setting, in its order: those of β, or of α; none of other comparisons."""
    return [name for name in results["methods"] if name.startswith(("β = ", "α = "))]


def best_of_sweep(results: dict) -> list[dict]:
    """An entry an IPC and network: which value of a sweep teaches best, and by how much more than both its ends do.

    `above` maps each other end of the sweep to {"mean", "standard_error", "p"}. `is_peak` says that the best is no end
    and beats both by more than two standard errors: the inverted U of the paper's figures 2 and 5.
    """
    names = swept(results)
    ends = {names[0], names[-1]} if names else set()
    rows: dict = {}
    for row in results["summary"]:
        if row["method"] in names:
            rows.setdefault((row["ipc"], row["network"]), []).append(row)
    found = []
    for (ipc, network), own in rows.items():
        best = max(own, key=lambda row: row["accuracy"]["mean"])
        above = {name: gap for name, gap in best["against"].items() if name in ends}
        found.append(
            {
                "ipc": ipc,
                "network": network,
                "best": best["method"],
                "accuracy": best["accuracy"],
                "contextual": best["contextual"],
                "above": above,
                "is_peak": len(above) == 2 and all(map(_is_clear, above.values())),
            }
        )
    return found


def _is_clear(gap: dict) -> bool:
    return gap["standard_error"] is not None and gap["mean"] > 2 * gap["standard_error"]


def sweep_sentences(results: dict) -> list[str]:
    """What `best_of_sweep` found, a sentence an IPC and network."""
    return [
        f"IPC {entry['ipc']}, {entry['network']}: best at {entry['best']}, where H(X|Y) is "
        f"{entry['contextual']['mean']:.2f} nats"
        + "".join(f"; {_percent(gap)} points above {name}" for name, gap in entry["above"].items())
        + (": a peak beyond two standard errors" if entry["is_peak"] else "")
        for entry in best_of_sweep(results)
    ]


def _percent(value: dict) -> str:
    error = value["standard_error"]
    return f"{100 * value['mean']:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def read_results(path: Path) -> dict:
    """The JSON that a finished comparison has written; FileNotFoundError or ValueError where `path` is none."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        table_markdown(results)
        sweep_sentences(results)
        names = ("bundle", "protocol", "split", "generation_seeds", "training_seeds")
        if lacking := [name for name in names if name not in results]:
            raise KeyError(lacking[0])
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"there is no file {path}: give the JSON that `compare` has written") from None
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is not the result of a comparison: give the JSON that `compare` wrote") from None
    return results


def table_markdown(results: dict) -> str:
    """A row a method and network, a column an IPC: final accuracy in per cent ± standard error."""
    head = ["method", "network", *(f"IPC {ipc} ({results['epochs'][str(ipc)]} epochs)" for ipc in results["ipcs"])]
    rows = [head, ["---"] * len(head)]
    cells = {(row["method"], row["network"], row["ipc"]): row["accuracy"] for row in results["summary"]}
    for network in results["networks"]:
        for method in results["methods"]:
            rows.append([method, network, *(_percent(cells[method, network, ipc]) for ipc in results["ipcs"])])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
