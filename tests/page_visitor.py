"""A visitor of the page: a real Chromium without a window that remembers whom it asked and what went wrong."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Response, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOW = "no Chromium here: apt-get install --no-install-recommends chromium fonts-wqy-zenhei"
PATIENCE_MS = 30_000
PICTURES = Path(__file__).resolve().parent.parent / "build" / "screenshots"

expect.set_options(timeout=PATIENCE_MS)


@dataclass
class Visitor:
    """One visit: the page, what it fetched, and the complaints of the browser."""

    page: Page
    url: str
    answers: list[Response] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, address: str) -> None:
        """Open an address of the page, such as `/search?q=…`."""
        self.page.goto(f"{self.url}/#{address}")

    def picture(self, name: str) -> None:
        """Keep what the page looks like, for whoever wants to look."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """Start a browser; skip where there is none, but not in CI."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(HOW)
        pytest.skip(HOW)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]  # root, no screen, little shared memory
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Browser, url: str, may_complain: tuple[str, ...] = (), **options: Any) -> Iterator[Visitor]:
    """Visit the page in a fresh profile; at the end it must have complained of nothing and asked nobody but its service."""
    given = {"locale": "zh-CN", "reduced_motion": "reduce", "viewport": {"width": 1180, "height": 820}, **options}
    context: BrowserContext = browser.new_context(**given)
    context.set_default_timeout(PATIENCE_MS)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor = Visitor(context.new_page(), url)
    visitor.page.on("response", lambda answer: visitor.answers.append(answer))
    visitor.page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    visitor.page.on(
        "console",
        lambda said: visitor.complaints.append(said.text) if said.type in ("error", "warning") else None,
    )
    try:
        yield visitor
        assert [each for each in visitor.complaints if not any(known in each for known in may_complain)] == []
        assert [answer.url for answer in visitor.answers if not answer.url.startswith((f"{url}/", "blob:"))] == []
    finally:
        context.close()
