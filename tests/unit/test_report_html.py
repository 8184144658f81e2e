"""The page and the text say what the comparison says; the same input gives the same bytes; text of rows stays text."""

import base64
import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from builders import judged, lines
from pages import HOSTILE, THUMBNAILS, boxed, captions, endings, failing, hostile, labelled

from vlmtune.compare_files import write_comparison
from vlmtune.report import ReportConfig, html, markdown, rows, text
from vlmtune.terminal import safe

STATES = {"captions": captions, "labels": labelled, "boxes": boxed, "hostile": hostile}


def rendered(plain: dict[str, Any], config: ReportConfig | None = None) -> str:
    return html.render(plain, THUMBNAILS, config or ReportConfig()).text


def embedded(shown: str) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', shown, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.mark.parametrize("state", STATES)
def test_numbers_on_page_and_in_texts_are_the_comparison_s(state: str) -> None:
    plain = STATES[state]()
    shown, said, marked = rendered(plain), text.render(plain), markdown.render(plain)
    assert plain["verdict"] in unescape(shown)
    for metric in plain["metrics"]:
        digits = {1: 4, 10: 3, 100: 2}[metric["scale"]]
        for value in (metric["a"], metric["b"]):
            assert f">{value:.{digits}f}<" in shown
            assert f" {value:.{digits}f} " in said
            assert f"| {value:.{digits}f} |" in marked
        for value in (metric["delta"], *(metric["ci"] or ())):
            assert f"{value:+.{digits}f}" in shown
            assert f"{value:+.{digits}f}" in said
            assert f"{value:+.{digits}f}" in marked
    for warning in plain["warnings"]:
        assert safe(warning) in unescape(shown)
        assert f"! {warning}" in said


@pytest.mark.parametrize("state", STATES)
def test_the_same_comparison_gives_the_same_bytes(state: str) -> None:
    again = json.loads(json.dumps(STATES[state]()))
    assert rendered(STATES[state]()) == rendered(again)


def test_the_policy_allows_this_script_and_style_and_nothing_else() -> None:
    shown = rendered(captions())
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', shown)
    assert policy is not None
    allowed = dict(part.strip().split(" ", 1) for part in policy[1].split(";"))
    for kind in ("script", "style"):
        content = re.search(rf"<{kind}>(.*?)</{kind}>", shown, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert allowed[f"{kind}-src"] == f"'sha256-{digest}'"
    assert (allowed["default-src"], allowed["img-src"]) == ("'none'", "data: blob:")


def test_the_script_is_small_and_sets_text_alone() -> None:
    script = "".join((html.FOLDER / name).read_text(encoding="utf-8") for name in html.SCRIPTS)
    assert len(script.encode()) < 60_000
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
        "import(",
    ):
        assert way not in script


def test_hostile_text_adds_no_element() -> None:
    shown, harmless = rendered(hostile()), rendered(judged(lines(34, 0.5), lines(34, 0.2)).to_json())
    for tag in ("<script", "</script", "<img", "<b>", "<!--", 'onerror="'):
        assert shown.count(tag) == harmless.count(tag), tag


def test_the_script_gets_every_row_as_it_is_shown() -> None:
    plain = hostile()
    data = embedded(rendered(plain))
    assert [(row["i"], row["a"], row["b"]) for row in data["rows"]] == [
        tuple(safe(example[key]) for key in ("id", "a", "b")) for example in plain["examples"]
    ]


@pytest.mark.parametrize("name", ["one row", "all ties", "one side all failed", "no rows"])
def test_every_ending_gives_a_sentence(name: str) -> None:
    plain = endings()[name]
    shown = unescape(rendered(plain))
    assert plain["verdict"] in shown
    assert plain["verdict"] in text.render(plain)
    assert markdown.escaped(plain["verdict"]) in markdown.render(plain)
    said = {
        "all ties": "Every row has the same score on both sides.",
        "one side all failed": "No row was answered by both sides",
        "no rows": "There are no rows to show.",
    }
    assert said.get(name, "") in shown


def test_rows_that_matter_have_their_image() -> None:
    before = lines(90, 0.5)
    after = [
        line if n % 3 else other for n, (line, other) in enumerate(zip(before, lines(90, 0.5, seed=9), strict=True))
    ]
    after = failing(after, 20)
    named = [[type(line)(**{**_fields(line), "image": line.id}) for line in some] for some in (before, after)]
    plain = judged(*named).to_json()
    gains = {example["id"]: example["gain"] for example in plain["examples"]}
    chosen = rows.images_shown(plain, 2)
    known = {name: gain for name, gain in gains.items() if gain is not None}
    assert {max(known, key=known.__getitem__), min(known, key=known.__getitem__)} <= set(chosen)
    assert {name for name, gain in gains.items() if gain is None} <= set(chosen)
    assert chosen == rows.images_shown(plain, 2)
    assert len(chosen) < len(rows.images_shown(plain, 200)) == 90


def _fields(line: Any) -> dict[str, Any]:
    return {name: getattr(line, name) for name in line.__dataclass_fields__}


def test_too_much_text_is_shortened_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = hostile()
    shown = rendered(plain)
    assert "Texts longer than" not in shown
    assert max(len(row["a"]) for row in embedded(shown)["rows"]) == len(HOSTILE[-1])
    monkeypatch.setattr(html, "_ROW_BYTES", 60_000)
    shown = rendered(plain)
    texts = [row["a"] for row in embedded(shown)["rows"]]
    assert (len(texts), max(map(len, texts)) < 5_100) == (len(plain["examples"]), True)
    assert "more characters]" in texts[len(HOSTILE) - 1]
    assert "Texts longer than 5000 characters" in shown


def test_too_many_rows_leave_those_that_changed_least_out_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = captions(60)
    monkeypatch.setattr(html, "_ROW_BYTES", 10_000)
    shown = rendered(plain)
    kept = [row["i"] for row in embedded(shown)["rows"]]
    changes = {example["id"]: abs(example["deltas"]["bleu"]) for example in plain["examples"]}
    left_out = [name for name in changes if name not in kept]
    assert 0 < len(kept) < 60
    assert min(changes[name] for name in kept) >= max(changes[name] for name in left_out)
    assert f"has the {len(kept)} rows that changed most; compare.json has the other {len(left_out)}" in shown


def test_images_stop_where_the_page_would_get_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "_IMAGE_BYTES", 20)
    assert list(html.embed_images(["a", "b", "c"], dict.fromkeys("abc", b"123456"))) == ["a", "b"]


def test_training_slices_and_other_runs_are_shown_where_there_are_any() -> None:
    shown = rendered(labelled())
    for said in (
        "Learning curve",
        "light = night",
        "Other systems compared with A",
        "out of memory",
        "56e7f7648d9946be",
    ):
        assert said in shown
    bare = rendered(captions())
    for said in ("Learning curve", "by slice</h3>", "Other systems", "Failures</h2>"):
        assert said not in bare


def test_the_commands_name_the_files_and_metrics() -> None:
    shown = unescape(rendered(labelled()))
    assert (
        "vlmtune compare base.jsonl tuned.jsonl other.jsonl --task classification --slice light -o report.html" in shown
    )
    assert "vlmtune score tuned.jsonl --task classification --metrics accuracy,macro_f1" in shown


def test_what_a_page_leaves_out_is_in_the_table_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of all rows, in full; without the page that needs it, there is none."""
    monkeypatch.setattr(html, "MOST_ROWS", 10)
    before = [replace(line, prediction=f"=1+{n}, and more") for n, line in enumerate(lines(30, 0.5))]
    comparison = judged(before, lines(30, 0.2))
    write_comparison(comparison, tmp_path / "page.html", [])
    shown = (tmp_path / "page.html").read_text("utf-8")
    assert len(embedded(shown)["rows"]) == 10
    assert "page_rows.csv has the other 20" in shown
    with (tmp_path / "page_rows.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    examples = comparison.to_json()["examples"]
    assert [row["id"] for row in table] == [example["id"] for example in examples]
    assert [row["A"] for row in table] == [f"'=1+{n}, and more" for n in range(30)]
    assert [float(row["bleu change"]) for row in table] == [example["deltas"]["bleu"] for example in examples]
    monkeypatch.setattr(html, "MOST_ROWS", 30)
    write_comparison(comparison, tmp_path / "page.html", [])
    assert not (tmp_path / "page_rows.csv").exists()


class Made(Sequence[Any]):
    """Rows that are made when they are read, and how many there were at the same time."""

    def __init__(self, kept: Sequence[Any]) -> None:
        self.kept, self.alive, self.most = kept, WeakSet[Any](), 0

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: Any) -> Any:
        made = type("Row", (dict,), {"__hash__": object.__hash__})(self.kept[index])
        self.alive.add(made)
        self.most = max(self.most, len(self.alive))
        return made


def test_a_page_of_many_rows_makes_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_ROWS", 10)
    comparison = judged(lines(300, 0.5), lines(300, 0.2))
    made = Made(comparison.examples)
    write_comparison(comparison, tmp_path / "list.html", [])
    write_comparison(replace(comparison, examples=made), tmp_path / "made.html", [])
    assert made.most < 40
    for name in ("{}.html", "{}_rows.csv"):
        first, second = ((tmp_path / name.format(kind)).read_text() for kind in ("list", "made"))
        assert first.replace("list_rows", "made_rows") == second
