"""`study`: ways of sampling held against each other, and the estimator against what is known."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from igds.bundle import DEFAULT, load_bundle
from igds.device import DEVICES, choose_device
from igds.recipes import RECIPES
from igds.study import STUDIES, measure_study, sample_study, steps_study, write_study
from igds.tightness import Tightness, measure_tightness, quick, summarise_tightness

TIGHTNESS = "tightness"
OF_BUNDLES = ("bundle", "recipe", "data", "ipc", "betas", "steps", "bfloat16")
OF_TIGHTNESS = ("deltas", "widths", "samples", "epochs")


def add(commands) -> None:
    parser = commands.add_parser(
        "study",
        help="hold ways of sampling against each other, with error bars",
        description="Sample every class with several seeds and IPCs, and judge the images by the independent "
        "classifier and the held-out estimator. beta: the trade-off; steps: few steps against 250; levers: the "
        "guidance's settings. tightness needs no bundle: the estimator's bounds against the truth, on Gaussians "
        "(section 5.7, figure 6).",
        epilog="A study that was stopped goes on with the same command. What it has made stays in --work.",
    )
    parser.set_defaults(command=_study)
    parser.add_argument("name", choices=sorted([*STUDIES, TIGHTNESS]))
    parser.add_argument("--bundle", help=f"an embedded bundle or a folder (default: {DEFAULT})")
    parser.add_argument(
        "--recipe", choices=sorted(RECIPES), help="whose real images judge (default: the bundle's name)"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the data set's original files are")
    parser.add_argument("--ipc", type=int, nargs="+", metavar="N", help="images per class (default: 1 10 50)")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many seeds, from 0 (default: 5)")
    parser.add_argument("--betas", type=float, nargs="+", metavar="BETA", help="beta and levers: which β")
    parser.add_argument("--steps", type=int, nargs="+", metavar="N", help="steps: which numbers (default: 15 20 25)")
    parser.add_argument("--deltas", type=float, nargs="+", metavar="SIDE", help="tightness: sides δ of the triangle")
    parser.add_argument("--widths", type=int, nargs="+", metavar="D", help="tightness: lengths d of f(x)")
    parser.add_argument("--samples", type=int, metavar="N", help="tightness: points to train on (paper: 1000000)")
    parser.add_argument("--epochs", type=int, metavar="N", help="tightness: passes over them (paper: 100)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="what is made so far (default: studies/BUNDLE-NAME)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("studies"), help="for BUNDLE-NAME.json and .png"
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="the prior in half precision: twice as fast on some CPUs"
    )
    parser.add_argument("--quick", action="store_true", help="a trial of the command: two seeds, IPC 1 and 4, 5 steps")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _study(options) -> None:
    _refuse(options, OF_BUNDLES if options.name == TIGHTNESS else OF_TIGHTNESS)
    device = choose_device(options.device)
    if options.name == TIGHTNESS:
        return _tightness(options, device)
    bundle = load_bundle(options.bundle or DEFAULT, device=device)
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
    _follow(events, options.name, "img", work)
    results = measure_study(study, bundle, work, train, test)
    write_study(results, options.out / f"{stem}.json")

    from igds.plots import study_figure

    study_figure(results, options.out / f"{stem}.png")
    _print_study(results)
    print(f"written to {options.out / stem}.json and .png")


def _refuse(options, names: tuple[str, ...]) -> None:
    for name in names:
        if not (getattr(options, name) is None or getattr(options, name) is False):
            kind = "the studies of a bundle" if name in OF_BUNDLES else f"`study {TIGHTNESS}`"
            raise ValueError(f"--{name} belongs to {kind}, not to `study {options.name}`: leave it out")


def _follow(events, name: str, unit: str, work: Path) -> None:
    try:
        with tqdm(unit=unit, desc=f"{name} study", unit_scale=True, smoothing=0.05) as progress:
            for event in events:
                progress.total = event.total
                progress.update(event.done - progress.n)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is kept in {work}: the same command goes on from there") from None


def _tightness(options, device) -> None:
    given = {name: getattr(options, name) for name in OF_TIGHTNESS}
    given["seeds"] = None if options.seeds is None else range(options.seeds)
    given = {
        name: value if isinstance(value, int) else tuple(value) for name, value in given.items() if value is not None
    }
    study = replace(quick() if options.quick else Tightness(), **given)
    stem = TIGHTNESS + ("-quick" if options.quick else "")
    work = options.work or Path("studies") / stem
    _follow(measure_tightness(study, work, device=device), options.name, "step", work)
    results = summarise_tightness(study, work)
    write_study(results, options.out / f"{stem}.json")

    from igds.plots import tightness_figure

    tightness_figure(results, options.out / f"{stem}.png")
    _print_tightness(results)
    print(f"written to {options.out / stem}.json and .png")


def _print_tightness(results: dict) -> None:
    width = max(len(row["arm"]) for row in results["summary"])
    print(f"{'δ':>4} {'d':>5} {'':<{width}} {'Î':>16} {'Î − I':>16} {'Ĥ':>16}   nats, ± one standard error")
    for known in results["truth"]:
        figures = f"{known['prototype']:>16.4f} {'':>16} {known['contextual']:>16.3f}"
        print(f"{known['delta']:>4g} {'':>5} {'truth':<{width}} {figures}")
        for row in results["summary"]:
            if row["delta"] == known["delta"]:
                measures = (row["measures"].get(name) for name in ("prototype", "gap", "contextual"))
                cells = (f"{f['mean']:.4f} ±{f['standard_error'] or 0:.4f}" if f else "–" for f in measures)
                print(f"{'':>4} {row['features']:>5} {row['arm']:<{width}} {' '.join(f'{c:>16}' for c in cells)}")


def _print_study(results: dict) -> None:
    shown = ("accuracy", "diversity", "prototype", "contextual", "held_out_prototype", "held_out_contextual")
    shown += ("recall", "coverage", "out_of_range", "frechet_distance")
    width = max(len(arm) for arm in results["arms"])
    print(" ".join([f"{'IPC':>4} {'arm':<{width}}", *(f"{name.replace('_', ' ')[:16]:>16}" for name in shown)]))
    for row in results["summary"]:
        figures = (row["measures"].get(name) for name in shown)
        cells = (f"{f['mean']:.3f} ±{f['standard_error'] or 0:.3f}" if f else "–" for f in figures)
        print(" ".join([f"{row['ipc']:>4} {row['arm']:<{width}}", *(f"{cell:>16}" for cell in cells)]))
