"""COCO's average precision, and the influence of each row on its mean over classes.

The definition is that of pycocotools (COCOeval, bounding boxes, all areas): in the order of their confidence, answered
boxes take the free true box that they overlap most, at ten thresholds of the IoU; precision is read off at 101 recalls.

Letters: N rows, D answered boxes of a class, G true boxes, T thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.metrics import Stats

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class RowOfClass:
    """Boxes of one class in one row: confidences [D], descending, and IoUs with the row's true boxes [D, G]."""

    row: int
    name: str
    scores: Stats
    overlaps: Stats


def linearised_map(parts: Sequence[RowOfClass], rows: int) -> Stats:
    """Values [N] of the rows, whose mean is the mean average precision and whose spread gives its standard error.

    A row's value is mAP + N * its influence, the derivative of mAP by the row's weight (infinitesimal jackknife,
    Jaeckel 1972): the mean of the values over a resample is mAP there, to first order.

    Args:
        parts: boxes by row and class, in the order of the rows.
        rows: N.
    """
    classes: dict[str, list[RowOfClass]] = {}
    for part in parts:
        classes.setdefault(part.name, []).append(part)
    known = [own for own in classes.values() if any(part.overlaps.shape[1] for part in own)]
    if not known:
        return np.full(rows, float(not parts))
    score, influence = 0.0, np.zeros(rows)
    for own in known:
        precision, per_row = _class(own)
        score += precision
        influence[[part.row for part in own]] += per_row
    return (score + rows * influence) / len(known)


def _class(parts: Sequence[RowOfClass]) -> tuple[float, Stats]:
    """AP of a class, and the influence of each of its rows."""
    true = np.array([part.overlaps.shape[1] for part in parts])
    order = np.argsort(-np.concatenate([part.scores for part in parts]), kind="stable")
    owner = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])[order]
    hits = np.concatenate([_hits(part.overlaps) for part in parts], axis=1)[:, order]
    score, influence = 0.0, np.zeros(len(parts))
    for hit in hits:
        precision, area, per_box = _curve(hit, int(true.sum()))
        score += precision
        influence += (np.bincount(owner, per_box, len(parts)) - area * true) / true.sum()
    return score / len(hits), influence / len(hits)


def _hits(overlaps: Stats) -> NDArray[np.bool_]:
    """Whether each answered box of a row finds a true one [T, D]; of equal overlaps the last one counts."""
    free = np.ones((len(THRESHOLDS), overlaps.shape[1]), dtype=bool)
    hits = np.zeros((len(THRESHOLDS), len(overlaps)), dtype=bool)
    if not overlaps.size:
        return hits
    at = np.arange(len(THRESHOLDS))
    for n, overlap in enumerate(overlaps):
        fitting = np.where(free & (overlap >= THRESHOLDS[:, None]), overlap, -1.0)
        best = overlaps.shape[1] - 1 - fitting[:, ::-1].argmax(axis=1)
        hits[:, n] = fitting[at, best] >= 0
        free[at[hits[:, n]], best[hits[:, n]]] = False
    return hits


def _curve(hit: NDArray[np.bool_], true: int) -> tuple[float, float, Stats]:
    """Average precision at one threshold: at 101 recalls, as the area under the curve, and the area's derivatives.

    The area is the sum of `best` over the boxes that are right, divided by the true boxes; `best` is the largest
    precision from a box on. A further box before the place of such a maximum changes it.

    Args:
        hit: whether each box is right [D], most confident first.
        true: number of true boxes.

    Returns:
        Both, and the derivative of that sum by the weight of each box [D].
    """
    at = np.flatnonzero(hit)
    if not len(at):
        return 0.0, 0.0, np.zeros(len(hit))
    precision = np.arange(1, len(at) + 1) / (at + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    needed = np.searchsorted(np.arange(true + 1) / true, RECALLS)
    reached = needed <= len(at)
    score = float(best[np.maximum(needed[reached] - 1, 0)].sum()) / len(RECALLS)
    place = np.where(precision == best, np.arange(len(at)), len(at))
    place = at[np.minimum.accumulate(place[::-1])[::-1]]
    by_hit = np.bincount(place, 1 / (place + 1), len(hit))[::-1].cumsum()[::-1]
    by_any = np.bincount(place, best / (place + 1), len(hit))[::-1].cumsum()[::-1]
    derivative = np.where(hit, by_hit, 0.0) - by_any
    derivative[at] += best
    return score, float(best.sum()) / true, derivative
