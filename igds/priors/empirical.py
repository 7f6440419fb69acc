"""The prior that needs no training: the exact denoiser of the images themselves."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from igds.data import ImageSet, to_unit
from igds.priors.base import Denoised
from igds.schedule import Schedule

CHUNK = 2**18  # numbers of the images that are in double precision at once: 2 MB, which a processor keeps close

LIMITS = (
    "The prior of this bundle is its training images, with nothing learnt: every image is one of them, perhaps "
    "mirrored, at random without guidance and chosen by I + β·H with it. With two or three steps the same few come "
    "back, or mixtures of near neighbours. Nothing new is made, and whoever gets the bundle gets the images."
)


@dataclass(frozen=True)
class EmpiricalConfig:
    """What an empirical prior holds: `counts[y]` square images of class y; with `flip` their mirror images too."""

    image_size: int
    channels: int
    counts: tuple[int, ...]
    flip: bool = False
    noise_schedule: str = "cosine"
    diffusion_steps: int = 1000

    def __post_init__(self):
        if not self.counts or min(self.counts) < 1:
            raise ValueError(f"counts must be the images of each class, at least 1, got {self.counts}")


class EmpiricalPrior(nn.Module):
    """p(x0|y) is uniform over the images of class y (and their mirror images), and `denoise` is exact for it.

    Its samples are therefore training images. With so few steps that the last of them starts from noise in which near
    neighbours cannot be told apart (two or three), they are the same few images, or mixtures of such neighbours. What
    a trained network does beyond that, it does by being inexact. Guidance decides which image a state falls to: it
    selects real images by I + β·H. Guidance that still moves the last state (scaling "constant") leaves it so far off.

    `images` (Σ counts, C, S, S) uint8, class by class, is a buffer: there are no parameters.
    """

    kind = "empirical"
    predicts_variance = False
    bfloat16 = False  # set or not: there is no network whose precision it could be

    def __init__(self, config: EmpiricalConfig):
        super().__init__()
        self.config = config
        self.schedule = Schedule.named(config.noise_schedule, config.diffusion_steps)
        self.shape = self.state_shape = (config.channels, config.image_size, config.image_size)
        self.num_classes = len(config.counts)
        self.register_buffer("images", torch.zeros(sum(config.counts), *self.shape, dtype=torch.uint8))

    @classmethod
    def of(cls, data: ImageSet, *, flip: bool = False) -> "EmpiricalPrior":
        """The prior of these images. ValueError where they are not square bytes, or a class has none."""
        if data.images.dtype != torch.uint8 or data.images.ndim != 4 or data.images.shape[2] != data.images.shape[3]:
            raise ValueError(
                f"an empirical prior needs square images as bytes (N, C, S, S), got {data.images.dtype} of shape "
                f"{tuple(data.images.shape)}: load them with load_images"
            )
        counts = torch.bincount(data.labels, minlength=len(data.classes)).tolist()
        if empty := [name for name, count in zip(data.classes, counts) if not count]:
            raise ValueError(f"{', '.join(empty)} has no images: give each class at least one, or leave the class out")
        channels, side = data.images.shape[1:3]
        prior = cls(EmpiricalConfig(side, channels, tuple(counts), flip=flip))
        prior.images.copy_(data.images[data.labels.argsort(stable=True)])
        return prior.eval()

    def denoise(self, x_t: Tensor, t: int, y: Tensor) -> Denoised:
        """E[x0 | x_t, y] = Σ_i w_i·x_i, w = softmax_i(−‖x_t − √ᾱ·x_i‖² / 2(1−ᾱ)), over the images x_i of class y.

        eq. 25 in closed form (Karras et al. 2022, appendix B.3). Computed in double precision, a chunk of the images at
        a time, also in the backward pass: memory does not grow with their number but for the weights (n, N).
        """
        alpha_bar = float(self.schedule.alpha_bars[t])
        rows = [(y == label).nonzero()[:, 0] for label in y.unique()]
        means = [self._mean(x_t[of_class], int(y[of_class[0]]), alpha_bar) for of_class in rows]
        return Denoised(torch.cat(means)[torch.cat(rows).argsort()])

    def _mean(self, x: Tensor, label: int, alpha_bar: float) -> Tensor:
        parts = self.images.split(self.config.counts)[label].split(max(1, CHUNK // self.images[0].numel()))
        # ⟨x, mirrored x_i⟩ = ⟨mirrored x, x_i⟩: the few states are mirrored instead of the many images.
        views = (torch.stack([x, x.flip(-1)]) if self.config.flip else x[None]).flatten(2).double()
        scores = torch.cat([_recomputed(_scores, views, part, alpha_bar) for part in parts], dim=2)
        weights = scores.transpose(0, 1).flatten(1).softmax(dim=1).view(len(x), len(views), -1).transpose(0, 1)
        mixed = sum(_recomputed(_mixture, *pair) for pair in zip(weights.split([len(p) for p in parts], dim=2), parts))
        mixed = mixed.view(len(views), *x.shape)
        return (mixed[0] + mixed[1].flip(-1) if self.config.flip else mixed[0]).to(x.dtype)

    def decode(self, x: Tensor) -> Tensor:
        return x


def _scores(views: Tensor, images: Tensor, alpha_bar: float) -> Tensor:
    """−‖x − √ᾱ·x_i‖² / 2(1−ᾱ) without the term that all x_i share: views (v, n, D) and images to (v, n, N)."""
    x_i = to_unit(images).flatten(1).double()
    return (alpha_bar**0.5 * views @ x_i.T - alpha_bar / 2 * x_i.square().sum(1)) / (1 - alpha_bar)


def _mixture(weights: Tensor, images: Tensor) -> Tensor:
    """Σ_i w_i·x_i: (v, n, N) to (v, n, D)."""
    return weights @ to_unit(images).flatten(1).double()


def _recomputed(function, *arguments) -> Tensor:
    if not torch.is_grad_enabled():  # checkpoint would bring in torch's compiler, which takes seconds, for nothing
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
