"""The networks that learn from a distilled set: the field's own, and the four of table 5 from torchvision.

All are `Network`s: `features` maps images (n, C, S, S) to (n, F), and `head`, a linear layer, maps those to logits.
Instance normalisation is GroupNorm with a group a channel, as in the peers' code.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TORCHVISION = ("resnet101", "mobilenet_v2", "efficientnet_b0", "swin_t")
NETWORKS = ("convnet3", "convnet4", "convnet5", "convnet6", "resnetap10", "resnet18", *TORCHVISION)
_CONVNET_WIDTH = 128
_RESNET_WIDTHS = (64, 128, 256, 512)
_SMALLEST_PHOTOGRAPH = 128


class Network(nn.Module):
    """Logits (n, K) of normalised images (n, C, S, S): `head` of `features`. Other classes need only another `head`."""

    def __init__(self, features: nn.Module, head: nn.Linear):
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def build_network(name: str, *, channels: int, size: int, classes: int) -> Network:
    """A fresh network of `NETWORKS` for images (n, channels, size, size), its weights from torch's global stream.

    torchvision's have dropout or stochastic depth too, which draw from that stream in every training step. Raises
    ValueError for an unknown name, for images too small for the network, and where torchvision is needed but missing.
    """
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r}: choose one of {', '.join(NETWORKS)}")
    if name in TORCHVISION:
        return _torchvision(name, channels, classes)
    depth = int(name[-1]) if name.startswith("convnet") else 0
    # Below this the last normalisation sees planes of one pixel, which it makes constant.
    smallest = 2**depth if depth else 16
    if size < smallest:
        raise ValueError(f"{name} needs images of at least {smallest} pixels a side, got {size}: choose another")
    if depth:
        return Network(_convnet(channels, depth), nn.Linear(_CONVNET_WIDTH * (size // 2**depth) ** 2, classes))
    average = name == "resnetap10"
    trunk = _resnet(channels, size, blocks=1 if average else 2, average=average)
    return Network(trunk, nn.Linear(_RESNET_WIDTHS[-1], classes))


def _instance_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width, width)


def _convnet(channels: int, depth: int) -> nn.Sequential:
    """ConvNet-D of Gidaris & Komodakis (2018): each of `depth` blocks halves the side."""
    layers = []
    for i in range(depth):
        layers += [
            nn.Conv2d(_CONVNET_WIDTH if i else channels, _CONVNET_WIDTH, 3, padding=1),
            _instance_norm(_CONVNET_WIDTH),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten())


class _ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut. The side is halved by strides or, in the AP networks, by averaging."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool, average: bool):
        super().__init__()
        stride = 2 if halve and not average else 1
        pool = [nn.AvgPool2d(2)] if halve and average else []
        self.body = nn.Sequential(
            _convolution(inputs, outputs, 3, stride),
            _instance_norm(outputs),
            nn.ReLU(inplace=True),
            *pool,
            _convolution(outputs, outputs, 3),
            _instance_norm(outputs),
        )
        shortcut = [_convolution(inputs, outputs, 1, stride), *pool, _instance_norm(outputs)] if halve else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


def _resnet(channels: int, size: int, *, blocks: int, average: bool) -> nn.Sequential:
    """ResNet (ResNetAP where `average`) with `blocks` blocks at each of four widths, and a stem by the images' size."""
    width = _RESNET_WIDTHS[0]
    layers = [*_stem(channels, width, size, average=average)]
    for stage, outputs in enumerate(_RESNET_WIDTHS):
        for block in range(blocks):
            layers.append(_ResidualBlock(width, outputs, halve=stage > 0 and block == 0, average=average))
            width = outputs
    trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk


def _stem(channels: int, width: int, size: int, *, average: bool) -> Sequence[nn.Module]:
    large = size > 128
    stride = 2 if large and not average else 1
    layers = [_convolution(channels, width, 7 if large else 3, stride), _instance_norm(width), nn.ReLU(inplace=True)]
    if size > 64:
        layers.append(nn.AvgPool2d(4 if large else 2) if average else nn.MaxPool2d(3, stride=2, padding=1))
    return layers


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class _AsPhotograph(nn.Module):
    """Three equal channels of a grey image, and what has fewer than 128 pixels a side enlarged to that.

    The networks of table 5 are so left as published; they shrink 32-fold, which would leave one pixel of a 32×32 image.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1)
        if x.shape[-1] >= _SMALLEST_PHOTOGRAPH:
            return x
        return F.interpolate(x, size=(_SMALLEST_PHOTOGRAPH, _SMALLEST_PHOTOGRAPH), mode="bilinear")


def _torchvision(name: str, channels: int, classes: int) -> Network:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # a torchvision of another build than torch's raises the latter
        raise ValueError(
            f"{name} needs torchvision, which does not work here ({error}): install the one that belongs to "
            f"torch {torch.__version__}, or choose one of {', '.join(n for n in NETWORKS if n not in TORCHVISION)}"
        ) from None
    if channels not in (1, 3):
        raise ValueError(f"{name} needs images of 1 or 3 channels, got {channels}: choose another network")
    network = models.get_model(name, weights=None, num_classes=classes)
    # The last layer has another name in each; it is taken out, so that what remains gives its features.
    path, head = [item for item in network.named_modules() if isinstance(item[1], nn.Linear)][-1]
    network.set_submodule(path, nn.Identity())
    return Network(nn.Sequential(_AsPhotograph(), network), head)
