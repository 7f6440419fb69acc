"""The variational estimator: frozen encoder f and linear classifier g, and what they say about a data set."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igds.data import ImageSet, to_unit
from igds.information import contextual_kl, entropy, prototype_information


class VariationalEstimator(nn.Module):
    """f, g, the temperature τ, the class means Q^y (K, d) and the class frequencies (K,) of the training data."""

    def __init__(self, encoder: nn.Module, num_classes: int, *, features: int, tau: float):
        super().__init__()
        if not (math.isfinite(tau) and tau > 0):
            raise ValueError(f"tau must be a finite number above 0, got {tau}")
        self.encoder = encoder
        self.classifier = nn.Linear(features, num_classes)
        self.tau = tau
        self.register_buffer("class_means", torch.full((num_classes, features), 1 / features))
        self.register_buffer("class_frequencies", torch.full((num_classes,), 1 / num_classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log P(· | g(f(x))) (n, K) and p = softmax(f(x)/τ) (n, d) of images in [-1, 1]."""
        features = self.encoder(x)
        return F.log_softmax(self.classifier(features), dim=1), F.softmax(features / self.tau, dim=1)

    @property
    def label_entropy(self) -> float:
        """H(Y) in nats; log K where the classes are equally frequent."""
        return float(entropy(self.class_frequencies))

    def classifier_rank(self) -> int:
        """The rank of g's matrix ψ (K, d). K means that no class's row is spanned by the others'.

        Proposition 1 asks for full *column* rank d, which no ψ with K < d rows can have; with rank K, I(Ŷ;Y) remains
        a lower bound of I(X̂;Y) by the data-processing inequality.
        """
        return int(torch.linalg.matrix_rank(self.classifier.weight))


@dataclass(frozen=True)
class Estimate:
    """Over a data set: accuracy of g, I̲(X;Y) (eq. 7) and H̲(X|Y) (eq. 15) in nats, and H̲ class by class."""

    accuracy: float
    prototype: float
    contextual: float
    contextual_by_class: tuple[float, ...]


@torch.no_grad()
def estimate(estimator: VariationalEstimator, data: ImageSet, *, batch_size: int = 500) -> Estimate:
    """The two bounds of section 4.1 on `data`, which should be held out, against the training set's Q^y."""
    device = estimator.class_means.device
    correct, prototype, contextual = [], [], []
    for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size)):
        y = labels.to(device)
        log_probs, p = estimator(to_unit(images.to(device)))
        correct.append((log_probs.argmax(1) == y).float())
        prototype.append(prototype_information(log_probs, y, estimator.label_entropy))
        contextual.append(contextual_kl(p, estimator.class_means[y]))
    contextual = torch.cat(contextual).cpu()
    by_class = tuple(float(contextual[data.labels == label].mean()) for label in range(len(data.classes)))
    return Estimate(
        float(torch.cat(correct).mean()), float(torch.cat(prototype).mean()), float(contextual.mean()), by_class
    )
