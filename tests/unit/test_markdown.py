"""The comparison as Markdown: what rows say is code, what names say is escaped, nothing is mentioned or linked."""

import re

import pytest
from builders import judged, lines
from pages import captions, hostile

from vlmtune.report import markdown

NASTY = [
    "@everyone",
    "![x](https://example.org/x.png)",
    "<img src=x>",
    "a | b",
    "`code`",
    "``",
    "# title",
    "#12",
    "_a_ *b*",
]


@pytest.mark.parametrize("text", NASTY)
def test_escaped_text_has_no_meaning(text: str) -> None:
    said = markdown.escaped(text)
    for sign in ("@", "<", "://"):
        assert sign not in said
    for sign in "`[]|#*_":
        assert said.count(sign) == said.count(f"\\{sign}") + said.count("&#") * (sign == "#")


@pytest.mark.parametrize("text", [*NASTY, "`` ` ``", "```", "", "two\nlines"])
def test_a_code_span_ends_where_it_should(text: str) -> None:
    said = markdown.code(text)
    if text:
        fence = said[: len(said) - len(said.lstrip("`"))]
        inside = said[len(fence) : -len(fence)]
        assert said.endswith(fence)
        assert fence not in inside.replace(fence + "`", "").split(" ")
        assert inside.strip() == " ".join(text.split())
    assert "\n" not in said


def test_five_gains_and_five_losses() -> None:
    plain = judged(lines(90, 0.5), lines(90, 0.5, seed=9)).to_json()
    said = markdown.render(plain)
    gains = sorted((example["gain"], example["id"]) for example in plain["examples"])
    listed = [line.split("`")[1] for line in said.splitlines() if line.startswith("- `")]
    assert set(listed) == {name for _, name in [*gains[:5], *gains[-5:]]}
    assert listed[0] == gains[-1][1]


def test_hostile_text_adds_no_line_and_no_element() -> None:
    known = ("# ", "## ", "**", "> ⚠ ", "| ", "- ", "  - ", "34 rows compared")
    for line in markdown.render(hostile()).splitlines():
        assert line == "" or line.startswith(known), line
        outside = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", line)
        assert "<" not in outside, line


def test_the_results_need_no_examples() -> None:
    plain = captions()
    assert markdown.results({key: value for key, value in plain.items() if key != "examples"}) in markdown.render(plain)
