"""`figure`: a picture of classes at several β beside natural images."""

from pathlib import Path

from tqdm import tqdm

from igds.bundle import DEFAULT, load_bundle
from igds.device import DEVICES, choose_device
from igds.files import write_json
from igds.panels import panels
from igds.recipes import RECIPES

PAPER_BETAS = (0.0, 0.1, 0.5)


def add(commands) -> None:
    parser = commands.add_parser(
        "figure",
        help="draw classes at several β beside natural images",
        description="The paper's figures 3 and 4 for any bundle: the same noise unguided and at every β, with natural "
        "images beside it, and for each the share recognised, the information and the entropy of the border.",
    )
    parser.set_defaults(command=_figure)
    parser.add_argument("--bundle", default=DEFAULT, help="an embedded bundle or a folder (default: %(default)s)")
    parser.add_argument("--labels", nargs="+", metavar="CLASS", help="which classes (default: all)")
    parser.add_argument(
        "--betas", type=float, nargs="+", default=PAPER_BETAS, metavar="BETA", help="default: 0 0.1 0.5"
    )
    parser.add_argument("--ipc", type=int, default=10, help="images made together (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many, from 0 (default: %(default)s)")
    parser.add_argument("--recipe", choices=sorted(RECIPES), help="whose natural images (default: the bundle's name)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the data set's original files are")
    parser.add_argument("--without-real", action="store_true", help="no natural images beside them")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture; its figures go beside it")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _figure(options) -> None:
    if options.out.suffix != ".png":
        raise ValueError(f"--out must end in .png, got {options.out}")
    bundle = load_bundle(options.bundle, device=choose_device(options.device))
    labels = options.labels or list(bundle.classes)
    real = None if options.without_real else RECIPES[_recipe(options, bundle)].load("train", folder=options.data)
    seeds = range(options.seeds)
    made = []
    events = panels(bundle, labels, options.betas, ipc=options.ipc, seeds=seeds, real=real)
    ways = 1 + len(options.betas) + (real is not None)
    for panel in tqdm(events, total=ways * len(labels), unit="panel", desc="figure"):
        made.append(panel)
    rows = [{name: value for name, value in vars(panel).items() if name != "images"} for panel in made]
    settings = {"bundle": bundle.name, "bundle_sha256": bundle.checksum(), "ipc": options.ipc, "seeds": list(seeds)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out.with_suffix(".json"), {**settings, "defaults": bundle.card["defaults"], "panels": rows})

    from igds.plots import panels_figure

    panels_figure(made, options.out)
    for row in rows:
        shown = ("accuracy", "prototype", "contextual", "held_out_contextual", "border_entropy")
        figures = ", ".join(f"{name.replace('_', ' ')} {row['figures'][name]['mean']:.2f}" for name in shown)
        print(f"{row['label']}, {row['way']}: {figures}")
    print(f"written to {options.out} and {options.out.with_suffix('.json')}")


def _recipe(options, bundle) -> str:
    recipe = options.recipe or bundle.name
    if recipe not in RECIPES:
        raise ValueError(
            f"which natural images belong to {bundle.name}? Name one of {', '.join(RECIPES)} with --recipe, or leave "
            "them out with --without-real"
        )
    return recipe
