"""An exact class-conditional Gaussian mixture: the ground truth of the tests, and a prior that needs no training."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from igds.priors.base import Denoised
from igds.schedule import Schedule


@dataclass(frozen=True)
class Information:
    """Monte-Carlo estimates under the true density, in nats, with their standard errors."""

    prototype: float
    prototype_error: float
    contextual: float
    contextual_error: float


class MixturePrior:
    """Class y is Σ_m weights[y, m]·N(means[y, m], stds[y, m]²·I); classes have the probabilities `class_weights`.

    `means` (K, M, *shape); `weights` and `stds` (K, M); `class_weights` (K,), uniform if not given. Weights are
    normalised. `denoise`, `score` and `log_density` work on the device of `means`; what draws needs the CPU. Raises
    ValueError for shapes that do not fit, negative weights and stds that are not positive.
    """

    predicts_variance = False

    def __init__(
        self,
        means: Tensor,
        stds: Tensor,
        *,
        weights: Tensor | None = None,
        class_weights: Tensor | None = None,
        schedule: Schedule | None = None,
    ):
        classes, modes = means.shape[:2]
        weights = means.new_ones(classes, modes) if weights is None else weights
        class_weights = means.new_ones(classes) if class_weights is None else class_weights
        if stds.shape != (classes, modes) or weights.shape != (classes, modes) or class_weights.shape != (classes,):
            raise ValueError(
                f"for means of shape {tuple(means.shape)}, stds and weights must be ({classes}, {modes}) "
                f"and class_weights ({classes},); "
                f"got {tuple(stds.shape)}, {tuple(weights.shape)} and {tuple(class_weights.shape)}"
            )
        if not (stds > 0).all():
            raise ValueError("stds must be positive")
        if (weights < 0).any() or (weights.sum(1) <= 0).any() or (class_weights < 0).any() or class_weights.sum() <= 0:
            raise ValueError("weights must not be negative, and each class needs a positive one")
        self.shape = self.state_shape = tuple(means.shape[2:])
        self.num_classes = classes
        self.schedule = schedule or Schedule.named("cosine", 1000)
        self._means = means.flatten(2)
        self._stds = stds
        self._log_weights = torch.log(weights / weights.sum(1, keepdim=True))
        self._log_class_weights = torch.log(class_weights / class_weights.sum())

    def _log_joint(self, x: Tensor, y: Tensor, alpha_bar: float) -> Tensor:
        """log of weight × density of each mode of class y at noise level ᾱ, for x (n, D): (n, M)."""
        variance = alpha_bar * self._stds[y] ** 2 + 1 - alpha_bar
        distance = (x[:, None] - alpha_bar**0.5 * self._means[y]).square().sum(-1)
        dimension = x.shape[1]
        return self._log_weights[y] - 0.5 * (distance / variance + dimension * torch.log(2 * math.pi * variance))

    def log_density(self, x: Tensor, y: Tensor, t: int | None = None) -> Tensor:
        """log p(x_t | y) (n,) at timestep `t`, or of the clean data where t is None."""
        alpha_bar = 1.0 if t is None else float(self.schedule.alpha_bars[t])
        return torch.logsumexp(self._log_joint(x.flatten(1), y, alpha_bar), dim=1)

    def score(self, x_t: Tensor, t: int, y: Tensor) -> Tensor:
        """∇ log p(x_t | y), exactly, by Tweedie's formula."""
        alpha_bar = float(self.schedule.alpha_bars[t])
        return (alpha_bar**0.5 * self.denoise(x_t, t, y).x0 - x_t) / (1 - alpha_bar)

    def denoise(self, x_t: Tensor, t: int, y: Tensor) -> Denoised:
        """E[x0 | x_t, y] (eq. 25), exactly."""
        x, alpha_bar = x_t.flatten(1), float(self.schedule.alpha_bars[t])
        share = torch.softmax(self._log_joint(x, y, alpha_bar), dim=1)
        variance = self._stds[y] ** 2
        gain = alpha_bar**0.5 * variance / (alpha_bar * variance + 1 - alpha_bar)
        means = self._means[y]
        posterior = means + gain[..., None] * (x[:, None] - alpha_bar**0.5 * means)
        return Denoised((share[..., None] * posterior).sum(1).view_as(x_t))

    def decode(self, x: Tensor) -> Tensor:
        return x

    def sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Clean data (n, *shape) of the classes `y` (n,)."""
        mode = torch.multinomial(self._log_weights[y].exp(), 1, generator=generator)[:, 0]
        noise = torch.randn(len(y), self._means.shape[2], generator=generator)
        return (self._means[y, mode] + self._stds[y, mode, None] * noise).view(-1, *self.shape)

    def sample_labels(self, n: int, generator: torch.Generator) -> Tensor:
        """n labels with the classes' probabilities."""
        return torch.multinomial(self._log_class_weights.exp(), n, replacement=True, generator=generator)

    def class_posterior(self, x: Tensor) -> Tensor:
        """log P(y | x) (n, K) of clean data, eq. 36."""
        labels = torch.arange(self.num_classes, device=x.device)
        joint = torch.stack([self.log_density(x, label.expand(len(x))) for label in labels], dim=1)
        return torch.log_softmax(joint + self._log_class_weights, dim=1)

    def information(self, *, samples: int = 100_000, seed: int = 0) -> Information:
        """I(X;Y) (eq. 35) and the differential entropy H(X|Y), both in nats, by Monte Carlo under the true density."""
        generator = torch.Generator().manual_seed(seed)
        y = self.sample_labels(samples, generator)
        x = self.sample(y, generator)
        log_posterior = self.class_posterior(x).gather(1, y[:, None])[:, 0]
        prototype = log_posterior - self._log_class_weights[y]
        contextual = -self.log_density(x, y)
        error = samples**0.5
        return Information(
            float(prototype.mean()),
            float(prototype.std()) / error,
            float(contextual.mean()),
            float(contextual.std()) / error,
        )
