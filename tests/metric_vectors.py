"""Shared by metric tests: scores of rows, and the values that official scripts returned."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmtune.metrics import Metric

_DATA = Path(__file__).parent / "data"
VECTORS: dict[str, Any] = json.loads((_DATA / "metric_vectors.json").read_text(encoding="utf-8"))
MORE: dict[str, Any] = json.loads((_DATA / "more_metric_vectors.json").read_text(encoding="utf-8"))
"""Values of official scripts; the file names them and their commits."""


def score(metric: Metric, answers: Sequence[Any], truths: Sequence[Any]) -> float:
    """The metric's value over all rows."""
    return float(metric.summarise(metric.measure(answers, truths).sum(axis=0)))


def values(metric: Metric, answers: Sequence[Any], truths: Sequence[Any]) -> list[float]:
    """The metric's value for each row, for metrics whose rows are independent."""
    return [float(value) for value in metric.summarise(metric.measure(answers, truths))]
