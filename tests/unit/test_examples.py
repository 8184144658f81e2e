"""The rows of a comparison one by one: their numbers are the metric's own, failed rows stay visible."""

import numpy as np
import pytest
from builders import judged, lines
from pages import boxed, failing, labelled

from vlmtune.metrics.ngrams import bleu
from vlmtune.predictions import Line
from vlmtune.scoring.examples import flags


def test_a_row_s_change_is_that_of_the_score_when_its_answer_is_exchanged() -> None:
    before, after = lines(40, 0.6), lines(40, 0.3)
    plain = judged(before, after).to_json()
    mixed = [*before[:7], after[7], *before[8:]]
    changed = judged(before, mixed).to_json()["metrics"][0]
    example = plain["examples"][7]
    assert example["gain"] == pytest.approx(changed["delta"], abs=1e-12)
    assert example["deltas"]["bleu"] == pytest.approx(40 * changed["delta"], abs=1e-6)


def test_a_row_s_own_score_is_the_metric_of_that_row_alone() -> None:
    before, after = lines(30, 0.4), lines(30, 0.1)
    stats = bleu.measure([line.prediction for line in after], [line.references for line in after])
    for example, row in zip(judged(before, after).examples, stats, strict=True):
        assert example["scores"]["b"]["bleu"] == pytest.approx(float(np.asarray(bleu.summarise(row))), abs=1e-6)


def test_deltas_of_a_mean_are_differences_of_rows_and_average_to_the_change() -> None:
    plain = labelled()
    rows = [example for example in plain["examples"] if example["scores"]]
    for example in rows:
        scores = example["scores"]
        assert example["deltas"]["accuracy"] == scores["b"]["accuracy"] - scores["a"]["accuracy"]
        assert scores["a"]["macro_f1"] is None
    mean = sum(example["deltas"]["accuracy"] for example in rows) / len(rows)
    assert mean == pytest.approx(plain["metrics"][0]["delta"], abs=1e-6)


def test_a_failed_row_is_there_without_numbers() -> None:
    comparison = judged(lines(60, 0.5), failing(lines(60, 0.2), 30))
    assert comparison.result["rows"]["compared"] == 58
    failed = [example for example in comparison.examples if example["failure"]]
    assert [example["id"] for example in failed] == ["row 0", "row 30"]
    for example in failed:
        assert (example["gain"], example["deltas"], example["scores"], example["b"]) == (None, None, None, None)
        assert example["failure"] == {"a": None, "b": {"stage": "engine", "reason": "out of memory"}}
        assert example["flags"] == {"a": [], "b": ["failed"]}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (Line("x", "a dog", {"references": []}, finish_reason="stop"), []),
        (Line("x", "a dog", {"references": []}, finish_reason="length"), ["cut_off"]),
        (Line("x", " \n", {"references": []}), ["empty"]),
        (Line("x", "a a a a", {"references": []}, unparsed="no box"), ["unparsed", "repeating"]),
        (Line("x", None, {"references": []}, failure={"stage": "image", "reason": "y"}), ["failed"]),
    ],
)
def test_flags(line: Line, named: list[str]) -> None:
    assert flags(line) == named


def test_boxes_are_those_the_metric_compares() -> None:
    plain = boxed()
    for example in plain["examples"]:
        assert len(example["boxes"]["references"]) == 1
        assert example["image_size"] == [96, 72]
    assert plain["examples"][0]["boxes"]["a"] == []
    assert len(plain["examples"][1]["boxes"]["b"]) == 1
