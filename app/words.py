"""What the page says: explanations, captions, and the verdict on a run in words from its own numbers."""

import math
from html import escape

from app.chart import chart
from igds.bundle import Bundle, limits_of
from igds.expectation import Expectation, Spread, expectation
from igds.runs import Record, Run, class_folder
from igds.study import UNGUIDED
from igds.verdict import Verdict

SOLVER_NAMES = {"dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE", "ddpm": "DDPM", "ddim": "DDIM"}
REFERENCE_NAMES = {"batch": "images made together", "class": "real class"}
PLACE_NAMES = {"x_prev": "noisy next image", "x0": "expected image x̃0"}
SCALING_NAMES = {"constant": "1", "deviation": "σ̃ₜ", "variance": "σ̃ₜ²", "normalised": "σ̃ₜ²/rms(∇)"}

INFO = {
    "label": "The class y whose images are made.",
    "ipc": "n, how many images of the class are made together.",
    "beta": "How much variety counts against being recognisable; 0 is prototype guidance alone.",
    "seed": "Fixes all noise: the same number gives the same run again.",
    "steps": "How many denoising steps lead from noise to image; more is slower and finer.",
    "solver": "DPM++ 2M needs the fewest steps; DDPM (the paper's) and SDE add fresh noise at every step, the others "
    "none.",
    "eta": "The length of each guidance step; 0 switches the guidance off.",
    "reference": "What images are asked to differ from: the mean of those made together (the paper's), or the mean of "
    "the real class.",
    "at": "Where guidance looks and acts: the noisy next image (the paper's), or the expected final one, x̃0.",
    "scaling": "What η is multiplied by at each step: 1 (the paper's), or the step's own noise level σ̃ₜ or its square, "
    "so that guidance fades as the picture clears. With σ̃ₜ²/rms(∇) only the gradient's direction counts, so that "
    "every image moves as far as the others.",
    "low": "Guidance stops below this share of the noise schedule; 0 is the finished image.",
    "high": "Guidance starts below this share of the noise schedule; 1 is pure noise.",
}

CHOSEN = "<p class='aside'>The default was chosen by <a href='#the-study'>the study</a>.</p>"

_FIGURE_WORDS = "Every measure against β, a row for each number of images, with unguided and real images beside it"

ONE_IMAGE = (
    "<b>With a single image, β cannot act.</b> The reference Q̂ is the mean of the images made together; with one image "
    "that is the image itself (p = Q̂), so Ĥ is 0. Against the mean of the real class it can act."
)


def study_details(figure: str | None) -> str:
    """The study, to unfold, with its figure by address; HTML."""
    picture = f"<img src='{escape(figure)}' loading='lazy' alt='{_FIGURE_WORDS}'>" if figure else ""
    return (
        "<details class='how study'><summary>The study behind the defaults</summary><div id='the-study'>"
        "<p>One run proves little, so every class was sampled with several seeds and numbers of images, unguided and "
        "at every β below. A classifier and an estimator that guided nothing judged the images, and as many real ones "
        "beside them. The defaults of β and η on this page were chosen by it; docs/study.md says how.</p>"
        f"{picture}</div></details>"
    )


def limits(card: dict) -> str:
    """What the prior of a bundle cannot do, HTML; empty for one that can do what one expects of a prior."""
    return f"<p class='limits'>{as_sentence(told)}</p>" if (told := limits_of(card)) else ""


def tau_words(bundle: Bundle) -> str:
    return (
        f"<p class='aside'><b>τ = {bundle.estimator.tau:g}</b> is part of this trained model: p = softmax(f(x)/τ). "
        "A smaller τ makes p peakier, so that Ĥ rises and β acts more strongly: a β means something only "
        "together with its τ.</p>"
    )


def notice(*sentences: str, calm: bool = False) -> str:
    """What is said beside the controls, HTML: what went wrong, or, `calm`, what is the case."""
    kind = "calm" if calm else "wrong"
    return "".join(f"<p class='{kind}' role='alert'>{as_sentence(sentence)}</p>" for sentence in sentences)


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


def results(record: Record, study: dict | None = None, no_study: str = "") -> str:
    """What came out: the numbers by column, what β bought and cost, and what `study` lets one expect of it; HTML.

    `no_study` is the sentence that stands for the study where there is none.
    """
    verdict = record.verdict()
    said = _paragraph("verdict", sentence(record.run, verdict))
    if record.run.ipc > 1 or record.run.reference == "class":  # else β cannot act, and Ĥ is 0 whatever was studied
        said += _against(study, record.run, verdict) if study else _paragraph("expected", full_sentence(no_study))
    return (
        f"<section class='results'><h2>What came out</h2><div class='table'>{_table(record.run, verdict)}</div>"
        f"{said}</section>"
    )


def _against(study: dict, run: Run, verdict: dict[str, Verdict]) -> str:
    try:
        expected = expectation(study, run)
    except ValueError as error:
        return _paragraph("expected", full_sentence(str(error)))
    return _paragraph("expected", expectation_words(expected, run)) + chart(expected, verdict)


def _paragraph(kind: str, text: str) -> str:
    return f"<p class='{kind}'>{escape(text, quote=False)}</p>" if text else ""


def _table(run: Run, verdict: dict[str, Verdict]) -> str:
    columns = [
        ("Î(X;Y)", "nats, of the finished images", lambda v: _signed(v.prototype)),
        ("Ĥ(X|Y)", "nats, of the finished images", lambda v: _signed(v.contextual)),
        ("Ĥ(X|Y), held out", "by a second estimator that guided nothing", lambda v: _signed(v.held_out_contextual)),
        ("recognised", "by a classifier that guided nothing", lambda v: f"{round(v.accuracy * run.ipc)} of {run.ipc}"),
        ("diversity", "of those recognised, in its features", lambda v: _figure(v.recognised_diversity)),
    ]
    if any(math.isnan(v.held_out_contextual) for v in verdict.values()):
        del columns[2]
    head = "".join(f"<th scope='col'>{name}<small>{about}</small></th>" for name, about, _ in columns)
    rows = [
        f"<tr class='{column}'><th scope='row'>{column}</th>"
        + "".join(f"<td>{figure(verdict[column])}</td>" for _, _, figure in columns)
        + "</tr>"
        for column in run.columns
    ]
    return f"<table><thead><tr><th scope='col'></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def expectation_words(expected: Expectation, run: Run) -> str:
    """What the study found at this run's β, with its spread, and in what the run differs from it."""
    if run.eta == 0:
        return ""
    nearest = "" if expected.ipc == run.ipc else f", the studied one nearest to {run.ipc}"
    seeds = "1 seed" if expected.seeds == 1 else f"{expected.seeds} seeds, mean ± standard deviation"
    between = f" (between the studied {expected.near[0]:g} and {expected.near[1]:g})" if len(expected.near) > 1 else ""
    other = "no guidance" if expected.against == UNGUIDED else "β = 0"
    text = (
        f"In the study ({expected.label}, IPC {expected.ipc}{nearest}; {seeds}), β = {run.beta:g}{between} "
        f"{_expected_change(expected.change)} against {other}."
    )
    if expected.other_settings:
        theirs = ", ".join(setting(name, value) for name, value in expected.other_settings.items())
        text += f" It was made with other settings ({theirs}), so it is only a guide here."
    return text


def _expected_change(change: dict[str, Spread]) -> str:
    parts, last = [], ""
    for measure, name, unit in (
        ("held_out_contextual", "held-out Ĥ", " nats"),
        ("recognised_diversity", "the diversity of those recognised", ""),
    ):
        if measure in change:
            mean, deviation = change[measure].mean, change[measure].deviation
            verb = "raised" if mean >= 0 else "lowered"
            spread = "" if math.isnan(deviation) else f" ± {deviation:.3f}"
            parts.append(f"{'' if verb == last else verb + ' '}{name} by {abs(mean):.3f}{spread}{unit}")
            last = verb
    if "accuracy" in change:
        mean, deviation = 100 * change["accuracy"].mean, 100 * change["accuracy"].deviation
        spread = "" if math.isnan(deviation) else f" ± {deviation:.0f}"
        signed = f"{mean:+.0f}".replace("-", "−") if round(mean) else "0"
        parts.append(f"changed the share recognised by {signed}{spread} points")
    return _listed(parts)


def setting(name: str, value) -> str:
    """One setting of a run in words."""
    if name == "interval":
        return f"interval {value[0]:g} to {value[1]:g}"
    return {
        "eta": lambda: f"η {value:g}",
        "steps": lambda: f"{value} steps",
        "solver": lambda: SOLVER_NAMES[value],
        "reference": lambda: f"reference: {REFERENCE_NAMES[value]}",
        "at": lambda: f"guided at the {PLACE_NAMES[value]}",
        "scaling": lambda: f"η scaled by {SCALING_NAMES[value]}",
    }[name]()


def stopped(run: Run, done: int) -> str:
    """What stands instead of the numbers where a run was stopped; HTML."""
    sentence = (
        f"Stopped at step {done} of {run.steps}: the frames are what the model expected the images to become, "
        "so there is nothing to judge yet."
    )
    return f"<section class='results'><p class='verdict'>{sentence}</p></section>"


def sentence(run: Run, verdict: dict[str, Verdict]) -> str:
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
        bought = change(run, verdict, "prototype", "unguided")
        text = f"With β = 0 the last two columns are the same. Against no guidance, they {bought}."
    else:
        text = (
            f"Against β = 0, β = {run.beta:g} {change(run, verdict, 'contextual', 'prototype')}. "
            f"Against no guidance, it {change(run, verdict, 'contextual', 'unguided')}."
        )
    return f"{text} {caveat}"


def change(run: Run, verdict: dict[str, Verdict], one: str, other: str) -> str:
    """From `other` to `one`: gains first, then costs."""
    to, of = verdict[one], verdict[other]
    figures = [("nats of Î", to.prototype - of.prototype)]
    if run.ipc > 1 or run.reference == "class":
        figures.append(("nats of Ĥ", to.contextual - of.contextual))
        held_out = to.held_out_contextual - of.held_out_contextual
        figures += [] if math.isnan(held_out) else [("nats of held-out Ĥ", held_out)]
    varied = to.recognised_diversity - of.recognised_diversity
    figures += [] if math.isnan(varied) else [("of diversity among those recognised", varied)]
    gained = [f"{value:.3f} {name}" for name, value in figures if round(value, 3) > 0]
    lost = [f"{-value:.3f} {name}" for name, value in figures if round(value, 3) < 0]
    recognised = round((to.accuracy - of.accuracy) * run.ipc)
    if recognised:
        (gained if recognised > 0 else lost).append(f"{abs(recognised)} of {images(run.ipc)} recognised")
    if not gained and not lost:
        return "changed nothing that these numbers show"
    parts = ([f"bought {_listed(gained)}"] if gained else ["bought nothing that these numbers show"]) + (
        [f"cost {_listed(lost)}"] if lost else ["cost nothing that these numbers show"]
    )
    return " and ".join(parts)


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def waiting(ahead: int) -> str:
    if ahead == 0:
        return "You are next: your run starts as soon as the model is free."
    return f"Waiting: {'one run is' if ahead == 1 else f'{ahead} runs are'} ahead of yours. It starts by itself."


def credit(bundle: Bundle) -> str:
    """Whose images the bundle has learnt from, and shows where it has any."""
    source, licence = bundle.card.get("source", bundle.card["title"]), bundle.card.get("license", "not stated")
    whose = "Learnt from" if bundle.gallery is None else "Real images:"
    return f"{whose} {source}. Licence: {licence}."


def full_sentence(text: str) -> str:
    """With a capital and a full stop; a Greek letter stays the symbol it is."""
    text = (text[:1].upper() if text[:1].isascii() else text[:1]) + text[1:]
    return text if not text or text.endswith((".", "?", "!")) else f"{text}."


def as_sentence(text: str) -> str:
    """A sentence, safe to stand in HTML."""
    return escape(full_sentence(text), quote=False)


def file_stem(run: Run, bundle: Bundle) -> str:
    """What the files of a run are called."""
    return f"igds-{class_folder(bundle.label_of(run.label), run.label).partition('_')[2]}-seed{run.seed}"
