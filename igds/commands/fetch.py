"""`fetch`: data sets and checkpoints from their official addresses."""

import sys
from pathlib import Path

from tqdm import tqdm

from igds.datasets import load_images
from igds.distilled import images_to_parquet
from igds.fetch import CHECKPOINTS, LARGE, SOURCES, announcement, fetch, is_fetched, place, source


def add(commands) -> None:
    parser = commands.add_parser(
        "fetch",
        help="download a data set or a checkpoint",
        description="Download a data set or a checkpoint from its official address, check it and unpack it. A download "
        "that was cut off goes on where it stood. `import` and `complete` make a bundle of checkpoints.",
        epilog="fetch imagenette-160 --parquet imagenette-64 --size 64 writes train.parquet and validation.parquet of "
        "64×64 pixels: centre-cropped, Lanczos, JPEG of quality 95.",
    )
    parser.set_defaults(command=_fetch)
    parser.add_argument(
        "name", choices=[*SOURCES, *CHECKPOINTS], metavar="NAME", help=", ".join([*SOURCES, *CHECKPOINTS])
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where they are kept (default: ~/.cache/igds)")
    parser.add_argument("--parquet", type=Path, metavar="DIR", help="also write a data set to this folder, scaled down")
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="of --parquet (default: %(default)s)")
    parser.add_argument("--yes", action="store_true", help="do not ask before gigabytes")


def _fetch(options) -> None:
    name, cache, folder = options.name, options.cache, options.parquet
    if folder is not None and name not in SOURCES:
        raise ValueError(f"{name} is a checkpoint: --parquet is for the data sets {', '.join(SOURCES)}")
    if options.size < 1:
        raise ValueError(f"--size must be at least 1 pixel, got {options.size}")
    if is_fetched(name, cache=cache):
        print(f"{place(name, cache=cache)} is there already")
    else:
        _download(name, cache, options.yes)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for split, file in (("train", "train.parquet"), ("test", "validation.parquet")):
            images = load_images(place(name, cache=cache) if cache else name, split, size=options.size)
            images_to_parquet(images, folder / file)
            print(f"{len(images.labels):,} images written to {folder / file}")


def _download(name: str, cache: Path | None, yes: bool) -> None:
    print(announcement(name, cache=cache), file=sys.stderr)
    if source(name).size > LARGE and not yes and not _agreed():
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
