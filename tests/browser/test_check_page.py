"""The page of `data check` in a browser: hostile text is escaped, nothing is requested, readable everywhere."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from builders import encoded, make_image
from playwright.sync_api import Browser, Page

from vlmtune import run_layout
from vlmtune.config import load
from vlmtune.dataset_check import runner
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.progress import Progress, Silent
from vlmtune.registry import load as load_plugin
from vlmtune.signals import StopRequest

HOSTILE = "<img src=x onerror=alert(1)>\"'</style><script>alert(2)</script>"
LOCAL = ("file:", "data:")
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Errors, warnings, pairs, and ids and texts that contain markup."""
    folder = tmp_path_factory.mktemp("check-page")
    image = make_image(240, 160, 7)
    files = {
        "train": [encoded(image), encoded(make_image(240, 160, 8)), b"<html>", encoded(make_image(20, 20, 9))],
        "validation": [encoded(make_image(240, 160, 10))],
        "test": [encoded(image, "BMP"), encoded(make_image(240, 160, 8), "JPEG", quality=40)],
    }
    for role, contents in files.items():
        lines = []
        for n, data in enumerate(contents):
            (folder / f"page-{role}-{n}.img").write_bytes(data)
            row = {
                "id": f"{HOSTILE}{role}{n}",
                "image": f"page-{role}-{n}.img",
                "caption": f"{HOSTILE} caf\u00c3\u00a9 {n}",
            }
            lines.append(json.dumps(row) + "\n")
        (folder / f"{role}.jsonl").write_text("".join(lines))
    file = folder / "c.yaml"
    file.write_text(
        f"model: {{name: tiny}}\ndataset: {{source: jsonl, path: {folder}, id: id, references: [caption]}}\n"
        f"task: {{name: captioning}}\noutput: {{dir: {folder / 'out'}}}\n"
    )
    config = load(str(file)).config
    task, checkpoint, cache = (
        load_plugin("tasks", "captioning").TASK,
        find_checkpoint(config.model),
        folder / "cache.jsonl",
    )
    check = runner.DatasetCheck(config, task, checkpoint, cache, Progress(Silent()), StopRequest())
    found = check.write(folder / "out")
    assert {count["kind"] for count in found["counts"]} == {"leak", "image", "near-leak", "encoding", "tiny"}
    return folder / "out" / run_layout.DATA_CHECK_PAGE


@pytest.fixture
def show(browser: Browser, page: Path) -> Iterator[Open]:
    complaints: list[str] = []
    contexts = []

    def show(width: int = 1200, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        contexts.append(context)
        shown = context.new_page()
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("dialog", lambda dialog: complaints.append(dialog.message))
        shown.on("request", lambda request: None if request.url.startswith(LOCAL) else complaints.append(request.url))
        shown.goto(page.as_uri())
        return shown

    yield show
    for context in contexts:
        context.close()
    assert complaints == []


def test_hostile_text_is_escaped(show: Open) -> None:
    shown = show()
    assert shown.locator("script, iframe, [onerror]").count() == 0
    assert HOSTILE in shown.locator("body").inner_text()


def test_pairs_are_shown_side_by_side(show: Open) -> None:
    shown = show()
    pair = shown.locator(".two").first
    one, other = (pair.locator("img").nth(n).bounding_box() for n in range(2))
    assert one is not None
    assert other is not None
    assert one["y"] == other["y"]
    assert one["x"] + one["width"] <= other["x"]
    seen = "images => images.every(one => one.complete && one.naturalWidth > 0)"
    assert shown.locator("img").evaluate_all(seen)


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_no_width_needs_horizontal_scrolling(show: Open, width: int) -> None:
    assert show(width).evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(show: Open, scheme: str) -> None:
    shown = show(color_scheme=scheme)
    shown.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    found = Axe().run(shown)
    assert found.violations_count == 0, found.generate_report()


def test_the_overview_links_to_every_kind(show: Open) -> None:
    shown = show()
    for link in shown.locator(".kinds a").all():
        assert shown.locator(str(link.get_attribute("href"))).count() == 1
