"""Real data sets as image sets: those that `fetch` knows in their official layouts, image folders, parquet, Arrow."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from igds.data import ImageSet, fashion_mnist, picture
from igds.distilled import count_pictures, read_image_folder
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


def load_images(
    name_or_path: str | Path,
    split: str | None,
    *,
    size: int,
    channels: int | None = None,
    unreadable: dict[int, str] | None = None,
) -> ImageSet:
    """A data set in memory: images (N, channels, size, size) with the labels and class names of their publisher.

    `name_or_path` is one of `fetch.SOURCES`, or a path: the folder of such a data set wherever it is, an image folder
    (a folder for each class), parquet (a file, or a folder of them) in the layout of Hugging Face `datasets`, or what
    its `save_to_disk` has written.
    `split` is "train" or "test", where "test" is what the publisher calls test, validation or val, the first that is
    there; a path that has no splits is read with `split` None, so that nothing is ever tested on what it was trained
    on by a guess. An image of another size is centre-cropped to a square and resized (Lanczos). `channels` is 3, 1,
    or None for what the images have: 1 where all are grey. With `unreadable`, a picture of a path that cannot be read
    is black, and that dictionary says why by its place.

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
        images = _read_table(part, size, channels, unreadable)
    else:
        images = read_image_folder(part, size=size, channels=channels, unreadable=unreadable)
    for names in (IMAGENETTE, IMAGEWOOF):
        if set(images.classes) == set(names):
            return _relabelled(images, list(names), tuple(names.values()))
    return images


def is_published(name_or_path: str | Path) -> bool:
    """Whether it is a data set of `fetch.SOURCES` by name, or has the layout of CIFAR-10 or Tiny ImageNet."""
    path = Path(name_or_path)
    return str(path) in SOURCES or (path / "batches.meta.txt").exists() or (path / "wnids.txt").exists()


def splits_of(name_or_path: str | Path) -> tuple[str, ...]:
    """Which of `SPLITS` a data set has, by its name or its layout; none where all of it is one."""
    path = Path(name_or_path)
    return tuple(split for split in SPLITS if is_published(path) or (path.is_dir() and _find(path, split)))


def count_images(path: str | Path, split: str | None) -> dict[str, int]:
    """How many images of each class an image folder, parquet or Arrow holds, without reading any.

    Raises FileNotFoundError where nothing is there and ValueError where it is none of these, in one sentence each.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: give a folder that holds a folder of pictures for each class")
    part = _part(path, split)
    if not isinstance(part, list):
        return count_pictures(part)
    rows = _read_rows(part)
    counts = Counter(rows.labels)
    return {name: counts[label] for label, name in enumerate(rows.classes)}


def _part(path: Path, split: str | None) -> Path | list[Path]:
    """An image folder, or the parquet or Arrow files, that hold a split of `path`, or (None) all of it."""
    if split is None:
        if _find(path, "train") and _find(path, "test"):
            raise ValueError(f"{path} has splits: choose {' or '.join(SPLITS)}")
        return [path] if path.is_file() else _tables(path) or path
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
            return _tables(path / name) or path / name
        if files := sorted(path.glob(f"{name}*.parquet")) or sorted(path.glob(f"data/{name}*.parquet")):
            return files
    return None


def _tables(folder: Path) -> list[Path]:
    """The files of a folder that holds rows: parquet, or the Arrow files of `save_to_disk`."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data-*.arrow"))


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


@dataclass(frozen=True)
class _Rows:
    """What the rows of parquet or Arrow files are labelled, and which column has their images."""

    labels: list[int]
    classes: tuple[str, ...]
    column: str


def _read_rows(files: list[Path]) -> _Rows:
    """Columns `image`, the bytes of an image file or a struct that has them as `bytes`, and `label`.

    Columns that `datasets` has declared to be an Image and a ClassLabel may have any name.
    """
    try:
        import pyarrow
    except ImportError:
        raise ValueError(f"{files[0]} needs pyarrow to be read: pip install pyarrow") from None
    try:
        schema = _schema(files[0])
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        image, label = _column(features, "Image", "image"), _column(features, "ClassLabel", "label")
        if missing := {image, label} - set(schema.names):
            raise ValueError(f"{files[0]} has no column {' and no column '.join(sorted(missing))}, only {schema.names}")
        labels = [value for file in files for rows in _batches(file, label) for value in rows]
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_read(files[0], error) from None
    if not labels:
        raise ValueError(f"{files[0]} has no rows: choose another split or get it again")
    if strange := [value for value in labels if not isinstance(value, int | None)]:
        raise ValueError(f"{files[0]} has labels that are no whole numbers ({strange[0]!r}): number the classes")
    names = features.get(label, {}).get("names")
    classes = tuple(names or map(str, range(1 + max(value or 0 for value in labels))))
    known = range(len(classes))
    if unknown := [value for value in labels if value not in known]:
        raise ValueError(f"{files[0].parent} has images without a class (label {unknown[0]}): choose another split")
    return _Rows(labels, classes, image)


def _column(features: dict, kind: str, usual: str) -> str:
    """The first column that `datasets` has declared to be of a kind, or else the usual name."""
    declared = (
        name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == kind
    )
    return next(declared, usual)


def _read_table(files: list[Path], size: int, channels: int | None, unreadable: dict[int, str] | None) -> ImageSet:
    rows = _read_rows(files)
    from pyarrow import ArrowException

    try:
        if channels is None:
            channels = 1 if are_grey(_table_pictures(files, rows.column)) else 3
        pictures = _table_pictures(files, rows.column)
        images = read_pictures(pictures, len(rows.labels), size=size, channels=channels, unreadable=unreadable)
    except (ArrowException, OSError) as error:
        raise _not_read(files[0], error) from None
    return ImageSet(images, torch.tensor(rows.labels), rows.classes)


def _not_read(file: Path, error: Exception) -> ValueError:
    kind, reason = file.suffix.removeprefix(".") or "parquet", str(error).partition("\n")[0]
    return ValueError(f"{file} cannot be read as {kind} ({reason}): get it again")


def _table_pictures(files: list[Path], column: str) -> Iterator[Named]:
    for file in files:
        row = 0
        for images in _batches(file, column):
            for image in images:
                content = image.get("bytes") if isinstance(image, dict) else image
                if not isinstance(content, bytes | None):
                    raise ValueError(f"{file} has images that are no image files ({content!r}): store their bytes")
                yield f"the image in row {row} of {file}", io.BytesIO(content or b"")
                row += 1


def _schema(file: Path):
    import pyarrow
    from pyarrow import parquet

    if file.suffix != ".arrow":
        return parquet.read_schema(file)
    with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as reader:
        return reader.schema


def _batches(file: Path, column: str) -> Iterator[list[Any]]:
    """One column of a file, some rows at a time."""
    import pyarrow
    from pyarrow import parquet

    if file.suffix != ".arrow":
        for batch in parquet.ParquetFile(file).iter_batches(64, columns=[column]):
            yield batch[column].to_pylist()
        return
    with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as reader:
        for batch in reader:
            yield batch.column(column).to_pylist()


def _fitted(images: ImageSet, size: int, channels: int | None) -> ImageSet:
    channels = channels or images.images.shape[1]
    if images.images.shape[1:] == (channels, size, size):
        return images
    fitted = torch.empty(len(images), channels, size, size, dtype=torch.uint8)
    for pixels, image in zip(fitted, images.images):
        pixels.copy_(pixels_of(picture(image), size=size, channels=channels))
    return ImageSet(fitted, images.labels, images.classes)
