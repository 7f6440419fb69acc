"""`distil`: a whole data set, IPC images of every class."""

import argparse
import os
from pathlib import Path

import torch
from tqdm import tqdm

from igds.bundle import DEFAULT, load_bundle
from igds.device import DEVICES, choose_device
from igds.distil import CARD, Distillation, distil
from igds.distilled import to_parquet
from igds.runs import MAX_IPC
from igds.sampling import PLACES, REFERENCES, SCALINGS, SOLVERS

EXAMPLES = """\
examples:
  python -m igds distil --ipc 10 --out fashion-10
      ten images of every class at the β that the bundle's study chose for IPC 10
  accelerate launch --multi_gpu --num_processes 4 -m igds distil --ipc 50 --out fashion-50
      the classes spread over four processes and their GPUs, if any: the same images

Stopped or killed, the same command goes on, and the images are those of a run that was not.
DIR holds a folder a class, readable by torchvision's ImageFolder and by Hugging Face's
load_dataset("imagefolder", data_dir=DIR); classes.json (label, folder, name) and card.json.
"""


def add(commands) -> None:
    parser = commands.add_parser(
        "distil",
        help="distil a whole data set",
        description="Sample IPC images of every class, each class as one batch of the method.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_distil)
    parser.add_argument("--bundle", default=DEFAULT, help="an embedded bundle or a folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write, or to go on")
    parser.add_argument("--ipc", type=int, help=f"images per class, 1 to {MAX_IPC} (default: the bundle's)")
    parser.add_argument(
        "--beta", type=_beta, default="auto", help="weight of contextual information, or auto: the bundle's for the IPC"
    )
    parser.add_argument("--seed", type=int, help="of the noise: the generation seed")
    parser.add_argument("--eta", type=float, help="step size of the guidance; 0 switches it off")
    parser.add_argument("--steps", type=int, help="network evaluations")
    parser.add_argument("--solver", choices=sorted(SOLVERS))
    parser.add_argument(
        "--reference", choices=REFERENCES, help="what images are held against: each other, or the data's class mean"
    )
    parser.add_argument("--at", choices=PLACES, help="guide x'_{t-1} (x_prev, the paper's) or x̃0 (x0)")
    parser.add_argument("--scaling", choices=SCALINGS, help="of η, see `sample --help`; constant is the paper's")
    parser.add_argument(
        "--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="guide while t/T is between these"
    )
    parser.add_argument(
        "--composite", action="store_true", help="each image is four of half the size, tiled 2×2 (section 5.1)"
    )
    parser.add_argument(
        "--candidates", type=int, default=1, help="make so many times IPC and keep the most typical (default: 1, all)"
    )
    parser.add_argument("--parquet", action="store_true", help="write DIR.parquet as well")
    parser.add_argument("--bfloat16", action="store_true", help="the prior in half precision")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _beta(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants a number or auto, got {text!r}") from None


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are, as `accelerate launch` and torchrun say it; (0, 1) by itself."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def own_device(name: str) -> torch.device:
    """`choose_device`, and of several GPUs the one of this process."""
    device = choose_device(name)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return device


def _distil(options) -> None:
    parquet = Path(f"{options.out}.parquet")
    if options.parquet and parquet.exists():
        raise ValueError(f"{parquet} is there already: take it away, or leave out --parquet")
    bundle = load_bundle(options.bundle, device=own_device(options.device))
    bundle.prior.bfloat16 = options.bfloat16
    names = ("ipc", "beta", "seed", "eta", "steps", "solver", "reference", "at", "scaling", "interval")
    settings = Distillation.of(bundle, **{name: getattr(options, name) for name in names})
    rank, world = rank_and_world()
    events = distil(
        bundle,
        options.out,
        settings,
        rank=rank,
        world=world,
        composite=options.composite,
        candidates=options.candidates,
    )
    if rank == 0:
        print(f"β = {settings.beta:g}: {settings.beta_from}")
    try:
        with tqdm(unit="step", disable=rank > 0, smoothing=0.05) as progress:
            for event in events:
                progress.total = event.classes * event.steps
                progress.set_description(f"{event.label}, {event.classes_done}/{event.classes} classes", refresh=False)
                progress.update(event.classes_done * event.steps + event.step % event.steps - progress.n)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"whole classes are kept in {options.out}: the same command goes on") from None
    if not (options.out / CARD).exists():
        return  # another process has still to finish, and will say so
    if options.parquet:
        to_parquet(options.out, parquet)
    print(f"written to {options.out}")
