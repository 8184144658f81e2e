"""Classification: one label of a fixed set per row.

Labels are compared as they are; the task maps what a model writes to a label. An unreadable answer is wrong and belongs
to no class.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmtune.errors import DataError
from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._ngram_counts import per_row, ratio


def _measure_accuracy(answers: Sequence[str | None], labels: Sequence[str]) -> Stats:
    return per_row(float(answer == label) for answer, label in zip(answers, labels, strict=True))


accuracy = Metric(
    name="accuracy",
    measure=_measure_accuracy,
    summarise=ratio,
    signature="case:mixed",
    truth="label",
    binary=True,
)
"""Share of rows whose answer is their label. Truth: `label`, a string."""


def _measure_macro_f1(answers: Sequence[str | None], truths: Sequence[Mapping[str, Any]]) -> Stats:
    """Stats [N, 2C]: per class, whether the answer is right; then, per class, how many of answer and label name it.

    With the classes cat and dog, the answer "cat" to a dog has the statistics [0, 0, 1, 1], to a cat [1, 0, 2, 0].
    """
    every = dict.fromkeys(label for truth in truths for label in truth["labels"])
    classes = {label: n for n, label in enumerate(every)}
    hits, sizes = np.zeros((2, len(truths), len(classes)))
    for row, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
        label = truth["label"]
        if label not in classes:
            raise DataError(f"label {label!r} is not one of the labels of the task: {', '.join(classes)}")
        sizes[row, classes[label]] += 1
        if answer in classes:
            sizes[row, classes[answer]] += 1
            hits[row, classes[label]] += answer == label
    return np.concatenate([hits, sizes], axis=1)


def _macro_f1(sums: Stats) -> Stats:
    hits, sizes = np.split(sums, 2, axis=-1)
    mean: Stats = (2 * hits / np.where(sizes > 0, sizes, 1)).mean(axis=-1)
    return mean


macro_f1 = Metric(
    name="macro_f1",
    measure=_measure_macro_f1,
    summarise=_macro_f1,
    signature="case:mixed|mean over the task's labels|absent class:0",
    truth="class",
    self_check=False,
)
"""Mean over the fixed label set of 2 hits / (answers + labels of the class), as scikit-learn's f1_score with `labels`
and `zero_division=0`. Truth: `class`, {"label": the row's, "labels": the whole set}. A class that neither occurs nor is
answered counts as 0, also in a resample, so every resample averages over the same classes."""
