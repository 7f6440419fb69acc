"""The encoder f of the estimator: an image to a zero-mean unit vector."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

SOFTPLUS_SHARPNESS = 3.0


@dataclass(frozen=True)
class EncoderConfig:
    """A residual network: `widths[i]` channels with `blocks` blocks at stage i, each at half the side of the last.

    `space_to_depth` is done first; `features` is d, the length of f(x).
    """

    channels: int
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: int = 1
    space_to_depth: int = 2
    features: int = 128


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with group normalisation, which looks at one image at a time: a batch leaks nothing."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.GroupNorm(8, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.GroupNorm(8, outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.shortcut(x) + self.body(x))


def residual_trunk(config: EncoderConfig) -> nn.Sequential:
    """The convolutions: (n, channels, H, W) to (n, widths[-1], h, w)."""
    width = config.widths[0]
    layers = [
        nn.PixelUnshuffle(config.space_to_depth),
        nn.Conv2d(config.channels * config.space_to_depth**2, width, 3, 1, 1, bias=False),
        nn.GroupNorm(8, width),
        nn.ReLU(),
    ]
    for stage, outputs in enumerate(config.widths):
        for block in range(config.blocks):
            layers.append(ResidualBlock(width, outputs, 2 if stage and not block else 1))
            width = outputs
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """f: images in [-1, 1] (n, C, H, W) to (n, d), of zero mean over d (proposition 3) and unit length (MoCo)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.trunk = residual_trunk(config)
        self.project = nn.Linear(config.widths[-1], config.features)

    def forward(self, x: Tensor) -> Tensor:
        return normalised(self.project(self.trunk(x).mean(dim=(2, 3))))


@dataclass(frozen=True)
class PointEncoderConfig:
    """A multilayer perceptron on points of `dimension` numbers; `features` is d, the number of entries of f(x).

    Without `unit_length`, f(x) has zero mean over d, as proposition 3 asks, and any length.
    """

    dimension: int
    widths: tuple[int, ...] = (128, 128)
    features: int = 32
    unit_length: bool = True


class PointEncoder(nn.Module):
    """f: points (n, D) to (n, d), of zero mean over d and unit length, as `Encoder` does with images."""

    def __init__(self, config: PointEncoderConfig):
        super().__init__()
        self.config = config
        sizes = (config.dimension, *config.widths)
        layers = [layer for pair in zip(sizes, sizes[1:]) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.trunk = nn.Sequential(*layers)
        self.project = nn.Linear(sizes[-1], config.features)

    def forward(self, x: Tensor) -> Tensor:
        features = self.project(self.trunk(x))
        return normalised(features) if self.config.unit_length else features - features.mean(dim=1, keepdim=True)


def normalised(features: Tensor) -> Tensor:
    """Features (n, d) made zero-mean over d, then of unit length."""
    return F.normalize(features - features.mean(dim=1, keepdim=True), dim=1)


def smooth(network: nn.Module) -> None:
    """Replace every ReLU by SoftPlus of sharpness 3, in place: the gradient that guides is then smooth (section 5.1).

    To be done before g is trained: a classifier that was trained on the ReLU's features is wrecked by the change.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.ReLU):
            setattr(network, name, nn.Softplus(beta=SOFTPLUS_SHARPNESS))
        else:
            smooth(child)
