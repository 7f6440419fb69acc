"""How images are judged: by the independent classifier's opinion and in its feature space."""

import torch
from torch import Tensor

from igds.classifiers import ImageClassifier
from igds.data import ImageSet, to_unit


@torch.no_grad()
def features_and_logits(classifier: ImageClassifier, images: Tensor, *, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Features (n, F) and logits (n, K), on the CPU, of uint8 images (n, C, H, W)."""
    device = next(classifier.parameters()).device
    features = [classifier.features(to_unit(part.to(device))) for part in images.split(batch_size)]
    logits = [classifier.head(part).cpu() for part in features]
    return torch.cat(features).cpu(), torch.cat(logits)


def accuracy(classifier: ImageClassifier, images: Tensor, labels: Tensor | int) -> float:
    """The share of uint8 images that the classifier takes for their label."""
    return float((features_and_logits(classifier, images)[1].argmax(1) == labels).float().mean())


def pairwise_distance(classifier: ImageClassifier, images: Tensor) -> float:
    """Mean cosine distance between the features of two different images; between 0 and 2, and 0 for a single image."""
    if len(images) < 2:
        return 0.0
    unit = torch.nn.functional.normalize(features_and_logits(classifier, images)[0], dim=1)
    n = len(unit)
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


def nearest_distance(features: Tensor, among: Tensor) -> Tensor:
    """The cosine distance (n,) of each row of `features` to its nearest row of `among`."""
    unit, others = torch.nn.functional.normalize(features, dim=1), torch.nn.functional.normalize(among, dim=1)
    return torch.stack([1 - (row @ others.T).max() for row in unit])


def class_balanced(data: ImageSet, per_class: int, *, seed: int = 0) -> ImageSet:
    """A random subset with `per_class` images of every class, in label order."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label in range(len(data.classes)):
        own = (data.labels == label).nonzero()[:, 0]
        if len(own) < per_class:
            raise ValueError(f"class {data.classes[label]} has {len(own)} images, {per_class} were asked for")
        rows.append(own[torch.randperm(len(own), generator=generator)[:per_class]])
    index = torch.cat(rows)
    return ImageSet(data.images[index], data.labels[index], data.classes)
