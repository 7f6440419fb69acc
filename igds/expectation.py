"""What a study lets one expect of a run: the change that β made in it, with its spread over seeds."""

import math
import statistics
from dataclasses import dataclass

from igds.runs import Run
from igds.study import MEASURES, UNGUIDED, beta_arm

SETTINGS = ("eta", "steps", "solver", "reference", "at", "scaling", "interval")


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the standard deviation between them, NaN for a single seed."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Expectation:
    """Of one class at the studied `ipc` nearest to the run's, among those with the run's reference Q if there are any.

    `change` is, by measure, that of the run's β against the arm `against`: β = 0, or unguided for a run with β = 0.
    `near` are the studied β it was taken at: the run's own, or the two around it. `arms` holds, by arm and measure,
    what the study found: unguided, at each of `betas` (ascending), and real, of as many real images. `other_settings`
    are the study's values of those settings in which the run differs, so that it is no more than a guide to the run.
    """

    label: str
    ipc: int
    seeds: int
    against: str
    near: tuple[float, ...]
    change: dict[str, Spread]
    betas: tuple[float, ...]
    arms: dict[str, dict[str, Spread]]
    other_settings: dict


def expectation(results: dict, run: Run) -> Expectation:
    """What the β study `results` (from read_study) lets one expect of `run`: E[m(β) − m(0)] of every measure m.

    Taken within each seed, and linear in β between two studied ones. Raises ValueError where the study does not reach
    to the run's class or β, or is no β study.
    """
    try:
        own = [record for record in results["records"] if record["label"] == run.label]
        if not own:
            raise ValueError(f"the study has no images of the class {run.label}")
        at_zero = {record["ipc"]: record for record in own if record["arm"] == beta_arm(0)}
        if not at_zero:
            raise LookupError(beta_arm(0))
        ipc = min(at_zero, key=lambda n: (at_zero[n]["reference"] != run.reference, max(n / run.ipc, run.ipc / n)))
        figures: dict = {}
        for record in own:
            if record["ipc"] == ipc:
                found = {measure: record[measure] for measure in MEASURES if record.get(measure) is not None}
                figures.setdefault(record["arm"], {})[record["seed"]] = found
        betas = sorted(arm["beta"] for name, arm in results["arms"].items() if name == beta_arm(arm.get("beta", -1)))
        studied = {name: at_zero[ipc][name] for name in SETTINGS}
        studied["interval"] = tuple(studied["interval"])
        near = _around(betas, run.beta)
        against = beta_arm(0) if run.beta else UNGUIDED
        return Expectation(
            label=run.label,
            ipc=ipc,
            seeds=len(figures[beta_arm(0)]),
            against=against,
            near=near,
            change=_change(figures, near, run.beta, against),
            betas=tuple(betas),
            arms={arm: _spreads(list(by_seed.values())) for arm, by_seed in figures.items()},
            other_settings={name: value for name, value in studied.items() if value != getattr(run, name)},
        )
    except (LookupError, TypeError, AttributeError, ArithmeticError):
        remedy = "make it again with `python -m igds study beta`"
        raise ValueError(f"the study is damaged or holds no β = 0: {remedy}") from None


def _around(betas: list[float], beta: float) -> tuple[float, ...]:
    if beta in betas:
        return (beta,)
    if not betas or not betas[0] < beta < betas[-1]:
        raise ValueError(f"the study holds β from {betas[0]:g} to {betas[-1]:g}, and this run has β = {beta:g}")
    return max(b for b in betas if b < beta), min(b for b in betas if b > beta)


def _change(figures: dict, near: tuple[float, ...], beta: float, against: str) -> dict[str, Spread]:
    """m(β) − m(against) within each seed that has both, then over seeds."""
    share = (beta - near[0]) / (near[-1] - near[0]) if len(near) == 2 else 0.0
    lower, upper, base = figures[beta_arm(near[0])], figures[beta_arm(near[-1])], figures[against]
    differences = []
    for seed in sorted(lower.keys() & upper.keys() & base.keys()):
        low, high, zero = lower[seed], upper[seed], base[seed]
        differences.append(
            {m: low[m] + share * (high[m] - low[m]) - zero[m] for m in low.keys() & high.keys() & zero.keys()}
        )
    return _spreads(differences)


def _spreads(rows: list[dict[str, float]]) -> dict[str, Spread]:
    """By measure, in the order of MEASURES, over the seeds that have it."""
    spreads = {}
    for measure in MEASURES:
        values = [row[measure] for row in rows if measure in row]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else math.nan
            spreads[measure] = Spread(statistics.fmean(values), deviation)
    return spreads
