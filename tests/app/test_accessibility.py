"""Every place of the page against axe-core's rules, in a real browser, light and dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

PLACES = ("explore", "beta", "distil", "laboratory", "bounds", "bundles")
PATIENCE = 120_000


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_place_breaks_a_rule_of_accessibility(browser, address, theme):
    page = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme={theme}")
    expect(page.locator("#start")).to_be_enabled(timeout=PATIENCE)
    broken = []
    for place in PLACES:
        page.locator(f"#places [data-tab-id={place}]").click()
        expect(page.locator("#places [role=tabpanel]:visible h1")).to_be_visible(timeout=PATIENCE)
        for violation in Axe().run(page).response["violations"]:
            nodes = [node["html"] for node in violation["nodes"]]
            broken.append(f"{place}: {violation['id']}, {violation['help']}: {nodes}")
    for place in PLACES:
        page.evaluate("place => { location.hash = `${place}&present`; }", place)
        expect(page.locator(".presentation .place")).to_be_visible(timeout=PATIENCE)
        expect(page.locator(f"#places [data-tab-id={place}]")).to_have_attribute("aria-selected", "true")
        for violation in Axe().run(page).response["violations"]:
            nodes = [node["html"] for node in violation["nodes"]]
            broken.append(f"{place}, presented: {violation['id']}, {violation['help']}: {nodes}")
    page.close()
    assert broken == []


def test_axe_finds_a_picture_without_words(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.set_content("<main><h1>A page</h1><img src='x.png'></main>")
    found = {violation["id"] for violation in Axe().run(page).response["violations"]}
    page.close()
    assert "image-alt" in found
