"""Encoders f that others have trained: MoCo's ResNet-50 by its published layouts, and the models of timm."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igds.checkpoints import MissingPackage, check_layout, read_tensors, shapes_of
from igds.encoders import normalised

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TIMM = "timm:"
_POOLED = 2048  # channels of a ResNet-50 after its average

# Of the checkpoints that MoCo's training writes, what is not the encoder that is asked.
_PREFIXES = ("module.encoder_q.", "module.base_encoder.", "encoder_q.", "base_encoder.")
_BESIDE = ("encoder_k.", "momentum_encoder.", "predictor.", "queue", "queue_ptr")


@dataclass(frozen=True)
class MoCoConfig:
    """A ResNet-50 with the projection that `head` names, and `features` numbers after it.

    "linear" is MoCo v1's, "mlp" v2's, "mlp-norm" v3's, whose hidden layer has `hidden` channels, and "none" gives the
    averages before any. `size` is the side in pixels to which images are resized.
    """

    head: str
    features: int
    hidden: int = _POOLED
    size: int = 224

    def __post_init__(self):
        if self.head not in ("linear", "mlp", "mlp-norm", "none"):
            raise ValueError(f"head must be linear, mlp, mlp-norm or none, got {self.head!r}")


@dataclass(frozen=True)
class TimmConfig:
    """The model `name` of timm without its classifier; `mean` and `std` are what it was trained with."""

    name: str
    features: int
    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self):
        if ":" in self.name:  # timm would ask the network for its configuration
            raise ValueError(f"only models that timm itself names are read, got {self.name!r}: see timm.list_models()")


class _Backbone(nn.Module):
    """f: images in [-1, 1] (n, C, H, W) of any size, grey or RGB, to (n, d) of zero mean over d and unit length.

    They are resized (bilinear, antialiased) and normalised as the network knows them, inside, so that the gradient
    which guides reaches the pixels.
    """

    kind: str

    def __init__(self, config: MoCoConfig | TimmConfig, network: nn.Module, mean, std):
        super().__init__()
        self.config = config
        self.network = network
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @property
    def side(self) -> int:
        """Pixels on a side of what the network is shown, whatever the images have."""
        return self.config.size

    def forward(self, x: Tensor) -> Tensor:
        size = (self.config.size, self.config.size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        return normalised(self.network(((x + 1) / 2 - self.mean) / self.std))


class MoCoEncoder(_Backbone):
    """f by a ResNet-50 of MoCo. ValueError where torchvision, which builds it, is not installed."""

    kind = "moco-resnet50"

    def __init__(self, config: MoCoConfig):
        super().__init__(config, _resnet50(config), IMAGENET_MEAN, IMAGENET_STD)


class TimmEncoder(_Backbone):
    """f by a model of timm, pooled. ValueError where timm is not installed or has no such model."""

    kind = "timm"

    def __init__(self, config: TimmConfig):
        super().__init__(config, _timm_model(config.name, pretrained=False), config.mean, config.std)


def _resnet50(config: MoCoConfig) -> nn.Module:
    try:
        from torchvision.models import resnet50
    except (ImportError, RuntimeError) as error:
        raise MissingPackage(f"MoCo's ResNet-50 needs torchvision ({error}): pip install torchvision") from None
    network = resnet50()
    hidden, features = config.hidden, config.features
    heads = {
        "linear": lambda: nn.Linear(_POOLED, features),
        "mlp": lambda: nn.Sequential(nn.Linear(_POOLED, hidden), nn.ReLU(), nn.Linear(hidden, features)),
        "mlp-norm": lambda: nn.Sequential(
            nn.Linear(_POOLED, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, features, bias=False),
            nn.BatchNorm1d(features, affine=False),
        ),
        "none": nn.Identity,
    }
    network.fc = heads[config.head]()
    return network


def read_moco(path: Path) -> MoCoEncoder:
    """The query encoder (v1, v2) or base encoder (v3) of a MoCo checkpoint, ReLUs as trained.

    Its head is told by the layout, and every key and shape is checked. ValueError for any other file, such as the ViTs
    of MoCo v3 or the linear classifiers published beside the encoders, in one sentence.
    """
    tensors = read_tensors(path, within=("state_dict",))
    prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in tensors)), None)
    if prefix is None:
        raise ValueError(
            f"{path} is no MoCo checkpoint: none of its tensors begins with {', '.join(_PREFIXES[:2])}; "
            "give the pre-training file of MoCo v1, v2 or v3"
        )
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    for name in tensors:
        beside = name.removeprefix("module.")
        if not name.startswith(prefix) and not beside.startswith(_BESIDE):
            raise ValueError(f"{path} holds {name}, which no MoCo checkpoint has: give MoCo's pre-training file")
    config = _config_of(path, own)
    encoder = MoCoEncoder(config)
    check_layout(path, own, shapes_of(encoder.network.state_dict()), f"MoCo's ResNet-50 with head {config.head}")
    encoder.network.load_state_dict(own)
    return encoder.eval().requires_grad_(False)


def _config_of(path: Path, own: dict[str, Tensor]) -> MoCoConfig:
    if "conv1.weight" not in own:
        raise ValueError(f"{path} holds another network than a ResNet-50 (MoCo v3 has ViTs too): give a ResNet-50")
    if "fc.weight" in own:
        return MoCoConfig("linear", features=len(own["fc.weight"]))
    if "fc.2.weight" in own:
        return MoCoConfig("mlp", features=len(own["fc.2.weight"]), hidden=len(own["fc.0.weight"]))
    if "fc.3.weight" in own and "fc.0.weight" in own:
        return MoCoConfig("mlp-norm", features=len(own["fc.3.weight"]), hidden=len(own["fc.0.weight"]))
    return MoCoConfig("none", features=_POOLED)


def read_encoder(source: str) -> MoCoEncoder | TimmEncoder:
    """f by "timm:NAME", "timm:NAME=CHECKPOINT" or the path of a MoCo checkpoint; errors as `read_moco`'s and timm's."""
    if source.startswith(TIMM):
        name, _, checkpoint = source.removeprefix(TIMM).partition("=")
        return timm_encoder(name, checkpoint=Path(checkpoint) if checkpoint else None)
    return read_moco(Path(source))


def timm_encoder(name: str, *, checkpoint: Path | None = None) -> TimmEncoder:
    """A model of timm as f, with its published weights, which timm downloads, or with those of `checkpoint`.

    Its own input size and normalisation are kept. ValueError where timm is not installed, has no model of that name,
    or the checkpoint is another model's.
    """
    TimmConfig(name, features=0, size=0)  # which refuses names that are none
    network = _timm_model(name, pretrained=checkpoint is None)
    given = network.pretrained_cfg
    mean, std = (tuple(map(float, given[key])) for key in ("mean", "std"))
    encoder = TimmEncoder(TimmConfig(name, network.num_features, given["input_size"][-1], mean, std))
    encoder.network = network
    if checkpoint is not None:
        tensors = read_tensors(checkpoint, within=("state_dict", "model"))
        check_layout(checkpoint, tensors, shapes_of(network.state_dict()), f"timm's {name} without its classifier")
        network.load_state_dict(tensors)
    return encoder.eval().requires_grad_(False)


def _timm_model(name: str, *, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise MissingPackage(f"the encoder {TIMM}{name} needs timm: pip install timm") from None
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # timm, its hub client and torch each have their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"timm cannot give its model {name!r} ({reason}): see timm.list_models()") from None
