"""`sample`: the images of one class, by themselves or three ways."""

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

import torch
from tqdm import tqdm

from igds.bundle import DEFAULT, how_to_complete, load_bundle, missing_parts
from igds.device import DEVICES, choose_device
from igds.runs import MAX_IPC, Record, Run
from igds.sampling import PLACES, REFERENCES, SCALINGS, SOLVERS

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


def add(commands) -> None:
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
    parser.add_argument(
        "--scaling",
        choices=SCALINGS,
        help="η as it is (constant, the paper's), times σ̃_t (deviation) or σ̃_t² (variance), or σ̃_t² along the "
        "gradient's direction alone (normalised)",
    )
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
    unguided = tuple(settings["columns"] or ()) == ("unguided",)
    needs = () if unguided else ("estimator",)
    bundle = load_bundle(bundle_name or DEFAULT, device=choose_device(options.device), needs=needs)
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
            if bundle.estimator:
                progress.set_postfix_str(
                    f"I {float(last.prototype.mean()):.2f}, H {float(last.contextual.mean()):.2f} nats"
                )
    write_files(record.files(), options.out)
    for column, figures in record.verdict().items():
        said = []
        if bundle.estimator:
            said.append(f"I(X;Y) {figures.prototype:.2f} nats, H(X|Y) {figures.contextual:.2f} nats")
        if bundle.classifier:
            said.append(
                f"the independent classifier recognises {figures.accuracy:.0%}, "
                f"mean feature distance {figures.diversity:.3f}"
            )
        if said:
            print(f"{column}: {'; '.join(said)}")
    if missing := missing_parts(bundle.card):
        print(
            f"igds: {bundle.name} has no {' and no '.join(missing)}, so not everything could be measured: "
            f"{how_to_complete(bundle.path, bundle.card)}",
            file=sys.stderr,
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
