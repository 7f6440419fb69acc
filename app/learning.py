"""What networks learn, in words and as an SVG: accuracy against epochs, from a distilled set and from real images."""

import math
from html import escape
from statistics import fmean

from app.lessons import MOST_EPOCHS, TESTED_PER_CLASS, Lesson, epochs_for
from app.words import as_sentence, images, waiting
from igds.evaluation import epochs_of

NAMES = {"distilled": "distilled", "real": "random real"}
WIDTH, HEIGHT = 820, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 216, 18, 50
GAP = 22  # between two labels
LAST = 3  # tests that the verdict averages, since from one to the next a curve jumps by some points


def explanation(ipc: int, classes: int) -> str:
    """What the button does; HTML."""
    epochs = epochs_for(ipc * classes)
    return (
        "<p class='about'>A ConvNet-3 learns from the set, a second one from as many random real images. Both get "
        f"{epochs} epochs of the paper’s protocol instead of its {epochs_of('paper', ipc):,}, so that you can watch, "
        f"and are tested on {TESTED_PER_CLASS} real test images a class.</p>"
    )


def learning(lesson: Lesson, ahead: int) -> str:
    """How far the lesson is, its curves, and at the end what they say; HTML."""
    return f"<section class='learning'>{_chart(lesson)}<p role='status'>{_words(lesson, ahead)}</p></section>"


def _words(lesson: Lesson, ahead: int) -> str:
    if lesson.state == "waiting":
        return waiting(ahead)
    if lesson.state == "failed":
        return as_sentence(lesson.said)
    if lesson.state == "running":
        if not lesson.epoch:
            return "Reading the real images."
        left = f", about {seconds(lesson.left)} left" if lesson.epoch > 1 else ""
        return f"Epoch {lesson.epoch} of {lesson.epochs}{left}."
    if lesson.state == "stopped":
        return f"Stopped after epoch {lesson.epoch} of {lesson.epochs}." if lesson.epoch else "Stopped."
    return verdict(lesson)


def verdict(lesson: Lesson) -> str:
    """The accuracies against each other, and how far one may trust them."""
    ours, real = (fmean(accuracy for _, accuracy in lesson.curves[name][-LAST:]) for name in NAMES)
    points = 100 * (ours - real)
    change = f"{abs(points):.1f} points {'more' if points > 0 else 'fewer'} than" if round(points, 1) else "as was"
    error = 100 * math.sqrt(ours * (1 - ours) / lesson.tested)
    return (
        f"Over its last {LAST} tests, the network that learned from the distilled set was right on "
        f"<b>{100 * ours:.1f} %</b> of {images(lesson.tested)}, {change} the one that learned from random real ones "
        f"(<b>{100 * real:.1f} %</b>). With so few test images a share is known to ± {error:.1f} points (one "
        "standard error), and one set and one training seed prove little: <code>igds compare</code> repeats it at full "
        "length."
    )


def seconds(value: float) -> str:
    """A duration as one says it."""
    return f"{round(value / 60)} min" if value >= 90 else f"{max(1, round(value))} s"


def _x(lesson: Lesson, epoch: float) -> float:
    return LEFT + epoch / (lesson.epochs or MOST_EPOCHS) * (WIDTH - LEFT - RIGHT)


def _y(accuracy: float) -> float:
    return TOP + (1 - accuracy) * (HEIGHT - TOP - BOTTOM)


def _chart(lesson: Lesson) -> str:
    chance = 1 / len(lesson.making.bundle.classes)
    parts = [_axes(lesson), _chance(chance)]
    ends = {}
    for name, points in lesson.curves.items():
        if points:
            places = [(_x(lesson, epoch), _y(accuracy)) for epoch, accuracy in points]
            parts.append(f"<polyline class='{name}' points='{' '.join(f'{x:.1f},{y:.1f}' for x, y in places)}'/>")
            parts += [_mark(name, x, y) for x, y in places]
            ends[name] = (points[-1][1], places[-1][1])
    parts += _labels(ends)
    said = ", ".join(f"{NAMES[name]} {100 * accuracy:.1f} %" for name, (accuracy, _) in ends.items()) or "no test yet"
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' data-points='{len(lesson.curves['distilled'])}' "
        f"aria-label='Accuracy: {escape(said, quote=True)}'>{''.join(parts)}</svg>"
    )


def _axes(lesson: Lesson) -> str:
    right, parts = WIDTH - RIGHT, []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = _y(share)
        parts.append(f"<path class='rule' d='M{LEFT} {y:.1f}H{right}'/>")
        parts.append(f"<text x='{LEFT - 10}' y='{y + 5:.1f}' text-anchor='end'>{share:.0%}</text>".replace("%", " %"))
    for share in (0, 0.5, 1) if lesson.epochs else ():
        epoch = round(share * lesson.epochs)
        parts.append(f"<text x='{_x(lesson, epoch):.1f}' y='{HEIGHT - 26}' text-anchor='middle'>{epoch}</text>")
    middle = (LEFT + right) / 2
    parts.append(f"<text class='axis' x='{middle}' y='{HEIGHT - 4}' text-anchor='middle'>epochs of training</text>")
    return "".join(parts)


def _chance(share: float) -> str:
    y = _y(share)
    return (
        f"<path class='chance' d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}'/>"
        f"<text x='{WIDTH - RIGHT - 6}' y='{y - 7:.1f}' text-anchor='end'>chance</text>"
    )


def _labels(ends: dict[str, tuple[float, float]]) -> list[str]:
    """The last accuracy of each curve beside it, the two pushed apart where they would overlap."""
    placed, x = sorted((y, name, accuracy) for name, (accuracy, y) in ends.items()), WIDTH - RIGHT + 18
    heights = [y for y, _, _ in placed]
    if len(placed) == 2 and (missing := GAP - (heights[1] - heights[0])) > 0:
        heights = [heights[0] - missing / 2, heights[1] + missing / 2]
    return [
        f"{_mark(name, x, y)}<text class='name {name}' x='{x + 14}' y='{y + 5:.1f}'>"
        f"{NAMES[name]} {100 * accuracy:.1f} %</text>"
        for y, (_, name, accuracy) in zip(heights, placed)
    ]


def _mark(name: str, x: float, y: float) -> str:
    """Shape as well as hue: a triangle and a diamond."""
    if name == "distilled":
        return f"<path class='mark {name}' d='M{x:.1f} {y - 6.5:.1f}l6.5 11.5h-13z'/>"
    return f"<path class='mark {name}' d='M{x:.1f} {y - 7:.1f}l6 7l-6 7l-6 -7z'/>"
