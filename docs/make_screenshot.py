"""README's picture, docs/page.png, from a real run: python docs/make_screenshot.py [--bundle] [--label] [--seed]"""

import argparse
import sys
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.page import finish_run, open_browser, running_app  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="imagenette-32")
    parser.add_argument("--label", default="parachute", help="the class (%(default)s)")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "page.png")
    options = parser.parse_args()
    query = {"seed": options.seed, "label": options.label}
    with running_app(options.bundle) as (address, _), open_browser() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
        page.goto(f"{address}?{urlencode(query)}")
        page.wait_for_selector(".stage .sheet img:not([hidden])")
        page.wait_for_function(
            "label => document.querySelector('.stage .title').textContent.startsWith(label)", arg=options.label
        )
        finish_run(page)
        page.screenshot(path=options.out, full_page=True)
    print(f"{options.out} shows {query}")


if __name__ == "__main__":
    main()
