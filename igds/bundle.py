"""Bundles: a folder with everything one data set needs, described by its card.json; weights are safetensors."""

import difflib
import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn

from igds.classifiers import ImageClassifier
from igds.encoders import Encoder, EncoderConfig, smooth
from igds.estimator import VariationalEstimator
from igds.priors.unet import UNetConfig, UNetPrior

EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "bundles"
DEFAULT = "fashion-mnist"
FORMAT = 1
PARTS = ("prior", "estimator", "classifier")
HELD_OUT = "held_out"
_FILES = (*(f"{part}.safetensors" for part in PARTS), "gallery.png")
_CARD_KEYS = ("format", "title", "classes", *PARTS, "defaults", "beta_range", "files")


@dataclass(frozen=True)
class Bundle:
    """A prior, its estimator, an independent classifier and some real images; `card` is card.json as it stands.

    `gallery` (K, m, C, H, W) uint8. `held_out` is a second estimator, of another seed and other views, that guides
    nothing and only judges; None in a bundle without one. All networks are frozen and in evaluation mode.
    """

    name: str
    path: Path
    card: dict
    prior: UNetPrior
    estimator: VariationalEstimator
    classifier: ImageClassifier
    gallery: Tensor
    held_out: VariationalEstimator | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.card["classes"])

    @property
    def device(self) -> torch.device:
        return self.estimator.class_means.device

    def label_of(self, class_name: str) -> int:
        """The label of a class, by its name in any case; ValueError names the closest one there is."""
        folded = [name.casefold() for name in self.classes]
        if class_name.casefold() in folded:
            return folded.index(class_name.casefold())
        close = difflib.get_close_matches(class_name.casefold(), folded, n=1)
        hint = f"did you mean {self.classes[folded.index(close[0])]!r}? " if close else ""
        raise ValueError(f"{self.name} has no class {class_name!r}: {hint}it has {', '.join(self.classes)}")

    def checksum(self) -> str:
        """sha256 over how its parts are built and the checksums of their files: what decides the images."""
        deciding = {key: self.card[key] for key in (*PARTS, "classes", "files")}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def embedded_bundles() -> list[str]:
    """The names of the bundles that come with the project."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/card.json"))


def bundle_path(name_or_path: str | Path) -> Path:
    """The folder of an embedded bundle by name, or of any bundle by path; FileNotFoundError where there is no card."""
    for path in (EMBEDDED / name_or_path, Path(name_or_path)):
        with suppress(OSError):  # a name that no file system takes is not there either
            if (path / "card.json").is_file():
                return path.resolve()
    names = ", ".join(embedded_bundles()) or "none"
    raise FileNotFoundError(
        f"there is no bundle {str(name_or_path)!r}: give the name of an embedded one ({names}) "
        "or the path of a folder that holds a card.json"
    )


def read_card(path: Path) -> dict:
    """card.json of the bundle folder `path`; ValueError says what is wrong with it."""
    try:
        card = json.loads((path / "card.json").read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path / 'card.json'} is not valid JSON ({error}): get the bundle again") from None
    missing = [key for key in _CARD_KEYS if not isinstance(card, dict) or key not in card]
    if missing:
        raise ValueError(f"{path / 'card.json'} is not the card of a bundle: it lacks {', '.join(missing)}")
    files, classes = card["files"], card["classes"]
    expected = [*_FILES, *([f"{HELD_OUT}.safetensors"] if HELD_OUT in card else [])]
    unsigned = [file for file in expected if not isinstance(files, dict) or not isinstance(files.get(file), str)]
    if unsigned:
        raise ValueError(f"{path / 'card.json'} gives no sha256 of {', '.join(unsigned)}: get the bundle again")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes) or not classes:
        raise ValueError(f"{path / 'card.json'} does not list the names of its classes: get the bundle again")
    defaults, betas = card["defaults"], card["beta_range"]
    if not isinstance(defaults, dict) or not {"ipc", "beta", "eta", "steps"} <= defaults.keys():
        raise ValueError(f"{path / 'card.json'} has no proper defaults: get the bundle again")
    if not isinstance(betas, list) or len(betas) != 2 or not 0 <= betas[0] <= defaults["beta"] <= betas[1]:
        raise ValueError(f"{path / 'card.json'} has no beta_range with its default beta inside: get the bundle again")
    if card["format"] != FORMAT:
        raise ValueError(f"{path / 'card.json'} has format {card['format']}, this version reads {FORMAT}: update igds")
    return card


def load_bundle(name_or_path: str | Path, *, device: str | torch.device = "cpu") -> Bundle:
    """Load an embedded bundle by name or any bundle by path, checking every checksum and shape.

    Raises FileNotFoundError for what is not there and ValueError for what is damaged or does not fit its card.
    """
    path = bundle_path(name_or_path)
    card = read_card(path)
    for file, checksum in card["files"].items():
        _check_file(path / file, checksum)
    try:
        networks = _build(card)
    except Exception as error:  # the networks' constructors raise whatever they stumble on
        raise ValueError(
            f"{path / 'card.json'} does not say how its parts are built ({error}): get the bundle again"
        ) from None
    for part, network in networks.items():
        _load_weights(network, path / f"{part}.safetensors")
        network.to(device).eval().requires_grad_(False)
    gallery = _load_gallery(path / "gallery.png", networks["prior"].shape, len(card["classes"]))
    return Bundle(path.name, path, card, **networks, gallery=gallery)


def save_bundle(
    path: Path,
    card: dict,
    *,
    prior: UNetPrior,
    estimator: VariationalEstimator,
    classifier: ImageClassifier,
    gallery: Tensor,
    held_out: VariationalEstimator | None = None,
) -> None:
    """Write a bundle folder: weights in half precision, and `card` with the parts' configurations and checksums."""
    path.mkdir(parents=True, exist_ok=True)
    networks = {"prior": prior, "estimator": estimator, "classifier": classifier}
    if held_out is not None:
        networks[HELD_OUT] = held_out
    for part, network in networks.items():
        tensors = {
            name: tensor.half().contiguous() if tensor.dtype == torch.float32 else tensor.contiguous()
            for name, tensor in network.state_dict().items()
        }
        (path / f"{part}.safetensors").write_bytes(save(tensors))  # save_file hides what the disk says
    _save_gallery(gallery, path / "gallery.png")
    names = (*(f"{part}.safetensors" for part in networks), "gallery.png")
    built = {
        part: {"encoder": asdict(network.encoder.config), "tau": network.tau}
        if isinstance(network, VariationalEstimator)
        else asdict(network.config)
        for part, network in networks.items()
    }
    files = {file: hashlib.sha256((path / file).read_bytes()).hexdigest() for file in names}
    complete = {"format": FORMAT, **card, **built, "files": files}
    (path / "card.json").write_text(json.dumps(complete, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _build(card: dict) -> dict[str, nn.Module]:
    classes = len(card["classes"])
    prior = UNetPrior(UNetConfig(**card["prior"]))
    if prior.num_classes != classes:
        raise ValueError(f"it names {classes} classes and its prior has {prior.num_classes}")
    networks = {"prior": prior, "estimator": _estimator(card["estimator"], classes)}
    networks["classifier"] = ImageClassifier(_encoder_config(card["classifier"]), classes)
    if HELD_OUT in card:
        networks[HELD_OUT] = _estimator(card[HELD_OUT], classes)
    return networks


def _estimator(values: dict, classes: int) -> VariationalEstimator:
    encoder = Encoder(_encoder_config(values["encoder"]))
    smooth(encoder)
    return VariationalEstimator(encoder, classes, features=encoder.config.features, tau=float(values["tau"]))


def _encoder_config(values: dict) -> EncoderConfig:
    return EncoderConfig(**{**values, "widths": tuple(values["widths"])})


def _check_file(path: Path, checksum: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: get the bundle again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
        raise ValueError(
            f"{path} is damaged or was changed: its sha256 is not the one in card.json; get the bundle again"
        )


def _load_weights(network: nn.Module, path: Path) -> None:
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises its own type for every kind of broken file
        raise ValueError(f"{path} is not a safetensors file ({error}): get the bundle again") from None
    expected = network.state_dict()
    for name in sorted(expected.keys() ^ tensors.keys()):
        where = "is missing from" if name in expected else "does not belong in"
        raise ValueError(f"{name} {where} {path}: the weights are of another network than the one in card.json")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{name} in {path} has shape {tuple(tensor.shape)}, card.json asks for {tuple(expected[name].shape)}"
            )
    network.load_state_dict(tensors)


def _save_gallery(gallery: Tensor, path: Path) -> None:
    """One row of tiles a class, as a picture that can be looked at."""
    classes, count, channels, height, width = gallery.shape
    tiles = gallery.permute(0, 3, 1, 4, 2).reshape(classes * height, count * width, channels)
    Image.fromarray(tiles.numpy().squeeze(-1) if channels == 1 else tiles.numpy()).save(path, optimize=True)


def _load_gallery(path: Path, shape: tuple[int, ...], classes: int) -> Tensor:
    channels, height, width = shape
    try:
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("L" if channels == 1 else "RGB")))
    except OSError as error:
        raise ValueError(f"{path} is not a picture ({error}): get the bundle again") from None
    if pixels.shape[0] != classes * height or pixels.shape[1] % width:
        raise ValueError(f"{path} does not hold one row of {height}×{width} tiles for each of {classes} classes")
    return pixels.reshape(classes, height, -1, width, channels).permute(0, 2, 4, 1, 3).contiguous()
