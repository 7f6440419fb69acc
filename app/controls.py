"""The left column: one widget for each setting, and what acts on them without asking the server."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app import words
from app.settings import MAX_IPC, beta_marks, beta_range, max_steps, random_seed_limit, way_marks
from igds.bundle import Bundle
from igds.sampling import SOLVERS


@dataclass(frozen=True)
class Controls:
    """`settings` by their names; `single` is the note that stands there while β cannot act."""

    settings: dict
    single: gr.Column
    start: gr.Button
    stop: gr.Button
    notice: gr.HTML


def text_of(name: str) -> str:
    """A front-end file of this folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def html(text: str, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(text, apply_default_css=False, padding=False, elem_id=elem_id, elem_classes="flush")


def needs_note(settings: dict) -> bool:
    """Whether these settings leave β without effect."""
    return settings["ipc"] == 1 and settings["reference"] == "batch"


def build_controls(bundle: Bundle, values: dict, *, studied: bool) -> Controls:
    """The widgets, showing `values`; `studied` where the page has the study that chose the defaults of β and η."""

    def slider(name: str, label: str, low: float, high: float, step: float) -> gr.Slider:
        info = words.INFO[name]
        widget = gr.Slider(low, high, values[name], step=step, label=label, info=info, buttons=[], elem_id=name)
        # Gradio fails on a number box that is empty or out of bounds for a moment; `settings.checked` has a sentence.
        widget.preprocess = lambda value: value
        return widget

    def radio(name: str, label: str, names: dict[str, str]) -> gr.Radio:
        choices = [(shown, value) for value, shown in names.items()]
        return gr.Radio(choices, value=values[name], label=label, info=words.INFO[name], elem_id=name)

    def number(name: str, label: str, **bounds) -> gr.Number:
        return gr.Number(values[name], label=label, info=words.INFO[name], elem_id=name, **bounds)

    low, high = beta_range(bundle)
    settings = {
        "label": gr.Dropdown(
            list(bundle.classes), value=values["label"], label="Class", info=words.INFO["label"], elem_id="label"
        ),
        "ipc": slider("ipc", "Images per class (IPC)", 1, MAX_IPC, 1),
        "beta": slider("beta", "β, contextual weight", low, high, 0.01 if high <= 2 else 0.05),
    }
    with gr.Row(elem_classes="chips"):
        for name, marked in beta_marks(bundle).items():
            html(f"<span class='aside'>{name}</span>")
            for value in marked:
                gr.Button(f"{value:g}", size="sm").click(None, None, settings["beta"], js=f"() => {value!r}")
    if studied:
        html(words.CHOSEN)
    with gr.Column(visible=needs_note(values), elem_id="single") as single:
        html(f"<p class='single'>{words.ONE_IMAGE}</p>")
        switch = gr.Button("Use the class reference", size="sm", elem_id="switch")
    with gr.Row(elem_classes="seedline"):
        settings["seed"] = number("seed", "Seed", precision=0)
        dice = gr.Button("⚄ Dice", size="sm", elem_id="dice")
    with gr.Row(elem_classes="buttons"):
        start = gr.Button("Start", variant="primary", interactive=False, elem_id="start")  # until the page is restored
        stop = gr.Button("Stop", interactive=False, elem_id="stop")
    notice = html("", "notice")
    settings["steps"] = slider("steps", "Steps", 2, max_steps(bundle), 1)
    settings["solver"] = radio("solver", "Solver", {name: words.SOLVER_NAMES[name] for name in SOLVERS})
    with gr.Row(elem_classes="chips"):
        for name, (solver, steps) in way_marks(bundle).items():
            both = [settings["solver"], settings["steps"]]
            shown = f"{name}: {words.SOLVER_NAMES[solver]}, {steps}"
            gr.Button(shown, size="sm").click(None, None, both, js=f"() => [{solver!r}, {steps}]")
    with gr.Accordion("Advanced", open=False):
        settings["eta"] = number("eta", "η, guidance strength", step=0.05)
        if studied:
            html(words.CHOSEN)
        settings["scaling"] = radio("scaling", "η scaled by", words.SCALING_NAMES)
        html(words.tau_words(bundle))
        settings["reference"] = radio("reference", "Reference Q", words.REFERENCE_NAMES)
        settings["at"] = radio("at", "Guide at", words.PLACE_NAMES)
        settings["high"] = slider("high", "Interval: from", 0, 1, 0.01)
        settings["low"] = slider("low", "Interval: to", 0, 1, 0.01)

    throw = f"() => Math.floor(Math.random() * {random_seed_limit() + 1})"
    dice.click(None, None, settings["seed"], js=throw)
    switch.click(None, None, settings["reference"], js="() => 'class'")
    return Controls(settings, single, start, stop, notice)
