"""Labelled image sets, in memory as bytes, and their way to tensors in [-1, 1] and back."""

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from igds.fetch import fetch, place

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FASHION_MNIST_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_FASHION_MNIST_SHA256 = {  # of the decompressed files, since an archive can be packed again
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class ImageSet:
    """`images` (N, C, H, W) uint8, `labels` (N,) int64, and the name of every class in label order.

    Points (N, D) float32 may stand for images where no bytes are needed: in the laboratory.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def of_class(self, label: int) -> Tensor:
        """The images of one class, uint8."""
        return self.images[self.labels == label]

    def class_frequencies(self) -> Tensor:
        """(K,) the share of each class."""
        return torch.bincount(self.labels, minlength=len(self.classes)) / len(self)


def to_unit(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]; what is floating point already (points) as it is."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


def to_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] (values beyond are clipped) to uint8, rounded to the nearest."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def png(image: Tensor) -> bytes:
    """One uint8 image (C, H, W) as a PNG file."""
    buffer = io.BytesIO()
    picture(image).save(buffer, "PNG")
    return buffer.getvalue()


def picture(image: Tensor) -> Image.Image:
    """One uint8 image (C, H, W), of 1 or 3 channels, as a PIL image."""
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def fashion_mnist(split: str, *, folder: Path | None = None) -> ImageSet:
    """Fashion-MNIST ("train": 60,000, "test": 10,000), padded with black from 28×28 to 32×32.

    Looks in `folder`, then where Debian's `dataset-fashion-mnist` puts the files, then in the user's cache, where
    they are fetched as the last resort. Raises ValueError where a file is not the original, and FileNotFoundError where
    `folder` lacks it or it cannot be downloaded.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    images = _read_idx(_fashion_mnist_file(f"{prefix}-images-idx3-ubyte", folder), f"{prefix}-images-idx3-ubyte")
    labels = _read_idx(_fashion_mnist_file(f"{prefix}-labels-idx1-ubyte", folder), f"{prefix}-labels-idx1-ubyte")
    return ImageSet(F.pad(images[:, None], (2, 2, 2, 2)), labels.long(), FASHION_MNIST_CLASSES)


def _fashion_mnist_file(name: str, folder: Path | None) -> Path:
    cached = place("fashion-mnist") / f"{name}.gz"
    for path in [Path(folder) / cached.name] if folder else [_FASHION_MNIST_DEBIAN / cached.name, cached]:
        if path.exists():
            return path
    if folder:
        raise FileNotFoundError(f"no {cached.name} in {folder}: put the four original Fashion-MNIST files there")
    try:
        for _ in fetch("fashion-mnist"):
            pass
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Fashion-MNIST is not on this machine, and {error}, or install Debian's dataset-fashion-mnist"
        ) from None
    return cached


def _read_idx(path: Path, name: str) -> Tensor:
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}): delete it and try again") from None
    if hashlib.sha256(content).hexdigest() != _FASHION_MNIST_SHA256[name]:
        raise ValueError(f"{path} is not the original Fashion-MNIST file: delete it and try again")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, 4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy())
