"""The place Explore: one class three ways from the same noise. Controls, stage and results, and their wiring."""

from pathlib import Path
from urllib.parse import quote

import gradio as gr

from app import words
from app.controls import build_controls, html, needs_note, text_of
from app.downloads import KINDS, Downloads, file_of, zip_of
from app.running import QUICK, Running, message, wire
from app.session import Session, Studio, preview_of
from app.settings import SETTINGS, checked, defaults, restored

FETCH = "() => new Promise((done) => setTimeout(done, 60)).then(() => document.querySelector('#fetch').click())"


def explore_place(
    page: gr.Blocks, studio: Studio, downloads: Downloads, *, figure: Path, recorded: dict | None
) -> dict[str, gr.components.Component]:
    """Build the place inside `page`; `figure` is the study's picture, `recorded` what the stage plays at first.

    Returns the widgets of its settings by their names, so that another place can set them.
    """
    bundle, start_values = studio.bundle, defaults(studio.bundle)
    session = gr.State(Session())
    memory = gr.BrowserState(None, storage_key=f"igds-{bundle.name}", secret="settings, not secrets")
    clock = gr.Timer(1.0, active=False)

    about_study = words.study_details(_served(figure)) if studio.study else ""
    html(text_of("intro.html") + words.limits(bundle.card) + about_study)
    with gr.Row(elem_classes="explorer"):
        with gr.Column(elem_classes="controls"):
            controls = build_controls(bundle, start_values, studied=bool(studio.study))
        with gr.Column(elem_classes="stageside"):
            stage = stage_of(preview_of(checked(bundle, start_values), bundle))
            results = html("", "results")
            with gr.Row(elem_classes="downloads"):
                files = {
                    kind: gr.Button(name, interactive=False, elem_id=f"download-{kind}") for kind, name in KINDS.items()
                }
            fetch = gr.DownloadButton("File", visible="hidden", elem_id="fetch")

    inputs = [controls.settings[name] for name in SETTINGS]
    start, stop, notice, single = controls.start, controls.stop, controls.notice, controls.single

    def buttons(session: Session) -> dict:
        """What can be clicked now."""
        busy = session.ticket is not None
        updates = {files[kind]: gr.Button(interactive=session.has_frames) for kind in files}
        updates[files["zip"]] = gr.Button(
            KINDS["zip"] if session.is_finished or not session.has_frames else "ZIP: finished runs only",
            interactive=session.is_finished,
        )
        return updates | {start: gr.Button(interactive=not busy), stop: gr.Button(interactive=busy)}

    def open_page(remembered, session: Session, request: gr.Request):
        settings, complaints = restored(bundle, remembered, dict(request.query_params))
        own = settings != start_values or request.query_params.keys() & {"bundle", *SETTINGS}
        shown = recorded if recorded and not own else preview_of(checked(bundle, settings), bundle)
        ready = gr.Button(interactive=True)
        return [
            *(settings[name] for name in SETTINGS),
            message(shown),
            words.notice(*complaints),
            _single(settings),
            ready,
        ]

    page.load(open_page, [memory, session], [*inputs, stage, notice, single, start], **QUICK)

    def look_ahead(session: Session, *values):
        settings = dict(zip(SETTINGS, values))
        try:
            run = checked(bundle, settings)
        except ValueError:
            return gr.skip(), _single(settings)  # said when Start is pressed: a number may be half typed now
        return gr.skip() if session.head else message(preview_of(run, bundle)), _single(settings)

    for name in ("label", "ipc", "beta", "seed", "reference"):
        controls.settings[name].change(
            look_ahead, [session, *inputs], [stage, single], trigger_mode="always_last", **QUICK
        )

    def ended(session: Session) -> dict:
        if session.state == "stopped":
            return {results: words.stopped(session.record.run, len(session.steps))}
        if session.is_finished:  # just before Stop, or it is an earlier run than the one that waited
            return {results: studio.judged(session.record)}
        return {}

    place = Running(
        session=session,
        stage=stage,
        notice=notice,
        clock=clock,
        start=start,
        stop=stop,
        others=[memory, results, *files.values()],
        buttons=buttons,
        begun=lambda values: {memory: dict(zip(SETTINGS, values)), results: ""},
        finished=lambda session: {results: studio.judged(session.record)},
        ended=ended,
    )
    wire(
        place,
        studio,
        inputs,
        wanted=lambda session, values: checked(bundle, dict(zip(SETTINGS, values))),
        play=studio.play,
    )

    def leave(request: gr.Request):
        studio.line.forget(request.session_hash)

    page.unload(leave)

    for kind, button in files.items():

        def make(session: Session, kind=kind):
            try:
                return str(downloads.put(*file_of(session, kind)))
            except ValueError as error:
                raise gr.Error(words.as_sentence(str(error)), print_exception=False) from None

        button.click(make, session, fetch, **QUICK).success(None, None, None, js=FETCH)

    _api(studio, downloads, start_values)
    return controls.settings


def stage_of(payload: dict) -> gr.HTML:
    """The stage, showing this payload at first: a preview, or a recording as `Session.since(0)` gives it."""
    return gr.HTML(
        message(payload),
        html_template=text_of("stage.html"),
        css_template=text_of("stage.css"),
        js_on_load=text_of("copy_link.js") + text_of("player.js") + text_of("stage.js"),
        apply_default_css=False,
        padding=False,
        elem_id="stage",
        elem_classes="flush",
    )


def _served(path: Path) -> str | None:
    """The address, relative to the page's, at which Gradio gives out this file; None where it is not there."""
    if not path.is_file():
        return None
    gr.set_static_paths([path.resolve()])
    return f"gradio_api/file={quote(str(path.resolve()))}"


def _single(settings: dict) -> gr.Column:
    return gr.Column(visible=needs_note(settings))


def _api(studio: Studio, downloads: Downloads, values: dict) -> None:
    """The documented endpoint "sample"; its defaults are the card's."""
    interval = {"low": values["low"], "high": values["high"]}

    def sample(
        label: str = values["label"],
        ipc: int = values["ipc"],
        beta: float = values["beta"],
        seed: int = values["seed"],
        steps: int = values["steps"],
        solver: str = values["solver"],
        eta: float = values["eta"],
        reference: str = values["reference"],
        at: str = values["at"],
        scaling: str = values["scaling"],
        low: float = interval["low"],
        high: float = interval["high"],
    ) -> tuple[dict, gr.FileData]:
        """Sample one class three ways from the same noise: unguided, prototype (β = 0) and contextual (β).

        Takes the settings of the page and returns what run.json says (settings, image seeds, information in nats,
        what the independent classifier recognises) and the ZIP of images, run.json and curves.csv.
        """
        given = (label, ipc, beta, seed, steps, solver, eta, reference, at, scaling, low, high)
        try:
            run = checked(studio.bundle, dict(zip(SETTINGS, given)))
            record = studio.record(run)
            path = downloads.put(*zip_of(record))
        except ValueError as error:
            raise gr.Error(words.as_sentence(str(error)), print_exception=False) from None
        return record.summary(), gr.FileData(path=str(path), orig_name=path.name)

    gr.api(sample, api_name="sample", concurrency_id="model", concurrency_limit=1)
