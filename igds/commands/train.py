"""`train`: the parts of an embedded bundle, one by one, and the bundle; `train all` is in train_all."""

from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from igds.bundle import DEFAULT, HELD_OUT, PARTS, load_bundle
from igds.card import assemble
from igds.commands import train_all
from igds.commands.distil import own_device, rank_and_world
from igds.device import DEVICES
from igds.processes import joined
from igds.recipes import RECIPES


def add(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train a bundle: of your own images, or part by part",
        description="`train all` makes a bundle of your own images. The others train the parts of an embedded bundle, "
        "each resumable by the same command, then measure and assemble them: prior, estimator and classifier are "
        "independent of each other; bundle comes last. Several processes of `accelerate launch` or torchrun share "
        "every batch of theirs (docs/many-processes.md).",
    )
    parts = parser.add_subparsers(required=True, metavar="PART")
    train_all.add(parts)
    for part in (*PARTS, HELD_OUT, "bundle"):
        _add_part(parts, part)


def _add_part(parts, part: str) -> None:
    is_bundle = part == "bundle"
    parser = parts.add_parser(part, help="measure and assemble the parts" if is_bundle else f"train the {part}")
    parser.set_defaults(command=_train, part=part)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default=DEFAULT, help="data, networks and budgets")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the data set's original files are")
    parser.add_argument("--work", type=Path, metavar="DIR", help="checkpoints (default: training/RECIPE)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="bundle only: the folder to write (default: bundles/RECIPE)"
    )
    parser.add_argument("--base", metavar="BUNDLE", help="bundle only: where parts come from that have no checkpoint")
    parser.add_argument("--images", type=int, help="training length (default: the recipe's)")
    parser.add_argument("--minutes", type=float, help="stop after this time; the same command goes on from there")
    parser.add_argument(
        "--compile", action="store_true", help="compile the network first: pays from about 50,000 images on"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _train(options) -> None:
    for name in ("images", "minutes"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be more than 0, got {value}")
    recipe = RECIPES[options.recipe]
    work = options.work or Path("training") / options.recipe
    device = own_device(options.device)
    rank, world = rank_and_world()
    load = {"folder": options.data}
    if options.part == "bundle":
        if rank > 0:
            return  # it is measured by one process
        out = options.out or Path("bundles") / options.recipe
        base = load_bundle(options.base, device=device) if options.base else None
        train, test = recipe.load("train", **load), recipe.load("test", **load)
        steps = assemble(recipe, train, test, work=work, out=out, device=device, base=base)
        for message in steps:
            if isinstance(message, str):
                print(message, flush=True)
        return
    with joined(rank, world, device) as processes:
        torch.manual_seed(rank)  # of dropout alone, whose masks would otherwise be the same in all processes
        training = recipe.training(
            options.part,
            recipe.load("train", **load),
            folder=work,
            images=options.images,
            device=device,
            compile=options.compile,
            processes=processes,
        )
        events = training.run(minutes=options.minutes)
        _follow(events, training.seen, training.images, options.part, is_shown=processes.is_main)
    if processes.is_main and training.seen < training.images:
        print(f"{training.seen:,} of {training.images:,} images seen: the same command goes on from there")


def _follow(events: Iterator, seen: int, total: int, name: str, *, is_shown: bool) -> None:
    with tqdm(total=total, initial=seen, unit="img", desc=name, smoothing=0.05, disable=not is_shown) as progress:
        for event in events:
            progress.update(event.images - progress.n)
            progress.set_postfix_str(f"loss {event.loss:.4f}")
