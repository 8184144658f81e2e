"""Rewards of sampled answers: the task's own metrics, row by row, weighted and added up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.metrics import Metric
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig
from vlmtune.scoring.score import choose_metrics, measure, reread
from vlmtune.tasks import Task

POOL = 500
"""Most rows from which a metric takes what it would take from the whole set: document frequencies, the language."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rewards:
    """Scores answers by several metrics. The value of a row depends on no other row that is scored with it."""

    task: Task
    task_config: BaseConfig
    metrics: Sequence[tuple[Metric, float]]
    """Each with its weight."""

    @classmethod
    def of(cls, task: Task, config: BaseConfig, weights: Mapping[str, float], rows: Sequence[Line]) -> "Rewards":
        """Rewards for answers to these rows, of whose truths at most `POOL` stand for the whole set.

        Args:
            task: names the metrics and reads answers.
            config: of the task.
            weights: of the metrics by name; custom ones by dotted name.
            rows: lines without answers.

        Raises:
            DataError: a row lacks what a metric compares with.
            ConfigError: the task has no metric of a name.
        """
        metrics = choose_metrics(task, list(weights), rows)
        pool = [rows[n * len(rows) // POOL] for n in range(POOL)] if len(rows) > POOL else rows
        truths = [line.truth for line in reread(pool, task, config)]
        fixed = [
            replace(metric, measure=metric.counted_over([truth[metric.truth] for truth in truths]))
            if metric.counted_over is not None
            else metric
            for metric in metrics
        ]
        return cls(task, config, list(zip(fixed, weights.values(), strict=True)))

    def score(self, texts: Sequence[str], truths: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
        """By metric, the value of every answer [N]: the share of the scale that it reaches, or loses in an error rate.

        Args:
            texts: N answers as the model wrote them.
            truths: of the row of each.
        """
        pairs = zip(texts, truths, strict=True)
        lines = reread([Line(None, text, truth) for text, truth in pairs], self.task, self.task_config)
        values = {}
        for metric, _ in self.metrics:
            scores = np.asarray(metric.summarise(measure(metric, lines)), dtype=np.float64)
            values[metric.name] = (scores if metric.higher_is_better else -scores) / metric.scale
        return values

    def total(self, values: Mapping[str, Floats]) -> Floats:
        """The weighted sum of all metrics [N]."""
        weighed: Floats = np.sum([weight * values[metric.name] for metric, weight in self.metrics], axis=0)
        return weighed
