"""Data sets and checkpoints from their official addresses: downloads that resume, checked before they are unpacked."""

import difflib
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

LARGE = 10**9  # bytes; whoever downloads more than this should have been asked
_BLOCK = 2**20
_TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class File:
    """One file at its official address.

    `md5` is what its publisher gives (CIFAR-10), or else what the public loaders of the data set check, torchvision's
    among them; it tells damage, not forgery. MoCo's publisher gives its first eight digits, guided-diffusion's none.
    `size` is in bytes; where `is_least`, it is that of the weights alone, and the server is asked for the file's.
    """

    url: str
    size: int
    md5: str | None
    is_least: bool = False

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Source:
    """A data set or checkpoint: one archive, whose folder `root` becomes its own, or (None) files kept as they are."""

    title: str
    root: str | None
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes to download, at least; unpacked, the images take about as much again."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Progress:
    """How far one file is, in bytes of the file as it was published."""

    stage: Literal["download", "unpack"]
    file: str
    done: int
    total: int


_FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
_FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

SOURCES = {
    "imagenette-160": Source(
        "ImageNette, shorter side 160 pixels",
        "imagenette2-160",
        (File(f"{_FASTAI}imagenette2-160.tgz", 99_003_388, "e793b78cc4c9e9a4ccc0c1155377a412"),),
    ),
    "imagenette-320": Source(
        "ImageNette, shorter side 320 pixels",
        "imagenette2-320",
        (File(f"{_FASTAI}imagenette2-320.tgz", 341_663_724, "3df6f0d01a2c9592104656642f5e78a3"),),
    ),
    "imagenette": Source(
        "ImageNette, full size",
        "imagenette2",
        (File(f"{_FASTAI}imagenette2.tgz", 1_557_161_267, "fe2fc210e6bb7c5664d602c3cd71e612"),),
    ),
    "imagewoof-160": Source(
        "ImageWoof, shorter side 160 pixels",
        "imagewoof2-160",
        (File(f"{_FASTAI}imagewoof2-160.tgz", 92_612_825, "3d200a7be99704a0d7509be2a9fbfe15"),),
    ),
    "imagewoof-320": Source(
        "ImageWoof, shorter side 320 pixels",
        "imagewoof2-320",
        (File(f"{_FASTAI}imagewoof2-320.tgz", 328_387_740, "0f46d997ec2264e97609196c95897a44"),),
    ),
    "imagewoof": Source(
        "ImageWoof, full size",
        "imagewoof2",
        (File(f"{_FASTAI}imagewoof2.tgz", 1_343_715_595, "9aafe18bcdb1632c4249a76c458465ba"),),
    ),
    "cifar10": Source(
        "CIFAR-10, binary version",
        "cifar-10-batches-bin",
        (
            File(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170_052_171,
                "c32a1d4ab5d03f1284b67883e8d87530",
            ),
        ),
    ),
    "tiny-imagenet": Source(
        "Tiny ImageNet, 200 classes",
        "tiny-imagenet-200",
        (File("http://cs231n.stanford.edu/tiny-imagenet-200.zip", 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"),),
    ),
    "fashion-mnist": Source(
        "Fashion-MNIST",
        None,
        (
            File(f"{_FASHION_MNIST}train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            File(f"{_FASHION_MNIST}train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            File(f"{_FASHION_MNIST}t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            File(f"{_FASHION_MNIST}t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
}

_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"
_MOCO = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/"
_MOCO_3 = "https://dl.fbaipublicfiles.com/moco-v3/"

# The sizes are those of the weights that `import` and `complete` take from them, four bytes each.
CHECKPOINTS = {
    **{
        f"adm-{side}": Source(
            f"ADM, class-conditional ImageNet, {side}×{side}",
            None,
            (File(f"{_ADM}{side}x{side}_diffusion.pt", 4 * count, None, is_least=True),),
        )
        for side, count in {64: 295_904_454, 128: 421_529_606, 256: 553_838_086, 512: 558_997_638}.items()
    },
    **{
        f"moco-v2-{epochs}": Source(
            f"MoCo v2, ResNet-50, {epochs} epochs",
            None,
            (
                File(
                    f"{_MOCO}moco_v2_{epochs}ep/moco_v2_{epochs}ep_pretrain.pth.tar",
                    4 * 27_966_656,
                    md5,
                    is_least=True,
                ),
            ),
        )
        for epochs, md5 in {200: "59fd9945", 800: "a04e12f8"}.items()
    },
    **{
        f"moco-v3-{epochs}": Source(
            f"MoCo v3, ResNet-50, {epochs} epochs",
            None,
            (File(f"{_MOCO_3}r-50-{epochs}ep/r-50-{epochs}ep.pth.tar", 4 * 32_953_408, None, is_least=True),),
        )
        for epochs in (100, 300, 1000)
    },
}


def cache_folder() -> Path:
    """Where data sets are kept unless another folder is given: `igds` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "igds"


def source(name: str) -> Source:
    """A data set or a checkpoint by name; ValueError where there is none of that name."""
    known = SOURCES | CHECKPOINTS
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}"
        raise ValueError(f"there is no {name!r} to fetch: {hint}")
    return known[name]


def place(name: str, *, cache: Path | None = None) -> Path:
    """The folder of a data set or checkpoint in the cache, there or not; ValueError as `source` raises it."""
    source(name)
    return (cache or cache_folder()) / name


def is_fetched(name: str, *, cache: Path | None = None) -> bool:
    """Whether all of a data set is in the cache: a folder gets its name, and a file its own, only when complete."""
    folder, wanted = place(name, cache=cache), source(name)
    return folder.is_dir() if wanted.root else all((folder / file.name).exists() for file in wanted.files)


def announcement(name: str, *, cache: Path | None = None) -> str:
    """One sentence before a download: how much, from where and to where."""
    folder, wanted = place(name, cache=cache), source(name)
    least = "at least " if any(file.is_least for file in wanted.files) else ""
    unsigned = "" if all(file.md5 for file in wanted.files) else "; its publisher gives no checksum"
    address = wanted.files[0].url.rsplit("/", 1)[0]
    return f"{wanted.title}: {least}{_readable(wanted.size)} from {address} to {folder}{unsigned}"


def fetch(name: str, *, cache: Path | None = None) -> Iterator[Progress]:
    """Download, check and unpack a data set or checkpoint into `place(name)`; yields nothing where it is there already.

    A download that was cut off, in this run or an earlier one, goes on with its next byte. The data set's folder
    appears by one rename; its archive is then deleted. An archive that the user has put into the cache is used. A file
    without a published checksum is held to its size and, where it is a zip, as torch writes them, to the checksums of
    its members; `import` then checks every key and shape.
    Raises ValueError for an unknown name (at the call) or a file that is not the published one, FileNotFoundError
    where the address does not answer; what had arrived by then is kept.
    """
    folder = place(name, cache=cache)
    return iter(()) if is_fetched(name, cache=cache) else _fetch(source(name), folder)


def _fetch(source: Source, folder: Path) -> Iterator[Progress]:
    downloads = folder.parent if source.root else folder
    downloads.mkdir(parents=True, exist_ok=True)
    for file in source.files:
        target = downloads / file.name
        yield from _download(file, target)
        if source.root:
            yield from _unpack(target, source.root, folder)
            target.unlink()


def _download(file: File, target: Path) -> Iterator[Progress]:
    if target.exists():
        if not _is_whole(target, file):
            raise ValueError(f"{target} is not the file that {file.url} is known for: delete it and try again")
        return
    partial = target.with_name(f"{target.name}.partial")
    if file.is_least:
        file = _sized(file, partial)
    before = -1
    while (done := _size(partial)) < file.size:
        if done <= before:
            raise _no_answer(file, partial, "the connection was cut off")
        before = done
        yield from _receive(file, partial)
    if not _is_whole(partial, file):
        partial.unlink()
        raise _changed(file, target.parent, "another checksum; what had arrived was deleted")
    partial.replace(target)


def _is_whole(path: Path, file: File) -> bool:
    if file.md5:
        return _md5(path).startswith(file.md5)
    if path.stat().st_size < file.size:
        return False
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                return packed.testzip() is None
    except zipfile.BadZipFile:
        return False
    return True


def _sized(file: File, partial: Path) -> File:
    """`file` with the size that its server gives, which is no less than that of the weights in it."""
    request = urllib.request.Request(file.url, method="HEAD")
    with _asked(request, file, partial) as answer:
        size = int(answer.headers["Content-Length"] or 0)
    if size < file.size:
        raise _changed(file, partial.parent, f"{size:,} bytes instead of at least {file.size:,}")
    return replace(file, size=size)


def _receive(file: File, partial: Path) -> Iterator[Progress]:
    """Add to `partial` what comes in one connection, which may be less than all."""
    done = _size(partial)
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={done}-"} if done else {})
    with _asked(request, file, partial) as answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
        length = answer.headers["Content-Length"]
        if length and done + int(length) != file.size:
            raise _changed(file, partial.parent, f"{done + int(length):,} bytes instead of {file.size:,}")
        with partial.open("ab" if done else "wb") as out:
            while done < file.size:
                try:
                    block = answer.read(_BLOCK)
                except (OSError, http.client.HTTPException):
                    return  # cut off: the rest is asked for in another connection
                if not block:
                    return
                out.write(block)
                done += len(block)
                yield Progress("download", file.name, done, file.size)


def _asked(request: urllib.request.Request, file: File, partial: Path) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _changed(file, partial.parent, "fewer bytes than have arrived") from None
        raise _no_answer(file, partial, f"the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(file, partial, str(getattr(error, "reason", error))) from None


def _no_answer(file: File, partial: Path, reason: str) -> FileNotFoundError:
    kept = f"; the {_readable(_size(partial))} that had arrived are kept" if _size(partial) else ""
    return FileNotFoundError(
        f"{file.url} could not be downloaded ({reason}{kept}): try again, "
        f"or get {file.name} elsewhere and put it into {partial.parent}"
    )


def _changed(file: File, folder: Path, how: str) -> ValueError:
    return ValueError(
        f"{file.url} does not answer with the file that it is known for ({how}): try again, "
        f"or get {file.name} elsewhere and put it into {folder}"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"


def _md5(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(archive: Path, root: str, folder: Path) -> Iterator[Progress]:
    """`root` of the archive as `folder`, by one rename; nothing stays where it is stopped."""
    unpacking = folder.with_name(f"{folder.name}.unpacking")
    shutil.rmtree(unpacking, ignore_errors=True)
    total = archive.stat().st_size
    try:
        for name, content, done in _members(archive):
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise ValueError(f"{archive} would write outside of its folder ({name}): delete it")
            path = unpacking / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                shutil.copyfileobj(content, out)
            yield Progress("unpack", archive.name, done, total)
        (unpacking / root).rename(folder)
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)


def _members(archive: Path) -> Iterator[tuple[str, BinaryIO, int]]:
    """Each regular file of an archive: its name, its content, and how much of the archive has been read."""
    if archive.suffix == ".zip":
        done = 0
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                done += member.compress_size
                if not member.is_dir():
                    with packed.open(member) as content:
                        yield member.filename, content, done
    else:
        with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:gz") as packed:
            for member in packed:
                if member.isfile():
                    yield member.name, packed.extractfile(member), raw.tell()
