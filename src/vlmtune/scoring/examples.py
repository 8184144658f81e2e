"""Per-row results of a comparison: both answers, their scores, and flags for unusual answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import numpy as np

from vlmtune.boxes import LabelledBox, labelled, read_boxes
from vlmtune.metrics import Metric, Stats
from vlmtune.predictions import Line
from vlmtune.scoring.metric_comparison import SufficientStatistics
from vlmtune.scoring.results import ExampleBoxes, ExampleResult, Sides
from vlmtune.scoring.score import WHOLE_SET, has_row_scores, repeats_itself

Row = tuple[Line, Line]
DIGITS = 6
"""Decimals of a row's numbers: this keeps files small, and reports show at most four."""


@dataclass(frozen=True, slots=True)
class _RowScores:
    """One metric on N answered rows: how each changes A's score [N], and the scores of each side's rows [N] or None."""

    name: str
    gains: Stats
    alone: Sides[Stats | None]


def is_answered(row: Row) -> bool:
    """Whether both sides have an answer."""
    return all(line.prediction is not None for line in row)


class ExampleResults(Sequence[ExampleResult]):
    """One result per paired row, in order, made when it is read; failed rows have no scores.

    Args:
        rows: both sides' lines.
        metrics: the primary one first.
        statistics: those of the answered rows in each metric; empty without any.
    """

    def __init__(
        self, rows: Sequence[Row], metrics: Sequence[Metric], statistics: Sequence[SufficientStatistics]
    ) -> None:
        self._rows = rows
        self._scores = [_row_scores(one) for one in statistics]
        answered = [n for n, row in enumerate(rows) if is_answered(row)]
        self._numbers = {n: number for number, n in enumerate(answered)}
        self._truths = {metric.truth for metric in metrics}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> ExampleResult: ...
    @overload
    def __getitem__(self, index: slice) -> list[ExampleResult]: ...
    def __getitem__(self, index: int | slice) -> ExampleResult | list[ExampleResult]:
        """The result of a row, or of several."""
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        n = range(len(self))[index]
        a, b = self._rows[n]
        return _example(a, b, self._scores, self._numbers.get(n), _boxes(a, b), self._truths)


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
    shown: Mapping[str, Any] = {key: a.truth[key] for key in sorted(truths - {"references", "boxes", WHOLE_SET})}
    if shown:
        example["truth"] = dict(shown)
    return example


def _row_scores(statistics: SufficientStatistics) -> _RowScores:
    """Of the first file of each side."""
    metric, a, b = statistics.metric, statistics.a[0], statistics.b[0]
    total = a.sum(axis=0)
    gains = np.asarray(metric.summarise(total - a + b) - metric.summarise(total))
    if not has_row_scores(metric):
        return _RowScores(metric.name, gains, {"a": None, "b": None})
    return _RowScores(metric.name, gains, {"a": np.asarray(metric.summarise(a)), "b": np.asarray(metric.summarise(b))})


def _score_alone(scores: Stats | None, number: int) -> float | None:
    return None if scores is None else _rounded(float(scores[number]))


def _rounded(value: float) -> float | None:
    # + 0.0: no "-0.0".
    return round(value, DIGITS) + 0.0 if math.isfinite(value) else None


def _boxes(a: Line, b: Line) -> ExampleBoxes | None:
    """True and answered boxes, if the row has some that can be drawn."""
    true = _finite(_true_boxes(a))
    if true is None:
        return None
    found = [_finite([labelled(box) for box in line.answer or []]) or [] for line in (a, b)]
    return _example_boxes(true, *found) if true or any(found) else None


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
