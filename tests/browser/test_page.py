"""The page in a real browser without a network: nothing is asked for, nothing is refused, nothing scrolls sideways."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pieces import judged, lines, picture
from playwright.sync_api import Browser, Page, sync_playwright

from vlmtune.images import thumbnail
from vlmtune.report import ReportConfig, page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
NASTY = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    before, after = lines(60, 0.6, extra=9), [replace(line, image="ff") for line in lines(60, 0.2)]
    after[0] = replace(after[0], prediction=NASTY, finish_reason="length")
    plain = judged(before, after, manifest_a={"mock": False, "origin": {"model": {"name": "x" * 200}}}).to_json()
    target = tmp_path_factory.mktemp("page") / "report.html"
    target.write_text(page.render(plain, {"ff": thumbnail(picture(96, 96))}, ReportConfig()), encoding="utf-8")
    return target


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_it_stands_alone(browser: Browser, file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, offline=True, color_scheme="dark" if scheme == "dark" else "light"
    )
    shown = context.new_page()
    complaints: list[str] = []
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("request", lambda request: complaints.append(request.url) if not _local(request.url) else None)
    shown.goto(file.as_uri())
    assert complaints == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate("[...document.images].every(i => i.naturalWidth > 0) && document.images.length > 50")
    _nothing_ran(shown)
    context.close()


def _local(url: str) -> bool:
    return url.startswith(("file:", "data:"))


def _nothing_ran(shown: Page) -> None:
    assert shown.title().startswith("improved: tuned against base")
    assert shown.locator("script").count() == 0
    assert NASTY in shown.locator("main").inner_text()
