"""The rows of a comparison one by one: what both sides answered, how it scored, what is odd about it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmtune.metrics import Metric, Stats
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig
from vlmtune.scoring import score
from vlmtune.scoring.score import measure, read_answers
from vlmtune.tasks import Task

Row = tuple[Line, Line]
DIGITS = 6
"""Decimals of a row's numbers: files stay small, and no reader is shown more than four."""

_WHOLE_SET = "class"
"""Truth of metrics that average over the labels of the whole set (macro-F1): one row alone has no such score."""


def of_rows(rows: Sequence[Row], metrics: Sequence[Metric], task: Task, config: BaseConfig) -> list[dict[str, Any]]:
    """Plain values per paired row, in order; failed rows are there, without scores.

    `gain` is how the primary score of side A changes when this row's answer becomes B's. `deltas` is that change for
    every metric, times the number of rows: for a metric that is a mean over rows it is B's score minus A's. `scores`
    are the metric of this row alone, None where such a number means nothing.

    Args:
        rows: both sides' lines.
        metrics: the primary one first.
        task: reads answers.
        config: the task's.
    """
    answered = [n for n, (a, b) in enumerate(rows) if a.prediction is not None and b.prediction is not None]
    sides = [[rows[n][side] for n in answered] for side in (0, 1)]
    numbers = _numbers(sides, metrics, task, config) if answered else []
    places = {n: place for place, n in enumerate(answered)}
    boxes = _boxes(rows, task, config)
    examples = []
    for n, (a, b) in enumerate(rows):
        place = places.get(n)
        examples.append(
            _facts(a, b)
            | _scores(metrics, numbers, place)
            | ({"boxes": boxes[n]} if n in boxes else {})
            | _truth(a, {metric.truth for metric in metrics})
        )
    return examples


def flags(line: Line) -> list[str]:
    """What is odd about one answer: failed; or cut_off, empty, unparsed, repeating."""
    if line.prediction is None:
        return ["failed"]
    odd = {
        "cut_off": line.finish_reason == "length",
        "empty": not line.prediction.strip(),
        "unparsed": line.unparsed is not None,
        "repeating": score.repeats_itself(line.prediction),
    }
    return [name for name, there in odd.items() if there]


def _facts(a: Line, b: Line) -> dict[str, Any]:
    return {
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
    }


def _numbers(
    sides: Sequence[Sequence[Line]], metrics: Sequence[Metric], task: Task, config: BaseConfig
) -> list[tuple[Stats, Stats | None, Stats | None]]:
    """Per metric: change of A's score by row [N], A's and B's own row scores [N] or None."""
    found = []
    for metric in metrics:
        a, b = (measure(metric, lines, task, config) for lines in sides)
        total = a.sum(axis=0)
        gains = np.asarray(metric.summarise(total - a + b) - metric.summarise(total))
        own = [None if metric.truth == _WHOLE_SET else np.asarray(metric.summarise(side)) for side in (a, b)]
        found.append((gains, own[0], own[1]))
    return found


def _scores(
    metrics: Sequence[Metric], numbers: Sequence[tuple[Stats, Stats | None, Stats | None]], place: int | None
) -> dict[str, Any]:
    if place is None:
        return {"gain": None, "deltas": None, "scores": None}
    deltas: dict[str, float | None] = {}
    scores: dict[str, dict[str, float | None]] = {"a": {}, "b": {}}
    for metric, (gains, a, b) in zip(metrics, numbers, strict=True):
        deltas[metric.name] = _rounded(float(gains[place]) * len(gains))
        for side, own in (("a", a), ("b", b)):
            scores[side][metric.name] = None if own is None else _rounded(float(own[place]))
    return {"gain": float(numbers[0][0][place]), "deltas": deltas, "scores": scores}


def _rounded(value: float) -> float | None:
    # + 0.0: no "-0.0".
    return round(value, DIGITS) + 0.0 if math.isfinite(value) else None


def _boxes(rows: Sequence[Row], task: Task, config: BaseConfig) -> dict[int, dict[str, Any]]:
    """True and answered boxes of the rows that have some: [x1, y1, x2, y2], 0 to 1000 of the image's sides."""
    having = [n for n, (a, _) in enumerate(rows) if _are_boxes(a.truth.get("boxes"))]
    answers = [read_answers([rows[n][side] for n in having], task, config) for side in (0, 1)]
    return {
        n: {
            "references": [list(box) for box in rows[n][0].truth["boxes"]],
            "a": [list(box) for box in a] if _are_boxes(a) else [],
            "b": [list(box) for box in b] if _are_boxes(b) else [],
        }
        for n, a, b in zip(having, *answers, strict=True)
    }


def _are_boxes(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(box, list | tuple)
        and len(box) == 4
        and all(isinstance(side, int | float) and math.isfinite(side) for side in box)
        for box in value
    )


def _truth(line: Line, used: set[str]) -> dict[str, Any]:
    """What else the answers were compared with; question and size of the image where the file knows them."""
    shown: Mapping[str, Any] = {key: line.truth[key] for key in sorted(used - {"references", "boxes", _WHOLE_SET})}
    known = {key: line.truth[key] for key in ("question", "image_size") if key in line.truth}
    return known | ({"truth": dict(shown)} if shown else {})
