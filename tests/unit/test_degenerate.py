"""A metric that cannot move is no proof: such comparisons are inconclusive and say why."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from builders import QUICK, judged, lines

from vlmtune.predictions import Line
from vlmtune.report import text
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.tasks import captioning, docvqa, grounding


def every(some: Sequence[Line], **values: Any) -> list[Line]:
    return [replace(line, **values) for line in some]


def questions(count: int, answer: str) -> list[Line]:
    return [Line(f"{n}", answer, {"references": [f"number {n}"]}) for n in range(count)]


def docs(a: Sequence[Line], b: Sequence[Line], controls: Any = None) -> Comparison:
    sides = (PredictionFile("base", a), PredictionFile("tuned", b, controls=controls))
    return compare(*sides, docvqa.TASK, docvqa.Config(), QUICK)


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ("zzz", "qqq", "both sides score 0.0000 in anls, which therefore cannot show a change"),
        ("", "number 3", "every answer of base is empty"),
        ("zzz", "", "every answer of tuned is empty"),
    ],
)
def test_a_metric_that_cannot_move_proves_nothing(a: str, b: str, why: str) -> None:
    found = docs(questions(30, a), questions(30, b))
    assert found.status == "inconclusive"
    assert why in found.verdict
    assert "excluded" not in text.render(found.result)


def test_right_against_wrong_on_every_row_is_a_difference() -> None:
    right = [replace(line, prediction=line.references[0]) for line in questions(30, "")]
    assert docs(questions(30, "zzz"), right).status == "improved"
    assert docs(right, questions(30, "zzz")).status == "worse"
    both = docs(right, right)
    assert both.status == "inconclusive"
    assert "both sides have the best score in anls; no row differs; differences up to 11.6 points" in both.verdict


def test_a_side_that_is_cut_off_or_unreadable_proves_nothing() -> None:
    good = lines(30, 0.2)
    cut = judged(every(good, finish_reason="length"), good)
    assert cut.status == "inconclusive"
    reason = "every answer of base was cut off at the length limit; raise inference.max_new_tokens"
    assert reason in cut.verdict
    assert text.render(cut.result).count("cut off at the length limit") == 1
    assert judged([*every(good[1:], finish_reason="length"), good[0]], good).status != "inconclusive"
    both = judged(every(good, finish_reason="length"), every(good, finish_reason="length"))
    assert both.verdict.startswith("Inconclusive: every answer of both sides was cut off at the length limit;")
    known = [*every(good[:10], finish_reason="length"), *good[10:]]
    assert "33% of the answers of base were cut off" in " ".join(judged(known, good).result["warnings"])
    seeds = tuple(PredictionFile(name, lines) for name, lines in (("s1", good), ("s2", every(good, prediction=""))))
    found = compare(PredictionFile("base", good), seeds, captioning.TASK, captioning.Config(), QUICK)
    assert found.verdict.startswith("Inconclusive: every answer of 1 of the 2 files of ")
    assert found.verdict.count("is empty") == 1
    boxes = {"references": [], "boxes": [[100, 100, 400, 400]]}
    prose = [Line(f"{n}", "it is on the left", boxes) for n in range(30)]
    written = [replace(line, prediction='{"bbox_2d": [100, 100, 400, 400]}') for line in prose]
    sides = (PredictionFile("base", prose), PredictionFile("tuned", written))
    found = compare(*sides, grounding.TASK, grounding.Config(), QUICK)
    assert found.status == "inconclusive"
    assert "no answer of base can be read by the task" in found.verdict
    assert found.result["lengths"] is None
    assert found.result["controls"]["length"] is None
    assert "words" not in text.render(found.result)


def test_a_control_cannot_tell_where_there_is_nothing_to_lose() -> None:
    wrong = questions(30, "zzz")
    right = [replace(line, prediction=line.references[0]) for line in wrong]
    shuffled = {
        "schema_version": 1,
        "adapter_delta": None,
        "image": {"lines": [{"id": f"{n}", "prediction": "q"} for n in range(30)]},
    }
    found = docs(right, wrong, shuffled)
    said = text.render(found.result)
    assert found.result["controls"]["image"]["b"]["can_tell"] is False
    assert "image: cannot be told for B" in said
    assert "does not look at the image" not in said
    same = {**shuffled, "image": {"lines": [{"id": line.id, "prediction": line.prediction} for line in right]}}
    assert "does not look at the image" in text.render(docs(wrong, right, same).result)


def test_an_answer_length_far_from_the_references_is_said() -> None:
    some = [Line(f"{n}", "word " * 18, {"references": ["red ball"]}) for n in range(30)]
    found = judged(some, every(some, prediction="red ball"))
    said = "answers are far from the length of the references: base 18 words (median) where the references have 2"
    assert said in found.result["warnings"]
    assert "far from the length" not in text.render(judged(lines(30, 0.5), lines(30, 0.2)).result)
    truth = {"references": ["一只棕色的狗在草地上"]}
    zh = [Line(f"{n}", "一只棕色的狗在绿色的草地上奔跑" * 2, truth) for n in range(30)]
    assert "base 30 characters (median)" in text.render(judged(zh, every(zh, prediction="一只棕色的狗")).result)


def test_rows_that_contradict_each_other_are_shown() -> None:
    def asked(name: str, image: str | None, answer: str, question: str | None = None) -> Line:
        return Line(name, "x", {"references": [answer], **({"question": question} if question else {})}, image=image)

    some = [
        asked("a", "i1", "Red", "colour?"),
        asked("b", "i1", "two", "how many?"),
        asked("c", "i1", "blue", "colour?"),
        asked("d", "i2", "red"),
        asked("e", "i2", " RED "),
        asked("f", None, "one"),
        asked("g", None, "two"),
    ]
    found = docs(some, every(some, prediction="red")).result
    (one,) = found["contradictions"]
    assert (one["image"], one["question"], [row["id"] for row in one["rows"]]) == ("i1", "colour?", ["a", "c"])
    assert "1 image is shared by rows that ask the same and expect different answers (a and c)" in text.render(found)
    captions = [replace(line, image="i", truth={"references": line.references}) for line in lines(4, 0.1)]
    assert judged(captions, captions).result["contradictions"] == [], "captions of one image may differ"
    tags = [Line(f"{n}", "x", {"references": [tag]}, image="i") for n, tag in enumerate(("red apple", "pear"))]
    assert len(judged(tags, tags).result["contradictions"]) == 1
    assert captioning.TASK.one_answer is False
