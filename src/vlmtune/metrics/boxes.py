"""Overlap of boxes [x1, y1, x2, y2], from 0 to 1000 of the image's width and height.

Truth: `boxes`, one or more boxes of the thing that was asked for. The answer is a list of boxes as well; its first one
counts, against the truth it fits best (phrase grounding's "any box"; with one true box, RefCOCO's protocol). Areas
are continuous: no pixel is added to a side. A box whose corners are swapped or coincide covers nothing.
"""

from collections.abc import Sequence

import numpy as np

from vlmtune.boxes import Box
from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._ngram_counts import per_row, ratio

_NOTHING = (0.0, 0.0, 0.0, 0.0)


def iou(a: Stats, b: Stats) -> Stats:
    """Intersection over union of boxes [..., 4] and [..., 4]; 0 where either covers nothing or is not finite."""
    finite = np.isfinite(a).all(axis=-1, keepdims=True) & np.isfinite(b).all(axis=-1, keepdims=True)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    valid = (a[..., :2] < a[..., 2:]).all(axis=-1) & (b[..., :2] < b[..., 2:]).all(axis=-1)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.where(valid, np.maximum(sides, 0).prod(axis=-1), 0.0)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    union = np.where(valid, areas - shared, 0.0)
    return shared / np.where(union > 0, union, 1.0)  # the area of a tiny box rounds to 0


def _best(answers: Sequence[Sequence[Box] | None], truths: Sequence[Sequence[Box]]) -> Stats:
    """IoU of each row's first box with the true box it fits best [N]."""
    each = [len(boxes) for _, boxes in zip(answers, truths, strict=True)]
    row_index = np.repeat(np.arange(len(truths)), np.array(each, dtype=np.int64))
    first = np.array([answer[0] if answer else _NOTHING for answer in answers], dtype=np.float64).reshape(-1, 4)
    true = np.array([box for boxes in truths for box in boxes], dtype=np.float64).reshape(-1, 4)
    best = np.zeros(len(truths))
    np.maximum.at(best, row_index, iou(first[row_index], true))
    return best


def _measure_acc_at_05(answers: Sequence[Sequence[Box] | None], truths: Sequence[Sequence[Box]]) -> Stats:
    return per_row((_best(answers, truths) >= 0.5).astype(np.float64))


acc_at_05 = Metric(
    name="acc_at_05",
    measure=_measure_acc_at_05,
    summarise=ratio,
    signature="first box|any true box|IoU >= 0.5|continuous",
    truth="boxes",
    binary=True,
)
"""Acc@0.5: share of rows whose box has an IoU of at least 0.5."""

mean_iou = Metric(
    name="mean_iou",
    measure=lambda answers, truths: per_row(_best(answers, truths)),
    summarise=ratio,
    signature="first box|any true box|continuous",
    truth="boxes",
)
"""Mean IoU over rows."""
