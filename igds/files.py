"""Files that are there whole or not at all, whatever stops who writes them."""

import json
import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by one rename; what stood there is replaced. OSError names `path`, whatever failed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_through(partial, content)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict | list) -> None:
    """`write_whole` of JSON; ValueError where it holds a NaN, which JSON has not."""
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_through(path: Path, content: bytes) -> None:
    """Write a file down to the disk: some file systems tell only then that it is full."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
