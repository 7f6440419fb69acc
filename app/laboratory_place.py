"""The place Laboratory: the method in the plane. One component holds it all; here is its wiring."""

from collections.abc import Callable

import gradio as gr

from app.controls import text_of
from app.laboratory import Bench, experiment_of, opening, restored
from app.words import full_sentence


def laboratory_place(bench: Bench) -> None:
    """Build the place, which computes beside the image model's line: a run takes a tenth of a second."""
    lab = gr.HTML(
        opening(),
        html_template=text_of("laboratory.html"),
        css_template=text_of("laboratory.css"),
        js_on_load=text_of("copy_link.js") + text_of("axes.js") + text_of("laboratory.js"),
        apply_default_css=False,
        padding=False,
        elem_id="laboratory",
        elem_classes="flush",
    )
    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

    def answered(compute: Callable[[dict], dict]) -> Callable[[gr.EventData], dict]:
        """A handler whose payload bears the number of the question, or says in a sentence what is wrong with it."""

        def handler(event: gr.EventData) -> dict:
            asked = event.asked
            try:
                return bench.do(compute, event) | {"asked": asked}
            except ValueError as error:
                return _wrong(error) | {"asked": asked}

        return handler

    def open_address(event: gr.EventData) -> dict:
        experiment, complaints = restored(str(event.query or ""))
        return {"kind": "opened", "query": experiment.query(), "settings": _plain(experiment), "wrong": complaints}

    lab.enter(answered(open_address), None, lab, **quick)
    lab.play(answered(lambda event: bench.run(experiment_of(event.settings))), None, lab, **quick)
    lab.measure(answered(lambda event: bench.curve(experiment_of(event.settings))), None, lab, **quick)
    lab.film(
        answered(lambda event: bench.film(experiment_of(event.settings), _format(event.format))), None, lab, **quick
    )

    def train(event: gr.EventData):
        try:
            for payload in bench.train(experiment_of(event.settings), again=bool(event.again)):
                yield payload | {"asked": event.asked}
        except ValueError as error:
            yield _wrong(error) | {"asked": event.asked}

    lab.train(
        train,
        None,
        lab,
        concurrency_id="laboratory",
        concurrency_limit=1,
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    )


def _format(asked: object) -> str:
    return "mp4" if asked == "mp4" else "gif"


def _wrong(error: ValueError) -> dict:
    return {"kind": "wrong", "wrong": [full_sentence(str(error))]}


def _plain(experiment) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(experiment).items()}
