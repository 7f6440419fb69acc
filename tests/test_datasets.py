"""Real data sets in the exact layouts of their publishers, a few pixels large: every label has its own colour."""

import io
import json
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from igds.data import FASHION_MNIST_CLASSES, ImageSet
from igds.datasets import IMAGENETTE, IMAGEWOOF, load_images
from igds.fetch import place

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def colour(number: int) -> tuple[int, int, int]:
    return 20 * number + 10, 250 - 20 * number, 100


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def paint(path, number: int, size: tuple[int, int] = (6, 4)) -> None:
    """A picture in one colour, under a name that publishers give (`.JPEG`), but without JPEG's losses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(Image.new("RGB", size, colour(number))))


def numbers(images: ImageSet) -> list[int]:
    """Which colour each image has."""
    assert (images.images == images.images[:, :, :1, :1]).all()
    return ((images.images[:, 0, 0, 0] - 10) // 20).tolist()


def sentence(raised) -> str:
    message = str(raised.value)
    assert "\n" not in message and message
    return message


@pytest.fixture
def cifar10(tmp_path):
    """Two images a class in each batch; the labels run through the classes in another order in each."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n\n")
    assert (folder / "batches.meta.txt").stat().st_size == 61  # as in the official archive
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = np.roll(np.arange(20) % 10, i)
        planes = np.stack([np.repeat(colour(label), 1024) for label in labels])
        (folder / f"{name}.bin").write_bytes(np.hstack([labels[:, None], planes]).astype(np.uint8).tobytes())
    return folder


@pytest.mark.parametrize(("split", "count"), [("train", 100), ("test", 20)])
def test_cifar10_in_its_binary_layout(cifar10, split, count):
    images = load_images(cifar10, split, size=32)
    assert images.images.shape == (count, 3, 32, 32) and images.images.dtype == torch.uint8
    assert images.classes == CIFAR10 and images.labels.dtype == torch.int64
    assert torch.bincount(images.labels).tolist() == [count // 10] * 10
    assert numbers(images) == images.labels.tolist()
    assert images.images[1, :, 0, 0].tolist() == list(colour(int(images.labels[1])))


def test_arrays_are_resized_and_turned_grey_like_pictures(cifar10):
    images = load_images(cifar10, "test", size=8, channels=1)
    grey = [Image.new("RGB", (1, 1), colour(label)).convert("L").getpixel((0, 0)) for label in images.labels.tolist()]
    assert images.images.shape == (20, 1, 8, 8)
    assert images.images[:, 0, 3, 3].tolist() == grey


@pytest.mark.parametrize("content", [b"", bytes(3072), b"\x0a" + bytes(3072)], ids=["empty", "cut", "label-10"])
def test_a_batch_of_cifar10_that_is_not_whole_is_named(cifar10, content):
    file = cifar10 / "data_batch_4.bin"
    file.write_bytes(content)
    with pytest.raises(ValueError) as raised:
        load_images(cifar10, "train", size=32)
    assert str(file) in sentence(raised) and "fetch cifar10 again" in sentence(raised)


WNIDS = ("n02124075", "n04067472", "n01443537", "n03126707")  # not sorted, as in the official file
WORDS = {
    "n00001740": "entity",
    "n01443537": "goldfish, Carassius auratus",
    "n02012849": "crane",
    "n02124075": "Egyptian cat",
    "n03126707": "crane",
    "n04067472": "reel",
}


@pytest.fixture
def tiny_imagenet(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    rows = []
    for number, wnid in enumerate(WNIDS):
        for i in range(3):
            paint(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", number, (64, 64))
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    for i, number in enumerate([2, 0, 3, 1, 1]):
        paint(folder / "val" / "images" / f"val_{i}.JPEG", number, (64, 64))
        rows.append(f"val_{i}.JPEG\t{WNIDS[number]}\t0\t32\t44\t62\n")
    paint(folder / "test" / "images" / "test_0.JPEG", 9, (64, 64))
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    return folder


def test_tiny_imagenets_labels_follow_wnids_txt_in_both_splits(tiny_imagenet):
    train, test = (load_images(tiny_imagenet, split, size=64) for split in ("train", "test"))
    assert train.classes == test.classes == ("Egyptian cat", "reel", "goldfish", "crane")
    assert train.images.shape == (12, 3, 64, 64) and test.images.shape == (5, 3, 64, 64)
    assert numbers(train) == train.labels.tolist() and torch.bincount(train.labels).tolist() == [3] * 4
    assert numbers(test) == test.labels.tolist() == [2, 0, 3, 1, 1]


def test_classes_of_tiny_imagenet_that_share_a_name_get_their_ids(tiny_imagenet):
    (tiny_imagenet / "wnids.txt").write_text("\n".join((*WNIDS, "n02012849")))
    assert load_images(tiny_imagenet, "test", size=8).classes[3:] == ("crane (n03126707)", "crane (n02012849)")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_with_a_class_that_wnids_txt_lacks_is_named(tiny_imagenet, split):
    (tiny_imagenet / "wnids.txt").write_text("\n".join(WNIDS[:-1]))
    with pytest.raises(ValueError, match="other classes than wnids.txt") as raised:
        load_images(tiny_imagenet, split, size=8)
    assert str(tiny_imagenet) in sentence(raised)


@pytest.mark.parametrize("rows", ["", "val_0.JPEG\n"])
def test_annotations_of_tiny_imagenet_that_are_cut_off_are_named(tiny_imagenet, rows):
    (tiny_imagenet / "val" / "val_annotations.txt").write_text(rows)
    with pytest.raises(ValueError, match="does not list files and classes") as raised:
        load_images(tiny_imagenet, "test", size=8)
    assert str(tiny_imagenet) in sentence(raised)


@pytest.fixture
def imagewoof(tmp_path, monkeypatch):
    """Fetched: in the cache, as fastai's archive has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = place("imagewoof-160")
    for number, wnid in enumerate(IMAGEWOOF):
        paint(folder / "train" / wnid / f"{wnid}_1.JPEG", number)
        paint(folder / "val" / wnid / f"ILSVRC2012_val_0000000{number}.JPEG", number)
    (folder / "noisy_imagewoof.csv").write_text("path,noisy_labels_0\n")
    return folder


@pytest.mark.parametrize("split", ["train", "test"])
def test_imagewoofs_labels_follow_its_list_of_breeds_and_not_its_folders(imagewoof, split):
    images = load_images("imagewoof-160", split, size=4)
    assert images.classes[:3] == ("Australian terrier", "Border terrier", "Samoyed")
    assert numbers(images) == images.labels.tolist()
    assert images.labels.tolist() != list(range(10)) == sorted(images.labels.tolist())  # read in the folders' order


def test_a_data_set_is_known_by_its_layout_wherever_it_is(imagewoof):
    assert load_images(imagewoof, "test", size=4).classes == load_images("imagewoof-160", "test", size=4).classes
    assert load_images(imagewoof / "val", None, size=4).classes == tuple(IMAGEWOOF.values())


def test_breeds_have_the_names_of_imagenet():
    """By their places among ImageNet's 1,000 classes, whose ids are in ascending order."""
    places = dict(zip(IMAGEWOOF, (193, 182, 258, 162, 155, 167, 159, 273, 207, 229)))
    assert sorted(places, key=places.get) == sorted(IMAGEWOOF)
    assert list(IMAGENETTE) == sorted(IMAGENETTE)


def test_fashion_mnist_has_its_own_form_or_the_one_asked_for():
    images = load_images("fashion-mnist", "test", size=32)
    assert images.images.shape == (10_000, 1, 32, 32) and images.classes == FASHION_MNIST_CLASSES


def test_a_data_set_that_is_not_here_is_answered_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="igds fetch cifar10") as raised:
        load_images("cifar10", "train", size=32)
    assert str(tmp_path) in sentence(raised)


def table(contents: list, labels: list, names: list[str] | None = None) -> pa.Table:
    """As Hugging Face `datasets` writes it."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    image = [{"bytes": content, "path": "a.png"} for content in contents]
    return pa.table({"image": image, "label": labels}).replace_schema_metadata(metadata)


def painted(*wanted: int) -> list[bytes]:
    return [encoded(Image.new("RGB", (4, 4), colour(number))) for number in wanted]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.parquet", "test.parquet"),
        ("train.parquet", "validation.parquet"),
        ("data/train-00000-of-00001.parquet", "data/val-00000-of-00001.parquet"),
    ],
)
def test_parquet_of_hugging_face_with_its_names(tmp_path, train, test):
    (tmp_path / "data").mkdir()
    parquet.write_table(table(painted(1, 0, 1), [1, 0, 1], ["zebra", "ant"]), tmp_path / train)
    parquet.write_table(table(painted(0), [0], ["zebra", "ant"]), tmp_path / test)
    images = load_images(tmp_path, "train", size=4)
    assert images.classes == ("zebra", "ant") and images.images.shape == (3, 3, 4, 4)
    assert numbers(images) == images.labels.tolist() == [1, 0, 1]
    assert load_images(tmp_path, "test", size=4).labels.tolist() == [0]
    assert len(load_images(tmp_path / train, None, size=4)) == 3


def test_shards_are_read_in_their_order(tmp_path):
    for i in range(3):
        parquet.write_table(table(painted(i, 2), [i, 2]), tmp_path / f"train-0000{i}-of-00003.parquet")
    images = load_images(tmp_path, "train", size=4)
    assert numbers(images) == images.labels.tolist() == [0, 2, 1, 2, 2, 2]
    assert images.classes == ("0", "1", "2")


def test_parquet_may_hold_the_bytes_alone(tmp_path):
    parquet.write_table(pa.table({"image": painted(3), "label": [0]}), tmp_path / "a.parquet")
    assert numbers(load_images(tmp_path / "a.parquet", None, size=4)) == [3]


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("kinds", ["all", "grey"])
def test_a_picture_has_the_same_pixels_in_parquet_and_in_a_folder(tmp_path, channels, kinds):
    noise = np.random.default_rng(0).integers(256, size=(9, 14, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = [
        encoded(Image.fromarray(noise[..., 0])),
        encoded(Image.fromarray(noise[..., :2])),  # grey with alpha
        encoded(Image.fromarray(noise.view(np.uint16)[..., 0])),
        encoded(Image.fromarray(noise)),
        encoded(Image.fromarray(noise[..., :3]), "JPEG", exif=turned),
        encoded(Image.fromarray(noise[..., :3]).quantize(7)),
    ][: 3 if kinds == "grey" else None]
    (tmp_path / "train" / "class").mkdir(parents=True)
    for i, content in enumerate(pictures):
        (tmp_path / "train" / "class" / f"{i}.png").write_bytes(content)
    parquet.write_table(table(pictures, [0] * len(pictures), ["class"]), tmp_path / "test.parquet")
    folder, rows = (load_images(tmp_path, split, size=6, channels=channels) for split in ("train", "test"))
    assert torch.equal(folder.images, rows.images) and folder.classes == rows.classes
    assert rows.images.shape[1] == (channels or (1 if kinds == "grey" else 3))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (table([b"no picture"], [0]), "row 0"),
        (table([painted(0)[0][:45]], [0]), "row 0"),
        (table([None], [0]), "row 0"),
        (table(painted(0), [-1], ["ant"]), "label -1"),
        (table(painted(0), [1], ["ant"]), "label 1"),
        (table(painted(0, 1), [0, None], ["ant"]), "label None"),
        (table([None], [0]).set_column(0, "image", pa.array(["a.png"])), "no image files .'a.png'."),
        (table(painted(0), ["ant"]), "no whole numbers .'ant'."),
        (table(painted(0), [0]).drop_columns("label"), "no column label"),
        (table([], []), "no rows"),
    ],
    ids=["text", "cut", "nothing", "secret", "beyond", "unlabelled", "path", "words", "column", "empty"],
)
def test_parquet_that_cannot_be_used_is_named_in_one_sentence(tmp_path, content, said):
    parquet.write_table(content, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=said) as raised:
        load_images(tmp_path / "a.parquet", None, size=4)
    assert str(tmp_path) in sentence(raised)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"x" * 100])
def test_a_file_that_is_not_parquet_is_named_in_one_sentence(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError) as raised:
        load_images(tmp_path / "a.parquet", None, size=4)
    assert str(tmp_path / "a.parquet") in sentence(raised)


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow") as raised:
        load_images(tmp_path / "a.parquet", None, size=4)
    sentence(raised)


@pytest.mark.parametrize("held_out", ["test", "validation", "val"])
def test_an_image_folder_with_splits(tmp_path, held_out):
    paint(tmp_path / "train" / "b" / "1.png", 1)
    paint(tmp_path / "train" / "a" / "1.png", 0)
    paint(tmp_path / held_out / "b" / "1.png", 1)
    assert numbers(load_images(tmp_path, "train", size=4)) == [0, 1]
    assert len(load_images(tmp_path, "test", size=4)) == 1
    with pytest.raises(ValueError, match="choose train or test") as raised:  # else the splits would be the classes
        load_images(tmp_path, None, size=4)
    sentence(raised)


def test_a_folder_without_splits_is_not_guessed_to_be_one(tmp_path):
    paint(tmp_path / "a" / "1.png", 1)
    assert len(load_images(tmp_path, None, size=4)) == 1
    for split in ("train", "test"):
        with pytest.raises(FileNotFoundError, match=f"no {split} split") as raised:
            load_images(tmp_path, split, size=4)
        sentence(raised)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name_or_path": "cifar11"}, "cifar10"),
        ({"split": "val"}, "'val'"),
        ({"split": None}, "choose train or test"),
        ({"channels": 4}, "got 4"),
        ({"size": 0}, "got 0"),
    ],
)
def test_what_cannot_be_meant_is_answered_in_one_sentence(arguments, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said) as raised:
        load_images(**{"name_or_path": "fashion-mnist", "split": "test", "size": 32, **arguments})
    sentence(raised)
