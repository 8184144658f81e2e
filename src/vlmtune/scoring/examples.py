"""Per-row results of a comparison: both answers, their scores, and flags for unusual answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from vlmtune.boxes import LabelledBox, labelled, read_boxes
from vlmtune.metrics import Metric, Stats
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig
from vlmtune.scoring.results import ExampleBoxes, ExampleResult, Sides
from vlmtune.scoring.score import measure, read_answers, repeats_itself
from vlmtune.tasks import Task

Row = tuple[Line, Line]
DIGITS = 6
"""Decimals of a row's numbers: this keeps files small, and reports show at most four."""

_WHOLE_SET = "class"
"""Truth of metrics that average over the labels of the whole set (macro-F1); a single row has no such score."""


@dataclass(frozen=True, slots=True)
class _RowScores:
    """One metric on N answered rows: how each changes A's score [N], and the scores of each side's rows [N] or None."""

    name: str
    gains: Stats
    alone: Sides[Stats | None]


def example_results(
    rows: Sequence[Row], metrics: Sequence[Metric], task: Task, config: BaseConfig
) -> list[ExampleResult]:
    """One result per paired row, in order; failed rows have no scores.

    Args:
        rows: both sides' lines.
        metrics: the primary one first.
        task: reads answers.
        config: the task's.
    """
    answered = [n for n, (a, b) in enumerate(rows) if a.prediction is not None and b.prediction is not None]
    sides = [[rows[n][side] for n in answered] for side in (0, 1)]
    scores = [_row_scores(metric, sides, task, config) for metric in metrics] if answered else []
    numbers = {n: number for number, n in enumerate(answered)}
    boxes = _boxes(rows, task, config)
    truths = {metric.truth for metric in metrics}
    return [_example(a, b, scores, numbers.get(n), boxes.get(n), truths) for n, (a, b) in enumerate(rows)]


def flags(line: Line) -> list[str]:
    """Flags of one answer: failed; or any of cut_off, empty, unparsed, repeating."""
    if line.prediction is None:
        return ["failed"]
    present = {
        "cut_off": line.finish_reason == "length",
        "empty": not line.prediction.strip(),
        "unparsed": line.unparsed is not None,
        "repeating": repeats_itself(line.prediction),
    }
    return [name for name, is_set in present.items() if is_set]


def _example(
    a: Line,
    b: Line,
    scores: Sequence[_RowScores],
    number: int | None,
    boxes: ExampleBoxes | None,
    truths: set[str],
) -> ExampleResult:
    """`number` is the row's index among the answered ones; None where a side failed."""
    example: ExampleResult = {
        "id": a.id,
        "image": b.image or a.image,
        "references": list(a.references),
        "a": a.prediction,
        "b": b.prediction,
        "cut_off": {"a": a.finish_reason == "length", "b": b.finish_reason == "length"},
        "flags": {"a": flags(a), "b": flags(b)},
        "changed": a.prediction != b.prediction,
        "failure": {"a": a.failure, "b": b.failure} if a.prediction is None or b.prediction is None else None,
        "meta": {**a.meta, **b.meta},
        "gain": None,
        "deltas": None,
        "scores": None,
    }
    if number is not None:
        example["gain"] = float(scores[0].gains[number])
        example["deltas"] = {one.name: _rounded(float(one.gains[number]) * len(one.gains)) for one in scores}
        example["scores"] = {
            "a": {one.name: _score_alone(one.alone["a"], number) for one in scores},
            "b": {one.name: _score_alone(one.alone["b"], number) for one in scores},
        }
    if boxes is not None:
        example["boxes"] = boxes
    if "question" in a.truth:
        example["question"] = a.truth["question"]
    if "image_size" in a.truth:
        example["image_size"] = a.truth["image_size"]
    shown: Mapping[str, Any] = {key: a.truth[key] for key in sorted(truths - {"references", "boxes", _WHOLE_SET})}
    if shown:
        example["truth"] = dict(shown)
    return example


def _row_scores(metric: Metric, sides: Sequence[Sequence[Line]], task: Task, config: BaseConfig) -> _RowScores:
    a, b = (measure(metric, lines, task, config) for lines in sides)
    total = a.sum(axis=0)
    gains = np.asarray(metric.summarise(total - a + b) - metric.summarise(total))
    if metric.truth == _WHOLE_SET or metric.linearised:
        return _RowScores(metric.name, gains, {"a": None, "b": None})
    return _RowScores(metric.name, gains, {"a": np.asarray(metric.summarise(a)), "b": np.asarray(metric.summarise(b))})


def _score_alone(scores: Stats | None, number: int) -> float | None:
    return None if scores is None else _rounded(float(scores[number]))


def _rounded(value: float) -> float | None:
    # + 0.0: no "-0.0".
    return round(value, DIGITS) + 0.0 if math.isfinite(value) else None


def _boxes(rows: Sequence[Row], task: Task, config: BaseConfig) -> dict[int, ExampleBoxes]:
    """True and answered boxes by row number, of the rows that have some."""
    having = {n: true for n, (a, _) in enumerate(rows) if (true := _finite(_true_boxes(a))) is not None}
    answers = [read_answers([rows[n][side] for n in having], task, config) for side in (0, 1)]
    drawn = {}
    for (n, true), *both in zip(having.items(), *answers, strict=True):
        a, b = (_finite([labelled(box) for box in answer or []]) or [] for answer in both)
        if true or a or b:
            drawn[n] = _example_boxes(true, a, b)
    return drawn


def _example_boxes(true: list[LabelledBox], a: list[LabelledBox], b: list[LabelledBox]) -> ExampleBoxes:
    sides = {"references": true, "a": a, "b": b}
    boxes: dict[str, Any] = {side: [one.box for one in found] for side, found in sides.items()}
    # A label that the model only repeats from the question says nothing.
    if any(one.label for one in true) or any(len({one.label for one in found}) > 1 for found in (a, b)):
        boxes["labels"] = {side: [one.label for one in found] for side, found in sides.items()}
    return cast(ExampleBoxes, boxes)


def _true_boxes(line: Line) -> list[LabelledBox] | None:
    try:
        return read_boxes(line.truth["boxes"]) if "boxes" in line.truth else None
    except ValueError:
        return None


def _finite(boxes: list[LabelledBox] | None) -> list[LabelledBox] | None:
    """The boxes if all can be drawn."""
    return boxes if boxes is not None and all(math.isfinite(x) for one in boxes for x in one.box) else None
