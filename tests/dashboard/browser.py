"""Chromium with the dashboard open, and whether it stayed quiet: no error, nothing fetched from elsewhere."""

import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESKTOP, PHONE = (1440, 900), (390, 844)
SCREENSHOTS = Path(os.environ.get("STAGELINE_SCREENSHOTS", Path(__file__).parents[2] / "out" / "dashboard"))


@contextmanager
def chromium():
    """A browser; where none is installed the test is skipped, or fails if STAGELINE_REQUIRE_MONITORING demands one."""
    if CHROMIUM is None:
        missing = "no Chromium is installed (Debian: apt-get install chromium)"
        if os.environ.get("STAGELINE_REQUIRE_MONITORING"):
            pytest.fail(f"{missing}, although STAGELINE_REQUIRE_MONITORING demands it")
        pytest.skip(missing)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Dashboard:
    """The page, and what it said and asked for; `key` is as if entered before."""

    def __init__(self, browser, url, *, key=None, size=DESKTOP, scheme="light"):
        self.url = url
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        if key is not None:
            self.context.add_init_script(f"sessionStorage.setItem('stageline-api-key', '{key}')")
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.errors, self.fetched = [], []
        self.page.on(
            "console", lambda message: message.type in ("error", "warning") and self.errors.append(message.text)
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.goto(f"{url}/dashboard")

    def close(self):
        self.context.close()
        assert self.errors == []
        assert {urlsplit(url)[:2] for url in self.fetched} == {urlsplit(self.url)[:2]}

    def card(self, stage):
        return self.page.locator(".stage .card").nth(stage)

    def text(self, selector):
        return self.page.locator(selector).inner_text()

    def wait_until(self, expression, seconds=15):
        """Waits until the JavaScript expression is true. (The page's policy forbids Playwright's own way to wait.)"""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"not within {seconds} s: {expression}"
            self.page.wait_for_timeout(100)

    def wait_for_live(self):
        self.page.wait_for_selector('body[data-feed="live"]')

    def overflow(self):
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def screenshot(self, name, *, whole=False):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)
