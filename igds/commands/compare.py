"""`compare`: distilled sets held against baselines by the networks that learn from them."""

import argparse
from pathlib import Path

from tqdm import tqdm

from igds.bundle import DEFAULT, load_bundle
from igds.commands.distil import own_device, rank_and_world
from igds.compare import COMPARISONS, SPLITS, compare, only, read_results, summarise, sweep_sentences, table_markdown
from igds.datasets import load_images
from igds.device import DEVICES
from igds.evaluation import PROTOCOLS
from igds.files import write_json
from igds.networks import NETWORKS

EXAMPLES = """\
examples:
  python -m igds compare --ipc 1 10 --networks convnet3
      IGDS against random, herding, k-center, weighted and unguided sets
  python -m igds compare beta --betas 0 0.5 1 2
      accuracy against β for each IPC (figure 5), on images held out of the training set
  python -m igds compare subsets
      accuracy against the contextual information of real subsets (figure 2)
  python -m igds compare --ipc 1 --methods herding "IGDS, chosen of 50" --generation-seeds 5
      more sets of two methods; in the same --work, what is there already is kept
  python -m igds compare --draw comparisons/fashion-mnist-beta.json
      the figure and table of a finished comparison again
  accelerate launch --multi_gpu --num_processes 2 -m igds compare
      the sets spread over two processes and their GPUs, if any

A comparison that was stopped goes on with the same command. Its sets stay in --work.
"""
FIRST_SEED_OF_SWEEPS = 100


def add(commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="hold distilled sets against baselines",
        description="Make a set by every method for each IPC and generation seed, let networks learn from it under one "
        "protocol, and test them on real images.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_compare)
    parser.add_argument("name", nargs="?", choices=sorted(COMPARISONS), default="baselines")
    parser.add_argument("--bundle", default=DEFAULT, help="an embedded bundle or a folder (default: %(default)s)")
    parser.add_argument("--data", help="the bundle's real images: a data set's name or a folder (default: its name)")
    parser.add_argument("--ipc", type=int, nargs="+", metavar="N", default=[1, 10, 50], help="(default: 1 10 50)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, metavar="NAME", default=["convnet3"])
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="some of them, by their names in the table")
    parser.add_argument("--generation-seeds", type=int, metavar="N", default=3, help="sets a method (default: 3)")
    parser.add_argument(
        "--repeats", type=int, metavar="N", default=3, help="networks a set: training seeds (default: 3)"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="paper")
    parser.add_argument(
        "--epochs", type=int, nargs="+", metavar="N", help="one for each --ipc (default: the protocol's)"
    )
    parser.add_argument("--betas", type=float, nargs="+", metavar="BETA", help="beta only: which β")
    parser.add_argument("--alphas", type=float, nargs="+", metavar="ALPHA", help="subsets only: which α of eq. 37")
    parser.add_argument("--split", choices=SPLITS, help="what networks are tested on (default: test for baselines)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="sets and networks so far (default: comparisons/…)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("comparisons"), help="for the table, JSON and figure"
    )
    parser.add_argument(
        "--draw", type=Path, metavar="JSON", help="draw a finished comparison beside its JSON, and do nothing else"
    )
    parser.add_argument("--bfloat16", action="store_true", help="half precision, for sampling and learning alike")
    parser.add_argument("--compile", action="store_true", help="compile the networks first: pays from minutes on")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _compare(options) -> None:
    if options.draw:
        _draw(read_results(options.draw), options.draw)
        print(f"written to {options.draw.with_suffix('.png')}")
        return
    if options.epochs and len(options.epochs) != len(options.ipc):
        raise ValueError(f"--epochs wants {len(options.ipc)} numbers, one for each --ipc, got {len(options.epochs)}")
    if options.betas and options.name != "beta":
        raise ValueError("--betas belongs to `compare beta`: ask for that, or leave it out")
    if options.alphas and options.name != "subsets":
        raise ValueError("--alphas belongs to `compare subsets`: ask for that, or leave it out")
    device = own_device(options.device)
    bundle = load_bundle(options.bundle, device=device)
    bundle.prior.bfloat16 = options.bfloat16
    first = 0 if options.name == "baselines" else FIRST_SEED_OF_SWEEPS
    size = {
        "ipcs": tuple(options.ipc),
        "networks": tuple(options.networks),
        # Settings are chosen on other sets than those that are tested with them afterwards.
        "generation_seeds": tuple(range(first, first + options.generation_seeds)),
        "training_seeds": tuple(range(options.repeats)),
        "protocol": options.protocol,
        "epochs": dict(zip(options.ipc, options.epochs)) if options.epochs else None,
    }
    size |= {"split": options.split} if options.split else {}
    values = {"beta": (options.betas,), "subsets": (options.alphas,)}.get(options.name, ())
    comparison = COMPARISONS[options.name](bundle, *values, **size)
    if options.methods:
        comparison = only(comparison, options.methods)
    channels, side = bundle.prior.shape[:2]
    train, test = (
        load_images(options.data or bundle.name, split, size=side, channels=channels) for split in ("train", "test")
    )
    stem = f"{bundle.name}-{options.name}"
    work = options.work or Path("comparisons") / stem
    rank, world = rank_and_world()
    events = compare(
        comparison, bundle, work, train, test, rank=rank, world=world, device=device, compile=options.compile
    )
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with tqdm(unit="network", disable=rank > 0) as progress:
            for event in events:
                progress.total = event.total
                progress.set_description(event.what, refresh=False)
                progress.set_postfix_str(f"{event.share:.0%}", refresh=False)
                progress.update(event.done - progress.n)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is kept in {work}: the same command goes on") from None
    results = summarise(comparison, bundle, work)
    if results is None:
        print("the other processes are still at work")
        return
    write_json(options.out / f"{stem}.json", results)
    _draw(results, options.out / f"{stem}.json")
    print(f"written to {options.out / stem}.json and .png")


def _draw(results: dict, path: Path) -> None:
    """The figure beside the JSON at `path`; the table and what a sweep found on standard output."""
    from igds.plots import comparison_figure

    comparison_figure(results, path.with_suffix(".png"))
    print(table_markdown(results), end="")
    print("".join(f"{sentence}\n" for sentence in sweep_sentences(results)), end="")
