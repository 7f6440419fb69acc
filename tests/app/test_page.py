"""The page in a real browser, driven as a visitor would."""

import csv
import io
import json
import zipfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import gradio as gr
import pytest
from gradio_client import Client
from PIL import Image
from playwright.sync_api import expect

from app.explore_place import stage_of
from app.session import Session, Studio
from app.settings import checked, defaults
from app.ui import LOOK, build
from igds.bundle import load_bundle
from igds.sampling import SOLVERS
from igds.study import read_study
from tests.app.visitor import PATIENCE, Visitor

ROOT = Path(__file__).resolve().parents[2]
LONG = "?ipc=50&steps=100"


class Explorer(Visitor):
    """A visitor of the place Explore."""

    def open(self, query: str = "") -> "Explorer":
        self.page.goto(self.address + query)
        expect(self.page.locator(".stage .real img")).to_be_visible(timeout=PATIENCE)
        expect(self.page.locator("#start")).to_be_enabled(timeout=PATIENCE)
        wanted = parse_qs(query.lstrip("?"))
        for name in ("ipc", "steps", "seed"):
            if name in wanted:
                expect(self.number(name)).to_have_value(wanted[name][0], timeout=PATIENCE)
        return self

    def number(self, name: str):
        return self.page.locator(f"#{name} input[type=number]")

    def stage(self, name: str) -> str:
        return self.page.locator(".stage").get_attribute(f"data-{name}")

    def frames(self) -> list[str]:
        return [image.get_attribute("src") for image in self.page.locator(".stage .sheet img").all()]

    def start(self) -> "Explorer":
        self.page.click("#start")
        return self

    def until(self, condition: str) -> "Explorer":
        """Wait for a condition on `stage`, the stage's data attributes."""
        script = (
            f"(() => {{ const stage = document.querySelector('.stage')?.dataset; return stage && ({condition}); }})()"
        )
        self.page.wait_for_function(script, timeout=PATIENCE)
        return self

    def finish(self) -> "Explorer":
        self.until("stage.state === 'finished'")
        expect(self.page.locator("#results table")).to_be_visible(timeout=PATIENCE)
        return self

    def download(self, kind: str) -> tuple[str, bytes]:
        expect(self.page.locator(f"#download-{kind}")).to_be_enabled(timeout=PATIENCE)
        with self.page.expect_download(timeout=PATIENCE) as download:
            self.page.click(f"#download-{kind}")
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()


@pytest.fixture
def visit(browser, address):
    visitors = []

    def new() -> Explorer:
        visitors.append(Explorer(browser, address))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.context.close()
        assert visitor.outside == [], "nothing may leave this machine"
        assert visitor.complaints == []


def test_a_run_streams_frames_and_curves_and_ends_with_numbers(visit):
    visitor = visit().open("?eta=100")  # the test's networks know nothing: their gradients are small
    noise = visitor.frames()
    size = visitor.page.locator(".stage").bounding_box()
    visitor.start().until("stage.steps >= 2")
    assert visitor.frames() != noise
    first = visitor.page.locator(".curve svg").first.get_attribute("data-points")
    visitor.finish()
    assert int(visitor.page.locator(".curve svg").first.get_attribute("data-points")) == 10 >= int(first)
    for chart in visitor.page.locator(".curve svg").all():
        lines = chart.locator("polyline").all()
        assert [len(line.get_attribute("points").split()) for line in lines] == [10, 10, 10]
    assert len(set(visitor.frames())) == 3, "three columns, three different results"
    assert visitor.page.locator(".stage").bounding_box() == size, "nothing jumps"
    assert "step 10 of 10 · t = 0" in visitor.page.inner_text(".readout")
    results = visitor.page.inner_text("#results")
    assert "Against β = 0, β = 0.5" in results and "One seed proves little" in results
    assert "There is no study at" in results and "held out" in results
    assert "log 3 = 1.10" in visitor.page.inner_text(".curve[data-key=prototype] .bound")
    assert "log 4 = 1.39" in visitor.page.inner_text(".curve[data-key=contextual] .bound")


def test_stop_keeps_the_frames_so_far_and_says_where(visit):
    visitor = visit().open(LONG).start().until("stage.steps >= 3")
    visitor.page.click("#stop")
    visitor.until("stage.state === 'stopped'")
    done = int(visitor.stage("steps"))
    assert 3 <= done < 100
    assert visitor.page.inner_text(".stage .state") == f"Stopped at step {done}"
    visitor.page.locator(".range").press("Home")
    visitor.until("stage.shown === '1'")
    expect(visitor.page.locator("#start")).to_be_enabled()
    expect(visitor.page.locator("#download-zip")).to_be_disabled()
    name, content = visitor.download("csv")
    assert f"stopped-at-{done}" in name and len(content.decode().splitlines()) == 1 + 3 * done
    assert visitor.page.inner_text("#notice").strip() == ""


def test_a_run_that_overflows_ends_with_a_sentence_and_the_next_one_runs(visit):
    visitor = visit().open("?eta=1e38&steps=6").start().until("stage.state === 'failed'")
    expect(visitor.page.locator("#notice")).to_contain_text("lower η")
    expect(visitor.page.locator("#start")).to_be_enabled()
    visitor.open("?eta=1&steps=5").start().finish()


def test_scrubbing_playing_and_the_keyboard_need_no_server(visit):
    visitor = visit().open().start().finish()
    page, asked = visitor.page, []
    final = visitor.frames()
    page.on("request", lambda request: request.url.startswith("data:") or asked.append(request.url))
    page.locator(".range").fill("3")
    visitor.until("stage.shown === '3'")
    assert visitor.frames() != final and "step 3 of 10" in page.inner_text(".readout")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    visitor.until("stage.shown === '2'")
    page.keyboard.press("ArrowRight")
    visitor.until("stage.shown === '3'")
    page.keyboard.press("Home")
    visitor.until("stage.shown === '1'")
    page.keyboard.press(" ")
    visitor.until("stage.shown === '10'")
    assert visitor.frames() == final
    expect(page.locator(".play")).to_have_attribute("aria-label", "Play")
    chart = page.locator(".curve svg").first
    chart.click(position={"x": 46, "y": 100})
    visitor.until("stage.shown === '1'")
    assert [url for url in asked if "heartbeat" not in url] == []


def test_a_step_that_was_lost_on_the_way_is_asked_for_again(visit):
    visitor = visit()

    def without_one(route):
        response = route.fetch(timeout=PATIENCE)
        messages = response.text().split("\n\n")
        steps = [i for i, message in enumerate(messages) if "process_generating" in message and "base64" in message]
        if len(steps) > 2:  # the head, the first step, and others after it
            del messages[steps[1]]
        route.fulfill(response=response, body="\n\n".join(messages))

    visitor.page.route("**/queue/data*", without_one)
    visitor.open("?steps=30")

    def sends_again(response):
        return "run/predict" in response.url and r"{\"kind\": \"many\"" in response.text()  # text in JSON

    with visitor.page.expect_response(sends_again, timeout=PATIENCE):
        visitor.start()
    visitor.finish().until("stage.steps === '30'")


def test_a_recording_plays_by_itself_is_marked_and_leaves_the_address_alone(browser, tiny_bundle):
    studio = Studio(tiny_bundle)
    session = Session(studio.line.join(), checked(tiny_bundle, defaults(tiny_bundle)))
    list(studio.play(session))
    session.head["recording"] = True
    with gr.Blocks() as page:
        stage_of(session.since(0))
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, inbrowser=False)
    visitor = Explorer(browser, address)
    try:
        visitor.page.goto(address)
        visitor.until("stage.shown === '3'").until("stage.shown === '10'")
        assert visitor.page.inner_text(".stage .state").startswith("A recording")
        assert visitor.page.url == address
    finally:
        visitor.context.close()
        page.close()


def test_the_zip_holds_what_was_asked_for(visit):
    visitor = visit().open("?label=Square/box&ipc=3&seed=11&steps=6&beta=0.1").start().finish()
    name, content = visitor.download("zip")
    assert name == "igds-square-box-seed11.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pictures = [name for name in archive.namelist() if name.endswith(".png")]
        assert len(pictures) == 9
        assert {name.rpartition("/")[0] for name in pictures} == {
            f"{column}/0001_square-box" for column in ("unguided", "prototype", "contextual")
        }
        settings = json.loads(archive.read("run.json"))["settings"]
        assert Image.open(io.BytesIO(archive.read(pictures[0]))).size == (8, 8)
    expected = {"label": "Square/box", "ipc": 3, "seed": 11, "steps": 6, "beta": 0.1}
    assert expected.items() <= settings.items()


def test_the_picture_the_animation_and_the_curves_download(visit):
    visitor = visit().open("?steps=5").start().finish()
    name, content = visitor.download("png")
    assert name.endswith("-comparison.png") and Image.open(io.BytesIO(content)).width >= 1600
    name, content = visitor.download("webp")
    assert name.endswith("-trajectory.webp") and Image.open(io.BytesIO(content)).n_frames > 1
    for kind, start in (("gif", b"GIF89a"), ("mp4", b"ftyp")):
        name, content = visitor.download(kind)
        assert name.endswith(f"-trajectory.{kind}") and start in content[:16]
    name, content = visitor.download("csv")
    assert name.endswith("-curves.csv") and len(list(csv.DictReader(io.StringIO(content.decode())))) == 15


def test_the_address_reopens_exactly_this_run(visit):
    query = "?label=Square/box&ipc=5&seed=3&steps=4&solver=ddim&beta=0.25&high=0.8&reference=class&scaling=variance"
    first = visit().open(query).start().finish()
    again = visit().open("?" + urlsplit(first.page.url).query).start().finish()
    assert first.frames() == again.frames()
    for part in ("scaling=variance", "solver=ddim", "high=0.8", "bundle=tiny"):
        assert part in again.page.url
    first.page.click(".stage .link")
    expect(first.page.locator(".stage .link")).to_have_text("Copied")


def test_the_browser_remembers_the_settings(visit):
    visitor = visit().open("?ipc=6&steps=5").start().finish()
    visitor.open("")
    expect(visitor.number("ipc")).to_have_value("6", timeout=PATIENCE)
    expect(visitor.number("steps")).to_have_value("5")


def test_a_wrong_link_gives_a_sentence_and_the_defaults(visit):
    visitor = visit().open("?solver=%3Cb%3Emany%3C/b%3E")
    said = f"solver must be one of {', '.join(SOLVERS)}, got '<b>many</b>'"
    expect(visitor.page.locator("#notice")).to_contain_text(said, timeout=PATIENCE)
    visitor.start().finish()
    assert "solver=ddpm" in visitor.page.url


def test_an_empty_control_gives_a_sentence_and_no_run(visit):
    visitor = visit().open()
    visitor.number("seed").fill("")
    visitor.start()
    expect(visitor.page.locator("#notice")).to_contain_text("Seed is empty: give it a value.", timeout=PATIENCE)
    assert visitor.stage("state") == "idle"
    expect(visitor.page.locator("#start")).to_be_enabled()
    visitor.number("seed").fill("2")
    visitor.start().finish()
    assert visitor.page.inner_text("#notice").strip() == ""


def test_a_number_half_typed_breaks_nothing(visit):
    visitor = visit().open("?ipc=3&steps=4")
    for half_typed in ("", "77"):
        visitor.number("ipc").fill(half_typed)
        visitor.number("beta").fill(half_typed)
    visitor.number("ipc").fill("2")
    visitor.number("beta").fill("0.25")
    visitor.start().finish()
    assert visitor.page.inner_text(".stage .title").startswith("Circle: 2 images, β = 0.25")


def test_the_name_of_a_class_is_text_and_never_markup(visit):
    visitor = visit().open("?label=Tri+%3Cangle%3E&steps=4")
    expect(visitor.page.locator(".stage .title")).to_contain_text("Tri <angle>: 4 images", timeout=PATIENCE)
    visitor.start().finish()
    assert visitor.page.locator("angle").count() == 0
    name, _ = visitor.download("zip")
    assert name == "igds-tri-angle-seed0.zip"


def test_with_one_image_the_page_says_why_beta_cannot_act_and_offers_the_class_reference(visit):
    visitor = visit().open("?ipc=1&steps=4")
    note = visitor.page.locator("#single")
    expect(note).to_contain_text("With a single image, β cannot act", timeout=PATIENCE)
    visitor.page.click("#switch")
    expect(note).to_be_hidden(timeout=PATIENCE)
    visitor.start().finish()
    assert "reference=class" in visitor.page.url
    assert "No bound to draw" in visitor.page.inner_text(".curve[data-key=contextual] .bound")


def test_a_click_sets_the_paper_s_beta_and_the_dice_another_seed(visit):
    visitor = visit().open("?seed=123456789")
    visitor.page.locator(".chips").get_by_role("button", name="0.1", exact=True).click()
    expect(visitor.number("beta")).to_have_value("0.1", timeout=PATIENCE)
    visitor.page.click("#dice")
    expect(visitor.number("seed")).not_to_have_value("123456789", timeout=PATIENCE)


def test_a_click_brings_back_the_default_way_of_sampling(visit):
    visitor = visit().open("?steps=33&solver=ddim")
    visitor.page.get_by_role("button", name="default: DDPM, 10", exact=True).click()
    expect(visitor.number("steps")).to_have_value("10", timeout=PATIENCE)
    expect(visitor.page.get_by_label("DDPM", exact=True)).to_be_checked(timeout=PATIENCE)


def test_two_visitors_get_their_own_runs_and_the_second_sees_its_place(visit):
    first = visit().open(LONG + "&label=Circle")
    second = visit().open("?ipc=2&steps=6&label=Square/box")
    first.start().until("stage.steps >= 1")
    second.start()
    expect(second.page.locator("#notice")).to_contain_text("one run is ahead of yours", timeout=PATIENCE)
    first.finish(), second.finish()
    assert first.page.inner_text(".stage .title").startswith("Circle: 50 images")
    assert second.page.inner_text(".stage .title").startswith("Square/box: 2 images")
    assert first.stage("steps") == "100" and second.stage("steps") == "6"


def test_a_closed_tab_gives_way_to_the_next_run(visit):
    first = visit().open(LONG).start().until("stage.steps >= 1")
    second = visit().open("?steps=5")
    first.page.close()
    second.start().finish()
    assert second.stage("steps") == "5"


def test_who_stops_waiting_gets_no_run(visit):
    first = visit().open(LONG).start().until("stage.steps >= 1")
    second = visit().open("?steps=5").start()
    expect(second.page.locator("#stop")).to_be_enabled(timeout=PATIENCE)
    second.page.click("#stop")
    expect(second.page.locator("#start")).to_be_enabled(timeout=PATIENCE)
    first.finish()
    assert second.stage("state") == "idle"
    second.start().finish()


@pytest.mark.parametrize("width", [380, 800, 1600])
def test_nothing_is_wider_than_the_window(visit, width):
    visitor = visit()
    visitor.page.set_viewport_size({"width": width, "height": 900})
    visitor.open("?steps=4").start().finish()
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_endpoint_gives_what_the_page_gives(visit, address):
    summary, path = Client(address, verbose=False).predict(
        label="Circle", ipc=2, beta=0.25, seed=9, steps=5, api_name="/sample"
    )
    visitor = visit().open("?label=Circle&ipc=2&beta=0.25&seed=9&steps=5").start().finish()
    _, content = visitor.download("zip")
    assert summary["settings"]["beta"] == 0.25 and summary["settings"]["eta"] == 0.1
    with zipfile.ZipFile(path) as of_endpoint, zipfile.ZipFile(io.BytesIO(content)) as of_page:
        assert of_endpoint.namelist() == of_page.namelist()
        for name in of_page.namelist():
            assert of_endpoint.read(name) == of_page.read(name)


def test_the_endpoint_refuses_in_one_sentence(address):
    client = Client(address, verbose=False)
    with pytest.raises(Exception, match="IPC .* must be between 1 and"):
        client.predict(ipc=0, api_name="/sample")
    with pytest.raises(Exception, match="did you mean 'Circle'"):
        client.predict(label="Circel", api_name="/sample")


def test_the_endpoint_is_the_only_public_one(address):
    endpoints = Client(address, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/sample"}


@contextmanager
def page_of(bundle, **files):
    """A page of a bundle in this process: a subprocess could not be given its study and its recording."""
    page = build(bundle, **files)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, inbrowser=False, **LOOK)
    try:
        yield address
    finally:
        page.close()


@pytest.fixture(scope="module")
def studied_address(studied_bundle, study_file, recording_file):
    with page_of(studied_bundle, study=study_file, recording=recording_file) as address:
        yield address


@pytest.fixture
def visit_studied(browser, studied_address):
    visitor = Explorer(browser, studied_address)
    yield visitor
    visitor.context.close()
    assert visitor.outside == [] and visitor.complaints == []


def test_photographs_that_may_not_be_passed_on_leave_the_stage_to_the_model_s(browser):
    page = build(load_bundle("imagenette-32"))
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, inbrowser=False, **LOOK)
    visitor = Explorer(browser, address)
    try:
        visitor.page.goto(f"{address}?ipc=2&steps=4")
        expect(visitor.number("steps")).to_have_value("4", timeout=PATIENCE)
        assert not visitor.page.locator(".stage .real").is_visible()
        assert visitor.page.inner_text(".stage .credit").startswith("Learnt from ImageNette")
        visitor.start().finish()
        assert len(set(visitor.frames())) == 3
        sheets = visitor.page.locator(".stage .sheet img")
        assert sheets.first.evaluate("image => getComputedStyle(image).imageRendering") == "auto"
        boxes = [figure.bounding_box() for figure in visitor.page.locator(".stage .wall figure").all()[:3]]
        wall = visitor.page.locator(".stage .wall").bounding_box()
        assert boxes[2]["x"] + boxes[2]["width"] == pytest.approx(wall["x"] + wall["width"], abs=1)
        assert visitor.complaints == [] and visitor.outside == []
    finally:
        visitor.context.close()
        page.close()


def test_a_stranger_sees_a_recording_until_a_run_of_their_own(visit_studied):
    page = visit_studied.open().page
    visit_studied.until("stage.shown === '10'")
    assert page.inner_text(".stage .state").startswith("A recording")
    assert page.inner_text(".stage .title").startswith("Square/box: 4 images, β = 0.5, seed 8")
    assert "a step" not in page.inner_text(".readout"), "the pace of another machine says nothing here"
    expect(page.locator("#download-png")).to_be_disabled()
    visit_studied.start().finish()
    assert page.inner_text(".stage .title").startswith("Circle: 4 images, β = 0.5, seed 0")
    assert page.inner_text(".stage .state") == "Finished"


def test_another_choice_shows_its_own_noise_instead_of_the_recording(visit_studied):
    page = visit_studied.open().page
    visit_studied.until("stage.shown >= 2")
    visit_studied.number("seed").fill("5")
    visit_studied.until("stage.state === 'idle' && stage.steps === '0'")
    expect(page.locator(".stage .title")).to_have_text("Circle: 4 images, β = 0.5, seed 5")
    assert len(set(visit_studied.frames())) == 1, "noise, the same in every column"
    expect(page.locator(".play")).to_be_disabled()


@pytest.mark.parametrize("query", ["?seed=0", "?label=Square/box", "?bundle=tiny"])
def test_who_comes_by_a_link_sees_its_noise_and_no_recording(visit_studied, query):
    visit_studied.open(query)
    assert visit_studied.stage("state") == "idle" and len(set(visit_studied.frames())) == 1


def test_who_asks_for_calm_gets_the_recording_s_last_step(browser, studied_address):
    visitor = Explorer(browser, studied_address)
    visitor.page.emulate_media(reduced_motion="reduce")
    visitor.open().until("stage.shown === '10'")
    expect(visitor.page.locator(".play")).to_have_attribute("aria-label", "Play")
    visitor.context.close()


def test_a_run_stands_against_what_the_study_expects(visit_studied):
    page = visit_studied.open("?beta=0.75&label=Tri+%3Cangle%3E").start().page
    visit_studied.finish()
    said = page.inner_text("#results .expected")
    assert said.startswith("In the study (Tri <angle>, IPC 4; 2 seeds") and "between the studied 0.5 and 1" in said
    assert "other settings" not in said
    assert "held out" in page.inner_text("#results table")
    expect(page.get_by_role("img", name="This run: unguided at Ĥ")).to_be_visible()
    for shape in ("circle.mark.unguided", "rect.mark.prototype", "path.mark.contextual"):
        assert page.locator(f".against > svg {shape}").count() == 1


def test_settings_that_are_not_the_study_s_are_named(visit_studied):
    page = visit_studied.open("?ipc=3&eta=0.2&scaling=deviation").start().page
    visit_studied.finish()
    said = page.inner_text("#results .expected")
    assert "IPC 4, the studied one nearest to 3;" in said
    assert "other settings (η 0.1, η scaled by 1), so it is only a guide here" in said


def test_the_words_at_beta_lead_to_the_study_and_its_figure(visit_studied):
    page = visit_studied.open().page
    figure = page.locator("#the-study img")
    expect(figure).to_be_hidden()
    page.locator(".controls").get_by_role("link", name="the study").first.click()
    expect(figure).to_be_visible(timeout=PATIENCE)
    page.wait_for_function("document.querySelector('#the-study img').naturalWidth > 500", timeout=PATIENCE)


def test_a_damaged_study_and_a_damaged_recording_leave_the_page_whole(
    browser, tiny_bundle, study_file, tmp_path, caplog
):
    (tmp_path / "recording.json").write_text('{"payloads": [')
    with page_of(tiny_bundle, study=study_file, recording=tmp_path / "recording.json") as address:
        visitor = Explorer(browser, address).open("")
        assert visitor.stage("state") == "idle"
        assert visitor.page.locator("#the-study").count() == 0
        visitor.start().finish()
        said = visitor.page.inner_text("#results .expected")
        assert "was made with another bundle than" in said and said.count(". ") == 0
        assert visitor.complaints == []
        visitor.context.close()
    assert "recording.json is not a recording, or is damaged" in caplog.text and "Traceback" not in caplog.text


def test_a_study_with_broken_records_is_one_sentence_in_the_results(browser, studied_bundle, study_file, tmp_path):
    study = read_study(study_file, studied_bundle)
    (tmp_path / "study.json").write_text(json.dumps(study | {"records": [{"label": "Circle"}]}))
    with page_of(studied_bundle, study=tmp_path / "study.json", recording=tmp_path / "none.json") as address:
        visitor = Explorer(browser, address).open("").start().finish()
        assert "The study is damaged" in visitor.page.inner_text("#results .expected")
        assert visitor.page.locator(".against").count() == 0
        visitor.context.close()
