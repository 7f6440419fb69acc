"""Locks on folders that processes share; the system lifts them when a process ends, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time may be in here, of those that name the same file, which is made."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hold_place(folder: Path, places: Path, rank: int, world: int) -> IO[str]:
    """Place `rank` of `world` in `folder`, kept in the folder `places` until what is returned is closed.

    ValueError where it is taken, or one of another number of processes, who would share the work otherwise.
    """
    own = (places / f"rank-{rank}-of-{world}").open("w")
    try:
        _try_lock(own, folder)
        for path in places.glob("rank-*"):
            if not path.name.endswith(f"-of-{world}"):
                with path.open("w") as other:
                    _try_lock(other, folder)
    except BaseException:
        own.close()
        raise
    return own


def _try_lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{folder} is in use by another run: wait for it, stop it, or choose another folder") from None
