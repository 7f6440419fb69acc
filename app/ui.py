"""The page: controls, stage and results, and the wiring between them."""

from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from app import words
from app.downloads import KINDS, Downloads, file_of, zip_of
from app.session import LONGEST_LINE, Session, Studio, preview_of
from app.settings import (
    MAX_IPC,
    SETTINGS,
    beta_marks,
    beta_range,
    checked,
    defaults,
    max_steps,
    random_seed_limit,
    restored,
)
from igds.bundle import Bundle
from igds.sampling import PLACES, REFERENCES, SOLVERS


def _text(name: str) -> str:
    """A front-end file of this folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
LOOK = {
    "theme": gr.themes.Base(
        primary_hue="orange",
        secondary_hue="slate",
        neutral_hue="slate",
        text_size="lg",
        spacing_size="md",
        radius_size="md",
        font=SYSTEM_FONTS,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(
        button_primary_background_fill="#b93c0a",
        button_primary_background_fill_hover="#9a3008",
        button_primary_background_fill_dark="#b93c0a",
        button_primary_background_fill_hover_dark="#cf4a12",
        button_primary_text_color="white",
        slider_color="#c2410c",
        slider_color_dark="#ff9d5c",
        block_border_width="0px",
        block_shadow="none",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        body_background_fill="#ffffff",
        body_text_color="#1b1f27",
        body_text_color_subdued="#566070",
        body_text_color_subdued_dark="#a8b1c0",
        block_info_text_color="#566070",
        block_info_text_color_dark="#a8b1c0",
        block_label_text_color="#1b1f27",
        block_title_text_color="#1b1f27",
        block_title_text_weight="650",
    ),
    "css": _text("page.css"),
    "footer_links": ["api"],
}
REFERENCE_NAMES = {"batch": "images made together", "class": "real class"}
PLACE_NAMES = {"x_prev": "noisy next image", "x0": "expected image x̃0"}
FETCH = "() => new Promise((done) => setTimeout(done, 60)).then(() => document.querySelector('#fetch').click())"


class Slider(gr.Slider):
    """A slider whose number box may be empty or out of bounds when Start is pressed: `settings.checked` says so."""

    is_template = True

    def preprocess(self, payload):
        return payload


def build(bundle: Bundle) -> gr.Blocks:
    """The page for one bundle. Launch it with LOOK."""
    studio = Studio(bundle)
    downloads = Downloads(Path(get_upload_folder()))
    start_values = defaults(bundle)
    page = gr.Blocks(title="IGDS Explorer", analytics_enabled=False, delete_cache=(3600, 3600), fill_width=True)
    with page:
        session = gr.State(Session())
        memory = gr.BrowserState(None, storage_key=f"igds-{bundle.name}", secret="settings, not secrets")
        clock = gr.Timer(1.0, active=False)

        _html(_text("intro.html"))
        with gr.Row(elem_classes="explorer"):
            with gr.Column(elem_classes="controls"):
                controls, marks, dice, single, switch, start, stop, notice = _controls(bundle, start_values)
            with gr.Column(elem_classes="stageside"):
                stage = stage_of(preview_of(checked(bundle, start_values), bundle))
                results = _html("", "results")
                with gr.Row(elem_classes="downloads"):
                    files = {
                        kind: gr.Button(name, interactive=False, elem_id=f"download-{kind}")
                        for kind, name in KINDS.items()
                    }
                fetch = gr.DownloadButton("File", visible="hidden", elem_id="fetch")

        inputs = [controls[name] for name in SETTINGS]
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
            preview = preview_of(checked(bundle, settings), bundle)
            ready = gr.Button(interactive=True)
            return [*(settings[name] for name in SETTINGS), preview, _notice(*complaints), _single(settings), ready]

        page.load(open_page, [memory, session], [*inputs, stage, notice, single, start], **quick)

        def look_ahead(session: Session, *values):
            settings = dict(zip(SETTINGS, values))
            try:
                run = checked(bundle, settings)
            except ValueError:
                return gr.skip(), _single(settings)  # said when Start is pressed: a number may be half typed now
            return gr.skip() if session.head else preview_of(run, bundle), _single(settings)

        for name in ("label", "ipc", "beta", "seed", "reference"):
            controls[name].change(look_ahead, [session, *inputs], [stage, single], trigger_mode="always_last", **quick)
        for value, button in marks:
            button.click(None, None, controls["beta"], js=f"() => {value!r}")
        dice.click(None, None, controls["seed"], js=f"() => Math.floor(Math.random() * {random_seed_limit() + 1})")
        switch.click(None, None, controls["reference"], js="() => 'class'")

        def ask(session: Session, request: gr.Request, *values):
            if session.ticket is not None:
                return {notice: gr.skip()}
            try:
                session.wanted = checked(bundle, dict(zip(SETTINGS, values)))
            except ValueError as error:
                return {notice: _notice(str(error))}
            if studio.line.is_full():
                return {notice: _notice("Too many runs wait already: try again in a while")}
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
            if session.state != "broken":  # Gradio calls a run that was stopped a failure too
                return buttons(session) if session.ticket is None else {notice: gr.skip()}
            last = session.end("failed")
            words_for_it = _notice("The run broke off: the server's log says why")
            return buttons(session) | {stage: last, notice: words_for_it, clock: gr.Timer(active=False)}

        run.failure(fail, session, everything, **quick)

        def end(session: Session):
            studio.line.leave(session.ticket)
            session.ticket = None
            updates = {notice: "", clock: gr.Timer(active=False)}
            if session.state == "running":
                updates |= {stage: session.end("stopped"), results: words.stopped(session.wanted, len(session.steps))}
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
    return page.queue(max_size=LONGEST_LINE)


def _controls(bundle: Bundle, values: dict):
    """The widgets on the left: settings by name, and what acts on them."""
    controls = {}
    info = words.INFO
    controls["label"] = gr.Dropdown(
        list(bundle.classes), value=values["label"], label="Class", info=info["label"], elem_id="label"
    )
    controls["ipc"] = Slider(
        1,
        MAX_IPC,
        values["ipc"],
        step=1,
        label="Images per class (IPC)",
        buttons=[],
        info=info["ipc"],
        elem_id="ipc",
    )
    low, high = beta_range(bundle)
    controls["beta"] = Slider(
        low,
        high,
        values["beta"],
        step=0.01 if high <= 2 else 0.05,
        label="β, contextual weight",
        buttons=[],
        info=info["beta"],
        elem_id="beta",
    )
    with gr.Row(elem_classes="chips"):
        marks = []
        for name, marked in beta_marks(bundle).items():
            _html(f"<span class='aside'>{name}</span>")
            marks += [(value, gr.Button(f"{value:g}", size="sm")) for value in marked]
    with gr.Column(visible=values["ipc"] == 1 and values["reference"] == "batch", elem_id="single") as single:
        _html(f"<p class='single'>{words.ONE_IMAGE}</p>")
        switch = gr.Button("Use the class reference", size="sm", elem_id="switch")
    with gr.Row(elem_classes="seedline"):
        controls["seed"] = gr.Number(values["seed"], label="Seed", info=info["seed"], precision=0, elem_id="seed")
        dice = gr.Button("⚄ Dice", size="sm", elem_id="dice")
    with gr.Row(elem_classes="buttons"):
        start = gr.Button("Start", variant="primary", interactive=False, elem_id="start")  # until the page is restored
        stop = gr.Button("Stop", interactive=False, elem_id="stop")
    notice = _html("", "notice")
    controls["steps"] = Slider(
        2,
        max_steps(bundle),
        values["steps"],
        step=1,
        label="Steps",
        buttons=[],
        info=info["steps"],
        elem_id="steps",
    )
    controls["solver"] = gr.Radio(
        [(name.upper(), name) for name in SOLVERS],
        value=values["solver"],
        label="Solver",
        info=info["solver"],
        elem_id="solver",
    )
    with gr.Accordion("Advanced", open=False):
        controls["eta"] = gr.Number(
            values["eta"], label="η, guidance strength", info=info["eta"], step=0.05, minimum=0, elem_id="eta"
        )
        _html(words.tau_words(bundle))
        controls["reference"] = gr.Radio(
            [(REFERENCE_NAMES[name], name) for name in REFERENCES],
            value=values["reference"],
            label="Reference Q",
            info=info["reference"],
            elem_id="reference",
        )
        controls["at"] = gr.Radio(
            [(PLACE_NAMES[name], name) for name in PLACES],
            value=values["at"],
            label="Guide at",
            info=info["at"],
            elem_id="at",
        )
        controls["high"] = Slider(
            0,
            1,
            values["high"],
            step=0.01,
            label="Interval: from",
            buttons=[],
            info=info["high"],
            elem_id="high",
        )
        controls["low"] = Slider(
            0,
            1,
            values["low"],
            step=0.01,
            label="Interval: to",
            buttons=[],
            info=info["low"],
            elem_id="low",
        )
    return controls, marks, dice, single, switch, start, stop, notice


def _html(text: str, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(text, apply_default_css=False, padding=False, elem_id=elem_id, elem_classes="flush")


def stage_of(payload: dict) -> gr.HTML:
    """The stage, showing this payload at first: a preview, or a recording as `Session.since(0)` gives it."""
    return gr.HTML(
        payload,
        html_template=_text("stage.html"),
        css_template=_text("stage.css"),
        js_on_load=_text("stage.js"),
        apply_default_css=False,
        padding=False,
        elem_id="stage",
        elem_classes="flush",
    )


def _notice(*sentences: str, calm: bool = False) -> str:
    kind = "calm" if calm else "wrong"
    return "".join(f"<p class='{kind}' role='alert'>{words.as_sentence(sentence)}</p>" for sentence in sentences)


def _single(settings: dict):
    return gr.Column(visible=settings["ipc"] == 1 and settings["reference"] == "batch")


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
        low: float = interval["low"],
        high: float = interval["high"],
    ) -> tuple[dict, gr.FileData]:
        """Sample one class three ways from the same noise: unguided, prototype (β = 0) and contextual (β).

        Takes the settings of the page and returns what run.json says (settings, image seeds, information in nats,
        what the independent classifier recognises) and the ZIP of images, run.json and curves.csv.
        """
        given = (label, ipc, beta, seed, steps, solver, eta, reference, at, low, high)
        try:
            run = checked(studio.bundle, dict(zip(SETTINGS, given)))
            record = studio.record(run)
            path = downloads.put(*zip_of(record))
        except ValueError as error:
            raise gr.Error(words.as_sentence(str(error)), print_exception=False) from None
        return record.summary(), gr.FileData(path=str(path), orig_name=path.name)

    gr.api(sample, api_name="sample", concurrency_id="model", concurrency_limit=1)
