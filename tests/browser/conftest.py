"""A headless Chromium without a network, and pages opened in it whose every complaint is kept."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pages import THUMBNAILS
from playwright.sync_api import Browser, Page, sync_playwright

from vlmtune.report import ReportConfig, html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOCAL = ("file:", "data:", "blob:")
Open = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a comparison as a page; at the end of the test nothing may have been complained about or asked for."""
    complaints: list[str] = []
    contexts = []

    def show(plain: Mapping[str, Any], width: int = 1200, hash_: str = "", **options: Any) -> Page:
        file = tmp_path / "report.html"
        file.write_text(html.render(plain, THUMBNAILS, ReportConfig()).text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(60_000)  # a busy machine is no fault of the page
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("request", lambda request: None if request.url.startswith(LOCAL) else complaints.append(request.url))
        shown.goto(file.as_uri() + hash_)
        return shown

    yield show
    for context in contexts:
        context.close()
    assert complaints == []
