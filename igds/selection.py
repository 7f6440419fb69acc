"""Baselines that choose real images: each gives the rows (m,) of an image set, class by class in label order.

They take the labels (N,) int64 of the whole set and `per_class`, the IPC. `classes` names the classes in what is said
of a class that has too few images; with it a class without any is noticed too. All raise ValueError for such a class.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from igds.data import ImageSet, to_unit
from igds.estimator import VariationalEstimator
from igds.information import contextual_kl


def random_subset(labels: Tensor, per_class: int, *, seed: int, classes: Sequence[str] = ()) -> Tensor:
    """`per_class` images of each class, drawn without replacement; a smaller subset is part of a larger one."""
    generator = torch.Generator().manual_seed(seed)
    own_rows = _rows_by_class(labels, per_class, classes)
    return torch.cat([own[torch.randperm(len(own), generator=generator)[:per_class]] for own in own_rows])


def herding(features: Tensor, labels: Tensor, per_class: int, *, classes: Sequence[str] = ()) -> Tensor:
    """Welling's herding (2009): each next image brings the mean of those chosen nearest to their class's mean.

    In `features` (N, F) made unit vectors, as the field does (iCaRL), and without choosing an image twice.
    """
    chosen = []
    for own in _rows_by_class(labels, per_class, classes):
        points = F.normalize(features[own], dim=1)
        mean = points.mean(0)
        weight = mean
        free = torch.ones(len(own), dtype=torch.bool, device=points.device)
        for _ in range(per_class):
            # Of unit vectors, the one of the largest inner product with w is also the nearest to it.
            best = int((points @ weight).masked_fill(~free, -math.inf).argmax())
            weight = weight + mean - points[best]
            free[best] = False
            chosen.append(own[best])
    return torch.stack(chosen)


def k_center(features: Tensor, labels: Tensor, per_class: int, *, seed: int, classes: Sequence[str] = ()) -> Tensor:
    """Greedy k-center (Sener & Savarese 2018): each next image is the farthest from those chosen, class by class.

    Distances are Euclidean in `features` (N, F) as they are. It starts from a random image of the class, as the field
    does (DeepCore, Guo et al. 2022): with `per_class` 1 this is a random subset.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for own in _rows_by_class(labels, per_class, classes):
        points = features[own]
        nearest = torch.full((len(own),), math.inf, device=points.device)
        best = int(torch.randint(len(own), (), generator=generator))
        for _ in range(per_class):
            chosen.append(own[best])
            nearest = torch.minimum(nearest, (points - points[best]).norm(dim=1))
            nearest[best] = -1  # so that it is not chosen again among equal images, which are all at distance 0
            best = int(nearest.argmax())
    return torch.stack(chosen)


def weighted_subset(
    kl: Tensor,
    correct: Tensor,
    labels: Tensor,
    per_class: int,
    *,
    alpha: float,
    seed: int,
    classes: Sequence[str] = (),
) -> Tensor:
    """Images drawn with P̃(x|y) ∝ exp(−(KL(σ(x) ‖ Q^y) − α)²) (eq. 37), without replacement.

    `kl` (N,), in nats, and `correct` (N,) are those of `contextual_scores`; what g takes for another class is removed
    first. Their Ĥ follows α, though only within what the images offer: no weight is ever zero.
    """
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be a finite number of nats, got {alpha}")
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for own in _rows_by_class(labels, per_class, classes, recognised=correct):
        # The largest of log w + Gumbel noise are draws with weights w, one after another without replacement.
        noise = -torch.empty(len(own)).exponential_(generator=generator).log()
        chosen.append(own[(noise - (kl[own] - alpha).square()).topk(per_class).indices])
    return torch.cat(chosen)


@torch.no_grad()
def contextual_scores(
    estimator: VariationalEstimator, images: ImageSet, *, batch_size: int = 500
) -> tuple[Tensor, Tensor]:
    """KL(σ(x) ‖ Q^y) (N,) in nats against the estimator's class means, and whether g is right (N,), on the CPU."""
    device = estimator.class_means.device
    kl, correct = [], []
    for part, labels in zip(images.images.split(batch_size), images.labels.split(batch_size)):
        y = labels.to(device)
        log_probs, p = estimator(to_unit(part.to(device)))
        kl.append(contextual_kl(p, estimator.class_means[y]).cpu())
        correct.append((log_probs.argmax(1) == y).cpu())
    return torch.cat(kl), torch.cat(correct)


def _rows_by_class(
    labels: Tensor, per_class: int, classes: Sequence[str], *, recognised: Tensor | None = None
) -> list[Tensor]:
    """The rows of each class, of `recognised` images only where that is given; ValueError where they are too few."""
    if per_class < 1:
        raise ValueError(f"IPC (images per class) must be at least 1, got {per_class}")
    rows = []
    for label in range(max(len(classes), int(labels.max()) + 1)):
        own = labels == label
        rows.append((own if recognised is None else own & recognised).nonzero()[:, 0])
        if len(rows[-1]) < per_class:
            name = repr(classes[label]) if classes else label
            kind = "images" if recognised is None else "images that the estimator recognises"
            raise ValueError(
                f"class {name} has {len(rows[-1])} {kind}, an IPC of {per_class} needs more: lower it or add images"
            )
    return rows
