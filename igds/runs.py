"""A run: every setting of one class's sampling, checked; and the record of what came out."""

import csv
import io
import json
import math
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields

import torch
from torch import Tensor

import igds
from igds.bundle import Bundle
from igds.data import png, to_bytes
from igds.rng import image_seeds
from igds.sampling import COLUMNS, SOLVERS, ClassBatch, Guidance, Step, paired, sample_progressive
from igds.verdict import Verdict, judge

MAX_IPC = 1000
MAX_SEED = 2**32 - 1
_SPLITS = "train|training|validation|valid|val|dev|test|testing|eval|evaluation"  # what `datasets` takes for one


@dataclass(frozen=True)
class Run:
    """What one run samples. `columns` are the paired ways: "unguided", "prototype" (β = 0) and "contextual" (β).

    Equal settings give equal images, bit for bit, on the same machine with the same number of threads.
    """

    bundle: str
    label: str
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
    columns: tuple[str, ...] = COLUMNS

    @classmethod
    def of(cls, bundle: Bundle, **settings) -> "Run":
        """A run on `bundle`; settings that are absent or None are the card's defaults. ValueError for a wrong one."""
        known = {f.name for f in fields(cls)} - {"bundle"}
        unknown = sorted(settings.keys() - known)
        if unknown:
            raise ValueError(f"there is no setting {unknown[0]!r}: a run has {', '.join(sorted(known))}")
        given = {name: value for name, value in settings.items() if value is not None}
        defaults = bundle.card["defaults"]
        if not isinstance(defaults, dict) or not {"ipc", "beta", "eta", "steps"} <= defaults.keys() <= known:
            raise ValueError(f"the card of {bundle.name} has no proper defaults: get the bundle again")
        values = {"label": bundle.classes[0], **defaults, **given}
        run = cls(bundle=bundle.name, **_typed(values))
        return run._checked(bundle)

    def _checked(self, bundle: Bundle) -> "Run":
        if not 1 <= self.ipc <= MAX_IPC:
            raise ValueError(f"IPC (images per class) must be between 1 and {MAX_IPC}, got {self.ipc}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must be between 0 and {MAX_SEED}, got {self.seed}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}")
        wrong = [column for column in self.columns if column not in COLUMNS]
        if wrong or not self.columns or len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"columns must be different ones of {', '.join(COLUMNS)}, got {', '.join(self.columns) or 'none'}"
            )
        bundle.prior.schedule.respaced(self.steps)
        self.batches(bundle)
        label = bundle.classes[bundle.label_of(self.label)]
        return self if label == self.label else Run(**{**vars(self), "label": label})

    @property
    def guidance(self) -> Guidance:
        """That of the contextual column."""
        return Guidance(self.beta, self.eta, self.reference, self.at, self.scaling, self.interval)

    def batches(self, bundle: Bundle) -> list[ClassBatch]:
        """One class batch a column, all with the same seeds."""
        label = bundle.label_of(self.label)
        return paired(label, image_seeds(self.seed, label, self.ipc), self.guidance, self.columns)

    def start(self, bundle: Bundle) -> Iterator[Step]:
        """Sample: an event a step, whose `batches` are in the order of `columns`."""
        return sample_progressive(
            bundle.prior, bundle.estimator, self.batches(bundle), steps=self.steps, solver=self.solver
        )


def _typed(values: dict) -> dict:
    """Numbers as numbers, whether they come from a page, an address bar, JSON or Python."""
    typed = dict(values)
    for name in ("ipc", "steps", "seed"):
        typed[name] = _number(name, typed.get(name, 0), whole=True)
    for name in ("beta", "eta"):
        typed[name] = _number(name, typed[name], whole=False)
    interval = typed.get("interval", (0.0, 1.0))
    if not isinstance(interval, (list, tuple)) or len(interval) != 2:
        raise ValueError(f"interval must be two numbers between 0 and 1, got {interval!r}")
    typed["interval"] = tuple(_number("interval", value, whole=False) for value in interval)
    columns = typed.get("columns", COLUMNS)
    if not isinstance(columns, (list, tuple)) or not all(isinstance(column, str) for column in columns):
        raise ValueError(f"columns must be a list of names among {', '.join(COLUMNS)}, got {columns!r}")
    typed["columns"] = tuple(columns)
    for name in ("label", "solver", "reference", "at", "scaling"):
        typed[name] = str(typed.get(name, Run.__dataclass_fields__[name].default))
    return typed


def _number(name: str, value, *, whole: bool):
    try:
        number = float(value)
        if not whole:
            return number
        if number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")


@dataclass
class Record:
    """What a run produced: its curves so far, and the images of each column once it is done."""

    run: Run
    bundle: Bundle
    curves: list[dict] = field(default_factory=list)
    images: dict[str, Tensor] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        """Note one step: a curve row a column, and the images (uint8, (n, C, H, W)) as they stand."""
        for column, batch in zip(self.run.columns, step.batches):
            self.curves.append(
                {
                    "step": step.index + 1,
                    "t": step.t,
                    "column": column,
                    "prototype_nats": float(batch.prototype.mean()),
                    "contextual_nats": float(batch.contextual.mean()),
                    "gradient_norm": float(batch.gradient_norm.mean()),
                }
            )
            self.images[column] = to_bytes(batch.x).cpu()

    def verdict(self) -> dict[str, Verdict]:
        """What the judges say of each column's images."""
        label = self.bundle.label_of(self.run.label)
        return {
            column: judge(self.bundle, images, label, reference=self.run.reference)
            for column, images in self.images.items()
        }

    def summary(self) -> dict:
        """Everything run.json says: settings, seeds, bundle, software, and the judges' verdict on the images."""
        label = self.bundle.label_of(self.run.label)
        return {
            "settings": asdict(self.run),
            "label_index": label,
            "image_seeds": list(image_seeds(self.run.seed, label, self.run.ipc)),
            "bundle_sha256": self.bundle.checksum(),
            "tau": self.bundle.estimator.tau if self.bundle.estimator else None,
            "result": {column: figures_of(verdict) for column, verdict in self.verdict().items()},
            "software": {
                "igds": igds.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "threads": torch.get_num_threads(),
                "device": str(self.bundle.device),
            },
            "note": "With beta > 0 the images of a batch depend on each other: a seed alone does not identify one.",
        }

    def curves_csv(self) -> str:
        """A row a step and column; no more than an empty line before the first step."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.curves[0]) if self.curves else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.curves)
        return text.getvalue()

    def files(self) -> dict[str, bytes]:
        """Every file of the result by its relative path: images by class folder, run.json and curves.csv.

        With one column the class folder stands at the top; with several, one folder a column holds it.
        """
        folder = class_folder(self.bundle.label_of(self.run.label), self.run.label)
        files = {}
        for column, images in self.images.items():
            top = "" if len(self.images) == 1 else f"{column}/"
            for i, image in enumerate(images):
                files[f"{top}{folder}/{i:04d}.png"] = png(image)
        files["run.json"] = (json.dumps(self.summary(), indent=2, ensure_ascii=False) + "\n").encode()
        files["curves.csv"] = self.curves_csv().encode()
        return files


def figures_of(verdict: Verdict) -> dict[str, float | None]:
    """A verdict for JSON, which has no NaN: null where there is no such figure."""
    return {name: None if math.isnan(value) else value for name, value in asdict(verdict).items()}


def class_folder(label: int, name: str) -> str:
    """A folder name that sorts in label order, safe on every file system: (0, "T-shirt/top") to "0000_t-shirt-top".

    Hugging Face takes a folder for a split that has its name for a word: "Bullet train" becomes "bullet~train".
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{label:04d}_" + re.sub(rf"-?(?<![a-z])({_SPLITS})(?![a-z])", r"~\1", words)
