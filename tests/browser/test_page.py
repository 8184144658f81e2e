"""The page in a real browser without a network: nothing is asked for, nothing is refused, nothing scrolls sideways, and
what it shows is what the comparison says."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import HOSTILE, boxed, captions, endings, hostile, labelled
from playwright.sync_api import Page

from vlmtune.report.text import precision
from vlmtune.terminal import safe

Open = Callable[..., Page]
STATES = {
    "captions": captions,
    "labels": labelled,
    "boxes": boxed,
    "hostile": hostile,
    **{name: lambda name=name: endings()[name] for name in ("one row", "all ties", "one side all failed", "no rows")},
}
CARDS = """cards => cards.map(card => ({
  id: card.querySelector('.id').textContent,
  a: (card.querySelector('.a p:not(.none)') || {textContent: null}).textContent,
  b: (card.querySelector('.b p:not(.none)') || {textContent: null}).textContent,
  numbers: [...card.querySelectorAll('.scores tbody tr')].map(row => [...row.children].map(cell => cell.textContent)),
}))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
@pytest.mark.parametrize("state", STATES)
def test_it_stands_alone(show: Open, state: str, width: int, scheme: str) -> None:
    plain = STATES[state]()
    shown = show(plain, width, color_scheme=scheme)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert shown.evaluate("document.documentElement.dataset.ready") == "yes"
    assert shown.locator("h1").inner_text() == plain["verdict"]
    for warning in plain["warnings"]:
        assert shown.locator(".warnings li", has_text=safe(warning)).count() >= 1


@pytest.mark.parametrize("state", ["captions", "labels", "boxes"])
def test_every_number_is_the_comparison_s(show: Open, state: str) -> None:
    plain = STATES[state]()
    shown = show(plain, hash_="#sort=data")
    for tile, key in zip(shown.locator(".tiles dd").all(), ("a", "b", "delta"), strict=False):
        entry = plain["metrics"][0]
        number = f"{entry[key]:{'+' if key == 'delta' else ''}.{precision(entry)}f}"
        assert tile.inner_text().split()[0] == number
    table = shown.locator("table.metrics").first.locator("tbody tr").all()
    for row, entry in zip(table, plain["metrics"], strict=True):
        cells, digits = row.locator("th, td").all_inner_texts(), precision(entry)
        assert cells[:4] == [
            entry["name"],
            *(f"{entry[side]:.{digits}f}" for side in ("a", "b")),
            f"{entry['delta']:+.{digits}f}",
        ]
        assert cells[4] == " to ".join(f"{end:+.{digits}f}" for end in entry["ci"] or ()) or entry["ci"] is None
        assert cells[5] == f"{entry['p']:.4f}"
    examples = plain["examples"]
    cards: list[dict[str, Any]] = shown.locator(".card").evaluate_all(CARDS)
    while shown.locator("#next").is_visible() and shown.locator("#next").is_enabled():
        shown.locator("#next").click()
        cards += shown.locator(".card").evaluate_all(CARDS)
    assert len(cards) == len(examples)
    for card, example in zip(cards, examples, strict=True):
        assert (card["id"], card["a"], card["b"]) == (example["id"], example["a"], example["b"])
        for name, *numbers in card["numbers"]:
            digits = precision(next(entry for entry in plain["metrics"] if entry["name"] == name))
            known = [example["scores"]["a"][name], example["scores"]["b"][name], example["deltas"][name]]
            for said, value in zip(numbers, known, strict=True):
                assert (said == "") == (value is None)
                assert value is None or abs(float(said) - value) <= 0.5 * 10**-digits + 1e-9


def test_hostile_text_is_only_text(show: Open) -> None:
    plain = hostile()
    for options in ({}, {"java_script_enabled": False}):
        shown = show(plain, hash_="#sort=data", **options)
        assert shown.title() == f"{plain['status']}: {plain['names']['b']} against {plain['names']['a']}"
        assert shown.locator("script").count() == 2
        assert shown.locator("main img, main b:not(.tag)").count() == 0
    shown = show(plain, hash_="#sort=data")
    cards = shown.locator(".card").evaluate_all(CARDS)
    assert [card["a"] for card in cards[: len(HOSTILE)]] == [safe(text) for text in HOSTILE]
    assert cards[0]["b"] == f"other {HOSTILE[0]}"


@pytest.mark.parametrize("state", ["captions", "labels"])
def test_without_its_script_it_shows_the_numbers_and_twenty_rows(show: Open, state: str) -> None:
    plain = STATES[state]()
    bare, whole = show(plain, java_script_enabled=False), show(plain)
    assert bare.locator(".card").count() == 20
    assert bare.locator(".card img").count() == whole.locator(".card img").count() * 20 // 50
    assert not bare.locator("#controls").is_visible()
    first = whole.locator(".card").evaluate_all(CARDS)[:20]
    assert [card.locator(".id").inner_text() for card in bare.locator(".card").all()] == [card["id"] for card in first]
    for card, same in zip(bare.locator(".card").all(), first, strict=True):
        numbers = [row.locator("th, td").all_inner_texts() for row in card.locator(".scores tbody tr").all()]
        assert numbers == same["numbers"]
    assert bare.locator("table.metrics").first.locator("tbody tr").count() == len(plain["metrics"])


def test_a_failed_row_says_why(show: Open) -> None:
    shown = show(labelled(), hash_="#show=failed")
    assert shown.locator(".card").count() == 2
    assert shown.locator(".card .failure").all_inner_texts() == ["B failed, engine: out of memory"] * 2
    assert shown.locator("#failures").is_visible()


def test_boxes_lie_over_the_image(show: Open) -> None:
    plain = boxed()
    shown = show(plain, hash_="#row=row+1")
    card = shown.locator(".card", has_text="row 1").filter(has=shown.locator(".id", has_text="row 1")).first
    image, box = card.locator("img").bounding_box(), card.locator(".box-references").bounding_box()
    assert card.locator(".question").inner_text() == "where is thing 1?"
    left, top, right, bottom = next(e for e in plain["examples"] if e["id"] == "row 1")["boxes"]["references"][0]
    assert image is not None
    assert box is not None
    assert box["x"] - image["x"] == pytest.approx(image["width"] * left / 1000, abs=2)
    assert box["y"] - image["y"] == pytest.approx(image["height"] * top / 1000, abs=2)
    assert box["width"] == pytest.approx(image["width"] * (right - left) / 1000, abs=4)
    assert box["height"] == pytest.approx(image["height"] * (bottom - top) / 1000, abs=4)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["labels", "boxes", "hostile"])
def test_axe_has_no_finding(show: Open, state: str, scheme: str) -> None:
    shown = show(STATES[state](), color_scheme=scheme)
    found = Axe().run(shown).response["violations"]
    assert [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found] == []


def test_it_prints(show: Open) -> None:
    shown = show(labelled(), java_script_enabled=True)
    paper = shown.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 15
    shown.emulate_media(media="print")
    assert not shown.locator("#controls").is_visible()
    assert shown.locator(".card:visible").count() == 20
    assert shown.locator("svg").first.is_visible()


def test_a_reader_of_the_page_alone_has_all_of_it(show: Open) -> None:
    """What the script reads is the comparison: nothing is asked for and nothing is left out."""
    plain = captions()
    data = json.loads(show(plain).locator("#data").inner_text())
    assert len(data["rows"]) == len(plain["examples"])
