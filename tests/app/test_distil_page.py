"""The place Distil in a real browser, driven as a visitor would."""

import io
import threading
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

import app.distillery
from app.ui import LOOK, build
from tests.app.visitor import PATIENCE, Visitor


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """The folder of the sets."""
    return tmp_path_factory.mktemp("distilled")


@pytest.fixture(scope="module")
def address(tiny_bundle, distilled):
    page = build(tiny_bundle, distilled=distilled)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, inbrowser=False, **LOOK)
    yield address
    page.close()


@pytest.fixture
def brake(monkeypatch):
    """Cleared, it holds every distillation between two steps: the tiny bundle's are over in a moment."""
    free, strip = threading.Event(), app.distillery.strip
    free.set()
    free.seconds = PATIENCE / 1000
    monkeypatch.setattr(app.distillery, "strip", lambda images: (free.wait(free.seconds), strip(images))[1])
    yield free
    free.set()


class Distiller(Visitor):
    """A visitor of the place Distil."""

    def open(self, query: str = "#distil") -> "Distiller":
        self.page.goto(self.address + query)
        expect(self.page.locator(".set .row")).to_have_count(3, timeout=PATIENCE)
        return self

    def start(self, **numbers) -> "Distiller":
        for name, value in numbers.items():
            self.page.locator(f"#distil-{name} input[type=number]").fill(str(value))
        self.page.click("#distil-start")
        return self

    def until(self, condition: str) -> "Distiller":
        """Wait for a condition on `set`, the data attributes of the set."""
        script = f"(() => {{ const set = document.querySelector('.set')?.dataset; return set && ({condition}); }})()"
        self.page.wait_for_function(script, timeout=PATIENCE)
        return self

    def finish(self) -> "Distiller":
        return self.until("set.state === 'finished' && set.done === '3'")

    def tile(self, row: int, image: int):
        return self.page.locator(f".set .row:nth-child({row + 1}) .tile:nth-child({image + 1})")

    def sheet(self, row: int) -> str:
        return self.page.locator(f".set .row:nth-child({row + 1}) .tiles").evaluate(
            "node => node.style.getPropertyValue('--sheet')"
        )


@pytest.fixture
def visit(browser, address):
    visitors = []

    def new() -> Distiller:
        visitors.append(Distiller(browser, address))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.context.close()
        assert visitor.complaints == []


def test_classes_fill_in_live_and_the_zip_has_them(visit, brake):
    visitor = visit().open()
    expect(visitor.page.locator(".set .state")).to_have_text("Nothing is made yet. Press Start")
    expect(visitor.page.locator("#distil-zip")).to_be_disabled()
    brake.clear()
    visitor.start(ipc=6, seed=11).until("set.state === 'running'")
    expect(visitor.page.locator("#distil-start")).to_be_disabled()
    brake.seconds = 0.2  # slow enough to be seen
    brake.set(), brake.clear()
    visitor.page.wait_for_function("document.querySelector('.set .what').textContent.endsWith(', at work')")
    brake.set()
    visitor.finish()
    expect(visitor.page.locator(".set .what")).to_have_text("Pick an image or a class")
    assert visitor.page.inner_text(".set .title") == "6 images of each class, β = 0.5, seed 11"
    assert len({visitor.sheet(row) for row in range(3)}) == 3 and "base64" in visitor.sheet(0)
    expect(visitor.page.locator("#distil-zip")).to_be_enabled()
    with visitor.page.expect_download() as download:
        visitor.page.click("#distil-zip")
    assert download.value.suggested_filename == "igds-tiny-ipc6-seed11.zip"
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert {"card.json", "classes.json"} < set(archive.namelist()) and len(archive.namelist()) == 20


def test_images_are_browsed_by_mouse_and_keyboard(visit):
    visitor = visit().open().start(ipc=6, seed=13).finish()
    page = visitor.page
    visitor.tile(2, 0).click()
    expect(page.locator(".set .what")).to_have_text("Tri <angle>")
    expect(page.locator(".set .terms")).to_contain_text("H(Y) + log P(y|x)")
    expect(page.locator(".set .terms")).to_contain_text("at most log 3 = 1.10")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".set .which")).to_have_text("image 2 of 6")
    page.keyboard.press("ArrowUp")
    visitor.until("set.picked === '1:1'")
    expect(visitor.tile(1, 1)).to_be_focused()
    page.locator(".set .back").click()
    expect(page.locator(".set .terms")).to_contain_text("Ĥ, held out")
    page.locator(".set .large .tile").nth(4).click()
    visitor.until("set.picked === '1:4'")
    assert page.locator("angle").count() == 0, "names are text"


def test_a_page_that_is_loaded_again_finds_the_run_and_follows_it(visit, brake):
    visitor = visit().open()
    brake.clear()
    visitor.start(ipc=3, seed=14).until("set.state === 'running'")
    visitor.page.reload()
    visitor.until("set.state === 'running'")
    expect(visitor.page.locator("#distil-seed input")).to_have_value("14")
    expect(visitor.page.locator("#distil-stop")).to_be_enabled()
    brake.set()
    visitor.finish()
    expect(visitor.page.locator("#distil-stop")).to_be_disabled()


def test_stopped_it_keeps_its_classes_and_resume_goes_on(visit, brake):
    visitor = visit().open()
    brake.clear()
    visitor.start(seed=15).until("set.state === 'running'")
    visitor.page.click("#distil-stop")
    expect(visitor.page.locator(".set .state")).to_have_text("Stopped: 0 of 3 classes are kept")
    brake.set()
    visitor.page.click("#distil-resume")
    visitor.finish()
    expect(visitor.page.locator("#distil-resume")).to_be_disabled()


def test_a_run_of_explore_goes_in_between(visit, brake):
    visitor = visit().open()
    brake.clear()
    visitor.start(seed=16).until("set.state === 'running'")
    visitor.page.click("#places [data-tab-id=explore]")
    assert "#distil" not in visitor.page.url
    visitor.page.click("#start")
    visitor.page.wait_for_function("document.querySelector('.stage').dataset.state === 'finished'")
    visitor.page.click("#places [data-tab-id=distil]")
    assert visitor.page.locator(".set").get_attribute("data-state") == "running"
    brake.set()
    visitor.finish()


def test_a_chosen_composite_set_is_made_found_again_and_downloaded(visit):
    visitor = visit().open()
    page = visitor.page
    page.locator("#distil-advanced").get_by_text("Advanced").click()
    page.locator("#distil-composite input").check()
    visitor.start(ipc=2, seed=21, candidates=3).finish()
    title = "2 composites of each class, chosen of 24, β = 0.5, seed 21"
    assert page.inner_text(".set .title") == title
    page.reload()
    visitor.finish()
    assert page.inner_text(".set .title") == title
    page.click("#distil-start")  # with what the page holds, whether or not the accordion is open
    expect(page.locator("#distil-notice")).to_contain_text("This set is there already", timeout=PATIENCE)
    page.locator("#distil-advanced").get_by_text("Advanced").click()
    expect(page.locator("#distil-composite input")).to_be_checked()
    expect(page.locator("#distil-candidates input[type=number]")).to_have_value("3")
    with page.expect_download() as download:
        page.click("#distil-zip")
    assert download.value.suggested_filename == "igds-tiny-ipc2-composite-of3-seed21.zip"


def test_too_many_candidates_are_a_sentence(visit):
    visitor = visit().open()
    visitor.page.locator("#distil-advanced").get_by_text("Advanced").click()
    visitor.start(ipc=50, candidates=50)
    expect(visitor.page.locator("#distil-notice")).to_contain_text("2500 images of a class would be made together")
    visitor.until("set.state === 'idle'")


def test_a_network_learns_while_one_watches(visit, real):
    visitor = visit().open().start(seed=17).finish()
    visitor.page.click("#distil-teach")
    visitor.page.wait_for_selector(".learning svg[data-points='10']")
    expect(visitor.page.locator(".learning p")).to_contain_text("random real")
    for shape in ("polyline.distilled", "polyline.real"):
        expect(visitor.page.locator(f".learning {shape}")).to_have_count(1)


def test_without_real_images_the_page_says_so_in_a_sentence(visit):
    visitor = visit().open().start(seed=17).finish()
    said = "Networks are tested on real images, and the real images of Tiny are not on this machine."
    expect(visitor.page.locator("#distil-plan")).to_have_text(said)
    expect(visitor.page.locator("#distil-teach")).to_be_disabled()


def test_a_wrong_setting_is_a_sentence_and_loses_nothing(visit):
    visitor = visit().open().start(seed=17).finish()
    visitor.start(seed="")
    expect(visitor.page.locator("#distil-notice")).to_have_text("Seed is empty: give it a value.")
    assert visitor.page.locator(".set").get_attribute("data-done") == "3"


def test_a_set_that_is_gone_is_a_sentence(visit, distilled):
    visitor = visit().open().start(seed=18).finish()
    key = visitor.page.locator(".set").get_attribute("data-key")
    (distilled / f"tiny-{key}").rename(distilled / "away")
    visitor.page.reload()
    expect(visitor.page.locator("#distil-notice")).to_contain_text("no longer on the server", timeout=PATIENCE)
    visitor.until("set.state === 'idle'")
    visitor.start(seed=18).finish()


def test_nothing_is_wider_than_a_narrow_window_and_a_picked_class_unfolds_in_place(visit):
    visitor = visit()
    visitor.page.set_viewport_size({"width": 380, "height": 900})
    visitor.open().start(ipc=50, seed=19).finish()
    visitor.page.click(".set .row:nth-child(2) .name")
    assert visitor.page.locator(".row.picked + .detail").count() == 1
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
