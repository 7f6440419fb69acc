"""A run against the study, as an SVG that stands in the page: how varied the images are, and how recognisable."""

import math
from collections.abc import Iterable
from html import escape

from igds.expectation import Expectation, Spread
from igds.study import REAL, UNGUIDED, beta_arm
from igds.verdict import Verdict

X, Y = "held_out_contextual", "held_out_prototype"
WIDTH, HEIGHT = 520, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 36, 62
LETTER = 10  # the width of one, in units of the drawing


class _Scale:
    """The drawing's coordinates of the two figures, with room around all that is shown."""

    def __init__(self, xs: Iterable[float], ys: Iterable[float]):
        self.x_low, self.x_high = _padded(xs)
        self.y_low, self.y_high = _padded(ys)

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.y_high - value) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def chart(expected: Expectation, verdict: dict[str, Verdict]) -> str:
    """The run's columns as marks over the study's path through β, both by the held-out estimator; HTML.

    Bars are one standard deviation over seeds on either side. Empty where the bundle has no held-out estimator, or the
    study another reference Q than the run.
    """
    arms = {name: measures for name, measures in expected.arms.items() if X in measures and Y in measures}
    path = [(beta, arms[beta_arm(beta)]) for beta in expected.betas if beta_arm(beta) in arms]
    run = {column: (v.held_out_contextual, v.held_out_prototype) for column, v in verdict.items()}
    comparable = "reference" not in expected.other_settings  # Ĥ against another Q is another quantity
    if not path or not comparable or not all(map(math.isfinite, sum(run.values(), ()))):
        return ""
    shown = [*(measures for _, measures in path), *(arms[name] for name in (UNGUIDED, REAL) if name in arms)]
    scale = _Scale(
        [x for measures in shown for x in _ends(measures[X])] + [x for x, _ in run.values()],
        [y for measures in shown for y in _ends(measures[Y])] + [y for _, y in run.values()],
    )
    points = [(scale.x(measures[X].mean), scale.y(measures[Y].mean)) for _, measures in path]
    parts = [_axes(scale), *(_bars(scale, measures, "guided") for _, measures in path)]
    parts += [_bars(scale, arms[name], name) for name in (REAL, UNGUIDED) if name in arms]
    parts.append(f"<polyline class='path' points='{' '.join(f'{x:.1f},{y:.1f}' for x, y in points)}'/>")
    marks = {column: (scale.x(x), scale.y(y)) for column, (x, y) in run.items()}
    parts += [_mark(column, x, y) for column, (x, y) in marks.items()]
    # The study's marks are the smaller ones: on top, neither hides the other.
    parts += [f"<path class='dot' d='{_triangle(x, y, 5)}'/>" for x, y in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    for name in (REAL, UNGUIDED):
        if name in arms:
            x, y = scale.x(arms[name][X].mean), scale.y(arms[name][Y].mean)
            parts.append(f"<path class='{name}' d='{_diamond(x, y)}'/>" if name == REAL else _circle(x, y, 5, "hollow"))
            taken.append((x - 8, y - 8, x + 8, y + 8))
    taken += [(x - 11, y - 11, x + 11, y + 11) for x, y in marks.values()]
    parts += _labels([beta for beta, _ in path], points, taken)
    seeds = f"{expected.seeds} seed{'' if expected.seeds == 1 else 's'}"
    caption = f"{expected.label}, IPC {expected.ipc}, {seeds}"
    words = "; ".join(f"{column} at Ĥ {x:.2f} and Î {y:.2f}" for column, (x, y) in run.items())
    return (
        "<figure class='against'><h3>This run against the study</h3>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(f'This run: {words}', quote=True)}'>"
        f"<title>{escape(f'This run against the study: {caption}')}</title>{''.join(parts)}</svg>"
        f"<figcaption><p>{escape(caption)}. Further right, the images differ more; further up, their class is surer. "
        "Both in nats, by the estimator that guided nothing; bars: ± 1 standard deviation.</p>"
        f"{_legend(arms)}</figcaption></figure>"
    )


def _ends(spread: Spread) -> tuple[float, float]:
    reach = 0.0 if math.isnan(spread.deviation) else spread.deviation
    return spread.mean - reach, spread.mean + reach


def _padded(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05
    return low - room, high + room


def _axes(scale: _Scale) -> str:
    parts, bottom = [], HEIGHT - BOTTOM
    for value, words in _ticks(scale.y_low, scale.y_high):
        y = scale.y(value)
        parts.append(f"<line class='rule' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='{LEFT - 8}' y='{y + 6:.1f}' text-anchor='end'>{words}</text>")
    for value, words in _ticks(scale.x_low, scale.x_high):
        parts.append(f"<text x='{scale.x(value):.1f}' y='{bottom + 23}' text-anchor='middle'>{words}</text>")
    parts.append("<text class='axis' x='4' y='18'>↑ held-out Î: recognisable</text>")
    parts.append(
        f"<text class='axis' x='{WIDTH - RIGHT}' y='{HEIGHT - 10}' text-anchor='end'>held-out Ĥ: varied →</text>"
    )
    return "".join(parts)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """At most seven round values, with their words."""
    size = 10 ** math.floor(math.log10((high - low) / 4))
    gap = next(factor * size for factor in (1, 2, 5, 10) if (high - low) / (factor * size) <= 6)
    digits = max(0, -math.floor(math.log10(gap)))
    first, last = math.ceil(low / gap), math.floor(high / gap)
    return [(i * gap, f"{i * gap:.{digits}f}".replace("-", "−")) for i in range(first, last + 1)]


def _bars(scale: _Scale, measures: dict[str, Spread], kind: str) -> str:
    x, y = scale.x(measures[X].mean), scale.y(measures[Y].mean)
    (left, right), (low, high) = map(scale.x, _ends(measures[X])), map(scale.y, _ends(measures[Y]))
    return f"<path class='bars {kind}' d='M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {low:.1f}V{high:.1f}'/>"


def _labels(betas: list[float], points: list[tuple[float, float]], taken: list[tuple]) -> list[str]:
    """β beside as many points as there is room for: the two ends first, then from the largest down."""
    order = dict.fromkeys([0, len(betas) - 1, *reversed(range(len(betas)))])
    places = [(dx, dy, "start" if dx > 0 else "end") for dy in (6, -10, 22) for dx in (11, -11)]
    places[2:2] = [(0, -13, "middle"), (0, 27, "middle")]
    parts = []
    for i in order:
        words = f"β = {betas[i]:g}" if i in (0, len(betas) - 1) else f"{betas[i]:g}"
        width, (x, y) = LETTER * len(words), points[i]
        for dx, dy, anchor in places:
            left = x + dx - {"start": 0, "middle": width / 2, "end": width}[anchor]
            box = (left, y + dy - 14, left + width, y + dy + 3)
            inside = LEFT < box[0] and box[2] < WIDTH - 2 and TOP - 8 < box[1] and box[3] < HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                parts.append(
                    f"<text class='beta' x='{x + dx:.1f}' y='{y + dy:.1f}' text-anchor='{anchor}'>{words}</text>"
                )
                break
    return parts


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _mark(column: str, x: float, y: float) -> str:
    """As on the stage: a circle, a square, a triangle."""
    if column == "unguided":
        return _circle(x, y, 8.5, f"mark {column}")
    if column == "prototype":
        return f"<rect class='mark {column}' x='{x - 8:.1f}' y='{y - 8:.1f}' width='16' height='16'/>"
    return f"<path class='mark {column}' d='{_triangle(x, y, 10)}'/>"


def _circle(x: float, y: float, radius: float, kind: str) -> str:
    return f"<circle class='{kind}' cx='{x:.1f}' cy='{y:.1f}' r='{radius}'/>"


def _triangle(x: float, y: float, size: float) -> str:
    return f"M{x:.1f} {y - size:.1f}l{size} {1.75 * size:.2f}h{-2 * size}z"


def _diamond(x: float, y: float) -> str:
    return f"M{x:.1f} {y - 8:.1f}l7 8l-7 8l-7 -8z"


def _legend(arms: dict) -> str:
    entries = [
        (_mark("unguided", 12, 12), "this run, unguided"),
        (_mark("prototype", 12, 12), "this run, β = 0"),
        (_mark("contextual", 12, 12), "this run, contextual"),
        (f"<path class='path' d='M1 18L23 9'/><path class='dot' d='{_triangle(12, 12, 5)}'/>", "study, by β"),
    ]
    if UNGUIDED in arms:
        entries.append((_circle(12, 12, 5, "hollow"), "study, unguided"))
    if REAL in arms:
        entries.append((f"<path class='real' d='{_diamond(12, 12)}'/>", "as many real images"))
    items = (
        f"<li><svg viewBox='0 0 24 24' width='24' height='24' aria-hidden='true'>{shape}</svg>{words}</li>"
        for shape, words in entries
    )
    return f"<ul>{''.join(items)}</ul>"
