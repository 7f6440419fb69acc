"""The place Bounds: whether the estimator's two bounds are tight, where the truth is known."""

import logging

import gradio as gr

from app import tightness
from app.controls import html, text_of
from app.laboratory import Bench
from app.words import full_sentence


def tightness_place(bench: Bench) -> None:
    """Build the place, which trains on the Laboratory's bench, one network after the other."""
    try:
        study = tightness.read(tightness.STUDY)
    except ValueError as error:
        html(text_of("tightness_intro.html") + f"<p class='about'>{full_sentence(str(error))}</p>")
        return
    try:
        longer = tightness.read(tightness.LONGER)
    except ValueError as error:
        logging.getLogger(__name__).warning("%s", error)
        longer = None
    html(text_of("tightness_intro.html"))
    bounds = gr.HTML(
        tightness.opening(study, longer),
        html_template=text_of("tightness.html"),
        css_template=text_of("tightness.css"),
        js_on_load=text_of("axes.js") + text_of("tightness.js"),
        apply_default_css=False,
        padding=False,
        elem_id="bounds",
        elem_classes="flush",
    )

    def watch(event: gr.EventData):
        try:
            for payload in tightness.watch(bench.workers, *tightness.asked(study, event.delta, event.d, event.seed)):
                yield payload | {"asked": event.asked}
        except ValueError as error:
            yield {"kind": "wrong", "wrong": full_sentence(str(error)), "asked": event.asked}

    bounds.watch(
        watch,
        None,
        bounds,
        concurrency_id="laboratory",
        concurrency_limit=1,
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    )
