"""The place "β at a glance": one class at several β side by side. Controls, grid and curves, and their wiring."""

from functools import partial

import gradio as gr

from app import animation, words
from app.beta_picture import film, picture
from app.beta_run import (
    FEWEST_ROWS,
    MOST_BETAS,
    MOST_ROWS,
    ROWS,
    BetaRun,
    BetaSession,
    asked,
    csv_of,
    other_settings,
    play,
    preview_of,
    read_comparison,
    restored,
    studied_betas,
    study_map,
    trained_map,
    whole_range,
    words_of,
)
from app.controls import html, text_of
from app.downloads import Downloads
from app.running import QUICK, Running, message, wire
from app.session import Studio
from app.settings import SETTINGS, defaults, max_steps, random_seed_limit, settings_of

NAMES = ("label", "ipc", "seed", "eta", "steps")  # of the settings that this place lets one choose, beside β
KINDS = {
    "png": "Picture PNG",
    "svg": "Picture SVG",
    "gif": "Animation GIF",
    "mp4": "Animation MP4",
    "csv": "Figures CSV",
}
FETCH = "() => new Promise((done) => setTimeout(done, 60)).then(() => document.querySelector('#beta-fetch').click())"
TO_EXPLORE = """() => {
  document.querySelector('#places [data-tab-id=explore]').click();
  window.scrollTo(0, 0);
  setTimeout(() => document.querySelector('#start')?.focus(), 60);
}"""
INFO = {
    "label": words.INFO["label"],
    "ipc": "A row each. Q̂ is the mean of the images of one column, so n = IPC is what a column holds.",
    "betas": f"Up to {MOST_BETAS} numbers with commas between them, a column each.",
    "seed": words.INFO["seed"],
    "eta": words.INFO["eta"],
    "steps": words.INFO["steps"],
}
REST = "All else is as in the bundle’s card, or in the link by which this page was opened; Explore shows it."
ABOUT_MAP = (
    "What the study behind the defaults found, over all classes and {seeds}: a row for each number of images per class "
    "(IPC), a column for each β. Judged by the classifier and the estimator that guided nothing. With IPC 1, Ĥ is held "
    "against the mean of the real class, so that row of Ĥ is not to be compared with the others."
)


def beta_place(page: gr.Blocks, studio: Studio, downloads: Downloads, explore: dict) -> None:
    """Build the place inside `page`; `explore` are the widgets of the place Explore by the names of its settings."""
    bundle = studio.bundle
    start_values = defaults(bundle) | {"ipc": ROWS}
    start_betas = words_of(whole_range(bundle))
    the_map = _map(studio)
    session = gr.State(BetaSession())
    clock = gr.Timer(1.0, active=False)

    def preview(run: BetaRun) -> str:
        """What the stage shows before a run, with the map, which it keeps."""
        return message(preview_of(run, bundle) | {"map": the_map})

    html(text_of("beta_intro.html"))
    with gr.Row(elem_classes="explorer"):
        with gr.Column(elem_classes="controls"):
            settings = {
                "label": gr.Dropdown(
                    list(bundle.classes),
                    value=start_values["label"],
                    label="Class",
                    info=INFO["label"],
                    elem_id="beta-label",
                ),
                "ipc": _slider("ipc", "Images per class (IPC)", FEWEST_ROWS, MOST_ROWS, start_values["ipc"]),
            }
            betas = gr.Textbox(
                start_betas, label="β, contextual weight", info=INFO["betas"], elem_id="beta-betas", max_lines=1
            )
            with gr.Row(elem_classes="chips"):
                chips = {"whole range": start_betas}
                if studio.study:
                    chips["as studied"] = words_of(studied_betas(studio.study))
                for name, values in chips.items():
                    gr.Button(name, size="sm").click(None, None, betas, js=f"() => {values!r}")
            with gr.Row(elem_classes="seedline"):
                settings["seed"] = gr.Number(
                    start_values["seed"], label="Seed", info=INFO["seed"], precision=0, elem_id="beta-seed"
                )
                dice = gr.Button("⚄ Dice", size="sm", elem_id="beta-dice")
            with gr.Row(elem_classes="buttons"):
                start = gr.Button("Start", variant="primary", interactive=False, elem_id="beta-start")  # until restored
                stop = gr.Button("Stop", interactive=False, elem_id="beta-stop")
            notice = html("", "beta-notice")
            with gr.Accordion("Advanced", open=False):
                settings["eta"] = gr.Number(
                    start_values["eta"], label="η, guidance strength", info=INFO["eta"], step=0.05, elem_id="beta-eta"
                )
                settings["steps"] = _slider("steps", "Steps", 2, max_steps(bundle), start_values["steps"])
                html(f"<p class='aside'>{REST}</p>")
        with gr.Column(elem_classes="stageside"):
            stage = gr.HTML(
                preview(asked(bundle, start_values, start_betas)),
                html_template=text_of("beta.html"),
                css_template=text_of("beta.css"),
                js_on_load=text_of("player.js") + text_of("beta.js"),
                apply_default_css=False,
                padding=False,
                elem_id="beta-stage",
                elem_classes="flush",
            )
            with gr.Row(elem_classes="downloads"):
                files = {
                    kind: gr.Button(name, interactive=False, elem_id=f"beta-{kind}") for kind, name in KINDS.items()
                }
            fetch = gr.DownloadButton("File", visible="hidden", elem_id="beta-fetch")

    inputs = [*(settings[name] for name in NAMES), betas]

    def run_of(session: BetaSession, values):
        """What the controls describe; ValueError where one is wrong."""
        return asked(bundle, session.rest | dict(zip(NAMES, values)), values[-1])

    def buttons(session: BetaSession) -> dict:
        """What can be clicked now."""
        busy = session.ticket is not None
        return {
            start: gr.Button(interactive=not busy),
            stop: gr.Button(interactive=busy),
            **{files[kind]: gr.Button(interactive=session.has_frames) for kind in KINDS if kind != "csv"},
            files["csv"]: gr.Button(interactive=session.is_finished),
        }

    def open_page(session: BetaSession, request: gr.Request):
        ready = {start: gr.Button(interactive=True)}
        try:
            run = restored(bundle, dict(request.query_params))
        except ValueError as error:
            return ready | {notice: words.notice(f"This link cannot be followed: {error}")}
        if run is None:
            return ready
        session.rest = settings_of(run.run)
        shown = {settings[name]: session.rest[name] for name in NAMES}
        return ready | shown | {betas: words_of(run.betas), stage: preview(run)}

    page.load(open_page, session, [*inputs, stage, notice, start], **QUICK)

    def look_ahead(session: BetaSession, *values):
        if session.head:
            return gr.skip()
        try:
            return preview(run_of(session, values))
        except ValueError:
            return gr.skip()  # said when Start is pressed: a number may be half typed now

    for widget in inputs:
        widget.change(look_ahead, [session, *inputs], stage, trigger_mode="always_last", **QUICK)
    dice.click(None, None, settings["seed"], js=f"() => Math.floor(Math.random() * {random_seed_limit() + 1})")

    place = Running(
        session=session,
        stage=stage,
        notice=notice,
        clock=clock,
        start=start,
        stop=stop,
        others=list(files.values()),
        buttons=buttons,
    )
    wire(place, studio, inputs, wanted=run_of, play=partial(play, studio))

    def hand_over(session: BetaSession, event: gr.EventData, *values):
        """The settings of one column for Explore, which shows it beside unguided and β = 0."""
        try:
            shown = session.record.run if session.record else run_of(session, values)
            wanted = settings_of(shown.single(int(event.column)))
        except ValueError as error:
            raise gr.Error(words.as_sentence(str(error)), print_exception=False) from None
        return [wanted[name] for name in SETTINGS]

    stage.open(hand_over, [session, *inputs], [explore[name] for name in SETTINGS], **QUICK).success(
        None, None, None, js=TO_EXPLORE
    )

    for kind, button in files.items():

        def make(session: BetaSession, kind=kind):
            try:
                return str(downloads.put(*_file(session, kind)))
            except ValueError as error:
                raise gr.Error(words.as_sentence(str(error)), print_exception=False) from None

        button.click(make, session, fetch, **QUICK).success(None, None, None, js=FETCH)


def _file(session: BetaSession, kind: str) -> tuple[str, bytes]:
    if kind == "csv":
        return csv_of(session)
    return film(session, kind) if kind in animation.KINDS else picture(session, kind)


def _slider(name: str, label: str, low: float, high: float, value: float) -> gr.Slider:
    widget = gr.Slider(low, high, value, step=1, label=label, info=INFO[name], buttons=[], elem_id=f"beta-{name}")
    widget.preprocess = lambda value: value  # as in `build_controls`
    return widget


def _map(studio: Studio) -> dict:
    """The β-IPC map for the page, or the sentence that stands for it."""
    if not studio.study:
        return {"about": words.full_sentence(studio.no_study)}
    try:
        found = study_map(studio.study)
        if comparison := read_comparison(studio.bundle):
            found["measures"] |= {"trained": trained_map(comparison)}
    except ValueError as error:
        return {"about": words.full_sentence(str(error))}
    about = ABOUT_MAP.format(seeds="1 seed" if found["seeds"] == 1 else f"{found['seeds']} seeds")
    if other := other_settings(studio.study, studio.bundle):
        theirs = ", ".join(words.setting(name, value) for name, value in other.items())
        about += f" It was made with other settings than this page opens with ({theirs}), so it is only a guide here."
    return found | {"about": about}
