"""What models put around an answer is removed; what merely looks like it stays. JSON is read in other spellings."""

import json
import re
from typing import Any

import pytest
from commands import ROOT
from growth import LINEAR, growth

from vlmtune.boxes import labelled
from vlmtune.tasks import Task, captioning, classification, docvqa, extraction, grounding, parse_answer
from vlmtune.types import Unparsed


def read(task: Task, text: str) -> object:
    config = extraction.Config() if task is extraction.TASK else docvqa.Config()
    answer = parse_answer(task, config, text, {})
    return None if isinstance(answer, Unparsed) else answer


RED = r"""
<think>hm</think>red
hm</think>red
<think>a</think><think>b</think> red
<seed:think>hm</seed:think>red
[THINK]hm[/THINK]red
<unused94>thought hm<unused95>red
<思考>hm</思考>red
<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>red<|end_of_solution|>
<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>red<|return|>
<reasoning>hm</reasoning><answer>red</answer>
<FINAL_ANSWER> red </FINAL_ANSWER>
<SUMMARY>s</SUMMARY><REASONING>r</REASONING><CONCLUSION>red</CONCLUSION>
<output>red</output>
<|begin_of_box|>red<|end_of_box|>
The answer is \boxed{red}.
$\boxed{\text{red}}$
\fbox{red}
\boxed{blue} or rather \boxed{red}
red<|im_end|>
red</s><pad><pad>
red <|eot_id|>
""".strip().split("\n")


@pytest.mark.parametrize("text", [*RED, "```\nred\n```", "<answer>\n```text\nred\n```\n</answer>"])
def test_wrappings_of_an_answer(text: str) -> None:
    assert read(docvqa.TASK, text) == "red"


@pytest.mark.parametrize(
    "text",
    [
        "red",
        " red.\n",
        "Answer: red",
        "**red**",
        '"red"',
        "a tag like </answer> in a text",
        "the token <|im_end|> ends a turn",
        "<output>red</output> is HTML",
        "if a < b and c > d",
        "see ```x``` and ```y```",
        "x </s> y",
        r"\frac{1}{2}",
        r"{\bf red}",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    """What a benchmark's script compares is the text; reading "Answer: red" as "red" would be another metric."""
    assert read(docvqa.TASK, text) == text


@pytest.mark.parametrize("text", ["<think>hm", "<think>hm</think>", "<|channel|>analysis<|message|>hm", "<unused94>x"])
def test_thinking_without_an_answer_is_unparsed(text: str) -> None:
    assert read(docvqa.TASK, text) is None


def test_a_box_is_part_of_running_text() -> None:
    assert read(captioning.TASK, r"a sign with \boxed{x}") == r"a sign with \boxed{x}"
    assert read(captioning.TASK, "<think>hm</think>A dog.") == "A dog."


ONE = """
{"a": 1}
Here it is: {"a": 1}. Done.
{'a': 1}
{"a": 1,}
[{"a": 1}]
{"a": 1} // the only one
{"a": 1 /* one */}
{“a”: 1}
｛"a"：1｝
"{\\"a\\": 1}"
<json>{"a": 1}</json>
{{"a": 1}}
The set {x} has {"a": 1}
""".strip().split("\n")


@pytest.mark.parametrize("text", [*ONE, '```json\n{"a": 1}\n```', '{\n  "a": 1, # one\n}', '{"a": 1}\n{"b": 2}'])
def test_spellings_of_an_object(text: str) -> None:
    assert read(extraction.TASK, text) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ('{"a": "x\ny", "b": null}', {"a": "x\ny", "b": None}),
        ("{'a': None, 'b': [True, (1, 2)]}", {"a": None, "b": [True, (1, 2)]}),
        ('{"a": "1, 2,] // no comment", }', {"a": "1, 2,] // no comment"}),
        ('{"url": "http://x.de/a", "n": [1, 2,],}', {"url": "http://x.de/a", "n": [1, 2]}),
        ('{"items": [{"n": 1}, {"n": 2}, {"n":', {"items": [{"n": 1}, {"n": 2}]}),
        ('{"名": "甲：乙，丙"，"数"：2}', {"名": "甲：乙，丙", "数": 2}),
        ("{}", {}),
    ],
)
def test_values_are_kept(text: str, record: object) -> None:
    assert read(extraction.TASK, text) == record


@pytest.mark.parametrize("text", ["", "a: 1", "{a: 1}", '{"a": 1', "{x}", "[1, 2]", '{"a": 12,50}', "null", '"text"'])
def test_what_is_no_object_is_unparsed(text: str) -> None:
    assert read(extraction.TASK, text) is None


@pytest.mark.parametrize(
    "junk", ["{", "[{", '{"a":', "```", "<think>", "</think>", "\\boxed{", "<output>", "</s>", '"', "，"]
)
def test_long_junk_takes_as_long_as_it_is(junk: str) -> None:
    assert growth(lambda text: [read(task, text) for task in (docvqa.TASK, extraction.TASK)], junk) < LINEAR


SECTIONS: dict[str, tuple[Task, Any]] = {
    "Wrappings": (docvqa.TASK, docvqa.Config()),
    "Labels": (
        classification.TASK,
        classification.Config(labels=["fracture", "no fracture", "fox", "hare", "猫", "狗"]),
    ),
    "JSON": (extraction.TASK, extraction.Config()),
    "Boxes": (grounding.TASK, grounding.Config()),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_examples_of_the_documentation_are_true(section: str) -> None:
    page = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")
    table = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(.+)` \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) >= 7
    for written, shown in rows:
        answer = parse_answer(*SECTIONS[section], written.replace("\\|", "|"), {})
        assert _shown(section, answer) == shown.strip("`"), written


def _shown(section: str, answer: Any) -> str:
    if isinstance(answer, Unparsed):
        return f"unparsed: {answer.reason}"
    if section == "JSON":
        return json.dumps(answer, ensure_ascii=False)
    if section == "Boxes":
        boxes = [labelled(box) for box in answer]
        shown = [[*(f"{number:g}" for number in box.box), *([box.label] if box.label else [])] for box in boxes]
        return " ".join(shown[0]) if shown else "no box"
    return str(answer)
