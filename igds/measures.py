"""How images are judged: by the independent classifier's opinion and in its feature space."""

from typing import NamedTuple

import torch
from torch import Tensor

from igds.classifiers import ImageClassifier
from igds.data import to_unit
from igds.information import entropy


@torch.no_grad()
def features_and_logits(classifier: ImageClassifier, images: Tensor, *, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Features (n, F) and logits (n, K), on the CPU, of uint8 images (n, C, H, W)."""
    device = next(classifier.parameters()).device
    features = [classifier.features(to_unit(part.to(device))) for part in images.split(batch_size)]
    logits = [classifier.head(part).cpu() for part in features]
    return torch.cat(features).cpu(), torch.cat(logits)


def pairwise_distance(features: Tensor) -> float:
    """Mean cosine distance between two different rows of (n, F); between 0 and 2, and 0 for a single row."""
    n = len(features)
    if n < 2:
        return 0.0
    unit = torch.nn.functional.normalize(features, dim=1)
    similarity = (unit.sum(0).square().sum() - n) / (n * (n - 1))
    return float(1 - similarity)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) of two sets of features (n, F) (Heusel et al. 2017)."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # tr (Σ_a Σ_b)^½ is the sum of the roots of the eigenvalues of the symmetric Σ_a^½ Σ_b Σ_a^½.
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


class Manifold(NamedTuple):
    """How a set of samples lies on the data, each between 0 and 1 but for density, which has no upper bound.

    `precision` and `density` ask of the samples whether they lie where the data does, `recall` and `coverage` of the
    data whether the samples reach it. `recall` is NaN for fewer than two samples, which have no neighbours.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Tensor, samples: Tensor, *, neighbours: int = 5) -> Manifold:
    """Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) in features (n, F).

    The data is the union of balls around its points `real`, each reaching to the `neighbours`-th nearest other one; for
    recall the samples' balls are made likewise, reaching to the last other sample where there are fewer. Coverage and
    recall grow with the number of samples: compare them with as many real images, never across sizes. Raises
    ValueError where `real` has no more rows than `neighbours`.
    """
    if len(real) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need at least {neighbours + 1} real images, got {len(real)}")
    radii = _ball_radii(real, neighbours)
    distance = torch.cdist(real, samples)
    inside = distance < radii[:, None]
    recall = float("nan")
    if len(samples) > 1:
        reach = _ball_radii(samples, min(neighbours, len(samples) - 1))
        recall = float((distance < reach).any(1).float().mean())
    return Manifold(
        precision=float(inside.any(0).float().mean()),
        recall=recall,
        density=float(inside.sum(0).float().mean() / neighbours),
        coverage=float((distance.amin(1) < radii).float().mean()),
    )


def _ball_radii(features: Tensor, neighbours: int) -> Tensor:
    """The distance (n,) of each row to its `neighbours`-th nearest other row."""
    return torch.cdist(features, features).kthvalue(neighbours + 1, dim=1).values


def pixel_range(images: Tensor, *, beyond: float = 0.001) -> tuple[Tensor, Tensor]:
    """(low, high), each (C, H, W): what all but a share `beyond` of the uint8 images stay above and below."""
    rank = int(beyond * len(images))
    ordered = images.sort(dim=0).values
    return ordered[rank], ordered[len(images) - 1 - rank]


def out_of_range(images: Tensor, low: Tensor, high: Tensor, *, tolerance: int = 10) -> float:
    """The share of the pixels of uint8 images that lie more than `tolerance` grey levels outside `pixel_range`.

    Haze and salt where the data is always black, as far as they can be seen; real images have less than twice `beyond`.
    """
    images, low, high = (value.to(torch.int16) for value in (images, low, high))
    return float(((images < low - tolerance) | (images > high + tolerance)).float().mean())


def border_entropy(images: Tensor, *, bins: int = 32) -> Tensor:
    """Entropy (n,), in nats, of the grey levels in the outer eighth of uint8 images (n, C, H, W), on every side.

    A measure of the background: 0 where it is plain, at most log `bins` where every level is equally frequent.
    """
    height, width = images.shape[-2:]
    frame = torch.ones(height, width, dtype=torch.bool)
    top, left = max(1, height // 8), max(1, width // 8)
    frame[top : height - top, left : width - left] = False
    levels = (images.float().mean(1)[:, frame.to(images.device)] * bins / 256).long()
    return entropy(torch.nn.functional.one_hot(levels, bins).float().mean(1))


def nearest(features: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine distance (n,) of each row of `features` to its nearest row of `among`, and that one's index (n,)."""
    unit, others = torch.nn.functional.normalize(features, dim=1), torch.nn.functional.normalize(among, dim=1)
    similarity, index = zip(*((row @ others.T).max(0) for row in unit))
    return 1 - torch.stack(similarity), torch.stack(index)
