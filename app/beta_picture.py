"""The grid and its curves as one picture for a slide, columns above their points as on the page. Knows no page."""

import io
import math

import numpy as np

from app.beta_run import BetaRun, BetaSession, headline, stem_of
from app.figures import COLOURS, DASHES, MARKERS, picture_of, trajectory
from app.words import SCALING_NAMES, SOLVER_NAMES

NAMES = {
    "prototype": "Î(X;Y), nats",
    "contextual": "Ĥ(X|Y), nats",
    "accuracy": "recognised",
    "recognised_diversity": "diversity of\nthose recognised",
}
FORMATS = ("png", "svg")
TILE, COLUMN, CURVE = 1.18, 1.34, 1.3  # widths of an image and of a column, height of a curve; all in inches
FILM_COLUMN = 112  # pixels
LEFT, TOP, BOTTOM, NARROWEST = 1.0, 0.95, 0.75, 8.5


def picture(session: BetaSession, kind: str) -> tuple[str, bytes]:
    """Name and content, `kind` being one of FORMATS, of the run on show; ValueError where there is nothing yet.

    A finished run has four curves, by the judges of its images; a stopped one Î and Ĥ of its last step.
    """
    if not session.has_frames:
        raise ValueError("there is nothing to download yet: start a run first")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    record, run = session.record, session.record.run
    frames = [np.asarray(picture_of(uri).convert("RGBA")) for uri in session.steps[-1]["frames"]]
    curves = _curves(session)
    height, width = frames[0].shape[:2]
    grid_inches = TILE * height / width
    across = LEFT + COLUMN * len(frames) + 0.2
    size = (max(across, NARROWEST), TOP + grid_inches + CURVE * len(curves) + BOTTOM)
    left = LEFT + (size[0] - across) / 2
    figure = Figure(figsize=size, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)

    def strip(top: float, inches: float):
        """Axes over all columns, so many inches below the top and high; column i has its middle at x = i."""
        box = (left / size[0], 1 - (top + inches) / size[1], COLUMN * len(frames) / size[0], inches / size[1])
        return figure.add_axes(box, xlim=(-0.5, len(frames) - 0.5))

    grid, half = strip(TOP, grid_inches), 0.5 * TILE / COLUMN
    for i, frame in enumerate(frames):
        grid.imshow(frame, extent=(i - half, i + half, 0, 1), interpolation="nearest", aspect="auto")
        look = {"ha": "center", "fontsize": 13, "fontweight": "bold", "color": _colour(run, i)}
        grid.annotate(run.columns[i], (i, 1), (0, 6), textcoords="offset points", **look)
    grid.set(xlim=(-0.5, len(frames) - 0.5), ylim=(0, 1))
    grid.axis("off")
    for i, (key, values) in enumerate(curves.items()):
        axis = strip(TOP + grid_inches + CURVE * i + 0.25, CURVE - 0.25)
        _curve(axis, run, key, values)
        axis.set_ylabel(NAMES[key], fontsize=11)
    stopped = "" if session.is_finished else f", stopped at step {len(session.steps)} of {run.run.steps}"
    title = headline(run) + stopped
    look = {"ha": "center", "va": "top", "fontsize": min(16, 100 * size[0] / len(title)), "fontweight": "bold"}
    figure.text(0.5, 1 - 0.15 / size[1], _plain(title), **look)
    single = run.run
    footer = (
        f"{record.bundle.card['title']}. {SOLVER_NAMES[single.solver]}, {single.steps} steps, η = {single.eta:g} "
        f"times {SCALING_NAMES[single.scaling]}, reference: {single.reference}, guided at {single.at}.\n"
        "Each row starts from the same noise. Dashed: the level of unguided."
    )
    about = {"ha": "center", "va": "bottom", "fontsize": 9, "color": COLOURS["unguided"]}
    figure.text(0.5, 0.12 / size[1], _plain(footer), **about)
    buffer = io.BytesIO()
    # Else no two files of a run would be equal, and all images of an SVG would be one.
    with rc_context({"svg.hashsalt": "igds", "image.composite_image": False}):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return f"{stem_of(session)}.{kind}", buffer.getvalue()


def film(session: BetaSession, kind: str) -> tuple[str, bytes]:
    """Name and content of the grid as an animation, a frame a step; ValueError where there is none, as `trajectory`."""
    if not session.has_frames:
        raise ValueError("there is nothing to download yet: start a run first")
    run = session.record.run
    heads = [(name, _colour(run, i)) for i, name in enumerate(run.columns)]
    frames = [step["frames"] for step in session.steps]
    return f"{stem_of(session)}.{kind}", trajectory(frames, heads, kind, side=FILM_COLUMN)


def _curves(session: BetaSession) -> dict[str, list[float]]:
    if not session.is_finished:
        return {key: session.steps[-1][key] for key in ("prototype", "contextual")}
    return {key: [getattr(verdict, key) for verdict in session.record.verdicts] for key in NAMES}


def _curve(axis, run: BetaRun, key: str, values: list[float]) -> None:
    axis.axhline(values[0], color=COLOURS["unguided"], linestyle=DASHES["unguided"], linewidth=1.2)
    axis.plot(range(1, len(values)), values[1:], color=COLOURS["contextual"], linewidth=1.5)
    for i, value in enumerate(values):
        axis.plot(i, value, MARKERS[_kind(run, i)], color=_colour(run, i), markersize=8)
        if math.isfinite(value):  # NaN where too few are recognised
            place = {"textcoords": "offset points", "ha": "center", "fontsize": 10}
            axis.annotate(_words(key, value, run), (i, value), (0, 8), **place)
    axis.margins(y=0.4)
    if key == "accuracy":
        axis.set(ylim=(0, 1.35), yticks=(0, 1), yticklabels=("0", run.run.ipc))
    elif key != "prototype":
        highest = max((value for value in values if math.isfinite(value)), default=0.0)
        axis.set_ylim(0, 1.35 * (highest or 1.0))
    axis.tick_params(bottom=False, labelbottom=False, labelsize=9)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)


def _words(key: str, value: float, run: BetaRun) -> str:
    if key == "accuracy":
        return str(round(value * run.run.ipc))
    return f"{value:.{3 if key == 'recognised_diversity' else 2}f}".replace("-", "−")


def _kind(run: BetaRun, column: int) -> str:
    if column == 0:
        return "unguided"
    return "contextual" if run.betas[column - 1] else "prototype"


def _colour(run: BetaRun, column: int) -> str:
    return COLOURS[_kind(run, column)]


def _plain(text: str) -> str:
    """matplotlib would read what stands between two dollar signs as mathematics."""
    return text.replace("$", r"\$")
