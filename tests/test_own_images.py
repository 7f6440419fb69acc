"""A user's own folder as it is: of any kind of file, any kind of name, and what cannot be used told in one sentence."""

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from igds.datasets import count_images, load_images, splits_of
from igds.own_images import (
    LEAST_OF_A_CLASS,
    LEAST_TO_MEASURE,
    own_class_counts,
    read_own_images,
    stratified,
    too_small_for_a_prior,
)
from tests.conftest import real_images

SIDE = 16


def draw(path, value: int, *, mode: str = "RGB", size: tuple[int, int] = (20, 18), **options) -> None:
    """A picture whose left half is dark and whose right half has a colour or a grey of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, size[0] // 2 :] = value if mode == "L" else (value, 255 - value, 90)
    Image.fromarray(pixels).convert(mode).save(path, **options)


def folder(path, *, classes=("cat", "dog"), count: int = 14, mode: str = "RGB"):
    for label, name in enumerate(classes):
        for i in range(count):
            draw(path / name / f"{i:03d}.png", 40 + 90 * label + i, mode=mode)
    return path


def sentence(raised) -> str:
    message = str(raised.value)
    assert message and "\n" not in message
    return message


def test_a_seeded_tenth_of_each_class_measures_and_is_learnt_by_none(tmp_path):
    data = real_images(70)
    train, test = stratified(data)
    assert torch.bincount(test.labels).tolist() == [7, 7, 7] and torch.bincount(train.labels).tolist() == [63] * 3
    rows = {image.numpy().tobytes() for image in data.images}
    both = [image.numpy().tobytes() for part in (train, test) for image in part.images]
    assert len(both) == len(data) and set(both) == rows
    again = stratified(data)
    assert torch.equal(test.images, again[1].images) and torch.equal(train.images, again[0].images)
    assert not torch.equal(test.images[:7], data.images[:7])  # drawn, not the first


def test_uneven_and_small_classes_keep_enough_to_measure():
    data = real_images(40)
    kept = torch.cat([torch.arange(40), torch.arange(40, 52), torch.arange(80, 100)])
    uneven = type(data)(data.images[kept], data.labels[kept], data.classes)
    train, test = stratified(uneven)
    assert torch.bincount(test.labels).tolist() == [LEAST_TO_MEASURE] * 3
    assert torch.bincount(train.labels).tolist() == [34, 6, 14]


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_a_test_split_of_its_own_measures(tmp_path, name):
    folder(tmp_path / "train")
    folder(tmp_path / name, count=7)
    images = read_own_images(tmp_path, size=SIDE)
    assert (len(images.train), len(images.test)) == (28, 14) and "own test split" in images.division


def test_a_training_split_alone_is_divided(tmp_path):
    folder(tmp_path / "train")
    images = read_own_images(tmp_path, size=SIDE)
    assert images.train.classes == ("cat", "dog") and (len(images.train), len(images.test)) == (16, 12)
    assert "seed 0" in images.division


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_grey_is_what_the_pixels_are_and_not_what_the_files_say(tmp_path, mode, channels):
    folder(tmp_path, mode=mode)
    for path in tmp_path.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    assert read_own_images(tmp_path, size=SIDE).train.images.shape[1:] == (channels, SIDE, SIDE)


@pytest.mark.parametrize("colour", [(90, 50, 50), (50, 90, 50), (50, 50, 90)])
def test_one_coloured_picture_makes_all_of_them_coloured(tmp_path, colour):
    folder(tmp_path, mode="L")
    Image.new("RGB", (20, 18), colour).save(tmp_path / "dog" / "one.png")
    assert read_own_images(tmp_path, size=SIDE).train.images.shape[1] == 3


def test_every_kind_of_file_comes_in_upright_whole_and_opaque(tmp_path):
    folder(tmp_path)
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = 200
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90° clockwise
    upright = Image.fromarray(pixels)
    upright.rotate(90, expand=True).save(tmp_path / "cat" / "900.jpg", exif=turned, quality=100)
    upright.convert("CMYK").save(tmp_path / "cat" / "901.jpg", quality=100)
    upright.quantize(4).save(tmp_path / "cat" / "902.png")
    clear = upright.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(pixels[..., 0] > 0, 255, 0).astype(np.uint8)))
    clear.save(tmp_path / "cat" / "903.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "cat" / "904.png")
    upright.save(tmp_path / "cat" / "905.webp", lossless=True)
    loaded = load_images(tmp_path, None, size=SIDE, channels=3).images[14:20]  # the last of the cats
    left, right = loaded[..., :7].float(), loaded[..., 9:].float()
    assert (right.mean((1, 2, 3)) - 200).abs().max() < 6
    expected = torch.tensor([0, 0, 0, 255, 0, 0.0])  # what is transparent is white
    assert (left.mean((1, 2, 3)) - expected).abs().max() < 6


def test_a_large_jpeg_decoded_at_an_eighth_looks_like_the_whole(tmp_path):
    rows, columns = np.mgrid[:1600, :1600]
    smooth = (128 + 100 * np.sin(rows / 300) * np.cos(columns / 200)).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(smooth).save(tmp_path / "a" / "0.jpg", quality=95)
    Image.fromarray(smooth).save(tmp_path / "a" / "1.png")
    jpeg, png = load_images(tmp_path, None, size=SIDE).images.float()
    assert (jpeg - png).abs().max() <= 2


def test_files_that_cannot_be_read_are_named_counted_and_left_out_on_request(tmp_path):
    folder(tmp_path)
    (tmp_path / "cat" / "000.png").write_bytes(b"no picture")
    whole = (tmp_path / "dog" / "003.png").read_bytes()
    (tmp_path / "dog" / "003.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="000.png cannot be read .*and 1 more like it.*--skip-unreadable") as raised:
        read_own_images(tmp_path, size=SIDE)
    sentence(raised)
    images = read_own_images(tmp_path, size=SIDE, skip_unreadable=True)
    assert len(images.unreadable) == 2 and "003.png" in images.unreadable[1]
    assert images.about()["unreadable_files_left_out"] == 2
    assert torch.bincount(images.train.labels).tolist() == [7, 7] and len(images.test) == 12
    assert not (images.train.images == 0).all(dim=(1, 2, 3)).any()  # none of the black stand-ins is left


def huge_png(side: int) -> bytes:
    """A PNG that says it has side × side pixels, and has almost none of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [40_000, 12_000])  # Pillow refuses the first, and only warns of the second
def test_a_picture_of_too_many_pixels_is_told_by_its_header(tmp_path, side):
    folder(tmp_path)
    (tmp_path / "cat" / "000.png").write_bytes(huge_png(side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=f"000.png has {side**2:,} pixels") as raised:
            load_images(tmp_path, None, size=SIDE)
        assert "scale it down" in sentence(raised)
        assert len(read_own_images(tmp_path, size=SIDE, skip_unreadable=True).unreadable) == 1


def test_a_warning_of_ones_own_is_not_silenced_by_reading(tmp_path):
    folder(tmp_path)
    before = list(warnings.filters)
    load_images(tmp_path, None, size=SIDE)
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ((), "holds no folders"),
        (("cat",), "has one class .cat."),
        (("cat", "dog", "Cat"), "'Cat' and 'cat' of .* differ in case only"),
        (tuple(f"c{i:04d}" for i in range(5000)), "5,000 classes and 1,000 are the most: the card"),
    ],
    ids=["none", "one", "case", "many"],
)
def test_classes_that_no_bundle_is_made_of_are_told_before_a_picture_is_opened(tmp_path, monkeypatch, classes, said):
    for name in classes:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("a picture was opened"))
    with pytest.raises(ValueError, match=said) as raised:
        read_own_images(tmp_path, size=SIDE)
    assert str(tmp_path) in sentence(raised)


def test_a_class_without_pictures_is_told(tmp_path):
    folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no pictures") as raised:
        own_class_counts(tmp_path)
    sentence(raised)


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere") as raised:
        read_own_images(tmp_path / "nowhere", size=SIDE)
    sentence(raised)


def test_a_class_too_small_to_be_divided_is_told(tmp_path):
    folder(tmp_path, count=LEAST_OF_A_CLASS - 1)
    with pytest.raises(ValueError, match="of the class 'cat' there are 11, and 12 are the least") as raised:
        read_own_images(tmp_path, size=SIDE)
    sentence(raised)


def test_splits_of_different_classes_are_told(tmp_path):
    folder(tmp_path / "train")
    folder(tmp_path / "test", classes=("cat", "dig"), count=7)
    with pytest.raises(ValueError, match=r"different classes \(dig\)") as raised:
        read_own_images(tmp_path, size=SIDE)
    sentence(raised)


def test_a_small_folder_is_offered_the_prior_that_needs_no_training(tmp_path):
    assert too_small_for_a_prior({"a": 150, "b": 250}, tmp_path) is None  # 200 on average
    said = too_small_for_a_prior({"a": 149, "b": 250}, tmp_path)
    assert "--training-free" in said and "\n" not in said


def test_the_fingerprint_is_that_of_pixels_labels_and_names(tmp_path):
    prints = {}
    for name in ("same", "again", "pixel", "name"):
        folder(tmp_path / name, classes=("cat", "fox" if name == "name" else "dog"))
        if name == "pixel":
            draw(tmp_path / name / "cat" / "000.png", 200)
        prints[name] = read_own_images(tmp_path / name, size=SIDE).fingerprint()
    assert prints["same"] == prints["again"] and len(set(prints.values())) == 3


def encoded(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 18), (value, 60, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def test_parquet_of_one_table_is_divided(tmp_path):
    images = [{"bytes": encoded(10 * i), "path": None} for i in range(24)]
    parquet.write_table(pa.table({"image": images, "label": [i % 2 for i in range(24)]}), tmp_path / "a.parquet")
    for path in (tmp_path, tmp_path / "a.parquet"):
        assert own_class_counts(path) == {"0": 12, "1": 12}
        assert (len(read_own_images(path, size=SIDE).train), splits_of(path)) == (12, ())


@pytest.mark.parametrize("splits", [("train", "validation"), ("train",), None])
def test_what_hugging_faces_save_to_disk_writes_is_read(tmp_path, splits):
    """By `datasets` itself, with column names that are not ours."""
    import datasets

    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["zebra", "ant"])})
    pixels = [np.full((18, 20, 3), 10 * i, np.uint8) for i in range(24)]
    rows = {"img": pixels, "fine": [i % 2 for i in range(24)]}
    table = datasets.Dataset.from_dict(rows, features=features)
    whole = datasets.DatasetDict(dict.fromkeys(splits, table)) if splits else table
    whole.save_to_disk(tmp_path / "set", **({"num_shards": dict.fromkeys(splits, 2)} if splits else {}))
    assert own_class_counts(tmp_path / "set") == {"zebra": 12, "ant": 12}
    loaded = load_images(tmp_path / "set", "train" if splits else None, size=SIDE, channels=3)
    assert loaded.classes == ("zebra", "ant") and loaded.labels.tolist() == rows["fine"]
    assert loaded.images[:, 0, 3, 3].tolist() == [10 * i for i in range(24)]
    images = read_own_images(tmp_path / "set", size=SIDE)
    assert len(images.train) == (24 if splits == ("train", "validation") else 12)
    assert images.train.images.shape[1] == 1  # every pixel is grey


@pytest.mark.parametrize("content", [b"", b"ARROW1 and no more"])
def test_an_arrow_file_that_is_none_is_told(tmp_path, content):
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as arrow") as raised:
        own_class_counts(tmp_path)
    assert str(tmp_path) in sentence(raised)


def test_arrow_without_pyarrow_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "data-00000-of-00001.arrow").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow") as raised:
        own_class_counts(tmp_path)
    sentence(raised)


def test_counting_finds_what_reading_finds(tmp_path):
    folder(tmp_path / "train")
    draw(tmp_path / "train" / "dog" / "deep" / "x.JPG", 3)
    assert count_images(tmp_path, "train") == {"cat": 14, "dog": 15}
    assert torch.bincount(load_images(tmp_path, "train", size=SIDE).labels).tolist() == [14, 15]
