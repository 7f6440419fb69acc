"""Bundles: a folder with everything one data set needs, described by its card.json; weights are safetensors."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn

from igds.backbones import MoCoConfig, MoCoEncoder, TimmConfig, TimmEncoder
from igds.checkpoints import MissingPackage
from igds.classifiers import ImageClassifier
from igds.device import device_of
from igds.encoders import Encoder, EncoderConfig, smooth
from igds.estimator import VariationalEstimator
from igds.files import write_json, write_whole
from igds.priors.base import Prior
from igds.priors.empirical import LIMITS, EmpiricalConfig, EmpiricalPrior
from igds.priors.hf import DiffusersConfig, DiffusersPrior
from igds.priors.unet import UNetConfig, UNetPrior

EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "bundles"
DEFAULT = "fashion-mnist"
FORMAT = 1
PARTS = ("prior", "estimator", "classifier")
HELD_OUT = "held_out"
GALLERY = "gallery"
NEEDED = ("estimator", "classifier")
_CARD_KEYS = ("format", "title", "classes", *PARTS, "defaults", "beta_range", "files")


@dataclass(frozen=True)
class Bundle:
    """A prior, its estimator, an independent classifier and some real images; `card` is card.json as it stands.

    `gallery` (K, m, C, H, W) uint8, None where real images may not be shown. `held_out` is a second estimator, of
    another seed and other views, that guides nothing and only judges; None in a bundle without one. A bundle just made
    of a foreign prior has no more than that: estimator and classifier are None until `complete` makes them, and
    `load_bundle` gives it to who can do without. All networks are frozen and in evaluation mode.
    """

    name: str
    path: Path
    card: dict
    prior: Prior
    estimator: VariationalEstimator | None
    classifier: ImageClassifier | None
    gallery: Tensor | None
    held_out: VariationalEstimator | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.card["classes"])

    @property
    def device(self) -> torch.device:
        return device_of(self.prior)

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
    parts = [part for part in (*PARTS, HELD_OUT) if card.get(part) is not None]
    expected = [f"{part}.safetensors" for part in parts]
    unsigned = [file for file in expected if not isinstance(files, dict) or not isinstance(files.get(file), str)]
    if unsigned:
        raise ValueError(f"{path / 'card.json'} gives no sha256 of {', '.join(unsigned)}: get the bundle again")
    if outside := [file for file in files if Path(file).name != file]:
        raise ValueError(f"{path / 'card.json'} names a file outside of its folder ({outside[0]}): get another bundle")
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


def load_bundle(
    name_or_path: str | Path, *, device: str | torch.device = "cpu", needs: Sequence[str] = NEEDED
) -> Bundle:
    """Load an embedded bundle by name or any bundle by path, checking every checksum and shape.

    `needs` are the parts beside the prior that the caller cannot do without; a bundle made by `import` starts with none
    of them. Raises FileNotFoundError for what is not there and ValueError for what is damaged, does not fit its card,
    or lacks a part that is needed.
    """
    path = bundle_path(name_or_path)
    card = read_card(path)
    if lacking := [part for part in missing_parts(card) if part in needs]:
        raise ValueError(f"{path.name} has no {' and no '.join(lacking)} yet: {how_to_complete(path, card)}")
    check_files(path, card)
    try:
        networks = _build(card)
    except MissingPackage:
        raise
    except Exception as error:  # the networks' constructors raise whatever they stumble on
        raise ValueError(
            f"{path / 'card.json'} does not say how its parts are built ({error}): get the bundle again"
        ) from None
    for part, network in networks.items():
        _load_weights(network, path / f"{part}.safetensors")
        network.to(device).eval().requires_grad_(False)
    gallery = None
    if f"{GALLERY}.png" in card["files"]:
        gallery = _load_gallery(path / f"{GALLERY}.png", networks["prior"].shape, len(card["classes"]))
    absent = dict.fromkeys(part for part in PARTS if part not in networks)
    return Bundle(path.name, path, card, **networks, **absent, gallery=gallery)


def check_files(path: Path, card: dict) -> None:
    """FileNotFoundError or ValueError where a file of the bundle folder `path` is not the one that its card names."""
    for file, checksum in card["files"].items():
        _check_file(path / file, checksum)


def missing_parts(card: dict) -> list[str]:
    """Which of `NEEDED` a bundle does not have yet."""
    return [part for part in NEEDED if not card[part]]


def limits_of(card: dict) -> str:
    """What the prior of a bundle cannot do that one would expect of a prior; empty where there is no such thing."""
    prior = card["prior"]
    return LIMITS if isinstance(prior, dict) and prior.get("kind") == EmpiricalPrior.kind else ""


def how_to_complete(path: Path, card: dict) -> str:
    """The command that makes what a bundle lacks."""
    encoder = " --encoder CHECKPOINT" if "estimator" in missing_parts(card) else ""
    return f"`python -m igds complete {path} --data FOLDER{encoder}` makes what is missing from your images"


def save_bundle(
    path: Path,
    card: dict,
    *,
    prior: Prior,
    estimator: VariationalEstimator | None = None,
    classifier: ImageClassifier | None = None,
    gallery: Tensor | None = None,
    held_out: VariationalEstimator | None = None,
    half: bool = True,
) -> None:
    """Write a bundle folder: the parts that there are, and `card` with their configurations and checksums.

    Weights are written in half precision; with `half` False as they are, which keeps a published checkpoint exact.
    """
    path.mkdir(parents=True, exist_ok=True)
    parts = {"prior": prior, "estimator": estimator, "classifier": classifier, HELD_OUT: held_out}
    complete = {"format": FORMAT, **card, **dict.fromkeys(PARTS), "files": {}}
    complete.pop(HELD_OUT, None)
    _add(path, complete, {part: network for part, network in parts.items() if network is not None}, gallery, half)


def add_to_bundle(
    path: Path,
    *,
    estimator: VariationalEstimator | None = None,
    classifier: ImageClassifier | None = None,
    gallery: Tensor | None = None,
    half: bool = True,
    measured: Mapping[str, dict] | None = None,
) -> None:
    """Write parts into a bundle that is there, in place of those of the same name, and note what was `measured`."""
    card = read_card(path)
    card["measured"] = {**card.get("measured", {}), **(measured or {})}
    parts = {"estimator": estimator, "classifier": classifier}
    _add(path, card, {part: network for part, network in parts.items() if network is not None}, gallery, half)


def _add(path: Path, card: dict, parts: dict[str, nn.Module], gallery: Tensor | None, half: bool) -> None:
    for part, network in parts.items():
        tensors = {
            name: tensor.half().contiguous() if half and tensor.dtype == torch.float32 else tensor.contiguous()
            for name, tensor in network.state_dict().items()
        }
        write_whole(path / f"{part}.safetensors", save(tensors))  # save_file hides what the disk says
        card[part] = _built(network)
    written = [f"{part}.safetensors" for part in parts]
    if gallery is not None:
        _save_gallery(gallery, path / f"{GALLERY}.png")
        written.append(f"{GALLERY}.png")
    files = card["files"] | {file: _sha256(path / file) for file in written}
    card = {**{key: value for key, value in card.items() if key != "files"}, "files": files}
    write_json(path / "card.json", card)


def _built(network: nn.Module) -> dict:
    """How a part is built. A `kind` says of what class; without one it is guided_diffusion's UNet, or our encoder."""
    if isinstance(network, VariationalEstimator):
        return {"encoder": _built(network.encoder), "tau": network.tau}
    kind = getattr(network, "kind", None)
    return ({"kind": kind} if kind else {}) | asdict(network.config)


def _build(card: dict) -> dict[str, nn.Module]:
    classes = len(card["classes"])
    prior = _prior(card["prior"])
    if prior.num_classes != classes:
        raise ValueError(f"it names {classes} classes and its prior has {prior.num_classes}")
    networks = {"prior": prior}
    if card["estimator"]:
        networks["estimator"] = _estimator(card["estimator"], classes)
    if card["classifier"]:
        networks["classifier"] = ImageClassifier(_encoder_config(card["classifier"]), classes)
    if HELD_OUT in card:
        networks[HELD_OUT] = _estimator(card[HELD_OUT], classes)
    return networks


def _prior(values: dict) -> Prior:
    options = {key: value for key, value in values.items() if key != "kind"}
    kind = values.get("kind")
    if kind is None:
        return UNetPrior(UNetConfig(**options))
    if kind == DiffusersPrior.kind:
        return DiffusersPrior(DiffusersConfig(**options))
    if kind == EmpiricalPrior.kind:
        return EmpiricalPrior(EmpiricalConfig(**{**options, "counts": tuple(options["counts"])}))
    raise ValueError(f"this version knows no prior of the kind {kind!r}")


def _estimator(values: dict, classes: int) -> VariationalEstimator:
    encoder = _encoder(values["encoder"])
    smooth(encoder)
    return VariationalEstimator(encoder, classes, features=encoder.config.features, tau=float(values["tau"]))


def _encoder(values: dict) -> nn.Module:
    kind = values.get("kind")
    options = {key: value for key, value in values.items() if key != "kind"}
    if kind is None:
        return Encoder(_encoder_config(options))
    if kind == MoCoEncoder.kind:
        return MoCoEncoder(MoCoConfig(**options))
    if kind == TimmEncoder.kind:
        return TimmEncoder(TimmConfig(**options))
    raise ValueError(f"this version knows no encoder of the kind {kind!r}")


def _encoder_config(values: dict) -> EncoderConfig:
    return EncoderConfig(**{**values, "widths": tuple(values["widths"])})


def _check_file(path: Path, checksum: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: get the bundle again")
    if _sha256(path) != checksum:
        raise ValueError(
            f"{path} is damaged or was changed: its sha256 is not the one in card.json; get the bundle again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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
