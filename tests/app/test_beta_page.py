"""The place "β at a glance" in a real browser, driven as a visitor would."""

import csv
import io
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from playwright.sync_api import expect

import app.session
from app.ui import LOOK, build
from tests.app.visitor import PATIENCE, Visitor

KEYS = ("prototype", "contextual", "accuracy", "recognised_diversity")


@pytest.fixture(scope="module")
def studied_address(studied_bundle, study_file):
    page = build(studied_bundle, study=study_file)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, inbrowser=False, **LOOK)
    yield address
    page.close()


@pytest.fixture(scope="module")
def bare_address(tiny_bundle):
    """Of a page that has no study."""
    page = build(tiny_bundle)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, inbrowser=False, **LOOK)
    yield address
    page.close()


@pytest.fixture
def brake(monkeypatch):
    """Cleared, it holds every run of this place between two steps: the tiny bundle's are over in a moment."""
    free, frame_of = threading.Event(), app.session.frame_of
    free.set()
    free.seconds = PATIENCE / 1000

    def held(*given, **named):
        free.wait(free.seconds)
        return frame_of(*given, **named)

    monkeypatch.setattr(app.session, "frame_of", held)
    yield free
    free.set()


class Comparer(Visitor):
    """A visitor of the place β at a glance."""

    def open(self, query: str = "") -> "Comparer":
        self.page.goto(f"{self.address}{query}#beta")
        expect(self.page.locator(".beta .column img").first).to_be_visible(timeout=PATIENCE)
        if "betas" in query:
            betas = parse_qs(query.lstrip("?"))["betas"][0].split(",")
            expect(self.betas).to_have_value(", ".join(betas), timeout=PATIENCE)
            expect(self.page.locator(".beta .column")).to_have_count(1 + len(betas), timeout=PATIENCE)
        return self

    @property
    def betas(self):
        return self.page.locator("#beta-betas").locator("input, textarea")

    def number(self, name: str):
        return self.page.locator(f"#{name} input[type=number]")

    def start(self) -> "Comparer":
        self.page.click("#beta-start")
        return self

    def until(self, condition: str) -> "Comparer":
        """Wait for a condition on `beta`, the data attributes of the grid and its curves."""
        script = f"(() => {{ const beta = document.querySelector('.beta')?.dataset; return beta && ({condition}); }})()"
        self.page.wait_for_function(script, timeout=PATIENCE)
        return self

    def finish(self) -> "Comparer":
        return self.until("beta.state === 'finished'")

    def frames(self) -> list[str]:
        return [image.get_attribute("src") for image in self.page.locator(".beta .column img").all()]

    def chart(self, key: str):
        return self.page.locator(f".beta .curve[data-key={key}] > svg")

    def head(self, name: str):
        return self.page.locator(".beta").get_by_role("button", name=f"{name}: open in Explore", exact=True)

    def framed(self) -> list[tuple[str, str]]:
        """(IPC, β) of the cells of the map in which the run is marked."""
        return self.page.evaluate(
            """() => {
                const heads = [...document.querySelectorAll(".map thead th")].map((node) => node.textContent);
                return [...document.querySelectorAll(".map td.here")].map((cell) =>
                    [cell.parentElement.firstElementChild.textContent, heads[cell.cellIndex]]);
            }"""
        )

    def download(self, kind: str) -> tuple[str, bytes]:
        expect(self.page.locator(f"#beta-{kind}")).to_be_enabled(timeout=PATIENCE)
        with self.page.expect_download(timeout=PATIENCE) as download:
            self.page.click(f"#beta-{kind}")
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()


@pytest.fixture
def visit(browser, studied_address):
    visitors = []

    def new(address: str = studied_address) -> Comparer:
        visitors.append(Comparer(browser, address))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.context.close()
        assert visitor.complaints == []


def test_the_columns_fill_together_and_end_with_a_point_for_every_beta(visit, brake):
    visitor = visit().open("?betas=0,0.5,1&ipc=4&eta=10")
    noise = visitor.frames()
    assert len(noise) == 4 and len(set(noise)) == 1, "noise, the same in every column"
    size = visitor.page.locator(".beta").bounding_box()
    brake.clear()
    visitor.start().until("beta.state === 'running'")
    expect(visitor.page.locator("#beta-start")).to_be_disabled()
    brake.seconds = 0.1  # slow enough to be seen
    brake.set(), brake.clear()
    visitor.until("beta.steps >= 2")
    assert not set(visitor.frames()) & set(noise)
    assert [visitor.chart(key).get_attribute("data-points") for key in KEYS] == ["4", "4", "0", "0"]
    brake.set()
    visitor.finish().until("beta.shown === '10'")
    assert len(set(visitor.frames())) == 4, "four columns, four different results"
    for key in KEYS[:3]:
        assert visitor.chart(key).get_attribute("data-points") == "4"
        assert visitor.chart(key).locator("text.value").count() == 4
        assert visitor.chart(key).locator(".level").count() == 1
    said = visitor.page.inner_text(".beta .said")
    assert "Against β = 0, β = 1" in said and "One seed proves little" in said
    assert visitor.page.locator(".beta").bounding_box() == size, "nothing jumps"
    expect(visitor.page.locator("#beta-start")).to_be_enabled()
    query = parse_qs(urlsplit(visitor.page.url).query)
    assert (query["betas"], query["ipc"], query["eta"]) == (["0,0.5,1"], ["4"], ["10"])
    assert visitor.page.url.endswith("#beta")


def test_the_points_stand_under_their_columns(visit):
    visitor = visit().open("?betas=0,0.25,0.5,1&ipc=3").start().finish()
    for width in (1440, 400):
        visitor.page.set_viewport_size({"width": width, "height": 900})
        visitor.page.wait_for_function(
            """() => {
                const middle = (node) => { const box = node.getBoundingClientRect(); return box.left + box.width / 2; };
                const columns = [...document.querySelectorAll(".beta .column img")].map(middle);
                return ["prototype", "contextual", "accuracy"].every((key) => {
                    const marks = [...document.querySelectorAll(`.curve[data-key=${key}] > svg > .mark`)].map(middle);
                    return marks.length === 5 && marks.every((x, i) => Math.abs(x - columns[i]) < 2);
                });
            }""",
            timeout=PATIENCE,
        )
        assert visitor.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_pointing_at_a_column_or_its_head_marks_its_points(visit):
    visitor = visit().open("?betas=0,0.5&ipc=3").start().finish()
    visitor.page.locator(".beta .column img").nth(2).hover()
    visitor.until("beta.column === 'β = 0.5'")
    for key in KEYS[:3]:
        assert visitor.chart(key).locator(".mark.picked.contextual").count() == 1
    assert visitor.page.locator(".rowmark").is_visible() and visitor.page.locator(".band").is_visible()
    visitor.page.mouse.move(5, 5)
    visitor.until("beta.column === ''")
    assert not visitor.page.locator(".band").is_visible()
    visitor.head("β = 0").focus()
    visitor.until("beta.column === 'β = 0'")
    assert visitor.chart("contextual").locator(".mark.picked.prototype").count() == 1


def test_a_head_opens_exactly_its_settings_in_explore_without_reloading(visit):
    visitor = visit().open("?betas=0,0.25,1&ipc=5&seed=7&eta=3&steps=6&label=Square/box&scaling=variance")
    visitor.start().finish()
    visitor.page.evaluate("window.sameDocument = true")
    ours = visitor.page.evaluate(
        "document.querySelectorAll('.curve[data-key=contextual] > svg text.value')[2].textContent"
    )
    visitor.head("β = 0.25").click()
    expect(visitor.page.locator("#start")).to_be_visible(timeout=PATIENCE)
    for name, value in (("beta", "0.25"), ("ipc", "5"), ("seed", "7"), ("steps", "6")):
        expect(visitor.number(name)).to_have_value(value, timeout=PATIENCE)
    assert visitor.page.evaluate("window.sameDocument") and "#" not in visitor.page.url
    title = visitor.page.locator(".stage .title")
    expect(title).to_have_text("Square/box: 5 images, β = 0.25, seed 7", timeout=PATIENCE)
    visitor.page.click("#start")
    expect(visitor.page.locator("#results table")).to_be_visible(timeout=PATIENCE)
    query = parse_qs(urlsplit(visitor.page.url).query)
    assert (query["eta"], query["scaling"], query["label"]) == (["3"], ["variance"], ["Square/box"])
    contextual = visitor.page.locator("#results tr.contextual td").nth(1).inner_text()
    assert float(contextual) == pytest.approx(float(ours), abs=0.006), "the same images, so the same Ĥ"


def test_the_map_frames_the_run_at_its_betas_and_the_nearest_studied_ipc(visit):
    visitor = visit().open()
    assert visitor.framed() == [["4", f"β = {beta}"] for beta in ("0", "0.5", "1")]
    visitor.betas.fill("0.4, 1")
    visitor.number("beta-ipc").fill("3")
    expect(visitor.page.locator(".here-words")).to_contain_text(
        "β = 0.4 to 1 at IPC 4, the studied number nearest to its 3"
    )
    assert visitor.framed() == [["4", "β = 0.5"], ["4", "β = 1"]]
    visitor.betas.fill("0.6")
    expect(visitor.page.locator(".here-words")).to_contain_text("lies between the studied β")
    assert visitor.framed() == [] and not visitor.page.locator(".map .frame").is_visible()


def test_the_place_is_ready_when_its_tab_is_opened_after_the_page(visit):
    visitor = visit()
    visitor.page.goto(visitor.address)
    expect(visitor.page.locator("#start")).to_be_enabled(timeout=PATIENCE)
    visitor.page.get_by_role("tab", name="β at a glance").click()
    visitor.start().finish()
    assert visitor.page.url.endswith("#beta")


def test_the_map_shows_the_measure_that_is_chosen(visit):
    visitor = visit().open()
    first = visitor.page.inner_text(".map tbody")
    visitor.page.get_by_role("radio", name="diversity of those recognised").check()
    assert visitor.page.inner_text(".map tbody") != first
    assert visitor.page.locator(".map tbody tr").first.locator("td").first.inner_text() == "–", "of one image"
    assert len(visitor.framed()) == 3


def test_without_a_study_a_sentence_stands_for_the_map(visit, bare_address):
    visitor = visit(bare_address).open()
    expect(visitor.page.locator(".map .about")).to_contain_text("There is no study at")
    assert not visitor.page.locator(".map .measures").is_visible()
    visitor.start().finish()


def test_stop_keeps_the_columns_so_far_and_says_where(visit, brake):
    visitor = visit().open("?betas=0,1&ipc=3&steps=90")
    brake.seconds = 0.05
    brake.clear()
    visitor.start().until("beta.steps >= 3")
    visitor.page.click("#beta-stop")
    visitor.until("beta.state === 'stopped'")
    done = visitor.page.locator(".beta").get_attribute("data-steps")
    assert visitor.page.inner_text(".beta .state") == f"Stopped at step {done}"
    expect(visitor.page.locator("#beta-csv")).to_be_disabled()
    assert "Only finished images are judged." in visitor.chart("accuracy").text_content()
    brake.set()
    visitor.start().finish()


def test_a_list_that_cannot_be_read_gives_a_sentence_and_no_run(visit):
    visitor = visit().open()
    visitor.betas.fill("0, lots")
    visitor.start()
    notice = visitor.page.locator("#beta-notice")
    expect(notice).to_contain_text("β must be numbers with commas between them, as in 0, 0.5, 1, got 'lots'.")
    expect(visitor.page.locator("#beta-start")).to_be_enabled()
    assert visitor.page.locator(".beta").get_attribute("data-state") == "idle"
    visitor.page.get_by_role("button", name="as studied").click()
    expect(visitor.betas).to_have_value("0, 0.5, 1")
    visitor.start().finish()
    expect(notice).to_have_text("")


def test_a_wrong_link_gives_a_sentence_and_the_defaults(visit):
    visitor = visit()
    visitor.page.goto(f"{visitor.address}?betas=0,9#beta")
    said = "This link cannot be followed: β must be between 0 and 1 on this page, got 9."
    expect(visitor.page.locator("#beta-notice")).to_contain_text(said, timeout=PATIENCE)
    visitor.start().finish()


def test_a_run_waits_for_the_one_in_explore(visit, brake):
    first, second = visit().open("?betas=0,1&ipc=3"), visit()
    brake.clear()
    first.start().until("beta.state === 'running'")
    second.page.goto(f"{second.address}?ipc=2&steps=4")
    second.page.locator("#start:enabled").click()
    expect(second.page.locator("#notice")).to_contain_text("one run is ahead of yours", timeout=PATIENCE)
    brake.set()
    first.finish()
    expect(second.page.locator("#results table")).to_be_visible(timeout=PATIENCE)


def test_scrubbing_goes_back_to_the_steps_and_the_end_has_the_judges_figures_again(visit):
    visitor = visit().open("?betas=0,1&ipc=3&eta=10").start().finish()
    final, values = visitor.frames(), visitor.chart("contextual").text_content()
    visitor.page.evaluate("document.activeElement.blur()")
    visitor.page.keyboard.press("Home")
    visitor.until("beta.shown === '1'")
    assert visitor.frames() != final and visitor.chart("contextual").text_content() != values
    assert "step 1 of 10" in visitor.page.inner_text(".beta .readout")
    assert not visitor.page.locator(".missed").count()
    visitor.page.keyboard.press("End")
    visitor.until("beta.shown === '10'")
    assert visitor.frames() == final and visitor.chart("contextual").text_content() == values


def test_images_that_are_not_recognised_are_crossed_and_counted(visit):
    visitor = visit().open("?betas=0,1&ipc=6&label=Square/box").start().finish()
    recognised = [int(node.text_content()) for node in visitor.chart("accuracy").locator("text.value").all()]
    crosses = [sheet.locator(".missed").count() for sheet in visitor.page.locator(".beta .sheet").all()]
    assert [6 - count for count in crosses] == recognised


def test_a_step_that_was_lost_on_the_way_is_asked_for_again(visit):
    visitor = visit()

    def without_one(route):
        response = route.fetch(timeout=PATIENCE)
        messages = response.text().split("\n\n")
        steps = [i for i, message in enumerate(messages) if "process_generating" in message and "base64" in message]
        if len(steps) > 5:
            del messages[steps[5]]
        route.fulfill(response=response, body="\n\n".join(messages))

    visitor.page.route("**/queue/data*", without_one)
    visitor.open("?betas=0,1&ipc=2&steps=20")
    visitor.start().finish().until("beta.steps === '20'")


def test_the_pictures_and_the_figures_download(visit):
    visitor = visit().open("?betas=0,1&ipc=3").start().finish()
    name, content = visitor.download("png")
    assert name == "igds-circle-seed0-betas.png" and Image.open(io.BytesIO(content)).width >= 1200
    name, content = visitor.download("svg")
    assert name.endswith(".svg") and b"<svg" in content
    for kind, start in (("gif", b"GIF89a"), ("mp4", b"ftyp")):
        name, content = visitor.download(kind)
        assert name == f"igds-circle-seed0-betas.{kind}" and start in content[:16]
    name, content = visitor.download("csv")
    assert [row["column"] for row in csv.DictReader(io.StringIO(content.decode()))] == ["unguided", "β = 0", "β = 1"]
