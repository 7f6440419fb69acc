"""What a prior is: anything that turns a noisy image into its expected clean one."""

from typing import NamedTuple, Protocol

from torch import Tensor

from igds.schedule import Schedule


class Denoised(NamedTuple):
    """The answer of a prior for (n, *shape) inputs.

    `x0` is x̃0 of eq. 25. `variance_fraction`, in [0, 1] per element, says where between σ̃² and β (in the logarithm)
    a `learn_sigma` network puts the reverse variance; None for priors that predict no variance.
    """

    x0: Tensor
    variance_fraction: Tensor | None = None


class Prior(Protocol):
    """A class-conditional diffusion prior. `shape` is that of one image, `state_shape` of what is diffused.

    They are the same but for a latent prior, whose state is decoded into an image. Neither counts the batch.
    """

    shape: tuple[int, ...]
    state_shape: tuple[int, ...]
    num_classes: int
    schedule: Schedule
    predicts_variance: bool

    def denoise(self, x_t: Tensor, t: int, y: Tensor) -> Denoised:
        """x̃0 = E[x0 | x_t, y] (eq. 25) at timestep `t` of the full schedule, for labels `y` (n,)."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """Images (n, *shape) of states (n, *state_shape); `x` itself where they are the same. Differentiable."""
        ...
