"""The command line: python -m igds."""

import argparse
import errno
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from igds.bundle import DEFAULT, HELD_OUT, PARTS, bundle_path, embedded_bundles, load_bundle, read_card
from igds.card import assemble
from igds.device import DEVICES, choose_device
from igds.recipes import RECIPES
from igds.runs import MAX_IPC, Record, Run
from igds.sampling import PLACES, REFERENCES, SCALINGS, SOLVERS
from igds.study import STUDIES, measure_study, sample_study, steps_study, write_study

DESCRIPTION = """\
Information-Guided Diffusion Sampling: makes a few images of a class that carry as much of
I(X;Y) + β·H(X|Y) as possible. β = 0 gives prototypes; a larger β gives them variety.
"""
SAMPLE_EXAMPLES = """\
examples:
  python -m igds sample --label Sneaker --out sneakers
      the bundle's own IPC, β, η and steps
  python -m igds sample --label Sneaker --ipc 10 --beta 0 --seed 3 --out prototypes
      prototype information only
  python -m igds sample --label Sneaker --paired --out three-ways
      unguided, prototype and contextual from the same noise, one folder each
  python -m igds sample --run sneakers/run.json --out again
      the same images once more, bit for bit on the same machine

DIR holds one folder a class with 0000.png, 0001.png, ..., run.json (every setting) and
curves.csv (the two bounds at each step, in nats).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 with one sentence on standard error for what the user can put right."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, OSError) as error:
        print(f"igds: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"\nigds: stopped; {stopped}" if str(stopped) else "\nigds: stopped", file=sys.stderr)
        return 130
    return 0


def _sentence(error: Exception) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    place = error.filename or "the output folder"
    remedies = {
        errno.ENOSPC: "is on a full disk: free some space or choose another place; nothing was kept",
        errno.ENOENT: "does not exist: check the path",
        errno.EACCES: "may not be written or read by you: choose another place",
        errno.EROFS: "is on a read-only disk: choose another place",
    }
    return f"{place} {remedies.get(error.errno, f'cannot be used ({error.strerror}): choose another place')}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m igds", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_sample(commands)
    _add_info(commands)
    _add_train(commands)
    _add_study(commands)
    return parser


def _add_sample(commands) -> None:
    parser = commands.add_parser(
        "sample",
        help="sample one class's images",
        description="Sample the images of one class, guided by the bundle's estimator.",
        epilog=SAMPLE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_sample)
    parser.add_argument("--bundle", help=f"name of an embedded bundle or path of a folder (default: {DEFAULT})")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where to write; must not exist or be empty"
    )
    parser.add_argument(
        "--run", type=Path, metavar="RUN.JSON", help="take every setting from the run.json of another run"
    )
    parser.add_argument("--label", metavar="CLASS", help="class name, see `info` (default: the first)")
    parser.add_argument("--ipc", type=int, help=f"images per class, made together, 1 to {MAX_IPC}")
    parser.add_argument("--beta", type=float, help="weight of contextual information; 0 gives prototypes")
    parser.add_argument("--eta", type=float, help="step size of the guidance, eq. 31; 0 only measures")
    parser.add_argument("--steps", type=int, help="network evaluations; more is finer and slower")
    parser.add_argument("--seed", type=int, help="of the noise; image i of a class has the same noise for every IPC")
    parser.add_argument(
        "--solver",
        choices=sorted(SOLVERS),
        help="dpmpp_2m_sde (DPM-Solver++, few steps), dpmpp_2m (without noise), ddpm (the paper's), ddim",
    )
    parser.add_argument(
        "--reference",
        choices=REFERENCES,
        help="what images are held against: each other (batch) or the data's class mean",
    )
    parser.add_argument(
        "--at", choices=PLACES, help="guide x'_{t-1} (x_prev, the paper's) or the predicted clean image (x0)"
    )
    parser.add_argument("--scaling", choices=SCALINGS, help="η as it is (constant, the paper's), or times σ̃_t or σ̃_t²")
    parser.add_argument(
        "--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="guide while t/T is between these"
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--unguided", action="store_true", help="no guidance: what the prior alone would draw")
    ways.add_argument("--paired", action="store_true", help="unguided, prototype and contextual from the same noise")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _sample(options) -> None:
    settings = {
        name: getattr(options, name)
        for name in ("label", "ipc", "beta", "eta", "steps", "seed", "solver", "reference", "at", "scaling", "interval")
    }
    settings["columns"] = ["unguided"] if options.unguided else ["contextual"]
    if options.paired:
        settings["columns"] = None
    bundle_name = options.bundle
    if options.run:
        if (
            options.unguided
            or options.paired
            or any(settings[name] is not None for name in settings if name != "columns")
        ):
            raise ValueError("--run brings every setting with it: give no other setting beside it")
        settings, checksum, threads = _read_run(options.run)
        bundle_name = bundle_name or settings["bundle"]
        del settings["bundle"]
        torch.set_num_threads(threads)  # sums are rounded in another order on another number of threads
    _check_free(options.out)
    bundle = load_bundle(bundle_name or DEFAULT, device=choose_device(options.device))
    if options.run and checksum != bundle.checksum():
        raise ValueError(
            f"{options.run} was made with another bundle than {bundle.path}: name the one it came from with --bundle"
        )
    run = Run.of(bundle, **settings)
    if run.ipc == 1 and run.beta > 0 and run.reference == "batch":
        print(
            "igds: with one image p equals its own mean, so β has no effect; --reference class lets it act",
            file=sys.stderr,
        )
    record = Record(run, bundle)
    with tqdm(run.start(bundle), total=run.steps, unit="step", desc=f"{run.label} ×{run.ipc}") as progress:
        for step in progress:
            record.add(step)
            last = step.batches[-1]
            progress.set_postfix_str(
                f"I {float(last.prototype.mean()):.2f}, H {float(last.contextual.mean()):.2f} nats"
            )
    write_files(record.files(), options.out)
    for column, figures in record.verdict().items():
        print(
            f"{column}: I(X;Y) {figures.prototype:.2f} nats, H(X|Y) {figures.contextual:.2f} nats; "
            f"the independent classifier recognises {figures.accuracy:.0%}, "
            f"mean feature distance {figures.diversity:.3f}"
        )
    print(f"written to {options.out}")


def _read_run(path: Path) -> tuple[dict, str, int]:
    """The settings in a run.json, the checksum of the bundle that it was made with, and the number of threads."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        settings = {**run["settings"], "bundle": str(run["settings"]["bundle"])}
        return settings, str(run["bundle_sha256"]), max(1, int(run["software"]["threads"]))
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is not the run.json of a run: give one that `sample` or the page wrote") from None


def _check_free(folder: Path) -> None:
    """Before anything is computed: the folder can be made, and holds nothing that would be lost."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another --out, nothing was written")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose another --out, nothing was written")
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".igds"
    probe.touch()
    probe.unlink()


def write_files(files: dict[str, bytes], folder: Path) -> None:
    """Write all of `files` (by relative path) under `folder`, or nothing: a full disk leaves no half of a result."""
    written = []
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            path.write_bytes(content)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        for parent in sorted({path.parent for path in written} - {folder}, reverse=True):
            with suppress(OSError):
                parent.rmdir()
        raise


def _add_info(commands) -> None:
    parser = commands.add_parser(
        "info", help="what a bundle holds", description="Show a bundle's classes, defaults and figures."
    )
    parser.set_defaults(command=_info)
    parser.add_argument("bundle", nargs="?", help="name or path; without it, the embedded bundles are listed")


def _info(options) -> None:
    if options.bundle is None:
        for name in embedded_bundles():
            print(f"{name}: {read_card(bundle_path(name))['title']}")
        return
    path = bundle_path(options.bundle)
    card = read_card(path)
    print(
        f"{path.name}: {card['title']}\nfrom {card.get('source', 'unknown')}; licence: {card.get('license', 'unknown')}"
    )
    print("classes: " + ", ".join(card["classes"]))
    print("defaults: " + ", ".join(f"{name} {value}" for name, value in card["defaults"].items()))
    for part, figures in card.get("measured", {}).items():
        print(f"{part}:")
        for name, value in figures.items():
            print(f"  {name.replace('_', ' ')}: {value}")


def _add_train(commands) -> None:
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


def _add_study(commands) -> None:
    parser = commands.add_parser(
        "study",
        help="hold ways of sampling against each other, with error bars",
        description="Sample every class with several seeds and IPCs, and judge the images by the independent "
        "classifier and the held-out estimator. beta: the trade-off; steps: few steps against 250; levers: the "
        "guidance's settings.",
        epilog="A study that was stopped goes on with the same command. Its images stay in --work.",
    )
    parser.set_defaults(command=_study)
    parser.add_argument("name", choices=sorted(STUDIES))
    parser.add_argument("--bundle", default=DEFAULT, help="an embedded bundle or a folder (default: %(default)s)")
    parser.add_argument(
        "--recipe", choices=sorted(RECIPES), help="whose real images judge (default: the bundle's name)"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the data set's original files are")
    parser.add_argument("--ipc", type=int, nargs="+", metavar="N", help="images per class (default: 1 10 50)")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many seeds, from 0 (default: 5)")
    parser.add_argument("--betas", type=float, nargs="+", metavar="BETA", help="beta and levers: which β")
    parser.add_argument("--steps", type=int, nargs="+", metavar="N", help="steps: which numbers (default: 15 20 25)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="images so far (default: studies/BUNDLE-NAME)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("studies"), help="for BUNDLE-NAME.json and .png"
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="the prior in half precision: twice as fast on some CPUs"
    )
    parser.add_argument("--quick", action="store_true", help="two seeds, IPC 1 and 4, 5 steps: a trial of the command")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _study(options) -> None:
    device = choose_device(options.device)
    bundle = load_bundle(options.bundle, device=device)
    bundle.prior.bfloat16 = options.bfloat16
    recipe = options.recipe or bundle.name
    if recipe not in RECIPES:
        raise ValueError(
            f"which real images is {bundle.name} judged by? Name one of {', '.join(RECIPES)} with --recipe"
        )
    size = {"ipcs": (1, 4), "seeds": (0, 1)} if options.quick else {}
    if options.ipc:
        size["ipcs"] = tuple(options.ipc)
    if options.seeds is not None:
        size["seeds"] = tuple(range(options.seeds))
    if options.name == "steps":
        size |= {"paper": 10} if options.quick else {}
        study = steps_study(bundle, options.steps or ((5,) if options.quick else None), **size)
    else:
        study = STUDIES[options.name](bundle, options.betas, **size)
        if options.quick:
            study = replace(study, arms={name: {**arm, "steps": 5} for name, arm in study.arms.items()})
    stem = f"{bundle.name}-{options.name}" + ("-quick" if options.quick else "")
    work = options.work or Path("studies") / stem
    events = sample_study(study, bundle, work)
    data = {"folder": options.data}
    train, test = (RECIPES[recipe].load(split, **data) for split in ("train", "test"))
    if train.classes != bundle.classes or train.images.shape[1:] != bundle.prior.shape:
        raise ValueError(f"the images of {recipe} are not those of {bundle.name}: name its recipe with --recipe")
    try:
        with tqdm(unit="img", desc=f"{options.name} study", unit_scale=True, smoothing=0.05) as progress:
            for event in events:
                progress.total = event.total
                progress.update(event.done - progress.n)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"what has been sampled is kept in {work}: the same command goes on from there"
        ) from None
    results = measure_study(study, bundle, work, train, test)
    write_study(results, options.out / f"{stem}.json")

    from igds.plots import study_figure

    study_figure(results, options.out / f"{stem}.png")
    _print_study(results)
    print(f"written to {options.out / stem}.json and .png")


def _print_study(results: dict) -> None:
    shown = ("accuracy", "diversity", "prototype", "contextual", "held_out_prototype", "held_out_contextual")
    shown += ("recall", "coverage", "out_of_range", "frechet_distance")
    width = max(len(arm) for arm in results["arms"])
    print(" ".join([f"{'IPC':>4} {'arm':<{width}}", *(f"{name.replace('_', ' ')[:16]:>16}" for name in shown)]))
    for row in results["summary"]:
        figures = (row["measures"].get(name) for name in shown)
        cells = (f"{f['mean']:.3f} ±{f['standard_error'] or 0:.3f}" if f else "–" for f in figures)
        print(" ".join([f"{row['ipc']:>4} {row['arm']:<{width}}", *(f"{cell:>16}" for cell in cells)]))


def _follow(events: Iterator, seen: int, total: int, name: str) -> None:
    with tqdm(total=total, initial=seen, unit="img", desc=name, smoothing=0.05) as progress:
        for event in events:
            progress.update(event.images - progress.n)
            progress.set_postfix_str(f"loss {event.loss:.4f}")
