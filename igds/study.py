"""Studies: ways of sampling held against each other, over classes, seeds and IPCs, by judges that guide nothing.

A study samples first, a file a cell (IPC, seed, class), and measures the images afterwards: a study that was stopped
goes on where it stood, and another measure needs no new images.
"""

import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import igds
from igds.bundle import Bundle
from igds.data import ImageSet, to_bytes
from igds.files import write_json, write_whole
from igds.measures import features_and_logits, frechet_distance, manifold, out_of_range, pixel_range
from igds.runs import MAX_IPC, Run, figures_of
from igds.sampling import sample_progressive
from igds.statistics import mean_and_error, paired_difference
from igds.verdict import judge

EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "studies"
PAPER_BETAS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
UNGUIDED, REAL = "unguided", "real"
MEASURES = {
    "accuracy": "accuracy",
    "diversity": "diversity",
    "recognised_diversity": "diversity of those recognised",
    "prototype": "Î, guiding estimator (nats)",
    "contextual": "Ĥ, guiding estimator (nats)",
    "held_out_prototype": "Î, held-out estimator (nats)",
    "held_out_contextual": "Ĥ, held-out estimator (nats)",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "out_of_range": "pixels out of range",
    "frechet_distance": "Fréchet distance",
}


@dataclass(frozen=True)
class Study:
    """`arms` maps a name to the settings of a Run; those that are absent are the card's. All arms share their noise.

    IPC 1 is sampled with the class reference, since β has no effect on one image held against itself.
    """

    name: str
    bundle: str
    arms: dict[str, dict]
    ipcs: tuple[int, ...] = (1, 10, 50)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def runs(self, bundle: Bundle, ipc: int, seed: int, label: int) -> dict[str, Run]:
        """The run of every arm in one cell; ValueError for a setting that is wrong."""
        fixed = {"ipc": ipc, "seed": seed, "label": bundle.classes[label], "columns": ("contextual",)}
        if ipc == 1:
            fixed["reference"] = "class"
        return {name: Run.of(bundle, **{**settings, **fixed}) for name, settings in self.arms.items()}

    def cells(self, bundle: Bundle) -> list[tuple[int, int, int]]:
        """(IPC, seed, label) of every cell."""
        return [(n, seed, y) for n in self.ipcs for seed in self.seeds for y in range(len(bundle.classes))]


def beta_study(bundle: Bundle, betas: Sequence[float] | None = None, **size) -> Study:
    """Unguided, and guided at every β: by default the paper's, and the bundle's own range above them."""
    highest = bundle.card["beta_range"][1]
    betas = betas or [*PAPER_BETAS, *(beta for beta in (2.0, 3.0, 5.0, 10.0) if beta <= highest)]
    arms = {UNGUIDED: {"eta": 0.0}} | {beta_arm(beta): {"beta": float(beta)} for beta in betas}
    return Study("beta", bundle.name, arms, **size)


def beta_arm(beta: float) -> str:
    return f"β = {beta:g}"


def steps_study(bundle: Bundle, steps: Sequence[int] | None = None, *, paper: int = 250, ipcs=(10,), **size) -> Study:
    """Few steps of the multistep solver against `paper` many of DDPM, unguided and at the card's β."""
    beta = bundle.card["defaults"]["beta"]
    arms = {}
    ways = ((UNGUIDED, {"eta": 0.0}), (beta_arm(beta), {"beta": beta}))
    for solver, count in [("ddpm", paper), *(("dpmpp_2m_sde", count) for count in steps or (15, 20, 25))]:
        for way, guidance in ways:
            arms[f"{solver} {count}, {way}"] = {"solver": solver, "steps": count, **guidance}
    return Study("steps", bundle.name, arms, ipcs=ipcs, **size)


def levers_study(bundle: Bundle, betas: Sequence[float] | None = None, *, ipcs=(10,), **size) -> Study:
    """The levers of the guidance one by one, each at every β: the card's way, and with one setting changed."""
    eta = bundle.card["defaults"]["eta"]
    betas = betas or (0.0, bundle.card["defaults"]["beta"], bundle.card["beta_range"][1])
    changes = {
        "card": {},
        "η / 2": {"eta": eta / 2},
        "η · 2": {"eta": eta * 2},
        "η = 0.3": {"scaling": "constant", "eta": 0.3},
        "η = 2 · σ̃": {"scaling": "deviation", "eta": 2.0},
        "normalised, η = 0.2": {"scaling": "normalised", "eta": 0.2},
        "normalised, η = 0.5": {"scaling": "normalised", "eta": 0.5},
        "at x̃0, η = 0.3": {"at": "x0", "scaling": "constant", "eta": 0.3},
        "any t": {"interval": [0.0, 1.0]},
        "0.2 < t/T < 0.8": {"interval": [0.2, 0.8]},
        "class reference": {"reference": "class"},
    }
    arms = {UNGUIDED: {"eta": 0.0}}
    for name, change in changes.items():
        arms |= {f"{name}, {beta_arm(beta)}": {**change, "beta": float(beta)} for beta in betas}
    return Study("levers", bundle.name, arms, ipcs=ipcs, **size)


STUDIES = {"beta": beta_study, "steps": steps_study, "levers": levers_study}


@dataclass(frozen=True)
class Progress:
    """Evaluations of one image by the prior, done so far and in all."""

    done: int
    total: int


def sample_study(study: Study, bundle: Bundle, folder: Path) -> Iterator[Progress]:
    """Make every cell's images, a file each in `folder`; those that are there already are kept.

    Raises ValueError at the call where a setting is wrong, where the study needs a held-out estimator that the bundle
    lacks, or where `folder` holds another study or images of another bundle.
    """
    if bundle.held_out is None:
        raise ValueError(
            f"{bundle.name} has no held-out estimator, without which a study cannot be believed: make one with "
            "`train held_out` and assemble the bundle again with `train bundle`"
        )
    if not study.ipcs or min(study.ipcs) < 1 or max(study.ipcs) > MAX_IPC:
        raise ValueError(f"each IPC must be between 1 and {MAX_IPC}, got {', '.join(map(str, study.ipcs)) or 'none'}")
    if not study.seeds:
        raise ValueError("a study needs at least one seed")
    if 1 in study.ipcs and any(settings.get("reference") == "batch" for settings in study.arms.values()):
        raise ValueError(
            "with IPC 1 and the batch reference an image is held against itself, so that β has no effect: leave out "
            "IPC 1 or the reference"
        )
    study.runs(bundle, study.ipcs[0], study.seeds[0], 0)
    _claim(folder, study, bundle)
    return _sample_study(study, bundle, folder)


def _sample_study(study: Study, bundle: Bundle, folder: Path) -> Iterator[Progress]:
    cells = study.cells(bundle)
    evaluations = sum(run.steps for run in study.runs(bundle, 1, 0, 0).values())  # of one image, over all arms
    done, total = 0, sum(evaluations * ipc for ipc, _, _ in cells)
    for cell in cells:
        path = cell_path(folder, cell)
        if path.exists():
            done += evaluations * cell[0]
            yield Progress(done, total)
            continue
        runs = study.runs(bundle, *cell)
        images = {}
        for solver, steps in dict.fromkeys((run.solver, run.steps) for run in runs.values()):
            group = {name: run for name, run in runs.items() if (run.solver, run.steps) == (solver, steps)}
            batches = [batch for run in group.values() for batch in run.batches(bundle)]
            states = ()
            for step in sample_progressive(bundle.prior, bundle.estimator, batches, steps=steps, solver=solver):
                states = step.batches
                done += cell[0] * len(group)
                yield Progress(done, total)
            images |= {name: to_bytes(state.x).cpu() for name, state in zip(group, states)}
        write_whole(path, save(images))


def cell_path(folder: Path, cell: tuple[int, int, int]) -> Path:
    """Where the images of a cell are kept: one uint8 tensor (n, C, H, W) an arm."""
    ipc, seed, label = cell
    return folder / f"ipc{ipc:04d}-seed{seed}-class{label:04d}.safetensors"


def _claim(folder: Path, study: Study, bundle: Bundle) -> None:
    """Write down whose images `folder` holds; ValueError where they are another study's."""
    path = folder / "study.json"
    # Seeds and IPCs may grow: their cells are files of their own.
    identity = {"name": study.name, "arms": study.arms, "bundle_sha256": bundle.checksum()}
    identity |= {"defaults": bundle.card["defaults"], "bfloat16": bundle.prior.bfloat16}
    identity = json.loads(json.dumps(identity))
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{path} is damaged: choose another --work, or delete the folder")
        if found != identity:
            what = "images of another bundle" if found.get("bundle_sha256") != bundle.checksum() else "another study"
            raise ValueError(f"{folder} holds {what}: choose another --work, or delete the folder to start afresh")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something that is not a study: choose another --work")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, identity)


def measure_study(study: Study, bundle: Bundle, folder: Path, train: ImageSet, test: ImageSet) -> dict:
    """Judge the images of every cell in `folder`: the study's JSON, with a record a run and a record a whole set.

    Real images of `train`, as many and by the same measures, stand beside them as the arm "real"; `test` is what
    precision, recall, density, coverage and the Fréchet distance are taken against. Ĥ is held against the class mean
    for IPC 1 and against the batch's otherwise, whatever guided. Raises ValueError where a cell is missing or damaged,
    and where a class of `train` has fewer images than an IPC.
    """
    fewest = int(torch.bincount(train.labels, minlength=len(bundle.classes)).min())
    if fewest < max(study.ipcs):
        raise ValueError(
            f"the training set has a class of {fewest} images, too few to stand beside IPC {max(study.ipcs)}"
        )
    images = {cell: _cell_images(cell_path(folder, cell), study) for cell in study.cells(bundle)}
    records, sets = [], []
    test_features, _ = features_and_logits(bundle.classifier, test.images)
    by_class = [test_features[test.labels == label] for label in range(len(bundle.classes))]
    ranges = [pixel_range(train.of_class(label)) for label in range(len(bundle.classes))]
    for ipc in study.ipcs:
        for seed in study.seeds:
            pooled = {name: [] for name in (REAL, *study.arms)}
            for label in range(len(bundle.classes)):
                runs = study.runs(bundle, ipc, seed, label)
                reference = "class" if ipc == 1 else "batch"
                own = train.of_class(label)
                chosen = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))[:ipc]
                for name, batch in {REAL: own[chosen], **images[ipc, seed, label]}.items():
                    features, _ = features_and_logits(bundle.classifier, batch)
                    pooled[name].append(features)
                    run = runs.get(name)
                    settings = asdict(run) if run else {"bundle": bundle.name, "label": bundle.classes[label]}
                    verdict = judge(bundle, batch, label, reference=reference)
                    figures = figures_of(verdict) | _without_nan(manifold(by_class[label], features)._asdict())
                    figures["out_of_range"] = out_of_range(batch, *ranges[label])
                    if ipc == 1:
                        figures["diversity"] = None
                    records.append(
                        {"arm": name, **settings, "ipc": ipc, "seed": seed}
                        | {key: value if value is None else round(value, 5) for key, value in figures.items()}
                    )
            for name, features in pooled.items():
                distance = frechet_distance(torch.cat(features), test_features)
                sets.append({"arm": name, "ipc": ipc, "seed": seed, "frechet_distance": round(distance, 5)})
    return {
        "study": study.name,
        "bundle": bundle.name,
        "bundle_sha256": bundle.checksum(),
        "arms": study.arms,
        "ipcs": list(study.ipcs),
        "seeds": list(study.seeds),
        "defaults": bundle.card["defaults"],
        "bfloat16": bundle.prior.bfloat16,
        "software": {"igds": igds.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "summary": summary_of(records, sets),
        "records": records,
        "sets": sets,
    }


def _cell_images(path: Path, study: Study) -> dict[str, Tensor]:
    try:
        images = load_file(path)
        return {name: images[name] for name in study.arms}
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the study was stopped half-way, the same command goes on") from None
    except (SafetensorError, KeyError, OSError):
        raise ValueError(f"{path} is damaged: delete it, the same command makes it again") from None


def _without_nan(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def summary_of(records: list[dict], sets: list[dict]) -> list[dict]:
    """A row an IPC and arm: mean and standard error over seeds, each seed's value being the mean over classes.

    For the arms of a β study also the difference to unguided and to β = 0, with the p of a paired two-sided t-test.
    """
    values = seed_values(records, sets)
    rows = []
    for (ipc, arm), by_measure in values.items():
        row = {"ipc": ipc, "arm": arm, "measures": {}, "against": {}}
        for measure, by_seed in by_measure.items():
            row["measures"][measure] = mean_and_error(list(by_seed.values()))
        for other in (UNGUIDED, beta_arm(0)):
            if (ipc, other) in values and other != arm and arm not in (REAL, UNGUIDED):
                row["against"][other] = {
                    measure: paired_difference(by_seed, values[ipc, other][measure])
                    for measure, by_seed in by_measure.items()
                }
        rows.append(row)
    return rows


def seed_values(records: list[dict], sets: list[dict]) -> dict[tuple[int, str], dict[str, dict[int, float]]]:
    """(IPC, arm) → measure → seed → the mean over classes."""
    collected: dict = {}
    for record in [*records, *sets]:
        cell = collected.setdefault((record["ipc"], record["arm"]), {})
        for measure in MEASURES:
            if record.get(measure) is not None:
                cell.setdefault(measure, {}).setdefault(record["seed"], []).append(record[measure])
    return {
        key: {m: {seed: sum(v) / len(v) for seed, v in by_seed.items()} for m, by_seed in by_measure.items()}
        for key, by_measure in collected.items()
    }


def write_study(results: dict, path: Path) -> None:
    """The study's JSON, a record a line."""
    rows = ("summary", "records", "sets")
    entries = []
    for key, value in results.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in value] if key in rows else []
        text = "[\n    " + ",\n    ".join(lines) + "\n  ]" if lines else json.dumps(value, ensure_ascii=False)
        entries.append(f"  {json.dumps(key)}: {text}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, ("{\n" + ",\n".join(entries) + "\n}\n").encode())


def study_path(bundle: Bundle, name: str = "beta") -> Path:
    """Where the committed results of an embedded bundle's study are."""
    return EMBEDDED / f"{bundle.name}-{name}.json"


def read_study(path: Path, bundle: Bundle) -> dict:
    """The results of a study of `bundle`; ValueError where the file is something else or of another bundle."""
    remedy = f"make it with `python -m igds study beta --bundle {bundle.name}`"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        made_with = results["bundle_sha256"]
        _ = [results[key] for key in ("records", "sets", "summary", "defaults", "arms", "ipcs")]
    except FileNotFoundError:
        raise ValueError(f"there is no study at {path.name}: {remedy}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not the results of a study: {remedy}") from None
    if made_with != bundle.checksum():
        raise ValueError(f"{path} was made with another bundle than {bundle.path}: {remedy}")
    return results
