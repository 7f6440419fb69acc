"""The place Laboratory in a real browser, driven as a student would."""

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.app.visitor import PATIENCE, Visitor

PICTURES = "[...document.querySelectorAll('.lab canvas')].map((canvas) => canvas.toDataURL())"


class Student(Visitor):
    """A visitor of the place Laboratory, with motion reduced unless the options say otherwise."""

    def __init__(self, browser: Browser, address: str, **options):
        super().__init__(browser, address, **({"reduced_motion": "reduce"} | options))

    def open(self, lab: str = "", query: str = "") -> "Student":
        self.page.goto(f"{self.address}?{query}{f'lab={lab}' if lab else ''}#laboratory")
        return self.until("lab.state === 'ready'")

    def until(self, condition: str) -> "Student":
        """Wait for a condition on `lab`, the place's data attributes."""
        script = f"(() => {{ const lab = document.querySelector('.lab')?.dataset; return lab && ({condition}); }})()"
        self.page.wait_for_function(script, timeout=PATIENCE)
        return self

    def after_run(self, act) -> "Student":
        """Do something that asks for another run, and wait until that run is shown."""
        before = int(self.lab("run"))
        act()
        return self.until(f"Number(lab.run) > {before}")

    def lab(self, name: str) -> str:
        return self.page.locator(".lab").get_attribute(f"data-{name}")

    def pictures(self) -> list[str]:
        return self.page.evaluate(PICTURES)

    def scrub(self, step: float):
        self.page.locator(".lab .time").evaluate(
            "(range, step) => { range.value = step; range.dispatchEvent(new Event('input')); }", step
        )

    def box(self, name: str):
        return self.page.locator(f".dial[data-name={name}] input[type=number]")

    def row(self, way: str) -> list[str]:
        return (
            self.page.locator(".outcome tr", has=self.page.get_by_role("rowheader", name=way)).inner_text().split("\t")
        )


@pytest.fixture
def visit(browser, address):
    visitors = []

    def new(**options) -> Student:
        visitors.append(Student(browser, address, **options))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.context.close()
        assert visitor.outside == [], "nothing may leave this machine"
        assert visitor.complaints == []


def test_the_tab_opens_trains_live_and_shows_three_ways_with_the_truth(visit):
    visitor = visit()
    visitor.page.goto(visitor.address)
    visitor.page.get_by_role("tab", name="Laboratory").click()
    visitor.until("lab.state === 'learning' && lab.learnt >= 2")
    assert visitor.page.locator(".progress polyline").count() == 3
    visitor.until("lab.state === 'ready'")
    assert urlsplit(visitor.page.url).fragment == "laboratory"
    assert visitor.page.locator(".learnt").inner_text().startswith("loss ")
    assert len(set(visitor.pictures())) == 3
    assert "I(X;Y) = 1.099" in visitor.page.inner_text(".truth")
    assert [len(visitor.row(way)) for way in ("unguided", "prototype", "contextual", "as many real points")] == [6] * 4
    expect(visitor.page.locator("[data-chart=trade] svg")).to_have_attribute("data-points", "9", timeout=PATIENCE)
    for chart in visitor.page.locator("[data-chart] svg").all():
        assert chart.locator("polyline").count() >= 1
        assert len(chart.get_attribute("aria-label")) > 20


def test_training_again_moves_the_curves_from_their_beginning(visit):
    visitor = visit().open()
    visitor.page.click(".train")
    visitor.until("lab.state === 'learning' && lab.learnt < 4")
    expect(visitor.page.locator(".train")).to_be_disabled()
    visitor.until("lab.state === 'ready' && lab.learnt === '16'")


def test_a_run_plays_pauses_and_ends_without_the_server(visit):
    visitor = visit(reduced_motion="no-preference").open()
    visitor.until("lab.playing === 'yes' || lab.time === '50'")
    expect(visitor.page.locator("[data-chart=trade] svg")).to_have_attribute("data-points", "9", timeout=PATIENCE)
    visitor.until("lab.playing === 'no'")
    asked = []
    visitor.page.on("request", lambda request: request.url.startswith("data:") or asked.append(request.url))
    last = visitor.pictures()
    visitor.page.select_option(".pace select", "0.25")
    visitor.page.click(".go")
    visitor.until("lab.playing === 'yes' && lab.time > 0 && lab.time < 50")
    expect(visitor.page.locator(".go")).to_have_attribute("aria-label", "Pause")
    visitor.page.select_option(".pace select", "4")
    visitor.until("lab.time === '50' && lab.playing === 'no'")
    assert visitor.pictures() == last
    visitor.page.evaluate("document.activeElement.blur()")
    visitor.page.keyboard.press("Home")
    visitor.until("lab.time === '0'")
    assert visitor.pictures() != last
    for box in visitor.page.locator(".arrows input:checked").element_handles():
        box.uncheck()
    assert len(set(visitor.pictures())) == 1, "the same noise in every column"
    assert [url for url in asked if "heartbeat" not in url] == []


def test_scrubbing_and_the_keyboard_move_the_particles_and_the_curves(visit):
    visitor = visit().open()
    end = visitor.pictures()
    visitor.scrub(20)
    visitor.until("lab.time === '20'")
    middle = visitor.pictures()
    assert middle != end and "step 20 of 50" in visitor.page.inner_text(".clock")
    assert "at step 20" in visitor.page.locator("[data-chart=prototype] svg").get_attribute("aria-label")
    visitor.scrub(20.5)
    assert visitor.pictures() != middle, "between two steps as well"
    visitor.page.evaluate("document.activeElement.blur()")
    for key, time in (("ArrowRight", 21), ("ArrowLeft", 20), ("End", 50), ("Home", 0)):
        visitor.page.keyboard.press(key)
        visitor.until(f"lab.time === '{time}'")
    visitor.page.keyboard.press(" ")
    visitor.until("lab.time > 2")
    visitor.page.keyboard.press(" ")
    visitor.until("lab.playing === 'no'")
    assert int(visitor.lab("time")) < 50


def test_arrows_are_drawn_where_they_are_wanted(visit):
    visitor = visit().open()
    visitor.scrub(10)
    boxes = visitor.page.locator(".arrows input")
    for i in range(3):
        boxes.nth(i).uncheck()
    plain = visitor.pictures()
    pictures = {}
    for i, name in enumerate(("score", "prototype", "contextual")):
        boxes.nth(i).check()
        pictures[name] = visitor.pictures()
        boxes.nth(i).uncheck()
    assert visitor.pictures() == plain
    differs = {name: [a != b for a, b in zip(plain, picture)] for name, picture in pictures.items()}
    assert differs == {
        "score": [True, True, True],
        "prototype": [False, True, True],
        "contextual": [False, False, True],
    }


def test_a_slider_changes_the_ways_it_concerns_and_the_address(visit):
    visitor = visit().open()
    before = visitor.pictures()
    slider = visitor.page.get_by_label("β, contextual weight", exact=True)
    slider.focus()
    visitor.after_run(lambda: slider.press("End"))
    after = visitor.pictures()
    assert [a == b for a, b in zip(before, after)] == [True, True, False]
    expect(visitor.box("beta")).to_have_value("40")
    assert "lab=beta:40" in visitor.page.url
    visitor.after_run(lambda: visitor.page.click(".dice"))
    assert all(a != b for a, b in zip(after, visitor.pictures()))
    visitor.after_run(lambda: visitor.box("n").fill("60"))
    assert "n:60" in visitor.page.url
    assert "log 60 = 4.09 lies above" in visitor.page.text_content("[data-chart=contextual] svg")


def test_the_address_reopens_the_very_run_beside_the_settings_of_explore(visit):
    first = visit().open("n:3,beta:2.5,eta:1.5,seed:7", query="ipc=3&")
    again = visit().open(first.page.url.partition("lab=")[2].partition("#")[0])
    assert first.pictures() == again.pictures()
    assert first.page.url.endswith("?ipc=3&lab=n:3,beta:2.5,eta:1.5,seed:7#laboratory")
    first.page.get_by_role("tab", name="Explore").click()
    expect(first.page.locator("#ipc input[type=number]")).to_have_value("3", timeout=PATIENCE)


def test_a_lesson_sets_the_controls_says_what_to_look_at_and_has_a_link(visit):
    visitor = visit().open()
    visitor.after_run(lambda: visitor.page.click(".numbers li:nth-child(5) button"))
    expect(visitor.box("n")).to_have_value("1")
    assert "Blue and orange are the same picture" in visitor.page.inner_text(".lesson .look")
    pictures = visitor.pictures()
    linked = visit().open(visitor.page.url.partition("lab=")[2].partition("#")[0])
    assert linked.pictures() == pictures
    assert "5. n = 1 feels no β" in linked.page.inner_text(".lesson h2")
    assert linked.page.locator(".numbers [aria-current=step]").inner_text().startswith("5")
    visitor.after_run(lambda: visitor.box("n").fill("2"))
    expect(visitor.page.locator(".lesson")).to_be_hidden()


def test_a_wrong_link_gives_a_sentence_and_the_rest_of_it(visit):
    visitor = visit().open("n:99,beta:2,mode:%3Cb%3E")
    notice = visitor.page.locator(".lab .notice")
    expect(notice).to_contain_text("n must be between 1 and 60, got 99. It was left out.")
    expect(notice).to_contain_text("the laboratory has no setting 'mode'")
    expect(visitor.box("beta")).to_have_value("2")
    expect(visitor.box("n")).to_have_value("8")


def test_a_number_half_typed_gives_a_sentence_and_breaks_nothing(visit):
    visitor = visit().open()
    notice = visitor.page.locator(".lab .notice")
    visitor.box("beta").fill("")
    expect(notice).to_have_text("β is empty: give it a value.", timeout=PATIENCE)
    visitor.box("beta").fill("77")
    expect(notice).to_have_text("β must be between 0 and 40, got 77.", timeout=PATIENCE)
    visitor.after_run(lambda: visitor.box("beta").fill("7"))
    expect(notice).to_be_empty()


def test_a_scene_is_drawn_trained_and_shared(visit):
    visitor = visit().open()
    page = visitor.page
    page.get_by_text("Draw your own").click()
    visitor.until("lab.drawing === 'yes' && lab.state === 'idle'")
    expect(page.locator(".train")).to_be_disabled()
    canvas = page.locator(".lab canvas").first
    side = canvas.bounding_box()["width"]
    canvas.click(position={"x": 0.2 * side, "y": 0.3 * side})
    page.click(".train")
    expect(page.locator(".lab .notice")).to_contain_text("needs two or three classes", timeout=PATIENCE)
    canvas.click(position={"x": 0.3 * side, "y": 0.7 * side})
    page.get_by_role("radio", name="second class").click()
    canvas.click(position={"x": 0.8 * side, "y": 0.5 * side})
    canvas.click(position={"x": 0.8 * side, "y": 0.2 * side})
    canvas.click(position={"x": 0.8 * side, "y": 0.2 * side})  # taken away again
    page.click(".train")
    visitor.until("lab.state === 'ready'")
    assert "of 3 modes" in page.inner_text(".tally >> nth=0")
    assert visit().open(page.url.partition("lab=")[2].partition("#")[0]).pictures() == visitor.pictures()


def test_pictures_curves_and_an_animation_are_downloaded(visit):
    visitor = visit().open()

    def download(button: str) -> tuple[str, bytes]:
        with visitor.page.expect_download(timeout=PATIENCE) as download:
            visitor.page.click(button)
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    name, content = download(".picture")
    assert name == "igds-laboratory-rings-n8-beta4-eta1.png"
    picture = Image.open(io.BytesIO(content))
    assert picture.width > 2 * picture.height > 1500 and len(picture.convert("RGB").getcolors(1 << 24)) > 50
    name, content = download(".vector")
    assert name.endswith(".svg")
    drawing = ElementTree.fromstring(content)
    assert len([node for node in drawing.iter() if node.tag.endswith("polyline")]) >= 9
    assert b"class=" not in content and b"var(" not in content, "it needs no style sheet"
    name, content = download(".roll[data-format=gif]")
    assert name.endswith(".gif")
    film = Image.open(io.BytesIO(content))
    assert film.n_frames == 51 and film.info["loop"] == 0
    name, content = download(".roll[data-format=mp4]")
    assert name.endswith(".mp4") and b"ftyp" in content[:16]


def test_everything_that_can_be_used_has_a_name_and_a_narrow_window_does_not_scroll_sideways(visit):
    visitor = visit(viewport={"width": 400, "height": 800}).open()
    unnamed = visitor.page.evaluate(
        """[...document.querySelectorAll('.lab button, .lab input, .lab select, .lab canvas, .lab svg[role=img]')]
        .filter((node) => node.checkVisibility())
        .filter((node) => !(node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.length))
        .map((node) => node.outerHTML)"""
    )
    assert unnamed == []
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 400
    assert visitor.page.evaluate("document.querySelector('.lab').scrollWidth") <= 400
