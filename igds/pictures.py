"""Picture files, of whatever format and kind, as the pixels of an image set."""

import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Named = tuple[str, Path | io.BytesIO]  # what messages call a picture, and its file


def read_pictures(
    pictures: Iterable[Named],
    count: int,
    *,
    size: int | None,
    channels: int,
    unreadable: dict[int, str] | None = None,
) -> Tensor:
    """`count` pictures as uint8 (count, channels, H, W), each by `pixels_of`.

    Raises ValueError for a picture that cannot be read, and where pictures differ in size and no `size` is given.
    With `unreadable`, which needs a `size`, such a picture is black, and that dictionary says why by its place.
    """
    images, first = torch.empty(0), ""
    for i, (name, file) in enumerate(pictures):
        try:
            with _opened(name, file) as image:
                pixels = pixels_of(image, size=size, channels=channels)
        except ValueError as error:
            if unreadable is None or size is None:
                raise
            unreadable[i] = str(error)
            pixels = torch.zeros(channels, size, size, dtype=torch.uint8)
        if i == 0:
            images, first = torch.empty(count, *pixels.shape, dtype=torch.uint8), name
        if pixels.shape != images.shape[1:]:
            sizes = " and ".join(f"{height}×{width}" for _, height, width in (pixels.shape, images.shape[1:]))
            raise ValueError(f"{name} and {first} are {sizes} pixels: give a size to scale all pictures to")
        images[i] = pixels
    return images


def are_grey(pictures: Iterable[Named]) -> bool:
    """Whether no picture has colours, as far as its header tells; ValueError for one that cannot be read."""
    for name, file in pictures:
        with _opened(name, file) as image:
            if image.mode not in ("1", "L", "LA") and not image.mode.startswith("I"):
                return False
    return True


def pixels_of(image: Image.Image, *, size: int | None, channels: int) -> Tensor:
    """uint8 (channels, H, W) of a picture, where `channels` is 1 (grey) or 3 (RGB).

    It is turned as its EXIF says, its transparent parts become white, 16 bits a pixel become 8, and with `size` its
    middle square is scaled to size × size (Lanczos). A JPEG of more than 16 times that size is decoded at a half, a
    quarter or an eighth of its own, which is several times faster.
    """
    if size is not None:
        image.draft(None, (8 * size, 8 * size))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8
        image = Image.fromarray((np.asarray(image, np.float32) / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, channels).permute(2, 0, 1)


@contextmanager
def _opened(name: str, file: Path | io.BytesIO) -> Iterator[Image.Image]:
    """A picture whose pixels are still to be decoded, within this block."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file)
        with image:
            yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        pixels = int(re.search(r"\d+", str(error)).group())
        raise ValueError(
            f"{name} has {pixels:,} pixels, and pictures are read up to {Image.MAX_IMAGE_PIXELS:,}: scale it down"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = "in no known format" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{name} cannot be read as a picture ({reason}): replace it or take it away") from None
