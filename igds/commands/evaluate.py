"""`evaluate`: how well networks learn from a distilled set."""

import argparse
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from igds.bundle import load_bundle
from igds.commands.distil import own_device
from igds.data import ImageSet
from igds.datasets import load_images
from igds.device import DEVICES
from igds.distilled import read_image_folder
from igds.evaluation import (
    PRETRAINING,
    PROTOCOLS,
    align,
    result_of,
    results_latex,
    results_markdown,
    seeded_network,
    train_network,
    transfer,
    transfer_result_of,
)
from igds.files import write_json, write_whole
from igds.networks import NETWORKS, build_network

EXAMPLES = """\
examples:
  python -m igds evaluate fashion-10 --data fashion-mnist
      ConvNet-3 under the paper's protocol, three training seeds, tested on the test split
  python -m igds evaluate fashion-10 --data fashion-mnist --network convnet3 resnet18 --protocol minimax
      two networks, the protocol of Minimax Diffusion
  python -m igds evaluate cifar100-1000 --transfer flowers --iterations 5000
      pretrain on the distilled set, fine-tune on another folder (appendix G)

The table is printed in Markdown. With --out it is written with the curves: .json, .md and .tex.
"""


def add(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="train networks on a distilled set and test them on real images",
        description="Train networks on the images of DIR under a named protocol, and test them on real images. Classes "
        "are matched by name.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_evaluate)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a distilled set, or any folder with a folder a class")
    parser.add_argument("--data", metavar="REAL", help="what to test on: a data set's name, a folder or parquet")
    parser.add_argument(
        "--split", choices=("test", "train", "all"), default="test", help="of REAL; all where it has none (%(default)s)"
    )
    parser.add_argument("--network", nargs="+", choices=NETWORKS, metavar="NAME", default=["convnet3"])
    parser.add_argument("--protocol", choices=PROTOCOLS, default="paper")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="training seeds, from 0 (default: 3)")
    parser.add_argument("--epochs", type=int, help="(default: the protocol's for the IPC)")
    parser.add_argument("--tests", type=int, default=10, help="how often a network is tested on its way (%(default)s)")
    parser.add_argument("--teacher", metavar="BUNDLE", help="rded: the bundle whose classifier gives the soft labels")
    parser.add_argument("--tiles", type=int, default=1, help="rded: 2 for 2×2 composites (%(default)s)")
    parser.add_argument("--transfer", metavar="REAL", help="then fine-tune on this data set or folder, and test there")
    parser.add_argument("--iterations", type=int, default=10_000, help="of fine-tuning (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="STEM", help="write STEM.json, STEM.md and STEM.tex")
    parser.add_argument("--bfloat16", action="store_true", help="half precision")
    parser.add_argument("--compile", action="store_true", help="compile the networks first: pays from minutes on")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _evaluate(options) -> None:
    if bool(options.data) == bool(options.transfer):
        raise ValueError("name the real images with --data, or with --transfer those to fine-tune on")
    for name in ("repeats", "tests", "tiles", "iterations"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.tiles > 1 and options.protocol != "rded":
        raise ValueError("--tiles belongs to --protocol rded: ask for that, or leave it out")
    if options.transfer and (options.protocol != "paper" or options.teacher or options.split != "test"):
        raise ValueError("--transfer has a protocol and splits of its own: leave out --protocol, --teacher and --split")
    train = read_image_folder(options.folder)
    device = own_device(options.device)
    if options.transfer:
        own, test = (_real(options.transfer, split, train) for split in ("train", "test"))
        test = align(test, own.classes)  # now, not after an hour of pretraining
    else:
        test, teacher = _real(options.data, options.split, train), _teacher(options, train, device)
    channels, side = train.images.shape[1:3]
    for network in options.network:
        with torch.device("meta"):  # without weights: it is built to hear now if it cannot be
            build_network(network, channels=channels, size=side, classes=len(train.classes))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    results = []
    for network in options.network:
        if options.transfer:
            results.append(_transferred(options, network, train, own, test, device))
        else:
            results.append(_evaluated(options, network, train, test, teacher, device))
        if options.out:  # after each network: what the next one runs into costs nothing
            write_json(Path(f"{options.out}.json"), results)
            write_whole(Path(f"{options.out}.md"), results_markdown(results).encode())
            write_whole(Path(f"{options.out}.tex"), results_latex(results).encode())
    print(results_markdown(results), end="")
    if options.out:
        print(f"written to {options.out}.json, .md and .tex")


def _real(name: str, split: str, like: ImageSet) -> ImageSet:
    channels, side = like.images.shape[1:3]
    return load_images(name, None if split == "all" else split, size=side, channels=channels)


def _teacher(options, train: ImageSet, device: torch.device) -> nn.Module | None:
    if not options.teacher:
        return None
    bundle = load_bundle(options.teacher, device=device)
    if (bundle.classes, bundle.prior.shape) != (train.classes, train.images.shape[1:]):
        raise ValueError(
            f"the classifier of {bundle.name} is for other classes or another size than {options.folder}: name the "
            "bundle that made the images"
        )
    return bundle.classifier


def _evaluated(
    options, network: str, train: ImageSet, test: ImageSet, teacher: nn.Module | None, device: torch.device
) -> dict:
    curves = []
    for seed in range(options.repeats):
        events = train_network(
            network,
            train,
            test,
            protocol=options.protocol,
            seed=seed,
            epochs=options.epochs,
            tests=options.tests,
            tiles=options.tiles,
            teacher=teacher,
            device=device,
            bfloat16=options.bfloat16,
            compile=options.compile,
        )
        curves.append(_followed(events, f"{network}, seed {seed}"))
    return result_of(
        curves,
        images=options.folder.resolve().name,
        protocol=options.protocol,
        network=network,
        train=train,
        split=f"{options.data} {options.split}",
        seeds=range(options.repeats),
    )


def _transferred(options, name: str, train: ImageSet, own: ImageSet, test: ImageSet, device: torch.device) -> dict:
    how = {"device": device, "bfloat16": options.bfloat16, "compile": options.compile}
    curves = []
    for seed in range(options.repeats):
        network = seeded_network(name, train, seed=seed)
        pretraining = train_network(
            network, train, train, protocol=PRETRAINING, seed=seed, epochs=options.epochs, tests=1, **how
        )
        _followed(pretraining, f"{name}, seed {seed}, pretraining")
        events = transfer(network, own, test, iterations=options.iterations, seed=seed, tests=options.tests, **how)
        curves.append(_followed(events, f"{name}, seed {seed}, fine-tuning"))
    return transfer_result_of(
        curves,
        images=options.folder.resolve().name,
        network=name,
        train=train,
        split=f"{options.transfer} test",
        seeds=range(options.repeats),
    )


def _followed(events, what: str) -> list:
    curve = []
    with tqdm(unit="epoch", desc=what, leave=False) as progress:
        for epoch in events:
            curve.append(epoch)
            progress.total = epoch.epochs
            progress.update(1)
            if epoch.accuracy is not None:
                progress.set_postfix_str(f"{epoch.accuracy:.1%}")
    return curve
