"""One class at several β side by side, from the same noise and in one batch: asked for, computed, judged, said.

Knows no page.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from urllib.parse import urlencode

import torch
from torch import Tensor

from app.figures import gap_of, noise_frame
from app.session import Session, Studio
from app.settings import SETTINGS, beta_range, checked, defaults, settings_of
from app.settings import query_of as run_query
from app.words import bound_of, change, file_stem, images
from igds.bundle import Bundle
from igds.data import to_bytes
from igds.expectation import SETTINGS as COMPARED
from igds.measures import features_and_logits
from igds.rng import NoiseStreams, image_seeds
from igds.runs import Run, figures_of
from igds.sampling import ClassBatch, Step, sample_progressive
from igds.study import EMBEDDED as STUDIES
from igds.study import UNGUIDED, beta_arm
from igds.verdict import Verdict, judge

COMPARISONS = STUDIES.parent / "comparisons"
MOST_BETAS = 8
FEWEST_ROWS, ROWS, MOST_ROWS = 2, 6, 10
MAP_MEASURES = {
    "accuracy": "recognised, %",
    "recognised_diversity": "diversity of those recognised",
    "held_out_contextual": "held-out Ĥ, nats",
}


@dataclass(frozen=True)
class BetaRun:
    """One class from the same noise: unguided, and at each of `betas` (ascending).

    The rest is as in `run`, whose own β and columns have no part in it.
    """

    run: Run
    betas: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names, which are those of a β study's arms."""
        return (UNGUIDED, *map(beta_arm, self.betas))

    def single(self, column: int) -> Run:
        """The run of one column alone; the first, unguided, has β = 0."""
        beta = (0.0, *self.betas)[column]
        return replace(self.run, beta=beta, columns=("contextual" if column else "unguided",))

    def batches(self, bundle: Bundle) -> list[ClassBatch]:
        """One class batch a column, all with the same seeds: each has a Q̂ of its own."""
        return [batch for column in range(len(self.columns)) for batch in self.single(column).batches(bundle)]

    def start(self, bundle: Bundle) -> Iterator[Step]:
        """Sample all columns together: an event a step, whose `batches` are in the order of `columns`."""
        run = self.run
        return sample_progressive(
            bundle.prior, bundle.estimator, self.batches(bundle), steps=run.steps, solver=run.solver
        )


def asked(bundle: Bundle, settings: dict, betas: str) -> BetaRun:
    """What these settings describe, β being a list in words; ValueError says in one sentence what is wrong."""
    values = betas_of(bundle, betas)
    run = checked(bundle, defaults(bundle) | settings | {"beta": values[-1]})
    if not FEWEST_ROWS <= run.ipc <= MOST_ROWS:
        raise ValueError(f"images per class must be between {FEWEST_ROWS} and {MOST_ROWS} here, got {run.ipc}")
    return BetaRun(run, values)


def betas_of(bundle: Bundle, text: str) -> tuple[float, ...]:
    """The values of β in a list such as "0, 0.5, 1", ascending and each once; ValueError where one cannot be used."""
    parts = [part for part in re.split(r"[,;\s]+", str(text or "")) if part]
    if not parts:
        raise ValueError("β is empty: give one value or several, as in 0, 0.5, 1")
    low, high = beta_range(bundle)
    values = set()
    for part in parts:
        try:
            value = float(part)
        except ValueError:
            raise ValueError(f"β must be numbers with commas between them, as in 0, 0.5, 1, got {part!r}") from None
        if not low <= value <= high:
            raise ValueError(f"β must be between {low:g} and {high:g} on this page, got {part}")
        values.add(value + 0.0)  # −0 is 0
    if len(values) > MOST_BETAS:
        raise ValueError(f"at most {MOST_BETAS} values of β stand side by side, got {len(values)}: leave some out")
    return tuple(sorted(values))


def words_of(betas: tuple[float, ...]) -> str:
    """The list again, as `betas_of` reads it."""
    return ", ".join(f"{value:.12g}" for value in betas)


def query_of(run: BetaRun) -> str:
    """What stands behind the ? of the address that reopens exactly this run; its β is that of the last column."""
    return f"{run_query(run.single(-1))}&{urlencode({'betas': ','.join(f'{beta:.12g}' for beta in run.betas)})}"


def restored(bundle: Bundle, query: dict) -> BetaRun | None:
    """The run that an address describes, None where it describes none of this place; ValueError says what is wrong."""
    if "betas" not in query:
        return None
    if query.get("bundle", bundle.name) != bundle.name:
        raise ValueError(f"it was made for the bundle {query['bundle']!r}, and this page runs {bundle.name!r}")
    return asked(bundle, {name: query[name] for name in SETTINGS if name in query}, query["betas"])


def whole_range(bundle: Bundle) -> tuple[float, ...]:
    """Round values of β, evenly spaced over the bundle's range, at most seven of them."""
    low, high = beta_range(bundle)
    size = 10 ** math.floor(math.log10((high - low) / 6))
    gap = next(factor * size for factor in (1, 2, 5, 10) if (high - low) / (factor * size) <= 6 + 1e-9)
    count = math.floor((high - low) / gap + 1e-9)
    return tuple(float(f"{low + i * gap:.6g}") for i in range(count + 1))


def studied_betas(study: dict) -> tuple[float, ...]:
    """The β that a β study holds, ascending; the highest of them where they are too many to stand side by side."""
    betas = {float(arm["beta"]) for name, arm in study["arms"].items() if name == beta_arm(arm.get("beta", -1))}
    return tuple(sorted(betas)[-MOST_BETAS:])


@dataclass
class BetaRecord:
    """What a BetaRun produced: each column's images (uint8, (n, C, H, W)) as they stand.

    At the end also the verdict on each column, and for each image the class that the independent classifier takes it
    for.
    """

    run: BetaRun
    bundle: Bundle
    images: list[Tensor] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    taken_for: list[list[int]] = field(default_factory=list)

    def add(self, step: Step) -> None:
        self.images = [to_bytes(batch.x).cpu() for batch in step.batches]

    def judge(self) -> None:
        """Ask the judges about every column's images, which must be the finished ones."""
        run = self.run.run
        label = self.bundle.label_of(run.label)
        self.verdicts = [judge(self.bundle, batch, label, reference=run.reference) for batch in self.images]
        _, logits = features_and_logits(self.bundle.classifier, torch.cat(self.images))
        self.taken_for = logits.argmax(1).view(len(self.images), run.ipc).tolist()

    def csv(self) -> str:
        """A row a column: its settings and what the judges said, empty where there is no such figure."""
        text = io.StringIO()
        rows = [
            {"column": name, **settings_of(self.run.single(i)), **figures_of(verdict)}
            for i, (name, verdict) in enumerate(zip(self.run.columns, self.verdicts))
        ]
        rows[0] |= {"beta": None, "eta": 0.0}
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


@dataclass
class BetaSession(Session):
    """A visitor's Session of this place; `rest` are settings that it has no control for, from a link."""

    wanted: BetaRun | None = None
    record: BetaRecord | None = None
    rest: dict = field(default_factory=dict)

    def ending(self) -> dict:
        """The stage's last payload, with the figures of a run that is finished."""
        if not self.is_finished:
            return super().ending()
        record = self.record
        own = record.bundle.label_of(record.run.run.label)
        names = record.bundle.classes
        return super().ending() | {
            "figures": [figures_of(verdict) for verdict in record.verdicts],
            "missed": [[None if y == own else names[y] for y in column] for column in record.taken_for],
            "said": said(record),
        }


def play(studio: Studio, session: BetaSession) -> Iterator[dict]:
    """The session's wanted run as payloads: its head, its steps, and once the judges were asked its end."""
    run, bundle = session.wanted, studio.bundle
    head = {**about(run, bundle), "kind": "start", "run": session.ticket, "count": run.run.steps}
    record = BetaRecord(run, bundle)
    return studio.follow(session, record, head | {"query": query_of(run)}, columns=1, finish=record.judge)


def about(run: BetaRun, bundle: Bundle) -> dict:
    """What must be known of a run before its first step: words, layout, bounds and its place in the map."""
    _, height, width = bundle.prior.shape
    betas = [None, *run.betas]
    return {
        "title": headline(run),
        "label": run.run.label,
        "columns": [{"name": name, "beta": beta} for name, beta in zip(run.columns, betas)],
        "betas": words_of(run.betas),
        "images": run.run.ipc,
        "tile": {"height": height, "width": width, "gap": gap_of(width)},
        "bounds": {key: bound_of(key, run.run, bundle) for key in ("prototype", "contextual")},
        "reference": run.run.reference,
    }


def preview_of(run: BetaRun, bundle: Bundle) -> dict:
    """The grid before a run: the very noise that every column would start from."""
    label = bundle.label_of(run.run.label)
    noise = NoiseStreams(image_seeds(run.run.seed, label, run.run.ipc)).draw(bundle.prior.shape)
    return {
        **about(run, bundle),
        "kind": "idle",
        "hint": "Every column starts from this noise. Press Start",
        "noise": noise_frame(noise, columns=1),
    }


def headline(run: BetaRun) -> str:
    values = "1 value" if len(run.betas) == 1 else f"{len(run.betas)} values"
    return f"{run.run.label}: {images(run.run.ipc)} at {values} of β, seed {run.run.seed}"


def said(record: BetaRecord) -> str:
    """What β bought and cost over the whole of the run, from its own numbers, with the caveat that one seed needs."""
    run, betas, verdicts = record.run.run, record.run.betas, record.verdicts
    if run.eta == 0:
        return "With η = 0 nothing was guided: all columns are the same images."
    alone = len(betas) == 1
    ends = {"to": verdicts[-1], "of": verdicts[0 if alone else 1]}
    against = "no guidance" if alone else f"β = {betas[0]:g}"
    text = f"Against {against}, β = {betas[-1]:g} {change(run, ends, 'to', 'of')}."
    if not alone:
        fewer = [f"{beta:g}" for beta, v in zip(betas, verdicts[1:]) if v.accuracy < verdicts[1].accuracy]
        where = f"at β = {', '.join(fewer)}" if fewer else "at none of these β"
        text += f" Fewer are recognised than at β = {betas[0]:g}: {where}."
    return (
        f"{text} One seed proves little, and with {run.ipc} images a share moves in steps of "
        f"{100 / run.ipc:.3g} points: throw the dice a few times."
    )


def study_map(study: dict) -> dict:
    """The β-IPC map of a β study: a row an IPC, a column an arm, by measure [mean, standard error] or null.

    Means over classes, then over seeds. Raises ValueError where the study is damaged.
    """
    try:
        table = {(row["ipc"], row["arm"]): row["measures"] for row in study["summary"]}
        betas = sorted(arm["beta"] for name, arm in study["arms"].items() if name == beta_arm(arm.get("beta", -1)))
        arms = [(UNGUIDED, None)] if UNGUIDED in study["arms"] else []
        arms += [(beta_arm(beta), beta) for beta in betas]
        return {
            "ipcs": list(study["ipcs"]),
            "betas": [beta for _, beta in arms],
            "seeds": len(study["seeds"]),
            "measures": {
                measure: {
                    "name": name,
                    "cells": [[_cell(table[ipc, arm].get(measure)) for arm, _ in arms] for ipc in study["ipcs"]],
                }
                for measure, name in MAP_MEASURES.items()
            },
        }
    except (LookupError, TypeError, AttributeError):
        raise ValueError("the study is damaged: make it again with `python -m igds study beta`") from None


def trained_map(comparison: dict) -> dict:
    """A measure of the map from a comparison of β: accuracy of networks that learnt from sets, mean [and error].

    It has its own IPCs and β, and those of its first network. Raises ValueError where the comparison is damaged.
    """
    try:
        network, ipcs, methods = comparison["networks"][0], comparison["ipcs"], comparison["methods"]
        table = {
            (row["ipc"], row["method"]): row["accuracy"] for row in comparison["summary"] if row["network"] == network
        }
        betas = sorted(arm["beta"] for name, arm in methods.items() if name == beta_arm(arm.get("beta", -1)))
        arms = [(UNGUIDED, None)] if UNGUIDED in methods else []
        arms += [(beta_arm(beta), beta) for beta in betas]
        sets = len(comparison["generation_seeds"])
        epochs = ", ".join(f"{comparison['epochs'][str(ipc)]} with IPC {ipc}" for ipc in ipcs)
        cells = [[_cell(table[ipc, arm]) for arm, _ in arms] for ipc in ipcs]
        split = comparison["split"]
    except (LookupError, TypeError, AttributeError):
        raise ValueError("the comparison is damaged: make it again with `python -m igds compare`") from None
    about = (
        f"How many real {split} images a {network} names right that learnt from the set alone, {sets} sets a cell "
        f"(epochs: {epochs})."
    )
    grid = {"ipcs": list(ipcs), "betas": [beta for _, beta in arms], "cells": cells}
    return {"name": "accuracy of a network trained on it, %", "about": about, **grid}


def read_comparison(bundle: Bundle) -> dict | None:
    """The committed comparison of β with this bundle; None where there is none, ValueError where it is damaged."""
    path = COMPARISONS / f"{bundle.name}-beta.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["bundle_sha256"] == bundle.checksum() else None
    except (UnicodeDecodeError, json.JSONDecodeError, LookupError, TypeError):
        raise ValueError(f"{path.name} is damaged: make it again with `python -m igds compare`") from None


def other_settings(study: dict, bundle: Bundle) -> dict:
    """The study's values of those settings in which the card's defaults differ from it."""
    own = asdict(Run.of(bundle))
    theirs = {name: study["defaults"].get(name, Run.__dataclass_fields__[name].default) for name in COMPARED}
    theirs["interval"] = tuple(theirs["interval"])
    return {name: value for name, value in theirs.items() if value != own[name]}


def _cell(figure: dict | None) -> list | None:
    return None if figure is None or figure["mean"] is None else [figure["mean"], figure["standard_error"]]


def csv_of(session: BetaSession) -> tuple[str, bytes]:
    """Name and content of the figures as CSV; ValueError before the run is finished."""
    if not session.is_finished:
        raise ValueError("there are no figures yet: let a run finish")
    return f"{stem_of(session)}.csv", session.record.csv().encode()


def stem_of(session: BetaSession) -> str:
    """What the files of the run on show are called."""
    record = session.record
    stopped = "" if session.is_finished else f"-stopped-at-{len(session.steps)}"
    return f"{file_stem(record.run.run, record.bundle)}-betas{stopped}"
