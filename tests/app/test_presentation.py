"""Presentation mode in a real browser: entered, played and left in every way there is."""

import pytest
from playwright.sync_api import expect

from tests.app.visitor import PATIENCE, Visitor


@pytest.fixture
def visitor(browser, address):
    found = Visitor(browser, address, reduced_motion="reduce")
    yield found
    found.context.close()
    assert found.outside == [] and found.complaints == []


def is_presented(page) -> bool:
    return page.evaluate("document.body.classList.contains('presenting')")


def test_one_control_or_one_key_presents_any_place_and_escape_ends_it(visitor):
    page = visitor.page
    page.goto(f"{visitor.address}?ipc=2&steps=4&lab=n:3")
    expect(page.locator("#start")).to_be_enabled(timeout=PATIENCE)
    frame = page.locator(".stage .frame").first
    usual = frame.bounding_box()["width"]
    page.get_by_role("button", name="Present").click()
    for hidden in ("#start", "#places [role=tablist]", ".intro", ".downloads", "footer"):
        expect(page.locator(hidden).first).to_be_hidden()
    assert frame.bounding_box()["width"] > 1.2 * usual
    assert page.url.endswith("#explore&present")
    page.keyboard.press("Enter")  # a run, without the button that begins it
    page.wait_for_function("document.querySelector('.stage').dataset.state === 'finished'", timeout=PATIENCE)
    assert page.url.endswith("&lab=n:3#explore&present"), "the run's address presents, and keeps the laboratory's"
    for key, shown in (("ArrowLeft", "3"), ("Home", "1"), ("ArrowRight", "2"), ("End", "4")):
        page.keyboard.press(key)
        expect(page.locator(".stage")).to_have_attribute("data-shown", shown)
    page.keyboard.press(" ")
    page.wait_for_function("document.querySelector('.stage').dataset.shown !== '4'")
    page.keyboard.press("Escape")
    expect(page.locator("#start")).to_be_visible()
    assert "#" not in page.url
    page.locator("#places [data-tab-id=beta]").click()
    page.keyboard.press("p")
    expect(page.locator(".presentation .place")).to_have_text("β at a glance")
    expect(page.locator("#beta-start")).to_be_hidden()
    page.keyboard.press("p")
    expect(page.locator("#beta-start")).to_be_visible()
    page.locator("#beta-betas").locator("input, textarea").press("p")
    assert not is_presented(page), "a letter that is typed is a letter"


def test_a_link_opens_a_place_presented_and_its_lessons_turn_like_slides(visitor):
    page = visitor.page
    page.goto(f"{visitor.address}?lab=n:3#laboratory&present")
    page.wait_for_function("document.querySelector('.lab')?.dataset.state === 'ready'", timeout=PATIENCE)
    expect(page.locator(".lab .settings")).to_be_hidden()
    expect(page.locator(".lab canvas").first).to_be_visible()
    page.keyboard.press("PageDown")
    expect(page.locator(".lesson h2")).to_contain_text("1. ")
    page.keyboard.press("PageDown")
    expect(page.locator(".lesson h2")).to_contain_text("2. ")
    page.wait_for_function("document.querySelector('.lab').dataset.state === 'ready'", timeout=PATIENCE)
    page.get_by_role("button", name="End").click()
    expect(page.locator(".lab .settings")).to_be_visible()
    assert page.url.endswith("#laboratory") and "lesson:2" in page.url


def test_a_trial_of_the_bounds_stands_over_the_study_s_own_figures(visitor):
    page = visitor.page
    page.goto(f"{visitor.address}#bounds")
    expect(page.locator(".tight .charts svg").first.locator(".line")).to_have_count(6, timeout=PATIENCE)
    page.get_by_role("checkbox", name="MINE").uncheck()
    expect(page.locator(".tight .charts svg").first.locator(".line")).to_have_count(5)
    page.locator(".tight .d").select_option("32")
    page.locator(".tight .delta").fill("1")
    page.get_by_role("button", name="Train VE and cross-entropy").click()
    expect(page.locator("[data-chart=width] svg .own")).to_have_count(2, timeout=PATIENCE)
    expect(page.locator("[data-chart=prototype] svg .own")).to_have_count(0)
    expect(page.locator(".tight .outcome")).to_contain_text("log d = 3.47")
