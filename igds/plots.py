"""Studies and comparisons as figures. Imports matplotlib, so nothing else of the library imports this."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from igds.compare import best_of_sweep, swept
from igds.panels import Panel
from igds.study import MEASURES, REAL, UNGUIDED
from igds.tightness import CELLS, CROSS_ENTROPY, CROSS_ENTROPY_FREE, INFO_NCE, MINE, NEIGHBOURS, VE, VE_FREE

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
_LINE, _UNGUIDED, _REAL, _BEST = "#c2410c", "#5f6670", "#0b7a55", "#b91c1c"


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


def panels_figure(panels: Sequence[Panel], path: Path) -> None:
    """Write a PNG: a row a class, a panel a way with its images, and beneath it who recognises them and what they hold.

    Information is in nats; figures are over all seeds, the images those of the first.
    """
    labels, ways = (list(dict.fromkeys(getattr(panel, name) for panel in panels)) for name in ("label", "way"))
    figure = Figure(figsize=(2.7 * len(ways), 1.45 * len(labels) + 0.3), dpi=130, facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(labels), len(ways), squeeze=False)
    for panel in panels:
        row, column = labels.index(panel.label), ways.index(panel.way)
        axis = axes[row][column]
        axis.imshow(_tiled(panel.images), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        held_out, border = (panel.figures[name]["mean"] for name in ("contextual", "border_entropy"))
        axis.set_xlabel(
            f"recognised {panel.figures['accuracy']['mean']:.0%}, Ĥ {held_out:.2f}, border {border:.2f}", fontsize=8
        )
        if row == 0:
            axis.set_title(panel.way, fontsize=12, fontweight="bold")
        if column == 0:
            axis.set_ylabel(panel.label, fontsize=11, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _tiled(images: Tensor) -> np.ndarray:
    """uint8 images (n, C, H, W) in the flattest grid of at least two rows, with white gaps."""
    count, channels, height, width = images.shape
    columns = math.ceil(count / max(1, round(math.sqrt(count) * 0.7)))
    rows, gap = math.ceil(count / columns), max(1, width // 16)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet.squeeze(-1) if channels == 1 else sheet


def comparison_figure(results: dict, path: Path) -> None:
    """Write a PNG of a comparison, a row a network, a panel an IPC: accuracy by method, or along a sweep.

    A sweep of β has β beneath it, one of α the contextual information of its subsets, and then a last panel has that of
    the best subset of each IPC; other methods are lines across. The best of a sweep is ringed. Error bars are one
    standard error over sets on either side.
    """
    sweep = swept(results)
    networks, ipcs = results["networks"], results["ipcs"]
    of_subsets = bool(sweep) and sweep[0].startswith("α") and len(ipcs) > 1
    table = {(row["network"], row["ipc"], row["method"]): row for row in results["summary"]}
    columns = len(ipcs) + of_subsets
    size = (4.2 * columns, 3.4 * len(networks) + 0.6)
    figure = Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for network, line in zip(networks, figure.subplots(len(networks), columns, squeeze=False)):
        for ipc, axis in zip(ipcs, line):
            rows = {name: table[network, ipc, name] for name in results["methods"]}
            axis.set_title(f"{network}, IPC {ipc}, {results['epochs'][str(ipc)]} epochs", fontsize=11)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_ylabel("accuracy (%)")
            if sweep:
                _sweep(axis, {name: rows[name] for name in sweep}, rows)
            else:
                _methods(axis, rows)
        if of_subsets:
            _best_subsets(line[-1], [entry for entry in best_of_sweep(results) if entry["network"] == network])
    if sweep:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(
        f"{results['bundle']}: protocol {results['protocol']}, {results['split']} split\n"
        f"sets: {len(results['generation_seeds'])}, networks for each: {len(results['training_seeds'])}, "
        "± one standard error",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _percent(row: dict) -> tuple[float, float]:
    accuracy = row["accuracy"]
    return 100 * accuracy["mean"], 100 * (accuracy["standard_error"] or 0.0)


def _sweep(axis, swept: dict[str, dict], every: dict[str, dict]) -> None:
    of_beta = next(iter(swept)).startswith("β")
    values = [float(name[4:]) for name in swept]
    means, errors = zip(*map(_percent, swept.values()))
    if of_beta:
        across, widths = list(range(len(values))), None
    else:
        across = [row["contextual"]["mean"] for row in swept.values()]
        widths = [row["contextual"]["standard_error"] or 0.0 for row in swept.values()]
    curve = {"color": _LINE, "marker": "^", "markersize": 5, "capsize": 2}
    axis.errorbar(
        across, means, errors, widths, label="IGDS" if of_beta else "real images, weighted by eq. 37", **curve
    )
    best = means.index(max(means))
    axis.plot(across[best], means[best], "o", markersize=13, color="none", markeredgecolor=_BEST, label="best")
    if of_beta:
        axis.set_xticks(across, [f"{value:g}" for value in values])
    else:
        for x, y, value in zip(across, means, values):
            axis.annotate(f"α = {value:g}", (x, y), (9, 6), textcoords="offset points", fontsize=8)
        axis.margins(x=0.14)
    axis.set_xlabel("β" if of_beta else "H(X|Y) of the subset (nats)")
    for (name, row), (colour, style) in zip(
        ((n, r) for n, r in every.items() if n not in swept), ((_REAL, ":"), (_UNGUIDED, (0, (5, 3))))
    ):
        mean, error = _percent(row)
        axis.axhline(mean, color=colour, linestyle=style, label=name)
        axis.axhspan(mean - error, mean + error, color=colour, alpha=0.12, linewidth=0)


def _best_subsets(axis, found: list[dict]) -> None:
    """Contextual information of the best subset by IPC: panel b of the paper's figure 2."""
    across = list(range(len(found)))
    values = [entry["contextual"] for entry in found]
    errors = [value["standard_error"] or 0.0 for value in values]
    axis.errorbar(across, [value["mean"] for value in values], errors, color=_BEST, marker="o", capsize=2)
    axis.set_xticks(across, [str(entry["ipc"]) for entry in found])
    axis.margins(x=0.2)
    axis.set_xlabel("IPC")
    axis.set_ylabel("H(X|Y) of the best subset (nats)")
    axis.set_title("The subset that teaches best", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)


def _methods(axis, rows: dict[str, dict]) -> None:
    for place, (name, row) in enumerate(rows.items()):
        mean, error = _percent(row)
        guided = name.startswith("IGDS")
        axis.errorbar(
            place, mean, error, color=_LINE if guided else _UNGUIDED, marker="^" if guided else "o", capsize=3
        )
    axis.set_xticks(range(len(rows)), rows, rotation=35, ha="right", fontsize=8)
    axis.margins(x=0.08)


_TIGHTNESS_ARMS = {
    VE: ("#c2410c", "^", "-"),
    CROSS_ENTROPY: ("#0072b2", "s", "-"),
    VE_FREE: ("#e8915f", "^", (0, (4, 2))),
    CROSS_ENTROPY_FREE: ("#56b4e9", "s", (0, (4, 2))),
    CELLS: ("#6b4fa0", "D", (0, (1, 1))),
    INFO_NCE: ("#0b7a55", "v", "-"),
    MINE: ("#b5942b", "P", "-"),
    NEIGHBOURS: ("#5f6670", "X", "-"),
}


def tightness_figure(results: dict, path: Path) -> None:
    """Write a PNG of the study of tightness: Î and its distance from I against δ, Ĥ against δ, Ĥ against d.

    Error bars are one standard error over seeds on either side.
    """
    settings = results["settings"]
    features, width_delta = settings["features"], settings["width_delta"]
    known = {row["delta"]: row for row in results["truth"]}
    deltas = settings["deltas"]
    measured = {(row["delta"], row["features"], row["arm"]): row["measures"] for row in results["summary"]}
    entropy = results["truth"][0]["contextual"]
    figure = Figure(figsize=(12, 9.2), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    (prototype, gap), (contextual, widths) = figure.subplots(2, 2)

    def curves(axis, measure, places, across, spread):
        for number, (arm, (colour, marker, line)) in enumerate(_TIGHTNESS_ARMS.items()):
            found = [
                (x, measured[delta, d, arm][measure])
                for x, (delta, d) in zip(across, places)
                if measure in measured.get((delta, d, arm), {})
            ]
            if found and (axis is not widths or arm != NEIGHBOURS):  # neighbours know no d
                shift = spread * (number - (len(_TIGHTNESS_ARMS) - 1) / 2)
                axis.errorbar(
                    [x + shift for x, _ in found],
                    [value["mean"] for _, value in found],
                    [value["standard_error"] or 0.0 for _, value in found],
                    color=colour,
                    marker=marker,
                    linestyle=line,
                    markersize=6,
                    capsize=2,
                    label=arm,
                )

    across = [(delta, features) for delta in deltas]
    for axis, measure in ((prototype, "prototype"), (gap, "gap"), (contextual, "contextual")):
        curves(axis, measure, across, deltas, 0.025)
        axis.set_xlabel("δ, side of the triangle of means")
        axis.set_xticks(deltas)
    true = [known[delta]["prototype"] for delta in deltas]
    prototype.plot(deltas, true, color="black", linewidth=2.5, alpha=0.55, label="truth", zorder=0)
    prototype.set_title("Prototype information: Î and the true I(X;Y)")
    gap.axhline(0, color="black", linewidth=2.5, alpha=0.55, zorder=0)
    gap.set_title("Î minus the true I(X;Y) of the same points")
    ordered = sorted({d for delta, d, _ in measured if delta == width_delta and d in settings["widths"]})
    curves(widths, "contextual", [(width_delta, d) for d in ordered], ordered, 0.0)
    widths.set_xscale("log", base=2)
    widths.set_xticks(ordered, [f"{d:,}" for d in ordered])
    widths.minorticks_off()
    widths.set_xlabel("d, the number of entries of f(x)")
    widths.plot(ordered, [math.log(d) for d in ordered], color="black", linestyle=":", label="log d")
    contextual.axhline(math.log(features), color="black", linestyle=":")
    for axis, title in ((contextual, f"d = {features}"), (widths, f"δ = {width_delta:g}")):
        axis.axhline(entropy, color="black", linewidth=2.5, alpha=0.55, zorder=0)
        axis.set_title(f"Contextual information: Ĥ and (5/2)·log(2πe), {title}")
        axis.set_ylim(-0.2, 8.1)
    for axis in (prototype, gap, contextual, widths):
        axis.set_ylabel("nats")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e4e6ea", linewidth=0.8)
        axis.set_axisbelow(True)
    named = dict(zip(*reversed(prototype.get_legend_handles_labels())))
    named |= dict(zip(*reversed(widths.get_legend_handles_labels())))
    order = ["truth", "log d", *_TIGHTNESS_ARMS]
    named = {name: named[name] for name in order if name in named}
    figure.legend(named.values(), named, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(
        f"Three unit Gaussians in five dimensions: {settings['samples']:,} points, {settings['epochs']} epochs of SGD, "
        f"± one standard error over {len(settings['seeds'])} seeds"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
