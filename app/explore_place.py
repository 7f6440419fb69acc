"""The place Explore: one class three ways from the same noise. Controls, stage and results, and their wiring."""

from pathlib import Path
from urllib.parse import quote

import gradio as gr

from app import words
from app.controls import build_controls, html, needs_note, text_of
from app.downloads import KINDS, Downloads, file_of, zip_of
from app.session import Session, Studio, preview_of
from app.settings import SETTINGS, checked, defaults, restored

FULL = "Too many runs wait already: try again in a while"
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
    html(text_of("intro.html") + about_study)
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
    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

    def buttons(session: Session) -> dict:
        """What can be clicked now."""
        busy = session.ticket is not None
        updates = {files[kind]: gr.Button(interactive=session.has_frames) for kind in files}
        updates[files["zip"]] = gr.Button(
            KINDS["zip"] if session.is_finished or not session.has_frames else "ZIP: finished runs only",
            interactive=session.is_finished,
        )
        return updates | {start: gr.Button(interactive=not busy), stop: gr.Button(interactive=busy)}

    everything = [stage, results, notice, clock, start, stop, *files.values()]

    def open_page(remembered, session: Session, request: gr.Request):
        settings, complaints = restored(bundle, remembered, dict(request.query_params))
        own = settings != start_values or request.query_params.keys() & {"bundle", *SETTINGS}
        shown = recorded if recorded and not own else preview_of(checked(bundle, settings), bundle)
        ready = gr.Button(interactive=True)
        return [*(settings[name] for name in SETTINGS), shown, _notice(*complaints), _single(settings), ready]

    page.load(open_page, [memory, session], [*inputs, stage, notice, single, start], **quick)

    def look_ahead(session: Session, *values):
        settings = dict(zip(SETTINGS, values))
        try:
            run = checked(bundle, settings)
        except ValueError:
            return gr.skip(), _single(settings)  # said when Start is pressed: a number may be half typed now
        return gr.skip() if session.head else preview_of(run, bundle), _single(settings)

    for name in ("label", "ipc", "beta", "seed", "reference"):
        controls.settings[name].change(
            look_ahead, [session, *inputs], [stage, single], trigger_mode="always_last", **quick
        )

    def ask(session: Session, request: gr.Request, *values):
        if session.ticket is not None:
            return {notice: gr.skip()}
        try:
            session.wanted = checked(bundle, dict(zip(SETTINGS, values)))
        except ValueError as error:
            return {notice: _notice(str(error))}
        if studio.line.is_full():
            return {notice: _notice(FULL)}
        session.ticket = studio.line.join(request.session_hash)
        ahead = studio.line.ahead(session.ticket)
        waits = {
            notice: _notice(words.waiting(ahead), calm=True) if ahead else "",
            clock: gr.Timer(active=ahead > 0),
        }
        settings = dict(zip(SETTINGS, values))
        return buttons(session) | waits | {memory: settings, results: ""}

    def play(session: Session):
        if session.ticket is None:  # the settings were wrong, or Stop was quicker than the queue
            yield {notice: gr.skip()}
            return
        first = {notice: "", clock: gr.Timer(active=False)}
        for payload in studio.play(session):
            yield first | {stage: payload}
            first = {}
        if session.is_finished:
            yield buttons(session)
            yield {results: studio.judged(session.record)}

    # Asked outside the queue, so that a wrong setting is told at once, and played inside it.
    asked = start.click(ask, [session, *inputs], [memory, *everything], trigger_mode="once", **quick)
    run = asked.then(
        play,
        session,
        everything,
        concurrency_id="model",
        concurrency_limit=1,
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    )

    def fail(session: Session):
        if session.ticket is None:  # Gradio calls a run that was stopped a failure too
            return buttons(session)
        if session.state == "running":
            return {notice: gr.skip()}
        if session.state != "broken":  # never begun: Gradio's own queue was full
            studio.line.leave(session.ticket)
            session.ticket = None
            return buttons(session) | {notice: _notice(FULL), clock: gr.Timer(active=False)}
        last = session.end("failed")
        words_for_it = _notice("The run broke off: the server's log says why")
        return buttons(session) | {stage: last, notice: words_for_it, clock: gr.Timer(active=False)}

    run.failure(fail, session, everything, **quick)

    def end(session: Session):
        studio.line.leave(session.ticket)
        session.ticket = None
        updates = {notice: "", clock: gr.Timer(active=False)}
        if session.state == "running":
            session.end("stopped")
        if session.state == "stopped":
            updates[results] = words.stopped(session.record.run, len(session.steps))
        elif session.is_finished:  # just before Stop, or it is an earlier run than the one that waited
            updates[results] = studio.judged(session.record)
        if session.head:
            updates[stage] = session.ending()
        return updates | buttons(session)

    stop.click(end, session, everything, cancels=[run], **quick)

    def tell_place(session: Session):
        if session.ticket is None or session.state == "running":
            return gr.skip()
        return _notice(words.waiting(studio.line.ahead(session.ticket)), calm=True)

    clock.tick(tell_place, session, notice, **quick)

    def send_again(session: Session, event: gr.EventData):
        return session.since(int(event.have))

    stage.missing(send_again, session, stage, **quick)

    def leave(request: gr.Request):
        studio.line.forget(request.session_hash)

    page.unload(leave)

    for kind, button in files.items():

        def make(session: Session, kind=kind):
            try:
                return str(downloads.put(*file_of(session, kind)))
            except ValueError as error:
                raise gr.Error(words.as_sentence(str(error)), print_exception=False) from None

        button.click(make, session, fetch, **quick).success(None, None, None, js=FETCH)

    _api(studio, downloads, start_values)
    return controls.settings


def stage_of(payload: dict) -> gr.HTML:
    """The stage, showing this payload at first: a preview, or a recording as `Session.since(0)` gives it."""
    return gr.HTML(
        payload,
        html_template=text_of("stage.html"),
        css_template=text_of("stage.css"),
        js_on_load=text_of("stage.js"),
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


def _notice(*sentences: str, calm: bool = False) -> str:
    kind = "calm" if calm else "wrong"
    return "".join(f"<p class='{kind}' role='alert'>{words.as_sentence(sentence)}</p>" for sentence in sentences)


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
