"""`train`: the parts of a bundle, one by one, and the bundle."""

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from igds.bundle import DEFAULT, HELD_OUT, PARTS, load_bundle
from igds.card import assemble
from igds.device import DEVICES, choose_device
from igds.recipes import RECIPES


def add(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train a bundle, part by part",
        description="Train the parts of a bundle, each resumable by the same command, then measure and assemble them. "
        "prior, estimator and classifier are independent of each other; bundle comes last.",
    )
    parser.set_defaults(command=_train)
    parser.add_argument("part", choices=[*PARTS, HELD_OUT, "bundle"])
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
    device = choose_device(options.device)
    load = {"folder": options.data}
    if options.part == "bundle":
        out = options.out or Path("bundles") / options.recipe
        base = load_bundle(options.base, device=device) if options.base else None
        train, test = recipe.load("train", **load), recipe.load("test", **load)
        steps = assemble(recipe, train, test, work=work, out=out, device=device, base=base)
        for message in steps:
            print(message, flush=True)
        return
    data = recipe.load("train", **load)
    training = recipe.training(
        options.part, data, folder=work, images=options.images, device=device, compile=options.compile
    )
    _follow(training.run(minutes=options.minutes), training.seen, training.images, options.part)
    if training.seen < training.images:
        print(f"{training.seen:,} of {training.images:,} images seen: the same command goes on from there")


def _follow(events: Iterator, seen: int, total: int, name: str) -> None:
    with tqdm(total=total, initial=seen, unit="img", desc=name, smoothing=0.05) as progress:
        for event in events:
            progress.update(event.images - progress.n)
            progress.set_postfix_str(f"loss {event.loss:.4f}")
