"""Files that are there whole or not at all, whatever stops who writes them; and what to say where they cannot be."""

import errno
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


def sentence_of(error: Exception) -> str:
    """What to tell a user: the error's own words, and of what the system says, which file and what to do."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    place = error.filename or "the output folder"
    remedies = {
        errno.ENOSPC: "is on a full disk: free some space or choose another place",
        errno.ENOENT: "does not exist: check the path",
        errno.EACCES: "may not be written or read by you: choose another place",
        errno.EROFS: "is on a read-only disk: choose another place",
    }
    return f"{place} {remedies.get(error.errno, f'cannot be used ({error.strerror}): choose another place')}"
