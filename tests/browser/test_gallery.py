"""The examples of the page: chips, sorting, search, metric, pages, keys, addresses, export, marked words."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import judged, lines
from pages import captions, hostile, labelled
from playwright.sync_api import Page

from vlmtune.predictions import Line
from vlmtune.terminal import safe

Open = Callable[..., Page]


def ids(shown: Page) -> list[str]:
    return shown.locator(".card .id").all_inner_texts()


def names(examples: list[dict[str, Any]]) -> list[str]:
    return [example["id"] for example in examples]


def hash_of(shown: Page) -> str:
    return str(shown.evaluate("location.hash"))


def test_chips_count_and_show_their_rows(show: Open) -> None:
    plain = labelled()
    rows = [example for example in plain["examples"] if example["deltas"]]
    delta = {example["id"]: example["deltas"]["accuracy"] for example in rows}
    wrong = [e["id"] for e in rows if e["scores"]["a"]["accuracy"] == e["scores"]["b"]["accuracy"] == 0]
    expected = {
        "All": names(plain["examples"]),
        "Wins": [name for name, change in delta.items() if change > 0],
        "Losses": [name for name, change in delta.items() if change < 0],
        "Ties": [name for name, change in delta.items() if change == 0],
        "Changed": names([e for e in plain["examples"] if e["a"] != e["b"]]),
        "Both wrong": wrong,
        "Failed": names([e for e in plain["examples"] if e["failure"]]),
        "Flagged": names([e for e in plain["examples"] if any(e["flags"].values())]),
    }
    shown = show(plain)
    for label, belonging in expected.items():
        chip = shown.locator(".chip", has_text=label)
        chip.click()
        assert chip.inner_text() == f"{label} {len(belonging)}"
        assert chip.get_attribute("aria-pressed") == "true"
        assert set(ids(shown)) <= set(belonging)
        assert len(ids(shown)) == min(50, len(belonging))


@pytest.mark.parametrize(
    ("sort", "key", "reverse"),
    [
        ("gain", lambda e: e["deltas"]["bleu"], True),
        ("loss", lambda e: e["deltas"]["bleu"], False),
        ("size", lambda e: abs(e["deltas"]["bleu"]), True),
        ("a-low", lambda e: e["scores"]["a"]["bleu"], False),
        ("a-high", lambda e: e["scores"]["a"]["bleu"], True),
        ("b-low", lambda e: e["scores"]["b"]["bleu"], False),
        ("b-high", lambda e: e["scores"]["b"]["bleu"], True),
        ("long", lambda e: len(e["b"]), True),
        ("short", lambda e: len(e["b"]), False),
    ],
)
def test_sorting(show: Open, sort: str, key: Callable[[dict[str, Any]], float], reverse: bool) -> None:
    plain = captions(45)
    shown = show(plain)
    shown.locator("#sort").select_option(sort)
    # Python's sort keeps equal rows in order either way, and so does the page.
    assert ids(shown) == names(sorted(plain["examples"], key=key, reverse=reverse))
    assert f"sort={sort}" in hash_of(shown) or sort == "size"


def test_search_finds_ids_answers_and_references(show: Open) -> None:
    plain = captions(60)
    shown = show(plain)
    for wanted in ("row 7", plain["examples"][3]["b"].upper(), plain["examples"][5]["references"][2], "no such text"):
        shown.locator("#search").fill(wanted)
        texts = [[e["id"], e["a"], e["b"], *e["references"]] for e in plain["examples"]]
        found = [some[0] for some in texts if wanted.lower() in "\n".join(some).lower()]
        assert sorted(ids(shown)) == sorted(found)
        assert shown.locator(".chip .count").first.inner_text() == str(len(found))
    assert "No row matches" in shown.locator("#summary").inner_text()


def test_the_metric_moves_charts_and_rows(show: Open) -> None:
    plain = labelled()
    shown = show(plain)
    assert shown.locator(".charts:visible").get_attribute("data-metric") == "accuracy"
    shown.locator("#metric").select_option("macro_f1")
    assert shown.locator(".charts:visible").get_attribute("data-metric") == "macro_f1"
    assert shown.locator("#metric-above").input_value() == "macro_f1"
    scored = [e for e in plain["examples"] if e["deltas"]]
    best = max(scored, key=lambda e: abs(e["deltas"]["macro_f1"]))
    assert abs(best["deltas"]["macro_f1"]) == abs(
        next(e for e in scored if e["id"] == ids(shown)[0])["deltas"]["macro_f1"]
    )
    assert shown.locator(".card .chosen th").first.inner_text() == "macro_f1"


def test_an_address_leads_back_to_what_was_seen(show: Open) -> None:
    plain = labelled()
    shown = show(plain)
    shown.locator(".chip", has_text="Changed").click()
    shown.locator("#sort").select_option("long")
    shown.locator("#search").fill("row 1")
    shown.wait_for_url(lambda url: "q=row" in url)
    seen, address = ids(shown), hash_of(shown)
    assert len(seen) > 0
    again = show(plain, hash_=address)
    assert ids(again) == seen
    assert again.locator("#search").input_value() == "row 1"
    link = again.locator(".card .id").nth(1)
    name, target = link.inner_text(), link.get_attribute("href")
    alone = show(plain, hash_=target)
    assert alone.evaluate("document.activeElement.querySelector('.id').textContent") == name
    link.click()
    assert again.evaluate("document.activeElement.closest('.card').querySelector('.id').textContent") == name


def test_an_address_that_makes_no_sense_shows_everything(show: Open) -> None:
    plain = captions(30)
    for nonsense in ("#show=x&sort=y&metric=z&page=-4", "#page=999", "#row=nobody", "#%00=%", "#scores"):
        assert len(ids(show(plain, hash_=nonsense))) == 30


def test_pages_hold_fifty_rows(show: Open) -> None:
    plain = captions(120)
    shown = show(plain, hash_="#sort=data")
    assert ids(shown) == names(plain["examples"][:50])
    shown.locator("#next").click()
    assert ids(shown) == names(plain["examples"][50:100])
    shown.locator("#next").click()
    assert ids(shown) == names(plain["examples"][100:])
    assert shown.locator("#next").is_disabled()
    assert shown.locator("#position").inner_text() == "Page 3 of 3"
    assert "page=3" in hash_of(shown)


def test_keys(show: Open) -> None:
    shown = show(captions(60), hash_="#sort=data")

    def focused() -> str:
        return str(shown.evaluate("(document.activeElement.querySelector('.id') || {}).textContent"))

    shown.keyboard.press("j")
    assert focused() == "row 0"
    shown.keyboard.press("j")
    assert focused() == "row 1"
    shown.keyboard.press("k")
    assert focused() == "row 0"
    shown.keyboard.press("/")
    assert shown.evaluate("document.activeElement.id") == "search"
    shown.keyboard.type("j?")
    assert shown.locator("#search").input_value() == "j?"
    shown.locator("#search").fill("")
    shown.keyboard.press("Escape")
    shown.keyboard.press("?")
    assert shown.locator("#help").is_visible()
    shown.keyboard.press("Escape")
    assert not shown.locator("#help").is_visible()
    shown.keyboard.press("n")
    assert ids(shown)[0] == "row 50"
    shown.keyboard.press("k")
    shown.keyboard.press("k")
    shown.keyboard.press("p")
    assert ids(shown)[0] == "row 0"


def test_the_export_holds_the_rows_that_are_shown(show: Open, tmp_path: Path) -> None:
    plain = hostile()
    shown = show(plain, hash_="#sort=data")
    shown.locator("#search").fill("=hyperlink")
    with shown.expect_download() as started:
        shown.locator("#csv").click()
    file = tmp_path / "rows.csv"
    started.value.save_as(file)
    assert started.value.suggested_filename == "rows.csv"
    table = list(csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")))
    wanted = [e for e in plain["examples"] if "=hyperlink" in e["a"].lower()]
    assert len(table) == len(wanted) + 1
    head, row = table
    known = wanted[0]
    assert row[head.index("A")] == "'" + known["a"]
    assert row[head.index("B")] == known["b"]
    assert float(row[head.index("bleu change")]) == known["deltas"]["bleu"]
    shown.locator("#search").fill("")
    with shown.expect_download() as started:
        shown.locator("#csv").click()
    started.value.save_as(file)
    table = list(csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")))
    assert [len(row) for row in table] == [len(head)] * (len(plain["examples"]) + 1)
    assert [row[2] for row in table[1:]] == [safe(example["b"]) for example in plain["examples"]]


@pytest.mark.parametrize(
    ("a", "b", "only_a", "only_b"),
    [
        ("a red ball on grass", "a blue ball on the grass", ["red"], ["blue", "the "]),
        ("\u4e00\u53ea\u72d7\u5728\u8349\u5730", "\u4e00\u53ea\u732b\u5728\u8349\u5730", ["\u72d7"], ["\u732b"]),
        ("the same", "the same", [], []),
        ("a dog", "", ["a dog"], []),
        ("word " * 3000 + "x", "word " * 3000 + "y", ["x"], ["y"]),
    ],
)
def test_words_that_only_one_side_has_are_marked(
    show: Open, a: str, b: str, only_a: list[str], only_b: list[str]
) -> None:
    before, after = ([Line("first", text, {"references": ["a"]}), *lines(20, 0.3)] for text in (a, b))
    shown = show(judged(before, after).to_json(), hash_="#row=first")
    card = shown.locator(".card", has=shown.locator(".id", has_text="first"))
    marked = [card.locator(tag).all_inner_texts() for tag in ("del", "ins")]
    assert [[text.strip() for text in some] for some in marked] == [
        [text.strip() for text in some] for some in (only_a, only_b)
    ]
