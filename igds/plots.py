"""Studies as figures. Imports matplotlib, so nothing else of the library imports this."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from igds.study import MEASURES, REAL, UNGUIDED

SHOWN = (
    "accuracy",
    "diversity",
    "recognised_diversity",
    "contextual",
    "held_out_contextual",
    "recall",
    "coverage",
    "out_of_range",
)
_LINE, _UNGUIDED, _REAL = "#c2410c", "#5f6670", "#0b7a55"


def study_figure(results: dict, path: Path) -> None:
    """Write a PNG: a row an IPC, a column a measure, the guided arms against unguided and as many real images.

    Error bars, and the band of the unguided arm, are one standard error over seeds on either side.
    """
    guided = [arm for arm in results["arms"] if arm != UNGUIDED]
    table = {(row["ipc"], row["arm"]): row["measures"] for row in results["summary"]}
    rows = results["ipcs"]
    figure = Figure(figsize=(3.0 * len(SHOWN), 2.7 * len(rows) + 0.8), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(SHOWN), squeeze=False)
    for ipc, line in zip(rows, axes):
        for measure, axis in zip(SHOWN, line):
            _panel(axis, table, ipc, guided, measure)
        line[0].set_ylabel(f"IPC {ipc}", fontsize=12, fontweight="bold")
    handles, labels = axes[-1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    defaults = results["defaults"]
    figure.suptitle(
        f"{results['bundle']}: {defaults['solver']}, {defaults['steps']} steps, η = {defaults['eta']:g}; "
        f"mean over classes, ± one standard error over {len(results['seeds'])} seeds",
        fontsize=12,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _panel(axis, table: dict, ipc: int, guided: list[str], measure: str) -> None:
    def values(arm):
        figures = table[ipc, arm].get(measure, {"mean": None, "standard_error": None})
        return figures["mean"], figures["standard_error"] or 0.0

    axis.set_title(MEASURES[measure], fontsize=10)
    axis.set_xticks(range(len(guided)), [arm.removeprefix("β = ") for arm in guided], fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if all(arm.startswith("β = ") for arm in guided):
        axis.set_xlabel("β", fontsize=9)
    else:
        axis.tick_params(axis="x", rotation=80)
    if values(guided[0])[0] is None:
        return axis.text(0.5, 0.5, "not defined\nfor one image", ha="center", transform=axis.transAxes, color=_UNGUIDED)
    means, errors = zip(*(values(arm) for arm in guided))
    axis.errorbar(range(len(guided)), means, errors, color=_LINE, marker="^", markersize=5, capsize=2, label="guided")
    if (ipc, UNGUIDED) in table:
        mean, error = values(UNGUIDED)
        axis.axhline(mean, color=_UNGUIDED, linestyle=(0, (5, 3)), label="unguided")
        axis.axhspan(mean - error, mean + error, color=_UNGUIDED, alpha=0.18, linewidth=0)
    axis.axhline(values(REAL)[0], color=_REAL, linestyle=":", label="as many real images")
