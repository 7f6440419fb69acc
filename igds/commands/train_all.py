"""`train all`: a bundle of one's own images, by one command."""

import argparse
import math
import shutil
from pathlib import Path

import torch
from tqdm import tqdm

from igds.bundle import load_bundle, read_card
from igds.commands.distil import rank_and_world
from igds.device import DEVICES, choose_device
from igds.own_images import OwnImages, own_class_counts, read_own_images, too_small_for_a_prior
from igds.own_recipe import DEFAULT_SIZE, SIZES, check_size, own_recipe, prospects
from igds.priors.empirical import LIMITS, EmpiricalPrior
from igds.recipes import Recipe
from igds.train_all import (
    MEASURING,
    ORDER,
    WORK,
    Plan,
    check_out,
    is_complete,
    measure_speeds,
    plan,
    read_plan,
    train_all,
)

FEW = 200  # images of a class, under which its samples are likely to be copies
SHOWN = 10

EXAMPLES = """\
examples:
  python -m igds train all --data my_folder/ --out my_bundle/ --minutes 60
  python -m igds train all --data my_folder/ --out my_bundle/ --training-free       # few images: seconds to minutes
  python -m igds train all --data my_folder/ --out my_bundle/ --from imagenette-32  # fine-tunes its prior
  python -m igds sample --bundle my_bundle/ --ipc 10 --out samples/

docs/your-own-images.md says what a budget buys.
"""


def add(parts) -> None:
    parser = parts.add_parser(
        "all",
        help="everything, of your own images",
        description="Make a bundle of your own images: prior, estimator, held-out estimator and classifier are trained "
        "and measured. The images: a folder for each class, parquet, or what `save_to_disk` of Hugging Face datasets "
        "wrote, with a train and a test (validation, val) split or without. Stopped in any way, the same command goes "
        "on from there.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_train_all)
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the images, or the name of a fetched data set")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the bundle: a new folder")
    parser.add_argument(
        "--minutes", type=float, help="a budget for all parts together (default: what photographs need, told first)"
    )
    parser.add_argument(
        "--size", type=int, help=f"pixels a side: {', '.join(map(str, SIZES))} (default: {DEFAULT_SIZE})"
    )
    parser.add_argument("--from", dest="base", metavar="BUNDLE", help="fine-tune this bundle's prior")
    parser.add_argument(
        "--training-free", action="store_true", help="the images themselves are the prior: for few of them"
    )
    parser.add_argument("--no-flip", action="store_true", help="never mirror: for letters, signs, left hands")
    parser.add_argument("--no-gallery", action="store_true", help="put no real images into the bundle")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out files that cannot be read")
    parser.add_argument(
        "--compile", action="store_true", help="compile the networks first: pays from about 50,000 images on"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _train_all(options) -> None:
    if options.minutes is not None and not 0 < options.minutes < math.inf:
        raise ValueError(f"--minutes must be more than 0, got {options.minutes}")
    if options.training_free and options.base:
        raise ValueError("--from fine-tunes a prior and --training-free trains none: give one of them")
    if options.training_free and options.no_gallery:
        raise ValueError("--training-free puts all images into the bundle, gallery or not: leave --no-gallery out")
    if rank_and_world()[1] > 1:
        raise ValueError("train all is the work of one process: start it without accelerate or torchrun")
    out, data = options.out, Path(options.data)
    if out.resolve().is_relative_to(data.resolve()):
        raise ValueError(f"{out} lies within {data}, whose folders are its classes: choose another place")
    check_out(out)
    command = _command(options)
    if is_complete(out):
        if read_card(out).get("training", {}).get("command") != command:
            raise ValueError(f"{out} is a bundle that was made otherwise: choose a new folder")
        shutil.rmtree(out / WORK, ignore_errors=True)
        print(f"{out} is complete already")
        return
    device = choose_device(options.device)
    base = load_bundle(options.base, device=device, needs=()) if options.base else None
    size = options.size or (base.prior.shape[1] if base else DEFAULT_SIZE)
    check_size(size)
    counts = own_class_counts(options.data)
    if (refusal := too_small_for_a_prior(counts, data)) and not options.training_free and not base:
        raise ValueError(refusal)
    print(f"reading {data}{f': {sum(counts.values()):,} files' if counts else ''} ...", flush=True)
    images = read_own_images(options.data, size=size, skip_unreadable=options.skip_unreadable)
    print(_read(images, data), flush=True)
    recipe = own_recipe(
        images,
        name=data.resolve().name,
        flip=not options.no_flip,
        shows_images=not options.no_gallery,
        trains_prior=not options.training_free,
        base=base,
    )
    prior = EmpiricalPrior.of(images.train, flip=not options.no_flip) if options.training_free else None
    key = {"options": command, "images": images.fingerprint()}
    made = read_plan(out / WORK, key=key)
    if made is None:
        print("measuring how fast this machine is ...", flush=True)
        speeds = measure_speeds(recipe, images.train, device=device, prior=prior, minutes=options.minutes)
        made = plan(recipe, images, speeds, minutes=options.minutes)
        print(announced(made, recipe, images), flush=True)
    else:
        print("going on with the plan of the first start", flush=True)
    try:
        events = train_all(
            recipe,
            images,
            made,
            out=out,
            key=key,
            device=device,
            prior=prior,
            base=base,
            compile=options.compile,
            about={"data": images.about()},
            command=command,
        )
        _follow(events, made)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from there") from None
    print(f"try it: python -m igds sample --bundle {out} --out samples, or python app/main.py --bundle {out}")


def _follow(events, made: Plan) -> None:
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left{postfix}"
    with tqdm(total=round(made.total, 1), bar_format=form, smoothing=0.05, desc="starting") as shown:
        is_first = True
        for event in events:
            if isinstance(event, str):
                shown.write(event)
                continue
            if is_first:
                shown.initial, is_first = event.done, False
            shown.total, shown.n = event.work, event.done
            shown.set_description_str(event.part, refresh=False)
            seen = f"{event.images:,} of {event.total:,} images, loss {event.loss:.3f}"
            shown.set_postfix_str("" if event.part == MEASURING else seen, refresh=False)
            shown.refresh()


def _command(options) -> str:
    """The command for the card, without the places of this machine."""
    words = ["python -m igds train all"]
    words += [f"--{name} {value:g}" for name in ("minutes", "size") if (value := getattr(options, name)) is not None]
    words += [f"--from {Path(options.base).name}"] if options.base else []
    flags = ("training_free", "no_flip", "no_gallery", "skip_unreadable")
    return " ".join([*words, *(f"--{flag.replace('_', '-')}" for flag in flags if getattr(options, flag))])


def _read(images: OwnImages, data: Path) -> str:
    train, channels, size = images.train, *images.train.images.shape[1:3]
    lines = [
        f"{data}: {len(train.classes):,} classes, {len(train):,} images to learn from and {len(images.test):,} to "
        f"measure on ({images.division}); {size}×{size}, {'grey' if channels == 1 else 'colour'}"
    ]
    if images.unreadable:
        lines.append(f"left out, {len(images.unreadable):,} files that cannot be read:")
        lines += [f"  {reason.rpartition(':')[0]}" for reason in images.unreadable[:SHOWN]]
        lines += [f"  and {len(images.unreadable) - SHOWN:,} more"] if len(images.unreadable) > SHOWN else []
    return "\n".join(lines)


def announced(made: Plan, recipe: Recipe, images: OwnImages) -> str:
    """What the plan is, and what may be hoped of it."""
    count = len(images.train)
    budget = "in the recipe's own time" if made.minutes is None else f"in {made.minutes:g} minutes"
    lines = [f"{budget}, at this machine's present speed:"]
    for part in (part for part in ORDER if part in made.images):
        seen, speed = made.images[part], made.speeds.training[part]
        lines.append(
            f"  {part:<10} {seen:>10,} images, each {_times(seen / count)}; {_clock(made.seconds(part)):>8} at "
            f"{speed:,.0f} a second"
        )
    samples = made.samples_per_class * len(images.train.classes)
    lines.append(f"  {MEASURING:<10} {samples:>10,} samples of the prior, judged; {_clock(made.measuring_seconds):>8}")
    lines.append(f"  {'together':<10} {_clock(made.total)}")
    if made.minutes is not None and made.total > 66 * made.minutes:
        lines.append("that is more than was given, and the least in which every part is trained and measured")
    lines.append(
        LIMITS if "prior" not in made.images else prospects(made.images["prior"], side=recipe.prior.image_size)
    )
    counts = torch.bincount(images.train.labels, minlength=len(images.train.classes)).tolist()
    few = [f"{name} ({n})" for name, n in zip(images.train.classes, counts) if n < FEW]
    if few and "prior" in made.images:
        more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
        lines.append(
            f"fewer than {FEW} images to learn from: {', '.join(few[:SHOWN])}{more}; samples of these are likely to be "
            "copies"
        )
    return "\n".join(lines)


def _times(epochs: float) -> str:
    return f"{epochs:,.0f} times" if epochs >= 1.5 else "once" if epochs >= 0.75 else f"{epochs:.0%} of the time"


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
