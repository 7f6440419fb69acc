"""`fetch`: data sets and checkpoints from their official addresses."""

import sys
from pathlib import Path

from tqdm import tqdm

from igds.fetch import CHECKPOINTS, LARGE, SOURCES, announcement, fetch, is_fetched, place, source


def add(commands) -> None:
    parser = commands.add_parser(
        "fetch",
        help="download a data set or a checkpoint",
        description="Download a data set or a checkpoint from its official address, check it and unpack it. A download "
        "that was cut off goes on where it stood. `import` and `complete` make a bundle of checkpoints.",
    )
    parser.set_defaults(command=_fetch)
    parser.add_argument(
        "name", choices=[*SOURCES, *CHECKPOINTS], metavar="NAME", help=", ".join([*SOURCES, *CHECKPOINTS])
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where they are kept (default: ~/.cache/igds)")
    parser.add_argument("--yes", action="store_true", help="do not ask before gigabytes")


def _fetch(options) -> None:
    name, cache = options.name, options.cache
    if is_fetched(name, cache=cache):
        print(f"{place(name, cache=cache)} is there already")
        return
    print(announcement(name, cache=cache), file=sys.stderr)
    if source(name).size > LARGE and not options.yes and not _agreed():
        raise ValueError("nothing was downloaded: give --yes to go ahead")
    at_work = None
    with tqdm(unit="B", unit_scale=True) as progress:
        for event in fetch(name, cache=cache):
            if (event.stage, event.file) != at_work:
                at_work = event.stage, event.file
                progress.reset(event.total)
                progress.set_description(f"{event.stage} {event.file}")
            progress.update(event.done - progress.n)
    print(f"written to {place(name, cache=cache)}")


def _agreed() -> bool:
    """Whether whoever sits at the terminal says yes; nobody does where there is none."""
    if not sys.stdin.isatty():
        return False
    print("Download it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
