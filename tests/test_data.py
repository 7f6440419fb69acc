"""Bytes to tensors and back, and what is said about files that are not the originals."""

import gzip
import io
import random
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from igds.data import FASHION_MNIST_CLASSES, ImageSet, fashion_mnist, png, to_bytes, to_unit

LABELS = "t10k-labels-idx1-ubyte"
IMAGES = "t10k-images-idx3-ubyte"


def test_every_byte_survives_the_way_to_unit_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit(every)), every)


def test_black_is_minus_one_and_white_is_one():
    assert to_unit(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_bytes_are_rounded_to_the_nearest_and_clipped():
    x = torch.tensor([-9.0, -1.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1.0, 9.0])
    assert to_bytes(x).tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_decodes_to_the_same_pixels(channels):
    image = torch.randint(256, (channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = np.array(Image.open(io.BytesIO(png(image))))
    assert np.array_equal(pixels.reshape(5, 7, channels), image.permute(1, 2, 0).numpy())


def test_image_set_counts_its_classes():
    data = ImageSet(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.tensor([2, 0, 2, 2]), ("a", "b", "c"))
    assert len(data) == 4
    assert data.class_frequencies().tolist() == [0.25, 0, 0.75]
    assert data.of_class(2).flatten().tolist() == [0, 2, 3]


@pytest.fixture(scope="module")
def test_split():
    return fashion_mnist("test")


def test_fashion_mnist_is_ten_thousand_test_images_of_ten_classes(test_split):
    assert test_split.images.shape == (10_000, 1, 32, 32)
    assert test_split.images.dtype == torch.uint8 and test_split.labels.dtype == torch.int64
    assert torch.bincount(test_split.labels).tolist() == [1000] * 10
    assert test_split.classes == FASHION_MNIST_CLASSES


def test_fashion_mnist_is_padded_with_black_on_every_side(test_split):
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    assert not test_split.images[:, 0, border].any()
    inside = test_split.images[:, 0, 2:-2, 2:-2]
    assert inside[:, 0].any() and inside[:, -1].any() and inside[:, :, 0].any() and inside[:, :, -1].any()


def pack_idx(array: np.ndarray) -> bytes:
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_fashion_mnist_in_a_folder_may_be_packed_again(test_split, tmp_path):
    for name, array in (
        (IMAGES, test_split.images[:, 0, 2:-2, 2:-2].contiguous().numpy()),
        (LABELS, test_split.labels.to(torch.uint8).numpy()),
    ):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(pack_idx(array), 1))
    again = fashion_mnist("test", folder=tmp_path)
    assert torch.equal(again.images, test_split.images) and torch.equal(again.labels, test_split.labels)


def packed() -> bytes:
    return gzip.compress(pack_idx(np.array(random.Random(0).choices(range(10), k=3000), np.uint8)))


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip at all",
        packed(),
        packed()[:10],
        packed()[:-300],
        packed()[:-4],
        flipped(packed(), 12),
        flipped(packed(), len(packed()) // 2),
        flipped(packed(), len(packed()) - 6),
        gzip.compress(b""),
    ],
    ids=[
        "empty",
        "text",
        "other",
        "header",
        "truncated",
        "no-tail",
        "flip-start",
        "flip-middle",
        "flip-sum",
        "nothing",
    ],
)
def test_a_file_that_is_not_the_original_is_named_in_one_sentence(tmp_path, content):
    (tmp_path / f"{IMAGES}.gz").write_bytes(content)
    with pytest.raises(ValueError) as raised:
        fashion_mnist("test", folder=tmp_path)
    message = str(raised.value)
    assert str(tmp_path / f"{IMAGES}.gz") in message and "delete it and try again" in message
    assert "\n" not in message


def test_a_folder_without_the_files_is_named_with_the_file_that_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        fashion_mnist("train", folder=tmp_path)
    message = str(raised.value)
    assert str(tmp_path) in message and "train-images-idx3-ubyte.gz" in message and "\n" not in message
