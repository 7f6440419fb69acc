"""What the page says: explanations, captions, and the verdict on a run in words from its own numbers."""

import math
from html import escape

from igds.bundle import Bundle
from igds.runs import Record, Run, class_folder

INFO = {
    "label": "The class y whose images are made.",
    "ipc": "n, how many images of the class are made together.",
    "beta": "How much variety counts against being recognisable; 0 is prototype guidance alone.",
    "seed": "Fixes all noise: the same number gives the same run again.",
    "steps": "How many denoising steps lead from noise to image; more is slower and finer.",
    "solver": "DDPM adds fresh noise at every step, DDIM none.",
    "eta": "The length of each guidance step; 0 switches the guidance off.",
    "reference": "What images are asked to differ from: the mean of those made together (the paper's), or the mean of "
    "the real class.",
    "at": "Where guidance looks and acts: the noisy next image (the paper's), or the expected final one, x̃0.",
    "low": "Guidance stops below this share of the noise schedule; 0 is the finished image.",
    "high": "Guidance starts below this share of the noise schedule; 1 is pure noise.",
}

ONE_IMAGE = (
    "<b>With a single image, β cannot act.</b> The reference Q̂ is the mean of the images made together; with one image "
    "that is the image itself (p = Q̂), so Ĥ is 0. Against the mean of the real class it can act."
)


_TABLE_HEAD = """<thead><tr><th scope="col"></th>
<th scope="col">Î(X;Y)<small>nats, last step</small></th>
<th scope="col">Ĥ(X|Y)<small>nats, last step</small></th>
<th scope="col">recognised<small>by a classifier the guidance never saw</small></th>
<th scope="col">diversity<small>in that classifier's features</small></th></tr></thead>"""


def tau_words(bundle: Bundle) -> str:
    return (
        f"<p class='aside'><b>τ = {bundle.estimator.tau:g}</b> is part of this trained model: p = softmax(f(x)/τ). "
        "A smaller τ makes p peakier, so that Ĥ rises and β acts more strongly: a β means something only "
        "together with its τ.</p>"
    )


def images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def headline(run: Run) -> str:
    return f"{run.label}: {images(run.ipc)}, β = {run.beta:g}, seed {run.seed}"


def captions(run: Run) -> dict[str, str]:
    """What each column does, in a few words."""
    every = {
        "unguided": "the model alone",
        "prototype": "+ recognisable (β = 0)",
        "contextual": f"+ recognisable and varied (β = {run.beta:g})",
    }
    return {column: every[column] for column in run.columns}


def bound_of(key: str, run: Run, bundle: Bundle) -> dict | None:
    """The upper bound of a curve, with its name and its meaning; None where there is none to draw."""
    if key == "prototype":
        classes = len(bundle.classes)
        name = f"log {classes} = {math.log(classes):.2f}"
        return {
            "value": math.log(classes),
            "name": name,
            "words": f"At most log K = {name} nats, with K = {classes} classes: the class is then certain. "
            "What lies below −1 is drawn at −1.",
        }
    if run.reference == "class":
        return None
    name = f"log {run.ipc} = {math.log(run.ipc):.2f}"
    return {
        "value": math.log(run.ipc),
        "name": name,
        "words": f"At most log n = {name} nats, with n = {images(run.ipc)}: each is then unlike all others."
        if run.ipc > 1
        else "With n = 1, log n = 0: a single image has nothing to differ from.",
    }


def results(record: Record) -> str:
    """The numbers by column as a table, and what β bought and cost as a paragraph; HTML."""
    verdict = record.verdict()
    last = {row["column"]: row for row in record.curves[-len(record.run.columns) :]}
    rows = []
    for column in record.run.columns:
        accuracy, diversity = verdict[column]["accuracy"], verdict[column]["diversity"]
        recognised = f"{round(accuracy * record.run.ipc)} of {record.run.ipc}"
        rows.append(
            f"<tr class='{column}'><th scope='row'>{column}</th><td>{_signed(last[column]['prototype_nats'])}</td>"
            f"<td>{last[column]['contextual_nats']:.3f}</td><td>{recognised}</td>"
            f"<td>{f'{diversity:.3f}' if record.run.ipc > 1 else '–'}</td></tr>"
        )
    verdict_words = escape(sentence(record.run, verdict, last))
    return (
        f"<section class='results'><h2>What came out</h2><div class='table'><table>{_TABLE_HEAD}"
        f"<tbody>{''.join(rows)}</tbody></table></div><p class='verdict'>{verdict_words}</p></section>"
    )


def stopped(run: Run, done: int) -> str:
    """What stands instead of the numbers where a run was stopped; HTML."""
    sentence = (
        f"Stopped at step {done} of {run.steps}: the frames are what the model expected the images to become, "
        "so there is nothing to judge yet."
    )
    return f"<section class='results'><p class='verdict'>{sentence}</p></section>"


def sentence(run: Run, verdict: dict, last: dict) -> str:
    """What β bought and what it cost against β = 0 and against no guidance, from this run's own numbers."""
    if set(run.columns) != {"unguided", "prototype", "contextual"}:
        return ""
    if run.eta == 0:
        return "With η = 0 nothing was guided: the three columns are the same images."
    caveat = "One seed proves little" + (
        f", and with {run.ipc} images a share moves in steps of {100 / run.ipc:.3g} points: throw the dice a few times."
        if run.ipc > 1
        else ": throw the dice a few times."
    )
    if run.beta == 0:
        bought = _change(run, verdict, last, "prototype", "unguided")
        text = f"With β = 0 the last two columns are the same. Against no guidance, they {bought}."
    else:
        text = (
            f"Against β = 0, β = {run.beta:g} {_change(run, verdict, last, 'contextual', 'prototype')}. "
            f"Against no guidance, it {_change(run, verdict, last, 'contextual', 'unguided')}."
        )
    return f"{text} {caveat}"


def _change(run: Run, verdict: dict, last: dict, one: str, other: str) -> str:
    """From `other` to `one`: gains first, then costs."""
    figures = [
        ("Î", "nats", last[one]["prototype_nats"] - last[other]["prototype_nats"], 3),
        ("Ĥ", "nats", last[one]["contextual_nats"] - last[other]["contextual_nats"], 3),
        ("diversity", "", verdict[one]["diversity"] - verdict[other]["diversity"], 3),
    ]
    if run.ipc == 1:
        figures = figures[:1] if run.reference == "batch" else figures[:2]
    gained = [_amount(*figure) for figure in figures if round(figure[2], figure[3]) > 0]
    lost = [_amount(*figure) for figure in figures if round(figure[2], figure[3]) < 0]
    recognised = round((verdict[one]["accuracy"] - verdict[other]["accuracy"]) * run.ipc)
    if recognised:
        (gained if recognised > 0 else lost).append(f"{abs(recognised)} of {images(run.ipc)} recognised")
    if not gained and not lost:
        return "changed nothing that these numbers show"
    parts = ([f"bought {_listed(gained)}"] if gained else ["bought nothing that these numbers show"]) + (
        [f"cost {_listed(lost)}"] if lost else ["cost nothing that these numbers show"]
    )
    return " and ".join(parts)


def _amount(name: str, unit: str, value: float, digits: int) -> str:
    return f"{abs(value):.{digits}f} {unit + ' of ' if unit else 'of '}{name}"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _signed(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def waiting(ahead: int) -> str:
    if ahead == 0:
        return "You are next: your run starts as soon as the model is free."
    return f"Waiting: {'one run is' if ahead == 1 else f'{ahead} runs are'} ahead of yours. It starts by itself."


def credit(bundle: Bundle) -> str:
    """Whose the real images are."""
    source, licence = bundle.card.get("source", bundle.card["title"]), bundle.card.get("license", "not stated")
    return f"Real images: {source}, licence {licence}."


def as_sentence(text: str) -> str:
    """With a capital and a full stop, safe to stand in HTML."""
    text = text[:1].upper() + text[1:]
    return escape(text if text.endswith((".", "?", "!")) else f"{text}.", quote=False)


def file_stem(run: Run, bundle: Bundle) -> str:
    """What the files of a run are called."""
    return f"igds-{class_folder(bundle.label_of(run.label), run.label).partition('_')[2]}-seed{run.seed}"
