"""The place Bundles, and the switch from one bundle to another, in a real browser."""

import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from igds.bundle import embedded_bundles

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120_000  # a limit against hanging, far above what anything takes


def server(*arguments, log: Path):
    """`app/main.py` with these arguments, as a process and the address that it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as stderr:
        command = [sys.executable, ROOT / "app" / "main.py", "--port", str(port), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    guard = threading.Timer(PATIENCE / 1000, process.kill)
    guard.start()
    line = process.stdout.readline()
    guard.cancel()
    assert f"http://127.0.0.1:{port}" in line, log.read_text()
    return process, f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def address(tiny_bundle_path, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "stderr.txt"
    process, address = server("--bundle", tiny_bundle_path, log=log)
    yield address
    process.terminate()
    process.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page, failures = context.new_page(), []
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    context.close()
    assert failures == []


def bundles(page: Page, address: str) -> Page:
    page.goto(f"{address}#bundles")
    expect(page.locator(".bundle").first).to_be_visible()
    return page


def open_path(page: Page, path: Path | str) -> None:
    page.locator("#bundles-path").locator("textarea, input").first.fill(str(path))
    page.click("#bundles-open")


def run(page: Page) -> None:
    page.click("#places [data-tab-id=explore]")
    expect(page.locator("#start")).to_be_enabled()
    page.click("#start")
    expect(page.locator("#results table")).to_be_visible()


def test_the_place_lists_what_is_there_and_says_what_is_no_bundle(page, address, colours_path, tmp_path):
    bundles(page, address)
    expect(page.locator(".bundle[data-name=fashion-mnist] .open")).to_be_visible()
    expect(page.locator(".bundle[data-name=tiny] .open-now")).to_have_text("Open now")
    damaged = shutil.copytree(colours_path, tmp_path / "damaged")
    (damaged / "prior.safetensors").write_bytes(b"cut")
    for path, sentence in (
        ("", "The path is empty: give the folder of a bundle, which holds its card.json."),
        (tmp_path, "There is no bundle"),
        (damaged, "prior.safetensors is damaged or was changed"),
    ):
        open_path(page, path)
        expect(page.locator("#bundles-notice p.wrong")).to_contain_text(sentence)
    expect(page.locator(".bundle")).to_have_count(len(embedded_bundles()) + 1)


def test_a_bundle_opened_by_path_runs_and_the_first_one_runs_again(page, address, colours_path):
    bundles(page, address)
    visitor = page.context.new_page()
    visitor.goto(address)
    expect(visitor.locator("#start")).to_be_enabled()

    open_path(page, colours_path)
    page.wait_for_url("**/b/my-colours/**")
    expect(page.locator(".bundle[data-name=my-colours] .open-now")).to_be_visible()
    run(page)
    expect(page.locator("#label input")).to_have_value("red")

    # The other visitor's page is told by itself, in one sentence, with a way back.
    bar = visitor.locator("#put-back")
    expect(bar).to_contain_text("This page’s bundle was put back")
    expect(bar.get_by_text("Go to Colours <i>")).to_have_attribute("href", "../my-colours/")
    bar.get_by_text("Open Tiny again").click()
    expect(visitor.locator("#label input")).to_have_value("Circle")
    run(visitor)
    expect(page.locator("#put-back")).to_contain_text("put back")


def test_a_door_waits_for_the_run_that_is_under_way(page, address, colours_path):
    bundles(page, address)
    open_path(page, colours_path)
    page.wait_for_url("**/b/my-colours/**")
    expect(page.locator(".bundle[data-name=my-colours] .open-now")).to_be_visible()
    page.goto(f"{address}?bundle=my+colours&ipc=50&steps=100")
    expect(page.locator("#ipc input[type=number]")).to_have_value("50")
    page.click("#start")
    expect(page.locator(".stage")).to_have_attribute("data-state", "running")
    other = page.context.new_page()
    other.goto(f"{address}b/tiny/")
    expect(other.locator("#words")).to_contain_text("A run is under way there, which this would end.")
    expect(other.locator("#back")).to_have_attribute("href", "../my-colours/")
    page.click("#stop")
    expect(other.locator("#label input")).to_have_value("Circle")


def test_a_door_to_nothing_says_so(page, address):
    page.goto(f"{address}b/nothing/")
    expect(page.locator("#words")).to_contain_text("There is no bundle 'nothing' on this server")
    page.click("#back")
    page.wait_for_url(re.compile(r"/b/(tiny|my-colours)/$"))


def test_a_page_for_everybody_has_no_box_for_paths(browser, tiny_bundle_path, tmp_path):
    process, address = server("--bundle", tiny_bundle_path, "--host", "0.0.0.0", log=tmp_path / "stderr.txt")
    try:
        page = browser.new_page()
        bundles(page, address)
        expect(page.locator("#bundles-notice")).to_contain_text("Opening folders by path is off")
        expect(page.locator("#bundles-path")).to_have_count(0)
        page.close()
    finally:
        process.terminate()
        process.wait(30)
    assert "Traceback" not in (tmp_path / "stderr.txt").read_text()
