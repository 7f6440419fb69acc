"""What the place Bounds shows: the committed tightness study, and a cell of it trained while one watches.

Knows no page.
"""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from igds.study import EMBEDDED
from igds.tightness import CELLS, CROSS_ENTROPY, VE, Moment, Tightness, differential_entropy, measure_cell

STUDY, LONGER = EMBEDDED / "tightness.json", EMBEDDED / "tightness-long.json"
WATCHED = (VE, CROSS_ENTROPY)
DELTAS = (0.5, 4.0)
MEASURES = ("prototype", "gap", "contextual")
FEWEST_SEED = 1000  # of what is trained here, so that its points are not those of the study


def read(path: Path) -> dict:
    """A committed tightness study; ValueError where it is missing or damaged."""
    remedy = "make it again with `python -m igds study tightness --out assets/studies`"
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        Tightness(**{name: _plain(value) for name, value in study["settings"].items()})
        _ = [study[name] for name in ("steps", "truth")]
        _ = [(row["delta"], row["features"], row["arm"], row["measures"]["prototype"]) for row in study["summary"]]
    except FileNotFoundError:
        raise ValueError(f"there is no study at {path.name}: {remedy}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{path.name} is damaged: {remedy}") from None
    return study


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def settings_of(study: dict) -> Tightness:
    return Tightness(**{name: _plain(value) for name, value in study["settings"].items()})


def opening(study: dict, longer: dict | None) -> dict:
    """What the page must know: the figures of every arm, the truth, and what may be set."""
    settings = settings_of(study)
    return {
        "kind": "study",
        "rows": _rows(study),
        "longer": _rows(longer) if longer else [],
        "longer_epochs": longer["settings"]["epochs"] if longer else 0,
        "truth": [[row["delta"], row["prototype"]] for row in study["truth"]],
        "entropy": differential_entropy(),
        "features": settings.features,
        "width_delta": settings.width_delta,
        "widths": list(settings.widths),
        "deltas": list(DELTAS),
        "said": said(study, longer),
        "about": f"{settings.samples:,} points, {settings.epochs} epochs of SGD, means of {len(settings.seeds)} seeds, "
        "bars one standard error. Nearest neighbours and the untrained map are no networks.",
        "steps": study["steps"],
    }


def _rows(study: dict) -> list[dict]:
    """Of every δ, d and arm the mean and standard error of each measure that it has."""
    rows = []
    for row in study["summary"]:
        found = {name: row["measures"][name] for name in MEASURES if name in row["measures"]}
        figures = {name: [value["mean"], value["standard_error"] or 0.0] for name, value in found.items()}
        rows.append({"delta": row["delta"], "d": row["features"], "arm": row["arm"], **figures})
    return rows


def said(study: dict, longer: dict | None) -> str:
    """The paper's claim, and what comes out, from the study's own numbers."""
    settings, entropy = settings_of(study), differential_entropy()
    rows = {(row["delta"], row["d"], row["arm"]): row for row in _rows(study)}
    delta, d = 2.0 if 2.0 in settings.deltas else settings.deltas[0], settings.features
    ours, other = rows[delta, d, VE], rows[delta, d, CROSS_ENTROPY]
    truth = dict((row["delta"], row["prototype"]) for row in study["truth"])[delta]
    widest = rows[settings.width_delta, max(settings.widths), CELLS]["contextual"][0]
    text = (
        "Figure 6 of the paper says that both bounds of the variational estimator (VE) closely match the truth, "
        f"I(X;Y) and H(X|Y) = (5/2)·log(2πe) = {entropy:.3f} nats, and that a network trained with cross-entropy sees "
        f"less context. Here, at δ = {delta:g} with I(X;Y) = {truth:.3f}, Î comes out close, and below: the VE misses "
        f"{-ours['gap'][0]:.3f} nats, cross-entropy {-other['gap'][0]:.3f}. The VE does see more context, Ĥ = "
        f"{ours['contextual'][0]:.2f} against {other['contextual'][0]:.2f}, but neither is near {entropy:.3f}. It "
        f"cannot be: Ĥ is the mean KL divergence of a softmax of d entries, never above log d = {math.log(d):.2f} "
        f"for d = {d}, while the differential entropy depends on the unit of length. A map that nobody trained "
        f"reaches {widest:.2f} at d = {max(settings.widths):,}"
    )
    text += ", past the “truth”." if widest > entropy else "."
    if longer:
        slow = {(row["delta"], row["d"], row["arm"]): row for row in _rows(longer)}.get((delta, d, VE))
        if slow:
            text += (
                f" After {longer['settings']['epochs']} epochs instead of {settings.epochs}, Ĥ of the VE is "
                f"{slow['contextual'][0]:.2f} and its Î misses {-slow['gap'][0]:.2f} nats."
            )
    return f"{text} The paper’s full size, 10⁶ points and 100 epochs, was not run."


def asked(study: dict, delta: object, features: object, seed: object) -> tuple[Tightness, tuple[float, int, int]]:
    """The study's own settings for one cell (δ, d, seed); ValueError in a sentence for what cannot be trained here."""
    settings = settings_of(study)
    try:
        delta, features, seed = float(delta), int(features), int(seed)
    except (TypeError, ValueError):
        raise ValueError("δ, d and the seed must be numbers") from None
    if not DELTAS[0] <= delta <= DELTAS[1]:
        raise ValueError(f"δ must be between {DELTAS[0]:g} and {DELTAS[1]:g} here, got {delta:g}")
    if features not in settings.widths:
        raise ValueError(f"d must be one of {', '.join(map(str, settings.widths))} here, got {features}")
    if not FEWEST_SEED <= seed < 2**31:
        raise ValueError(f"the seed must be between {FEWEST_SEED} and {2**31 - 1} here, got {seed}")
    return replace(settings, features=features), (delta, features, seed)


def watch(workers: ThreadPoolExecutor, settings: Tightness, cell: tuple[float, int, int]) -> Iterator[dict]:
    """Payloads while VE and cross-entropy are trained and measured, one after the other, by one of the workers."""
    delta, features, seed = cell
    moments = measure_cell(settings, cell, WATCHED)
    while moment := workers.submit(next, moments, None).result():
        yield _payload(moment) | {"delta": delta, "d": features, "seed": seed}


def _payload(moment: Moment) -> dict:
    truth = moment.true_prototype
    figures = {
        arm: {
            "prototype": found["prototype"],
            "gap": found["prototype"] - truth,
            "contextual": found["contextual"],
        }
        for arm, found in moment.figures.items()
    }
    finished = len(figures) == len(WATCHED)
    return {
        "kind": "watched" if finished else "watching",
        "done": moment.done,
        "total": moment.total,
        "truth": truth,
        "figures": figures,
    }
