"""How fast the page is: python -m benchmarks.page [--bundle fashion-mnist]

Prints the time from the command to the page, from Start to the first frame, and what a step costs on the page against
the same run without one. The ratio is the median over pairs taken in turn in this one run.
"""

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from playwright.sync_api import Browser, Page, sync_playwright

from app.session import Session, Studio
from igds.bundle import DEFAULT, Bundle, load_bundle
from igds.runs import Run

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")
STEPS = 20
PAIRS = 3
WATCH = """() => {
    const stage = document.querySelector(".stage");
    window.arrivals = [];
    new MutationObserver(() => {
        while (window.arrivals.length < Number(stage.dataset.steps)) window.arrivals.push(performance.now());
    }).observe(stage, { attributeFilter: ["data-steps"] });
    document.querySelector("#start").addEventListener("click", () => {
        window.started = performance.now();
        window.arrivals = [];
    });
}"""


@contextmanager
def running_app(bundle: str) -> Iterator[tuple[str, float]]:
    """The address of an app that runs meanwhile, and the seconds until it showed its page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}/"
    port = address.rstrip("/").rpartition(":")[2]
    started = time.perf_counter()
    server = subprocess.Popen([sys.executable, ROOT / "app" / "main.py", "--bundle", bundle, "--port", port])
    try:
        while not _answers(address):
            if server.poll() is not None:
                raise SystemExit(server.returncode)
            time.sleep(0.05)
        yield address, time.perf_counter() - started
    finally:
        server.terminate()
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


@contextmanager
def open_browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit(f"install a browser: one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def finish_run(page: Page) -> None:
    """Press Start and wait for the numbers."""
    page.wait_for_function("!document.querySelector('#start').disabled")
    page.click("#start")
    for state in ("running", "finished"):
        # Looked at now and then: Playwright's own way looks at every frame, for which the browser then draws them all.
        script = f"document.querySelector('.stage').dataset.state === '{state}'"
        page.wait_for_function(script, timeout=0, polling=100)
    page.wait_for_selector("#results table", timeout=0)


def page_seconds(page: Page) -> tuple[float, float]:
    """Of one run on the page: seconds from Start to the first frame, and seconds a step after it."""
    finish_run(page)
    started, arrivals = page.evaluate("[window.started, window.arrivals]")
    return (arrivals[0] - started) / 1000, (arrivals[-1] - arrivals[0]) / 1000 / (len(arrivals) - 1)


def headless_seconds(bundle: Bundle, run: Run) -> float:
    """Seconds a step of the same run in this process, after its first step as well."""
    moments = [time.perf_counter() for _ in run.start(bundle)]
    return (moments[-1] - moments[0]) / (len(moments) - 1)


def served_seconds(bundle: Bundle, run: Run) -> float:
    """Seconds a step of the same run as the server sends it, pictures and curves packed, with no browser to draw it."""
    moments = []
    for payload in Studio(bundle).play(Session(ticket=1, wanted=run)):
        json.dumps(payload)
        moments.append(time.perf_counter())
    steps = moments[1:-1]
    return (steps[-1] - steps[0]) / (len(steps) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default=DEFAULT)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    run = Run.of(bundle, steps=STEPS)
    print(f"{bundle.name}: {run.label}, {run.ipc} images, {STEPS} steps, {torch.get_num_threads()} threads", flush=True)
    with running_app(options.bundle) as (address, until_page), open_browser() as browser:
        print(f"from the command to the page          {until_page:6.2f} s", flush=True)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{address}?steps={STEPS}")
        page.wait_for_function(f"document.querySelector('#steps input[type=number]')?.value === '{STEPS}'")
        page.evaluate(WATCH)
        first_frame, _ = page_seconds(page)
        print(f"from Start to the first frame, first run {first_frame:.2f} s", flush=True)
        pairs = [(page_seconds(page), headless_seconds(bundle, run)) for _ in range(PAIRS)]
    packed = [served_seconds(bundle, run) / headless_seconds(bundle, run) for _ in range(PAIRS)]
    print(f"from Start to the first frame, later  {statistics.median(on[0] for on, _ in pairs):6.2f} s")
    print(f"a step on the page                    {statistics.median(on[1] for on, _ in pairs):6.3f} s")
    print(f"a step without a page                 {statistics.median(off for _, off in pairs):6.3f} s")
    print(f"ratio, the browser on the same cores  {statistics.median(on[1] / off for on, off in pairs):6.2f}")
    print(f"ratio, packed for the page, no browser{statistics.median(packed):6.2f}")


if __name__ == "__main__":
    main()
