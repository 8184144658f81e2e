"""The pages of `vlmtune view` in a real browser: runs are found, followed while they work, and compared."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from run_folders import BASE, TUNED, Worker, answer, compared, train

from vlmtune.view.server import open_server

HOSTILE = "<img src=x onerror=alert(1)>"
Open = Callable[..., Page]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two finished runs, and one whose name is markup."""
    root = tmp_path / "outputs"
    for name in ("demo", "team/more", HOSTILE):
        answer(root / name, "baseline_predictions.jsonl", BASE)
        train(root / name)
        answer(root / name, "lora_predictions.jsonl", TUNED)
        compared(root / name)
    return root


@pytest.fixture
def show(browser: Browser, root: Path) -> Iterator[Open]:
    """Opens a page; at the end of the test no page may have complained, or asked anybody else."""
    complaints: list[str] = []
    with open_server(root, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        context = browser.new_context()

        def show(path: str = "", width: int = 1200, scheme: str = "light") -> Page:
            shown = context.new_page()
            shown.set_default_timeout(60_000)
            shown.set_viewport_size({"width": width, "height": 900})
            shown.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            shown.on("console", lambda message: complaints.append(message.text))
            shown.on("pageerror", lambda error: complaints.append(str(error)))
            local = (home, "data:", "blob:")
            shown.on(
                "request", lambda request: None if request.url.startswith(local) else complaints.append(request.url)
            )
            shown.goto(home + path)
            return shown

        yield show
        context.close()
        server.shutdown()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", "run/demo"])
def test_it_fits_every_screen_and_axe_has_no_finding(show: Open, path: str, scheme: str) -> None:
    narrow = show(path, 320, scheme)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 320
    assert narrow.evaluate("document.documentElement.dataset.ready") == "yes"
    found = Axe().run(show(path, 1200, scheme))
    assert found.violations_count == 0, found.generate_report()


def test_runs_are_filtered_and_two_of_them_compared(show: Open) -> None:
    page = show()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    page.locator("#filter").fill("team improved")
    assert [row.inner_text().splitlines()[0] for row in rows.all() if row.is_visible()] == ["team/more"]
    page.locator("#filter").fill("nothing like it")
    expect(page.locator("#none")).to_be_visible()
    page.locator("#filter").fill("")
    button, boxes = page.locator("#compare"), page.locator("input[name=run]")
    expect(button).to_be_disabled()
    boxes.nth(0).check()
    expect(button).to_be_disabled()
    boxes.nth(1).check()
    expect(boxes.nth(2)).to_be_disabled()
    button.click()
    page.wait_for_url("**/compare?run=*")
    expect(page.locator("h1")).to_contain_text("No difference")
    assert page.evaluate("document.documentElement.dataset.ready") == "yes"


def test_a_run_is_followed_while_it_works(show: Open, root: Path) -> None:
    """What appears on disk appears on the page by itself; what was opened and chosen stays."""
    page, home = show("run/demo"), show()
    home.locator("input[name=run]").nth(0).check()
    page.locator("details summary").first.click()
    worker = Worker(root / "demo" / "next")
    with worker.held:
        worker.at(34)
        worker.point(10, loss=2.5)
        expect(home.locator("tbody tr", has_text="train 34/90")).to_have_count(1, timeout=60_000)
        live = show("run/demo/next")
        expect(live.locator("progress")).to_have_attribute("value", "34")
        worker.at(51)
        worker.answer(1)
        expect(live.locator("progress")).to_have_attribute("value", "51", timeout=60_000)
        expect(live.locator("#now ~ dl dd")).to_have_count(1)
    expect(live.locator("progress")).to_have_count(0, timeout=60_000)
    assert home.locator("input[name=run]:checked").count() == 1
    assert page.locator("details").first.evaluate("one => one.open")


def test_a_report_opens_in_a_sandbox(show: Open) -> None:
    """Its own script works, and has no access to the server's other pages."""
    page = show("run/demo")
    with page.expect_navigation():
        page.get_by_role("link", name="report.html").click()
    assert page.evaluate("document.documentElement.dataset.ready") == "yes"
    assert page.evaluate("self.origin") == "null"
