"""The same classes at several β from the same noise, beside natural images: the paper's figures 3 and 4, measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from igds.bundle import Bundle
from igds.data import ImageSet, to_bytes
from igds.measures import border_entropy
from igds.runs import Run, figures_of
from igds.sampling import sample
from igds.statistics import mean_and_error
from igds.verdict import judge

REAL = "natural"


@dataclass(frozen=True)
class Panel:
    """One class one way. `images` (n, C, H, W) uint8 are those of the first seed; `figures` are over all seeds.

    A figure is {"mean", "standard_error"}: those of a Verdict, and `border_entropy`, which is low on a plain ground.
    """

    label: str
    way: str
    images: Tensor
    figures: dict[str, dict[str, float | None]]


def panels(
    bundle: Bundle,
    labels: Sequence[str],
    betas: Sequence[float],
    *,
    ipc: int,
    seeds: Sequence[int],
    real: ImageSet | None = None,
    **settings,
) -> Iterator[Panel]:
    """Class by class, unguided, every β, and natural images of `real` where it is given.

    `settings` are those of a Run. Raises ValueError at the call for a wrong one, and where `real` has too few images.
    """
    if not labels or not betas or not seeds:
        raise ValueError("a figure needs at least one class, one β and one seed")
    ways = {"unguided": {"eta": 0.0}} | {f"β = {beta:g}": {"beta": beta} for beta in betas}
    runs = {
        (label, way, seed): Run.of(
            bundle, **{**settings, **own, "label": label, "ipc": ipc, "seed": seed, "columns": ("contextual",)}
        )
        for label in labels
        for way, own in ways.items()
        for seed in seeds
    }
    if real is not None:
        for label in labels:
            there = len(real.of_class(bundle.label_of(label)))
            if there < ipc * len(seeds):
                raise ValueError(f"{label} has {there} natural images, fewer than {len(seeds)} sets of {ipc}")
    return _panels(bundle, labels, ways, runs, ipc, seeds, real)


def _panels(bundle, labels, ways, runs, ipc, seeds, real) -> Iterator[Panel]:
    for label in labels:
        y = bundle.label_of(label)
        made = {way: [] for way in ways}
        for seed in seeds:
            batches = [runs[label, way, seed].batches(bundle)[0] for way in ways]
            first = runs[label, next(iter(ways)), seed]
            images = sample(bundle.prior, bundle.estimator, batches, steps=first.steps, solver=first.solver)
            for way, x in zip(ways, images):
                made[way].append(to_bytes(x).cpu())
        if real is not None:
            own = real.of_class(y)
            order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seeds[0]))
            made[REAL] = list(own[order[: ipc * len(seeds)]].split(ipc))
        for way, sets in made.items():
            yield Panel(label, way, sets[0], _figures(bundle, y, sets))


def _figures(bundle: Bundle, label: int, sets: list[Tensor]) -> dict[str, dict[str, float | None]]:
    rows = [
        figures_of(judge(bundle, images, label)) | {"border_entropy": float(border_entropy(images).mean())}
        for images in sets
    ]
    values = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
    return {name: mean_and_error(found) for name, found in values.items() if found}
