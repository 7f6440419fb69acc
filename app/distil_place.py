"""The place Distil: a whole data set, made class by class while one watches, browsed, and tried on a small network."""

import re
import time
from html import escape

import gradio as gr

from app import words
from app.controls import html, text_of
from app.distillery import Distillery, Making, about, wanted
from app.downloads import Downloads
from app.learning import explanation, learning
from app.lessons import Lesson, real_folder
from app.running import QUICK
from app.settings import MAX_IPC, beta_range, defaults, random_seed_limit
from igds.bundle import Bundle
from igds.distil import auto_beta
from igds.files import sentence_of

FETCH = "() => new Promise((done) => setTimeout(done, 60)).then(() => document.querySelector('#distil-fetch').click())"
ZIP, NO_ZIP = "Download ZIP", "ZIP: finished sets only"
INFO = {
    "ipc": "n, how many images stand for each class.",
    "auto": "by the number of images",
    "beta": "How much variety counts against being recognisable.",
    "seed": "Fixes all noise: the same settings give the same set again.",
    "candidates": "Above 1, so many times as many are made, and those kept whose mean in f is nearest to that of all.",
}
COMPOSITE = """<p class='aside'>As in section 5.1 of the paper. Figures on this page are of the composites; card.json
has those of the four.</p>"""
CHOSEN = """<p class='aside'>Choosing is ours, not the paper's. It helps most at one image a class, where a single draw
is a lottery. While a class is made, the first of its candidates are shown.</p>"""
MOST_CANDIDATES = 50


def distil_place(page: gr.Blocks, distillery: Distillery, downloads: Downloads, memory: gr.BrowserState) -> None:
    """Build the place inside `page`; `memory` is where the browser keeps the key of the set on show."""
    bundle = distillery.studio.bundle
    values = defaults(bundle)
    lessons: dict[str, Lesson] = {}  # the last one of each set, by the set's key

    html(text_of("distil_intro.html"))
    with gr.Row(elem_classes="explorer"):
        with gr.Column(elem_classes="controls"):
            ipc = _slider("ipc", "Images per class (IPC)", 1, MAX_IPC, 1, values["ipc"])
            low, high = beta_range(bundle)
            by_ipc = auto_beta(bundle, values["ipc"])[0]
            beta = _slider("beta", "β, contextual weight", low, high, 0.01 if high <= 2 else 0.05, by_ipc, fixed=True)
            auto = gr.Checkbox(True, label=f"auto, {INFO['auto']}", elem_id="distil-auto")
            source = html(_source(bundle, values["ipc"], True), "distil-source")
            with gr.Row(elem_classes="seedline"):
                seed = gr.Number(values["seed"], label="Seed", info=INFO["seed"], precision=0, elem_id="distil-seed")
                dice = gr.Button("⚄ Dice", size="sm", elem_id="distil-dice")
            with gr.Row(elem_classes="buttons"):
                start = gr.Button("Start", variant="primary", elem_id="distil-start")
                stop = gr.Button("Stop", interactive=False, elem_id="distil-stop")
                resume = gr.Button("Resume", interactive=False, elem_id="distil-resume")
            notice = html("", "distil-notice")
            with gr.Accordion("Advanced", open=False, elem_id="distil-advanced"):
                candidates = _slider("candidates", "Candidates per image", 1, MOST_CANDIDATES, 1, 1)
                html(CHOSEN)
                composite = gr.Checkbox(
                    False, label="2×2 composites: each image is four at half their size", elem_id="distil-composite"
                )
                html(COMPOSITE)
        with gr.Column(elem_classes="stageside"):
            stage = gr.HTML(
                _idle(bundle, values["ipc"], "auto", values["seed"], 1, False),
                html_template=text_of("distil.html"),
                css_template=text_of("distil.css"),
                js_on_load=text_of("distil.js"),
                apply_default_css=False,
                padding=False,
                elem_id="set",
                elem_classes="flush",
            )
            with gr.Row(elem_classes="downloads"):
                archive = gr.Button(NO_ZIP, interactive=False, elem_id="distil-zip")
            fetch = gr.DownloadButton("File", visible="hidden", elem_id="distil-fetch")
            with gr.Column(elem_classes="teaching"):
                html("<h2 class='teach'>What does a network learn from it?</h2>")
                plan = html(_plan(bundle, values["ipc"]), "distil-plan")
                with gr.Row(elem_classes="downloads"):
                    teach = gr.Button("Train", interactive=False, elem_id="distil-teach")
                    halt = gr.Button("Stop training", interactive=False, elem_id="distil-halt")
                curves = html("", "distil-curves")

    settings = [ipc, auto, beta, seed, candidates, composite]
    shown = [stage, start, stop, resume, archive, plan, teach, halt, curves, notice, memory]

    def seen(making: Making, have: int = 0, known: str = "") -> dict:
        """What is new of a set, for a page that has version `have` and whose buttons stand as `known` says."""
        lesson = lessons.get(making.key)
        now = f"{making.born} {making.state} {lesson.version if lesson else ''}"
        busy = making.is_busy or bool(lesson and lesson.is_busy)  # read first: else its end could go untold
        payload = making.since(have) | {
            "words": _state(making, distillery.workshop.ahead(making)),
            "busy": busy,
            "known": now,
            "told": time.monotonic(),  # a page is not told what it knows already, and would not ask again
        }
        if now == known:
            return {stage: payload}
        learns = bool(lesson and lesson.is_busy)
        return {
            stage: payload,
            start: gr.Button(interactive=not making.is_busy),
            stop: gr.Button(interactive=making.is_busy),
            resume: gr.Button(interactive=making.state in ("stopped", "failed")),
            archive: gr.Button(ZIP if making.is_finished else NO_ZIP, interactive=making.is_finished),
            plan: _plan(bundle, making.settings.ipc),
            teach: gr.Button(interactive=making.is_finished and not learns and not _lacking(bundle)),
            halt: gr.Button(interactive=learns),
            curves: learning(lesson, distillery.workshop.ahead(lesson)) if lesson else "",
            notice: words.notice(making.said) if making.state == "failed" else gr.skip(),
            memory: making.key,
        }

    def with_set(action):
        """A handler that acts on the set of the page, and says in a sentence what stands in the way."""

        def handler(key: str):
            try:
                making = distillery.find(key or "")
                action(making)
            except (ValueError, OSError) as error:
                return {notice: words.notice(sentence_of(error))}
            return seen(making) | {notice: ""}

        return handler

    def begin(ipc, auto, beta, seed, candidates, composite):
        try:
            asked = wanted(bundle, ipc=ipc, beta="auto" if auto else beta, seed=seed)
            making = distillery.start(asked, composite=composite, candidates=_whole(candidates))
        except (ValueError, OSError) as error:
            return {notice: words.notice(sentence_of(error))}
        there = "This set is there already: the same settings give the same images." if making.is_finished else ""
        return seen(making) | {notice: words.notice(there, calm=True) if there else ""}

    def begin_lesson(making: Making):
        real_folder(bundle)
        lesson = lessons.get(making.key)
        if not lesson or not lesson.is_busy:
            lesson = Lesson(making)
            distillery.workshop.begin(lesson)
            lessons[making.key] = lesson

    def end_lesson(making: Making):
        if making.key in lessons:
            distillery.workshop.stop(lessons[making.key])

    start.click(begin, settings, shown, **QUICK)
    stop.click(with_set(distillery.workshop.stop), memory, shown, **QUICK)
    resume.click(with_set(distillery.workshop.begin), memory, shown, **QUICK)
    teach.click(with_set(begin_lesson), memory, shown, **QUICK)
    halt.click(with_set(end_lesson), memory, shown, **QUICK)

    def look(event: gr.EventData):
        try:
            making = distillery.find(str(event.key))
        except (ValueError, OSError) as error:
            gone = _idle(bundle, values["ipc"], "auto", values["seed"], 1, False) | {"kind": "gone"}
            idle = gr.Button(interactive=False)
            return {
                stage: gone,
                notice: words.notice(sentence_of(error)),
                memory: "",
                stop: idle,
                resume: idle,
                archive: idle,
            }
        have = int(event.have) if event.born == making.born else 0
        return seen(making, have, str(event.known))

    stage.look(look, None, shown, **QUICK)

    def open_page(key: str):
        if not key:
            return {stage: gr.skip()}
        try:
            making = distillery.find(key)
        except (ValueError, OSError):
            return {stage: {"kind": "open", "key": key}}  # it will ask, and be told what is wrong
        made = making.settings
        is_auto = made.beta_from != "given"
        return {
            stage: {"kind": "open", "key": key},
            ipc: made.ipc,
            seed: made.seed,
            candidates: making.candidates,
            composite: making.composite,
            auto: is_auto,
            beta: gr.Slider(value=made.beta, interactive=not is_auto),
            source: _source(bundle, made.ipc, is_auto),
        }

    page.load(open_page, memory, [stage, *settings, source], **QUICK)

    def look_ahead(key, *values):
        ipc, auto, beta_now, seed, candidates, composite = values
        try:
            idle = _idle(bundle, ipc, "auto" if auto else beta_now, seed, candidates, composite)
        except ValueError:
            return {stage: gr.skip()}  # said when Start is pressed: a number may be half typed now
        changes = {source: _source(bundle, ipc, auto), beta: _beta_box(bundle, ipc, auto)}
        return changes if key else changes | {stage: idle, plan: _plan(bundle, int(ipc))}

    for widget in settings:
        widget.change(look_ahead, [memory, *settings], [stage, source, plan, beta], trigger_mode="always_last", **QUICK)
    dice.click(None, None, seed, js=f"() => Math.floor(Math.random() * {random_seed_limit() + 1})")

    def make(key: str):
        try:
            return str(downloads.put(*distillery.find(key or "").zip_of()))
        except (ValueError, OSError) as error:
            raise gr.Error(words.as_sentence(sentence_of(error)), print_exception=False) from None

    archive.click(make, memory, fetch, **QUICK).success(None, None, None, js=FETCH)


def _slider(
    name: str, label: str, low: float, high: float, step: float, value: float, *, fixed: bool = False
) -> gr.Slider:
    about = {"label": label, "info": INFO[name], "elem_id": f"distil-{name}"}
    widget = gr.Slider(low, high, value, step=step, interactive=not fixed, buttons=[], **about)
    widget.preprocess = lambda value: value  # as in `build_controls`
    return widget


def _beta_box(bundle: Bundle, ipc: float, auto: bool) -> gr.Slider:
    return gr.Slider(value=auto_beta(bundle, ipc)[0], interactive=False) if auto else gr.Slider(interactive=True)


def _source(bundle: Bundle, ipc: float, auto: bool) -> str:
    """Where an automatic β comes from."""
    if not auto:
        return ""
    beta, sentence = auto_beta(bundle, ipc)
    return f"<p class='aside'>β = {beta:g}: {_commands(escape(sentence, quote=False)).rstrip('.')}.</p>"


def _lacking(bundle: Bundle) -> str:
    """Why no network can be trained, as a sentence; empty where one can."""
    try:
        real_folder(bundle)
    except FileNotFoundError as error:
        return words.as_sentence(f"networks are tested on real images, and {error}")
    return ""


def _plan(bundle: Bundle, ipc: int) -> str:
    lacking = _lacking(bundle)
    return f"<p class='about'>{_commands(lacking)}</p>" if lacking else explanation(ipc, len(bundle.classes))


def _commands(text: str) -> str:
    """HTML with what stands between backticks as code."""
    return re.sub("`(.+?)`", r"<code>\1</code>", text)


def _idle(
    bundle: Bundle, ipc: float, beta: float | str, seed: float, candidates: float | None, composite: bool
) -> dict:
    """The stage before anything was made."""
    settings = wanted(bundle, ipc=ipc, beta=beta, seed=seed)
    told = about(settings, bundle, composite=composite, candidates=_whole(candidates))
    return {"kind": "idle", "words": "Nothing is made yet. Press Start", **told}


def _whole(candidates: float | None) -> int:
    """What stands in the box as a number; ValueError where it cannot be one of the slider's."""
    if candidates is None or candidates != int(candidates) or not 1 <= candidates <= MOST_CANDIDATES:
        raise ValueError(f"candidates must be a whole number between 1 and {MOST_CANDIDATES}, got {candidates}")
    return int(candidates)


def _state(making: Making, ahead: int) -> str:
    """The state of a set in a few words."""
    kept = f"{len(making.made)} of {len(making.bundle.classes)} classes are kept"
    return {
        "waiting": words.waiting(ahead),
        "running": "",
        "stopped": f"Stopped: {kept}",
        "failed": f"Broken off: {kept}",
        "finished": "Finished",
    }[making.state]
