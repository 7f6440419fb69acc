"""The one list of a run's settings, which feeds the controls, the address bar, the browser's memory and the API."""

import math
from urllib.parse import urlencode

from igds.bundle import Bundle
from igds.runs import MAX_SEED, Run

SETTINGS = ("label", "ipc", "beta", "seed", "steps", "solver", "eta", "reference", "at", "scaling", "low", "high")
WORDS = {
    "label": "class",
    "ipc": "images per class",
    "beta": "β",
    "eta": "η",
    "at": "place of guidance",
    "scaling": "scaling of η",
    "low": "end of the interval",
    "high": "start of the interval",
}
MAX_IPC = 50
MAX_STEPS = 250


def max_steps(bundle: Bundle) -> int:
    return min(MAX_STEPS, len(bundle.prior.schedule))


def beta_range(bundle: Bundle) -> tuple[float, float]:
    low, high = bundle.card["beta_range"]
    return float(low), float(high)


def defaults(bundle: Bundle) -> dict:
    """Every setting as the card has it."""
    return settings_of(Run.of(bundle))


def settings_of(run: Run) -> dict:
    return {name: getattr(run, name) for name in SETTINGS[:-2]} | {"low": run.interval[0], "high": run.interval[1]}


def checked(bundle: Bundle, settings: dict) -> Run:
    """The run that these settings describe; ValueError says in one sentence which of them is wrong and why."""
    for name in SETTINGS:
        value = settings.get(name)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"{WORDS.get(name, name)} is empty: give it a value")
    rest = {name: settings[name] for name in SETTINGS[:-2]}
    run = Run.of(bundle, **rest, interval=(settings["low"], settings["high"]))
    low, high = beta_range(bundle)
    within = {"ipc": (run.ipc, 1, MAX_IPC), "beta": (run.beta, low, high), "steps": (run.steps, 2, max_steps(bundle))}
    for name, (value, least, most) in within.items():
        if not least <= value <= most:
            raise ValueError(
                f"{WORDS.get(name, name)} must be between {least:g} and {most:g} on this page, got {value:g}"
            )
    return run


def restored(bundle: Bundle, remembered: dict | None, query: dict) -> tuple[dict, list[str]]:
    """Settings for a page that opens, and a sentence for each thing in its address that could not be used.

    The address wins over what the browser remembers, which wins over the card; what is wrong gives way to the next.
    """
    settings, complaints = defaults(bundle), []
    for name, value in (remembered or {}).items():
        try:
            if name in SETTINGS:
                settings = settings_of(checked(bundle, settings | {name: value}))
        except ValueError:
            continue  # a card that changed since is nothing that a visitor could act on
    if query.get("bundle", bundle.name) != bundle.name:
        complaints.append(f"This link was made for the bundle {query['bundle']!r}, and this page runs {bundle.name!r}.")
    if not complaints and ("low" in query or "high" in query):
        settings |= {"low": 0.0, "high": 1.0}  # else each end would be checked against the other one's old value
    for name in SETTINGS:
        if name not in query:
            continue
        try:
            settings = settings_of(checked(bundle, settings | {name: query[name]}))
        except ValueError as error:
            text = str(error)
            complaints.append(f"This link cannot be followed in full: {text}. It was left out.")
    return settings, complaints


def query_of(run: Run) -> str:
    """What stands behind the ? of the address that reopens exactly this run."""
    values = {name: f"{value:.12g}" if isinstance(value, float) else value for name, value in settings_of(run).items()}
    return urlencode({"bundle": run.bundle, **values})


def beta_marks(bundle: Bundle) -> dict[str, tuple[float, ...]]:
    """The values of β worth a click: the paper's that lie on this bundle's slider, and the card's own."""
    low, high = beta_range(bundle)
    paper = tuple(value for value in (0.0, 0.1, 0.5) if low <= value <= high)
    return {"paper": paper, "default": (float(bundle.card["defaults"]["beta"]),)}


def way_marks(bundle: Bundle) -> dict[str, tuple[str, int]]:
    """Solver and steps worth a click: the card's own, and the paper's where the bundle has as many steps."""
    card = defaults(bundle)
    marks = {"default": (card["solver"], card["steps"]), "paper": ("ddpm", 250)}
    return {name: way for name, way in marks.items() if way[1] <= max_steps(bundle)}


def random_seed_limit() -> int:
    """Dice throws stay short enough to be read aloud."""
    return min(99_999, MAX_SEED)
