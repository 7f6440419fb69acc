"""`complete`: what an imported bundle lacks, from the user's images."""

import argparse
import math
from pathlib import Path

from tqdm import tqdm

from igds.backbones import read_encoder
from igds.bundle import Bundle, load_bundle, missing_parts
from igds.completion import add_classifier, add_estimator, add_gallery, classifier_training, fitted, split
from igds.datasets import load_images
from igds.device import DEVICES, choose_device
from igds.fetch import SOURCES

EXAMPLES = """\
examples:
  python -m igds complete imagenette-adm --data imagenette --encoder moco_v2_800ep_pretrain.pth.tar
  python -m igds complete imagenette-adm --data photographs/ --encoder timm:resnet18

FOLDER holds a folder for each of the bundle's classes, named like the class or its WordNet id.
"""


def add(commands) -> None:
    parser = commands.add_parser(
        "complete",
        help="the estimator and the judges of an imported bundle",
        description="Make what a bundle lacks from real images: the estimator (an encoder that others trained, made "
        "smooth, and a linear classifier on its frozen features) and the independent classifier.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_complete)
    parser.add_argument("bundle", help="path of the bundle")
    parser.add_argument(
        "--data", required=True, metavar="FOLDER", help="real images: a folder, parquet, or a data set's name"
    )
    parser.add_argument(
        "--encoder",
        metavar="ENCODER",
        help="a pre-training checkpoint of MoCo v1, v2 or v3 (ResNet-50), timm:NAME, or timm:NAME=CHECKPOINT; "
        "an estimator that is there is replaced",
    )
    parser.add_argument(
        "--gallery", action="store_true", help="put up to 24 real images a class into the bundle, for all who get it"
    )
    parser.add_argument("--tau", type=float, default=0.03, help="of the softmax of f (default: %(default)s)")
    parser.add_argument("--images", type=int, help="that the classifier learns from (default: 40 times the data)")
    parser.add_argument("--minutes", type=float, help="for the classifier; the same command goes on from there")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _complete(options) -> None:
    for name in ("images", "minutes", "tau"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name} must be more than 0, got {value}")
    bundle = load_bundle(options.bundle, device=choose_device(options.device), needs=())
    missing = missing_parts(bundle.card)
    if not missing and not options.encoder and not options.gallery:
        print(f"{bundle.path} is complete already")
        return
    if "estimator" in missing and not options.encoder:
        raise ValueError(f"{bundle.name} has no estimator: give --encoder, a MoCo checkpoint or timm:NAME")
    encoder = read_encoder(options.encoder) if options.encoder else None
    train, test = _images(options.data, bundle)
    print(f"{len(train):,} images to learn from, {len(test):,} to measure on")
    if encoder is not None:
        print(
            f"estimator: features of {len(train) + len(test):,} images at {encoder.config.size} pixels ...", flush=True
        )
        accuracy = add_estimator(bundle, encoder, train, test, tau=options.tau)
        print(f"estimator: {accuracy:.1%} linear accuracy on images it was not fitted to")
    if options.gallery:
        add_gallery(bundle, test)
    if "classifier" in missing:
        training = classifier_training(bundle, train, images=options.images or 40 * len(train))
        with tqdm(total=training.images, initial=training.seen, unit="img", desc="classifier") as progress:
            for event in add_classifier(bundle, training, test, minutes=options.minutes):
                progress.update(event.images - progress.n)
                progress.set_postfix_str(f"loss {event.loss:.4f}")
        if training.seen < training.images:
            print(f"{training.seen:,} of {training.images:,} images seen: the same command goes on from there")
            return
    print(f"written to {bundle.path}")


def _images(data: str, bundle: Bundle):
    """(to learn from, to measure on): the two splits of `data`, or its images divided."""
    channels, size = bundle.prior.shape[:2]
    if data in SOURCES or (Path(data) / "train").is_dir():
        return tuple(
            fitted(load_images(data, part, size=size, channels=channels), bundle) for part in ("train", "test")
        )
    return split(fitted(load_images(data, None, size=size, channels=channels), bundle))
