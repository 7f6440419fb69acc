"""A distilled folder is written whole, and what others wrote is read as it was meant."""

import importlib
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from igds.data import ImageSet
from igds.distilled import read_image_folder, to_parquet, write_class, write_index
from igds.files import write_json

NAMES = ("T-shirt/top", "Bag", "Ankle boot")


def random_images(n: int, channels: int = 1, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def write_set(folder, names=NAMES, channels: int = 1) -> ImageSet:
    """Class y has y + 1 images."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [random_images(label + 1, channels) for label in range(len(names))]
    for label, (name, images) in enumerate(zip(names, parts)):
        write_class(folder, label, name, images)
    write_index(folder, names)
    labels = torch.arange(len(names)).repeat_interleave(torch.arange(1, len(names) + 1))
    return ImageSet(torch.cat(parts), labels, tuple(names))


def same(a: ImageSet, b: ImageSet) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.classes == b.classes


def picture(pixels, mode: str | None = None) -> Image.Image:
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    return image.convert(mode) if mode else image


def one_picture(folder, name: str = "0.png", label: str = "only"):
    """A folder of one class, and the path of its one picture."""
    (folder / label).mkdir(parents=True, exist_ok=True)
    return folder / label / name


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read_back(tmp_path, channels):
    assert same(write_set(tmp_path, channels=channels), read_image_folder(tmp_path))


def test_the_names_are_zero_padded_in_label_order(tmp_path):
    write_set(tmp_path)
    pictures = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    bags, boots = [f"0001_bag/{i:04d}.png" for i in range(2)], [f"0002_ankle-boot/{i:04d}.png" for i in range(3)]
    assert pictures == ["0000_t-shirt-top/0000.png", *bags, *boots]
    entries = json.loads((tmp_path / "classes.json").read_text())
    assert entries[0] == {"label": 0, "folder": "0000_t-shirt-top", "name": "T-shirt/top"}


def test_a_class_that_is_interrupted_leaves_nothing(tmp_path):
    images = [*random_images(2), "no image"]
    with pytest.raises(AttributeError):
        write_class(tmp_path, 0, "Bag", images)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_of_a_class_is_cleared_away(tmp_path):
    stale = tmp_path / ".0000_bag.partial"
    stale.mkdir()
    (stale / "0009.png").write_bytes(b"half a pict")
    folder = write_class(tmp_path, 0, "Bag", random_images(2))
    assert list(tmp_path.iterdir()) == [folder] and len(list(folder.iterdir())) == 2


def test_a_class_is_not_written_over_another(tmp_path):
    folder = write_class(tmp_path, 0, "Bag", random_images(2))
    before = (folder / "0000.png").read_bytes()
    with pytest.raises(ValueError, match="0000_bag is there already"):
        write_class(tmp_path, 0, "Bag", random_images(3))
    assert (folder / "0000.png").read_bytes() == before


def test_the_index_decides_the_labels_whatever_the_folders_are_called(tmp_path):
    for name in ("a", "b"):
        one_picture(tmp_path, label=name)
    picture([[10]]).save(tmp_path / "a" / "0.png")
    picture([[20]]).save(tmp_path / "b" / "0.png")
    assert read_image_folder(tmp_path).classes == ("a", "b")
    write_json(
        tmp_path / "classes.json",
        [{"label": 0, "folder": "b", "name": "First"}, {"label": 1, "folder": "a", "name": "Second"}],
    )
    data = read_image_folder(tmp_path)
    assert data.classes == ("First", "Second") and data.images.flatten().tolist() == [20, 10]


def test_any_image_folder_has_its_sorted_names_as_classes(tmp_path):
    for name, value in (("n02", 2), ("n01", 1)):
        path = one_picture(tmp_path, "deep.PNG", label=f"{name}/images")
        picture([[value]]).save(path)
        (tmp_path / name / "boxes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.md").write_text("no class")
    data = read_image_folder(tmp_path)
    assert data.classes == ("n01", "n02") and data.images.flatten().tolist() == [1, 2]


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    path = one_picture(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    picture([[10, 20], [30, 40]]).save(path, exif=exif)
    assert read_image_folder(tmp_path).images[0, 0].tolist() == [[30, 10], [40, 20]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(tmp_path, mode):
    image = picture([[[0, 0, 0, 0], [0, 0, 0, 255]]])
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.info["transparency"] = 0
    image.convert(mode).save(one_picture(tmp_path))
    assert read_image_folder(tmp_path, channels=1).images.flatten().tolist() == [255, 0]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 257, 30 * 257, 65535]], np.uint16)).save(one_picture(tmp_path))
    assert read_image_folder(tmp_path).images.flatten().tolist() == [0, 1, 30, 255]


def test_grey_only_where_all_pictures_are(tmp_path):
    picture([[10]]).save(one_picture(tmp_path, "0.png"))
    assert read_image_folder(tmp_path).images.shape == (1, 1, 1, 1)
    picture([[[200, 0, 0]]]).save(one_picture(tmp_path, "1.png"))
    assert read_image_folder(tmp_path).images.flatten(1).tolist() == [[10, 10, 10], [200, 0, 0]]
    assert read_image_folder(tmp_path, channels=1).images.flatten().tolist() == [10, 60]


def test_a_size_takes_the_middle_square(tmp_path):
    strip = np.zeros((4, 12), np.uint8)
    strip[:, 4:8] = 200
    picture(strip).save(one_picture(tmp_path))
    assert (read_image_folder(tmp_path, size=4).images == 200).all()
    small = read_image_folder(tmp_path, size=2).images
    assert small.shape == (1, 1, 2, 2) and (small == 200).all()


def test_a_picture_of_the_right_size_keeps_its_bytes(tmp_path):
    assert same(write_set(tmp_path), read_image_folder(tmp_path, size=8))


def test_pictures_of_two_sizes_need_one_to_be_given(tmp_path):
    picture(np.zeros((4, 4))).save(one_picture(tmp_path, "0.png"))
    picture(np.zeros((4, 6))).save(one_picture(tmp_path, "1.png"))
    with pytest.raises(ValueError, match="1.png and .*0.png are 4×6 and 4×4 pixels: give a size"):
        read_image_folder(tmp_path)
    assert read_image_folder(tmp_path, size=4).images.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", "truncated"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, content):
    write_set(tmp_path)
    path = tmp_path / "0001_bag" / "0001.png"
    path.write_bytes(path.read_bytes()[:-30] if content == "truncated" else content)
    with pytest.raises(ValueError, match="0001_bag/0001.png cannot be read as a picture") as raised:
        read_image_folder(tmp_path)
    assert "\n" not in str(raised.value)


def test_what_is_hidden_is_no_picture_of_the_set(tmp_path):
    write_set(tmp_path)
    whole = read_image_folder(tmp_path)
    for hidden in (".checkpoints/0000.png", "._0000.png"):
        path = tmp_path / "0001_bag" / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((tmp_path / "0001_bag" / "0000.png").read_bytes())
    assert torch.equal(read_image_folder(tmp_path).labels, whole.labels)


def test_a_class_without_pictures_is_named(tmp_path):
    write_set(tmp_path)
    for path in (tmp_path / "0001_bag").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="0001_bag holds no pictures"):
        read_image_folder(tmp_path)


def test_a_set_that_is_not_complete_names_what_it_lacks(tmp_path):
    write_class(tmp_path, 0, "Bag", random_images(1))
    write_index(tmp_path, ("Bag", "Ankle boot"))
    with pytest.raises(ValueError, match="no pictures of Ankle boot yet"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize(
    "index",
    ["", "{}", "[]", "3", '["Bag"]', '[{"label": 1, "folder": "0000_t-shirt-top", "name": "Bag"}]', '[{"label": 0}]'],
)
def test_an_index_that_is_none_is_refused(tmp_path, index):
    write_set(tmp_path)
    (tmp_path / "classes.json").write_text(index)
    with pytest.raises(ValueError, match="classes.json does not list"):
        read_image_folder(tmp_path)


def test_what_is_no_folder_of_classes_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no folders"):
        read_image_folder(tmp_path)
    with pytest.raises(ValueError, match="channels must be 1 .* or 3"):
        read_image_folder(tmp_path, channels=4)
    with pytest.raises(ValueError, match="size must be at least 1"):
        read_image_folder(tmp_path, size=0)


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    """`load_dataset`, without a network and with a cache of its own."""
    import datasets  # takes seconds

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()

    def load(*arguments, **settings) -> ImageSet:
        data = datasets.load_dataset(*arguments, split="train", cache_dir=str(tmp_path / "cache"), **settings)
        images = torch.stack([torch.from_numpy(np.array(row["image"])) for row in data])
        return ImageSet(images[:, None], torch.tensor(data["label"]), tuple(data.features["label"].names))

    return load


def test_hugging_face_reads_the_same_labels(tmp_path, hugging_face):
    expected = write_set(tmp_path / "set", [f"Class {9 - y}" for y in range(11)])
    (tmp_path / "set" / ".distil").mkdir()
    write_json(tmp_path / "set" / ".distil" / "0000.json", {})
    data = hugging_face("imagefolder", data_dir=str(tmp_path / "set"))
    assert torch.equal(data.images, expected.images) and torch.equal(data.labels, expected.labels)
    assert data.classes == tuple(sorted(path.name for path in (tmp_path / "set").glob("0*")))


def test_hugging_face_takes_no_class_for_a_split(tmp_path, hugging_face):
    words = {word for words in importlib.import_module("datasets.data_files").SPLIT_KEYWORDS.values() for word in words}
    names = [name for word in sorted(words) for name in (word, f"Bullet {word} 7{word}1, {word}{word}: {word}-tube")]
    expected = write_set(tmp_path / "set", [*names, "Bag"])
    data = hugging_face("imagefolder", data_dir=str(tmp_path / "set"))
    assert torch.equal(data.images, expected.images) and torch.equal(data.labels, expected.labels)


def test_parquet_brings_the_class_names_to_hugging_face(tmp_path, hugging_face):
    expected = write_set(tmp_path / "set")
    to_parquet(tmp_path / "set", tmp_path / "train.parquet")
    assert same(hugging_face("parquet", data_files=str(tmp_path / "train.parquet")), expected)


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, monkeypatch):
    write_set(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        to_parquet(tmp_path / "set", tmp_path / "set.parquet")
    assert os.listdir(tmp_path) == ["set"]


def test_torchvision_reads_the_same_labels(torchvision, tmp_path):
    expected = write_set(tmp_path)
    assert torchvision.datasets.ImageFolder(tmp_path).targets == expected.labels.tolist()
