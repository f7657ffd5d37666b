"""Take the README's pictures of the page, and measure how heavy it is and how soon it paints.

    python -m scripts.screenshots --url http://127.0.0.1:8000

The service must have the sample corpus and the sample graph. Needs the extra `dev`, Chromium and a Chinese font.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

PICTURES = Path(__file__).resolve().parent.parent / "service" / "web" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOADS = 7
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"
FILE_BYTES = """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter((entry) => entry.entryType === "navigation" || entry.name.includes("/web/"))
    .reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""
PAINTED = "performance.getEntriesByName('first-contentful-paint').length > 0"


def main(arguments: list[str] | None = None) -> int:
    """Take the pictures and print one JSON line of measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the running service")
    parser.add_argument("--into", type=Path, default=PICTURES, help="folder of the pictures")
    given = parser.parse_args(arguments)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        parser.error(f"none of {', '.join(BROWSERS)} is installed")
    given.into.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        take_search(browser, given.url, given.into / "search.png")
        take_answer(browser, given.url, given.into / "ask.png")
        print(json.dumps(measure(browser, given.url)))
        browser.close()
    return 0


def take_search(browser: Browser, url: str, path: Path) -> None:
    """Show a search and why its first hit matches."""
    page = opened(browser, f"{url}/#/search?c=sample&q=信用卡额度太低怎么办", "light", 940)
    page.locator(".hit-head").first.click()
    page.locator(".stage path").first.wait_for()
    page.screenshot(path=path)
    page.context.close()


def take_answer(browser: Browser, url: str, path: Path) -> None:
    """Show a question to the sample graph and where the paths parted."""
    page = opened(browser, f"{url}/#/ask?g=sample&q=澄湖银行的行长是谁？", "dark", 1150)
    page.locator(".answers .stage path").first.wait_for()
    page.screenshot(path=path)
    page.context.close()


def opened(browser: Browser, address: str, scheme: Literal["light", "dark"], height: int) -> Page:
    """Open an address in English, without motion, and wait until nothing is being fetched."""
    context = browser.new_context(
        viewport={"width": 1120, "height": height}, color_scheme=scheme, locale="en-US", reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(address, wait_until="networkidle")
    page.reload(wait_until="networkidle")  # the first visit warms the service up
    page.evaluate("document.activeElement.blur()")
    return page


def measure(browser: Browser, url: str) -> dict[str, float]:
    """Load the page with an empty cache, again and again: bytes of its files, and milliseconds until something is seen."""
    paints, sizes = [], []
    for _ in range(LOADS):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{url}/", wait_until="networkidle")
        page.wait_for_function(PAINTED)
        paints.append(float(page.evaluate(FIRST_PAINT)[0]))
        sizes.append(int(page.evaluate(FILE_BYTES)))
        context.close()
    return {
        "first_paint_ms": round(statistics.median(paints), 1),
        "slowest_first_paint_ms": round(max(paints), 1),
        "page_bytes": max(sizes),
        "loads": LOADS,
    }


if __name__ == "__main__":
    raise SystemExit(main())
