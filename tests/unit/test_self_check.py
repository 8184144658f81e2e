"""References scored against themselves: metrics that a right answer cannot satisfy are named and not made primary."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from builders import lines
from pages import labelled

from vlmtune.metrics import Metric
from vlmtune.metrics.short_answers import exact_match
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig
from vlmtune.scoring.score import choose_metrics, score
from vlmtune.scoring.self_check import MetricChoice, primary_first, self_check
from vlmtune.tasks import Task, captioning, classification, docvqa, extraction, grounding, ocr, vqa

SHORT = ["red apple", "fire truck", "taxi", "thumbs up", "flag of Peru", "old key"]


def rows(*references: Sequence[str], **truth: Any) -> list[Line]:
    return [Line(f"r{n}", None, {"references": [*some], **truth}) for n, some in enumerate(references)]


def chosen(
    task: Task, config: BaseConfig, some: Sequence[Line], names: Sequence[str] | None = None, primary: str | None = None
) -> MetricChoice:
    return primary_first(choose_metrics(task, names, some), task, config, some, primary)


def caption(some: Sequence[Line], names: Sequence[str] | None = None, primary: str | None = None) -> MetricChoice:
    return chosen(captioning.TASK, captioning.Config(), some, names, primary)


def test_ordinary_data_raises_no_alarm_and_keeps_the_usual_metric() -> None:
    found = caption(lines(30, 0.5))
    assert (found.metrics[0].name, found.reason, found.failed) == ("bleu", None, ())
    assert [metric.name for metric in found.metrics] == [metric.name for metric in captioning.TASK.metrics[:9]]
    one_short = caption([*lines(30, 0.5), *rows(["a dog"])])
    assert (one_short.metrics[0].name, one_short.failed) == ("bleu", ())
    ocr_rows = rows(["Total 12.50\nVAT 2"], ["STOP."])
    assert chosen(ocr.TASK, ocr.Config(), ocr_rows).failed == ()
    labels = classification.Config(labels=["cat", "dog"])
    truths = [{"references": ["cat"], "label": "cat", "class": {"label": "cat", "labels": ["cat", "dog"]}}] * 3
    found = chosen(classification.TASK, labels, [Line(f"{n}", None, truth) for n, truth in enumerate(truths)])
    assert found.failed == (), "a class that no row has is no fault of the rows"
    records = [Line("0", None, {"references": ['{"a": 1}'], "record": {"a": 1, "b": [{"c": None}]}})]
    assert chosen(extraction.TASK, extraction.Config(), records).failed == ()
    boxes = [Line("0", None, {"references": [], "boxes": [[1, 2, 30, 40]]})]
    assert chosen(grounding.TASK, grounding.Config(), boxes).failed == ()


def test_short_captions_are_judged_by_exact_match_and_say_why() -> None:
    found = caption(rows(*([text] for text in SHORT)))
    assert [metric.name for metric in found.metrics[:3]] == ["exact_match", "chrf", "cider_d"]
    assert found.reason == "exact_match, because 6 of 6 references have fewer than 4 words, too few for BLEU's 4-grams"
    (warning,) = found.warnings
    assert "bleu, sacrebleu, bleu_4 on 6 of 6 rows (r0, r1, r2, r3, r4 and 1 more)" in warning
    assert caption(rows(["狗"], ["红苹果"])).metrics[0].name == "exact_match"
    assert caption(rows(*([text] for text in SHORT)), primary="bleu").metrics[0].name == "bleu"
    assert caption(rows(*([text] for text in SHORT)), ["bleu", "chrf"]).metrics[0].name == "chrf"
    scored = score([replace(line, prediction="taxi") for line in rows(["taxi"])], captioning.TASK, captioning.Config())
    assert scored.to_json()["primary"] == "exact_match"
    assert scored.to_json()["warnings"] == list(scored.warnings)


def test_vqa_accuracy_needs_four_people_and_excuses_those_who_disagree() -> None:
    task, config = vqa.TASK, vqa.Config()
    single = chosen(task, config, rows(["red"], ["two"]), ["vqa_accuracy", "exact_match"])
    assert single.metrics[0].name == "exact_match"
    assert single.reason == "exact_match, because vqa_accuracy does not give the references themselves its best score"
    assert single.failed[0].rows == ("r0", "r1")
    assert single.failed[0].score == 0
    split = rows(["red"] * 3 + ["blue"] * 7, [f"{n}" for n in range(10)], ["yes"] * 10, ["the red"] * 4 + ["red"] * 6)
    assert chosen(task, config, split, ["vqa_accuracy"]).failed == ()
    assert chosen(task, config, rows(["red"] * 3), ["vqa_accuracy"]).failed[0].rows == ("r0",)


def test_cider_is_no_alarm_with_several_references_but_where_every_row_says_the_same() -> None:
    several = rows(["a red ball on grass", "the ball lies there"], ["two dogs run fast", "dogs running in a field"])
    assert caption(several, ["cider_d"]).failed == ()
    alike = rows(*[["no finding in this image"]] * 4)
    assert caption(alike, ["cider_d"]).failed[0].rows == ("r0", "r1", "r2", "r3")
    assert caption(alike, ["cider_d", "rouge_l"]).metrics[0].name == "rouge_l"


def test_a_reading_that_loses_part_of_the_reference_is_found() -> None:
    def without_stop(_: Any, text: str) -> str:
        return text.rstrip(".")

    task = replace(docvqa.TASK, parse=without_stop)
    some = rows(["Apple Inc."], ["Berlin"], ["U.S."])
    failed = {check.metric.name: check for check in self_check(task.metrics, task, docvqa.Config(), some)}
    assert failed["exact_match"].rows == ("r0", "r2")
    assert failed["exact_match"].score == pytest.approx(1 / 3)
    assert 0.5 < failed["anls"].score < 1
    # Of two references one that survives is enough.
    assert self_check([exact_match], task, docvqa.Config(), rows(["Apple Inc.", "Apple Inc"])) == []


def test_where_no_metric_passes_the_one_that_fails_least_is_primary() -> None:
    def unreadable(_: Any, text: str) -> str:
        return text.rstrip(".")

    task = replace(docvqa.TASK, parse=unreadable, metrics=docvqa.TASK.metrics[:2])
    found = chosen(task, docvqa.Config(), rows(["A."], ["Berlin"]))
    assert found.metrics[0] is docvqa.TASK.metrics[0]
    assert len(found.failed) == 2


def test_custom_functions_and_degenerate_boxes() -> None:
    flat = [Line("box", None, {"references": [], "boxes": [[5, 5, 5, 9]]})]
    assert {check.rows for check in chosen(grounding.TASK, grounding.Config(), flat).failed} == {("box",)}
    endless = Metric("words", lambda a, t: exact_match.measure(a, t) * 7, exact_match.summarise, "", self_check=False)
    assert self_check([endless], captioning.TASK, captioning.Config(), rows(["a"])) == []


def test_the_comparison_says_it_too() -> None:
    assert labelled()["primary_reason"] is None
