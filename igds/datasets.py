"""Real data sets as image sets: those that `fetch` knows in their official layouts, image folders, and parquet."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from igds.data import ImageSet, fashion_mnist, picture
from igds.distilled import read_image_folder
from igds.fetch import SOURCES, is_fetched, place
from igds.pictures import Named, are_grey, pixels_of, read_pictures

SPLITS = ("train", "test")
_SPLIT_NAMES = {"train": ("train",), "test": ("test", "validation", "val")}

# WordNet ids and classes in label order. ImageWoof's is the order of its published list of breeds, which the field's
# code follows, and not that of its folders. Lists in circulation pair the sorted ids with the breeds in that order,
# and so give most of them another's name; the pairs here are ImageNet's.
IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
IMAGEWOOF = {
    "n02096294": "Australian terrier",
    "n02093754": "Border terrier",
    "n02111889": "Samoyed",
    "n02088364": "Beagle",
    "n02086240": "Shih-Tzu",
    "n02089973": "English foxhound",
    "n02087394": "Rhodesian ridgeback",
    "n02115641": "Dingo",
    "n02099601": "Golden retriever",
    "n02105641": "Old English sheepdog",
}


def load_images(name_or_path: str | Path, split: str | None, *, size: int, channels: int | None = None) -> ImageSet:
    """A data set in memory: images (N, channels, size, size) with the labels and class names of their publisher.

    `name_or_path` is one of `fetch.SOURCES`, or a path: the folder of such a data set wherever it is, an image folder
    (a folder for each class), or parquet (a file, or a folder of them) in the layout of Hugging Face `datasets`.
    `split` is "train" or "test", where "test" is what the publisher calls test, validation or val, the first that is
    there; a path that has no splits is read with `split` None, so that nothing is ever tested on what it was trained
    on by a guess. An image of another size is centre-cropped to a square and resized (Lanczos). `channels` is 3, 1,
    or None for what the images have: 1 where all are grey.

    Raises FileNotFoundError where nothing is there, ValueError where it cannot be read, in one sentence each.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be {' or '.join(SPLITS)}, or None for data without splits, got {split!r}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey), 3 (RGB) or None, got {channels}")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    known = name_or_path in SOURCES
    path = place(name_or_path) if known else Path(name_or_path)
    is_cifar10, is_tiny_imagenet = (path / "batches.meta.txt").exists(), (path / "wnids.txt").exists()
    if not known and not path.exists():
        raise FileNotFoundError(
            f"{path} is no folder, no parquet file and no data set's name: the names are {', '.join(SOURCES)}"
        )
    if split is None and (known or is_cifar10 or is_tiny_imagenet):
        raise ValueError(f"{name_or_path} has two splits: choose {' or '.join(SPLITS)}")
    if name_or_path == "fashion-mnist":
        return _fitted(fashion_mnist(split), size, channels)
    if known and not is_fetched(name_or_path):
        raise FileNotFoundError(f"there is no {path}: run `python -m igds fetch {name_or_path}`")
    if is_cifar10:
        return _fitted(_read_cifar10(path, split), size, channels)
    if is_tiny_imagenet:
        return _read_tiny_imagenet(path, split, size, channels)
    part = _part(path, split)
    if isinstance(part, list):
        images = _read_parquet(part, size, channels)
    else:
        images = read_image_folder(part, size=size, channels=channels)
    for names in (IMAGENETTE, IMAGEWOOF):
        if set(images.classes) == set(names):
            return _relabelled(images, list(names), tuple(names.values()))
    return images


def _part(path: Path, split: str | None) -> Path | list[Path]:
    """An image folder, or the parquet files, that hold a split of `path`, or (None) all of it."""
    if split is None:
        if _find(path, "train") and _find(path, "test"):
            raise ValueError(f"{path} has splits: choose {' or '.join(SPLITS)}")
        return [path] if path.is_file() else sorted(path.glob("*.parquet")) or path
    if path.is_file():
        raise ValueError(f"{path} is one file without splits: give the folder that holds the {split} split")
    part = _find(path, split)
    if part is None:
        names = ", ".join(_SPLIT_NAMES[split])
        raise FileNotFoundError(
            f"{path} has no {split} split: it needs a folder or parquet files of that name ({names})"
        )
    return part


def _find(path: Path, split: str) -> Path | list[Path] | None:
    for name in _SPLIT_NAMES[split]:
        if (path / name).is_dir():
            return path / name
        if files := sorted(path.glob(f"{name}*.parquet")) or sorted(path.glob(f"data/{name}*.parquet")):
            return files
    return None


def _relabelled(images: ImageSet, order: list[str], names: tuple[str, ...]) -> ImageSet:
    """The same images with labels in the given order of their classes, which get these names."""
    labels = torch.tensor([order.index(name) for name in images.classes])
    return ImageSet(images.images, labels[images.labels], names)


def _read_cifar10(path: Path, split: str) -> ImageSet:
    """CIFAR-10's binary version: a record is a label and the 32×32 planes of red, green and blue, 3073 bytes."""
    classes = tuple((path / "batches.meta.txt").read_text(encoding="ascii").split())
    files = [path / f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else [path / "test_batch.bin"]
    batches = []
    for file in files:
        content = np.fromfile(file, np.uint8)
        if not len(content) or len(content) % 3073 or content[::3073].max() >= len(classes):
            raise ValueError(f"{file} is not a complete batch of CIFAR-10's binary version: fetch cifar10 again")
        batches.append(content.reshape(-1, 3073))
    records = torch.from_numpy(np.concatenate(batches))
    return ImageSet(records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long(), classes)


def _read_tiny_imagenet(path: Path, split: str, size: int, channels: int | None) -> ImageSet:
    """Labels in the order of wnids.txt; "test" is `val`, since the official test split has no public labels."""
    wnids = (path / "wnids.txt").read_text(encoding="utf-8").split()
    names = _words(path, wnids)
    if split == "train":
        images = read_image_folder(path / "train", size=size, channels=channels)
        if set(images.classes) != set(wnids):
            raise ValueError(f"{path / 'train'} has other classes than wnids.txt: fetch tiny-imagenet again")
        return _relabelled(images, wnids, names)
    annotations = path / "val" / "val_annotations.txt"
    rows = [row.split("\t") for row in annotations.read_text(encoding="utf-8").splitlines()]
    if not rows or min(map(len, rows)) < 2:
        raise ValueError(f"{annotations} does not list files and classes: fetch tiny-imagenet again")
    files, classes = zip(*((path / "val" / "images" / row[0], row[1]) for row in rows))
    if not set(classes) <= set(wnids):
        raise ValueError(f"{path / 'val'} has other classes than wnids.txt: fetch tiny-imagenet again")
    images = read_pictures(((str(file), file) for file in files), len(files), size=size, channels=channels or 3)
    return ImageSet(images, torch.tensor([wnids.index(wnid) for wnid in classes]), names)


def _words(path: Path, wnids: list[str]) -> tuple[str, ...]:
    """The first of each class's names in words.txt, with its WordNet id where two classes share it."""
    lines = (path / "words.txt").read_text(encoding="utf-8").splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return tuple(f"{name} ({wnid})" if names.count(name) > 1 else name for name, wnid in zip(names, wnids))


def _read_parquet(files: list[Path], size: int, channels: int | None) -> ImageSet:
    """Columns `image`, the bytes of an image file or a struct that has them as `bytes`, and `label`."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{files[0]} is parquet, which needs pyarrow: pip install pyarrow") from None
    try:
        schema = parquet.read_schema(files[0])
        if missing := {"image", "label"} - set(schema.names):
            raise ValueError(f"{files[0]} has no column {' and no column '.join(sorted(missing))}, only {schema.names}")
        labels = [label for file in files for label in parquet.read_table(file, columns=["label"])["label"].to_pylist()]
        if not labels:
            raise ValueError(f"{files[0]} has no rows: choose another split or get it again")
        if strange := [label for label in labels if not isinstance(label, int | None)]:
            raise ValueError(f"{files[0]} has labels that are no whole numbers ({strange[0]!r}): number the classes")
        classes = _class_names(schema.metadata, labels)
        if unknown := [label for label in labels if label not in range(len(classes))]:
            raise ValueError(f"{files[0].parent} has images without a class (label {unknown[0]}): choose another split")
        if channels is None:
            channels = 1 if are_grey(_parquet_pictures(files)) else 3
        images = read_pictures(_parquet_pictures(files), len(labels), size=size, channels=channels)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{files[0]} cannot be read as parquet ({reason}): get it again") from None
    return ImageSet(images, torch.tensor(labels), classes)


def _class_names(metadata: dict[bytes, bytes] | None, labels: list[int | None]) -> tuple[str, ...]:
    """What `datasets` has written into the schema, or else the numbers."""
    features = json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get("label", {}).get("names")
    return tuple(names or map(str, range(1 + max(label or 0 for label in labels))))


def _parquet_pictures(files: list[Path]) -> Iterator[Named]:
    from pyarrow import parquet

    for file in files:
        row = 0
        for batch in parquet.ParquetFile(file).iter_batches(64, columns=["image"]):
            for image in batch["image"].to_pylist():
                content = image.get("bytes") if isinstance(image, dict) else image
                if not isinstance(content, bytes | None):
                    raise ValueError(f"{file} has images that are no image files ({content!r}): store their bytes")
                yield f"the image in row {row} of {file}", io.BytesIO(content or b"")
                row += 1


def _fitted(images: ImageSet, size: int, channels: int | None) -> ImageSet:
    channels = channels or images.images.shape[1]
    if images.images.shape[1:] == (channels, size, size):
        return images
    fitted = torch.empty(len(images), channels, size, size, dtype=torch.uint8)
    for pixels, image in zip(fitted, images.images):
        pixels.copy_(pixels_of(picture(image), size=size, channels=channels))
    return ImageSet(fitted, images.labels, images.classes)
