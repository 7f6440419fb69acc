"""The folder of a distilled set: written a class at a time, read back like any other folder of labelled pictures.

0000_t-shirt-top/0000.png and so on, and classes.json, which says what label and name each class folder has. Sorted
folder names are in label order, so that torchvision's ImageFolder and Hugging Face's "imagefolder" read the same ones.
"""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from igds.data import ImageSet, picture, png
from igds.files import write_json, write_through, write_whole
from igds.pictures import are_grey, read_pictures
from igds.runs import class_folder

INDEX = "classes.json"
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def write_class(folder: Path, label: int, name: str, images: Tensor) -> Path:
    """Write the uint8 images (n, C, H, W) of one class: its folder appears by one rename, with all of them.

    ValueError where the class is there already. Whatever a stopped attempt left is cleared away.
    """
    target = folder / class_folder(label, name)
    if target.exists():
        raise ValueError(f"{target} is there already: delete it to write the class {name} again")
    partial = folder / f".{target.name}.partial"
    if partial.exists():
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
        for i, image in enumerate(images):
            write_through(partial / f"{i:04d}.png", png(image))
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def write_index(folder: Path, names: Sequence[str]) -> None:
    """Write classes.json: the label, folder and name of every class."""
    entries = [{"label": y, "folder": class_folder(y, name), "name": name} for y, name in enumerate(names)]
    write_json(folder / INDEX, entries)


def read_image_folder(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    unreadable: dict[int, str] | None = None,
) -> ImageSet:
    """A distilled folder by its classes.json; any other with a folder a class, whose sorted names are the classes.

    Pictures are read by `pixels_of`; `channels` is 1 or 3, and without it grey if all pictures are. Raises
    FileNotFoundError where there is no such folder, and ValueError for a class without pictures, for a picture that
    cannot be read (unless `unreadable` takes it: see `read_pictures`), and where pictures differ in size and no `size`
    is given.
    """
    folder = Path(path)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    classes = _classes(folder)
    files = [_pictures(own) for _, own in classes]
    pictures = [(str(file), file) for own in files for file in own]
    if channels is None:
        channels = 1 if are_grey(pictures) else 3
    images = read_pictures(pictures, len(pictures), size=size, channels=channels, unreadable=unreadable)
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(own) for own in files]))
    return ImageSet(images, labels, tuple(name for name, _ in classes))


def count_pictures(path: str | Path) -> dict[str, int]:
    """How many pictures `read_image_folder` would read of each class, without opening any; errors as there."""
    return {name: len(_pictures(own)) for name, own in _classes(Path(path))}


def to_parquet(folder: str | Path, path: str | Path) -> None:
    """Write the pictures of `folder`, as they are, to one parquet file that Hugging Face `datasets` reads.

    Its columns are `image` {bytes, path} and `label`, a ClassLabel with the names of the classes. Raises ValueError
    where pyarrow is not installed, and as `read_image_folder` does for a folder that is none.
    """
    folder = Path(folder)
    classes = _classes(folder)
    files = [(label, file) for label, (_, own) in enumerate(classes) for file in _pictures(own)]
    rows = [(file.read_bytes(), file.relative_to(folder).as_posix()) for _, file in files]
    _write_parquet(path, rows, [label for label, _ in files], [name for name, _ in classes])


def images_to_parquet(images: ImageSet, path: str | Path) -> None:
    """Write an image set as JPEGs (quality 95, 4:4:4) to one parquet file, as `to_parquet` does; errors as there."""
    rows = []
    for index, image in enumerate(images.images):
        buffer = io.BytesIO()
        picture(image).save(buffer, "JPEG", quality=95, subsampling=0)
        rows.append((buffer.getvalue(), f"{index:0{len(str(len(images.labels)))}d}.jpg"))
    _write_parquet(path, rows, images.labels.tolist(), images.classes)


def _write_parquet(
    path: str | Path, rows: Sequence[tuple[bytes, str]], labels: Sequence[int], classes: Sequence[str]
) -> None:
    """`rows` are the bytes and the name of each picture."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError("parquet needs pyarrow: `pip install pyarrow`") from None
    columns = {"image": [{"bytes": content, "path": name} for content, name in rows], "label": labels}
    features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    schema = pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer)
    write_whole(Path(path), buffer.getvalue())


def _classes(folder: Path) -> list[tuple[str, Path]]:
    """The name and folder of every class, in label order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give one that holds a folder of pictures for each class")
    index = folder / INDEX
    if not index.exists():
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not found:
            raise ValueError(f"{folder} holds no folders: give one that holds a folder of pictures for each class")
        return [(name, folder / name) for name in found]
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        labels = [entry["label"] for entry in entries]
        classes = [(str(entry["name"]), folder / Path(entry["folder"]).name) for entry in entries]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        labels, classes = None, []
    if not classes or labels != list(range(len(classes))):
        raise ValueError(f"{index} does not list label, folder and name of every class: get the set again")
    missing = [name for name, own in classes if not own.is_dir()]
    if missing:
        raise ValueError(f"{folder} has no pictures of {missing[0]} yet: the command that made it goes on from there")
    return classes


def _pictures(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not files:
        raise ValueError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}): put some there, or take the folder away")
    return files
