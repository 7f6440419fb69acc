"""`import`: a bundle from somebody else's checkpoint."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from igds.bundle import how_to_complete, read_card, save_bundle
from igds.imagenet import check_distinct, imagenet_classes, labels_of
from igds.priors.adm import FLAGS, NUM_CLASSES, read_adm
from igds.priors.base import Prior
from igds.priors.hf import pipeline_names, read_pipeline

# Nobody has studied these models here: η and β are what served the embedded bundles, a normalised gradient being much
# the same for any model.
DEFAULTS = {
    "ipc": 10,
    "beta": 2.0,
    "eta": 0.5,
    "steps": 50,
    "solver": "dpmpp_2m_sde",
    "reference": "batch",
    "at": "x_prev",
    "scaling": "normalised",
    "interval": [0.0, 0.8],
}
BETA_RANGE = [0.0, 10.0]

EXAMPLES = """\
examples:
  python -m igds fetch adm-64
  python -m igds import adm ~/.cache/igds/adm-64/64x64_diffusion.pt --out imagenette-adm --classes n01440764 church
  python -m igds sample --bundle imagenette-adm --label tench --unguided --out tenches
  python -m igds complete imagenette-adm --data imagenette/train --encoder moco_v2_800ep_pretrain.pth.tar

docs/checkpoints.md says which files are read and what is checked.
"""


def add(commands) -> None:
    parser = commands.add_parser(
        "import",
        help="a bundle from somebody else's diffusion model",
        description="Make a bundle of a published diffusion model. It can draw at once, unguided; `complete` adds the "
        "estimator that guides and the judges.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    adm = kinds.add_parser(
        "adm",
        help="a class-conditional checkpoint of guided-diffusion",
        description=f"Read a checkpoint of guided-diffusion (.pt): an official one ({', '.join(FLAGS)}), which its "
        "layout tells, or any other with the flags that it was trained with.",
    )
    _add_common(adm, "the .pt file")
    adm.add_argument(
        "--flags", metavar="'--image_size 64 ...'", help="of guided-diffusion, for other than official ones"
    )
    adm.set_defaults(command=_import_adm)

    pipeline = kinds.add_parser(
        "diffusers",
        help="a class-conditional pipeline of diffusers: DiT with its VAE, or UNet2DModel",
        description="Read a pipeline folder (model_index.json and safetensors). A latent one is guided in decoded "
        "pixels, through its VAE.",
    )
    _add_common(pipeline, "the pipeline's folder")
    pipeline.add_argument(
        "--guidance-scale", type=float, default=1.0, help="classifier-free guidance of a DiT; 1 is without (default)"
    )
    pipeline.set_defaults(command=_import_pipeline)


def _add_common(parser, what: str) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help=what)
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="the folder to write")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="keep these alone: names, WordNet ids or label numbers (default: all)",
    )
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="class names, one a line in label order, where they are not its own"
    )
    parser.add_argument("--title", help="what the card calls it")
    parser.add_argument("--license", help="of the weights, for the card")


def _import_adm(options) -> None:
    _check_free(options.out)
    names = _names(options.names) if options.names else tuple(imagenet_classes().values())
    if len(names) > NUM_CLASSES:
        raise ValueError(
            f"{options.names} names {len(names):,} classes, guided-diffusion has {NUM_CLASSES:,}: name those"
        )
    labels = labels_of(options.classes, names) if options.classes else list(range(len(names)))
    kept = labels if len(labels) < NUM_CLASSES or options.classes else None
    name, prior = read_adm(options.path, flags=options.flags, labels=kept)
    publisher = "OpenAI's guided-diffusion" if name in FLAGS else "guided-diffusion"
    write_imported(
        options.out,
        prior,
        title=options.title or f"ADM, {prior.shape[1]}×{prior.shape[2]}",
        source=f"{publisher}, {options.path.name}",
        license=options.license or ("MIT, as its repository" if name in FLAGS else "unknown"),
        classes=[names[label] for label in labels],
        wnids=_wnids(names, labels),
    )


def _import_pipeline(options) -> None:
    _check_free(options.out)
    names = _names(options.names) if options.names else pipeline_names(options.path)
    labels = labels_of(options.classes, names) if options.classes else list(range(len(names)))
    kept = labels if options.classes else None
    prior = read_pipeline(options.path, classes=len(names), guidance_scale=options.guidance_scale, labels=kept)
    name = options.path.resolve().name
    write_imported(
        options.out,
        prior,
        title=options.title or f"{name}, {prior.shape[1]}×{prior.shape[2]}",
        source=f"a pipeline of diffusers, {name}",
        license=options.license or "unknown",
        classes=[names[label] for label in labels],
        wnids=_wnids(names, labels),
    )


def _wnids(names: Sequence[str], labels: Sequence[int]) -> list[str]:
    """The WordNet ids of these labels where the names are ImageNet's, or none."""
    imagenet = imagenet_classes()
    if tuple(names) != tuple(imagenet.values()):
        return []
    return [list(imagenet)[label] for label in labels]


def _names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: give a file of class names, one a line")
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    check_distinct(names, path)
    return names


def write_imported(
    out: Path, prior: Prior, *, title: str, source: str, license: str, classes: list[str], wnids: Sequence[str] = ()
) -> None:
    """Write a bundle of a prior alone, at the precision that it was published in, and say what it lacks."""
    card = {
        "title": title,
        "source": source,
        "license": license,
        "classes": classes,
        **({"wnids": list(wnids)} if wnids else {}),
        "defaults": DEFAULTS | {"steps": min(DEFAULTS["steps"], len(prior.schedule))},
        "beta_range": BETA_RANGE,
        "parameters": {"prior": sum(p.numel() for p in prior.parameters())},
        "measured": {},
    }
    out.mkdir(parents=True, exist_ok=True)
    save_bundle(out, card, prior=prior, half=False)
    millions = card["parameters"]["prior"] / 1e6
    print(f"written to {out}: {title}, {len(classes):,} classes, {millions:,.1f} M parameters, all of the right shape")
    print(f"it can draw, unguided: `python -m igds sample --bundle {out} --unguided --out DIR`")
    print(f"it has no estimator to guide it and no judge yet: {how_to_complete(out, read_card(out))}")


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: choose another --out, nothing was written")
