"""`study`: ways of sampling held against each other."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from igds.bundle import DEFAULT, load_bundle
from igds.device import DEVICES, choose_device
from igds.recipes import RECIPES
from igds.study import STUDIES, measure_study, sample_study, steps_study, write_study


def add(commands) -> None:
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
