"""The laboratory in a real browser: python -m benchmarks.laboratory

Prints, while a run plays on the three planes together, the frames a second (over the whole run, and in its slowest
tenth of frames); and how long after a slider was released the new run is painted, by the browser's own clock.
"""

import os
import statistics

from playwright.sync_api import Page

from benchmarks.page import open_browser, running_app
from igds.bundle import DEFAULT

PARTICLES = (20, 56)  # of each of three classes, three ways: 180 and 504 on the page
RELEASES = 12
GAPS = """() => new Promise((done) => {
  const lab = document.querySelector('.lab'), gaps = [];
  let last = null, seen = Number(lab.dataset.frames || 0);
  document.querySelector('.lab .time').value = 0;
  document.querySelector('.lab .time').dispatchEvent(new Event('input'));
  document.querySelector('.lab .go').click();
  const look = (now) => {
    if (Number(lab.dataset.frames) !== seen) {
      seen = Number(lab.dataset.frames);
      if (last) gaps.push(now - last);
      last = now;
    }
    if (lab.dataset.playing === 'yes') requestAnimationFrame(look); else done(gaps);
  };
  requestAnimationFrame(look);
})"""

RELEASE = """(value) => new Promise((done) => {
  const lab = document.querySelector('.lab'), slider = lab.querySelector('.dial[data-name=beta] input[type=range]');
  const before = lab.dataset.run, began = performance.now();
  new MutationObserver((_, observer) => {
    if (lab.dataset.run === before) return;
    observer.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
  }).observe(lab, { attributes: true });
  slider.value = value;
  slider.dispatchEvent(new Event('input'));
  slider.dispatchEvent(new Event('change'));
})"""


def frames_a_second(page: Page) -> tuple[float, float]:
    gaps = sorted(page.evaluate(GAPS))
    slowest = gaps[int(0.9 * len(gaps)) :]
    return 1000 * len(gaps) / sum(gaps), 1000 * len(slowest) / sum(slowest)


def main() -> None:
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)
    with running_app(DEFAULT) as (address, _), open_browser() as browser:
        for n in PARTICLES:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"{address}?lab=n:{n}#laboratory")
            page.wait_for_function("document.querySelector('.lab')?.dataset.state === 'ready'", timeout=0)
            page.wait_for_function("document.querySelector('[data-chart=trade] svg').dataset.points > 0", timeout=0)
            page.wait_for_function("document.querySelector('.lab').dataset.playing === 'no'", timeout=0)
            usual, slow = frames_a_second(page)
            print(f"{9 * n} particles: {usual:5.1f} frames a second, {slow:5.1f} in the slowest tenth", flush=True)
            waits = [page.evaluate(RELEASE, 250 + 40 * i) / 1000 for i in range(RELEASES)]
            print(
                f"{9 * n} particles: slider to picture {statistics.median(waits):.2f} s, at most {max(waits):.2f} s",
                flush=True,
            )
            page.close()


if __name__ == "__main__":
    main()
