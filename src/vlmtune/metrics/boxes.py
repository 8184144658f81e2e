"""Overlap of boxes [x1, y1, x2, y2], from 0 to 1000 of the image's width and height.

Truth: `boxes`, a list of boxes, or of {"box": box, "label": text} where the data has classes; an empty list is an image
without objects. The answer is such a list as well, and its objects may have a "score", the model's confidence.

Answered and true boxes are matched one to one, greedily by IoU: the pair that overlaps most comes first, then the best
pair of what is left. Labels are compared where both boxes have one. Areas are continuous: no pixel is added to a side.
A box whose corners are swapped or coincide covers nothing.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmtune.boxes import LabelledBox, label_key, labelled, read_boxes
from vlmtune.errors import DataError
from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._average_precision import RowOfClass, linearised_map
from vlmtune.metrics._ngram_counts import per_row, ratio

Boxes = Sequence[Any]
"""Boxes or objects with a box, see above."""

_ROUNDING = 1e-9
"""Boxes that were converted between scales may miss an IoU of 1/2 by the rounding of their numbers."""

MOST_DETECTIONS = 100
"""Answered boxes of one image and class that count in COCO's mAP."""


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


def _read(answers: Sequence[Boxes | None]) -> list[list[LabelledBox]]:
    return [[labelled(box) for box in row or ()] for row in answers]


def _read_truths(truths: Sequence[Boxes]) -> list[list[LabelledBox]]:
    """True boxes, which may come from files that other tools wrote."""
    rows = []
    for number, row in enumerate(truths, start=1):
        try:
            rows.append(read_boxes(row))
        except ValueError as error:
            raise DataError(f"'boxes' of row {number} {error}") from None
    return rows


def _overlaps(answers: Sequence[Sequence[LabelledBox]], truths: Sequence[Sequence[LabelledBox]]) -> list[Stats]:
    """IoU of the answered and the true boxes of each row [A, G]; all rows at once, as most have few boxes."""
    pairs = [(one.box, true.box) for row, own in zip(answers, truths, strict=True) for one in row for true in own]
    flat = np.array(pairs, dtype=np.float64).reshape(-1, 2, 4)
    shapes = [(len(row), len(own)) for row, own in zip(answers, truths, strict=True)]
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    each = iou(flat[:, 0], flat[:, 1])
    return [part.reshape(shape) for part, shape in zip(np.split(each, ends), shapes, strict=True)]


def _same_label(answers: Sequence[LabelledBox], truths: Sequence[LabelledBox]) -> Stats:
    """1 where an answered and a true box [A, G] may be the same object, 0 where their labels differ."""
    names = [[None if box.label is None else label_key(box.label) for box in boxes] for boxes in (answers, truths)]
    same = [[None in (one, other) or one == other for other in names[1]] for one in names[0]]
    return np.array(same, dtype=np.float64).reshape(len(answers), len(truths))


def _greedy(overlaps: Stats) -> list[float]:
    """IoUs of the matched pairs of one row [A, G], the largest first; of equal ones, the first in the answer."""
    left, found = overlaps.copy(), []
    while left.size and (best := float(left.max())) > 0:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        left[row], left[:, column] = 0.0, 0.0
        found.append(best)
    return found


def _matched(answers: Sequence[Boxes | None], truths: Sequence[Boxes]) -> list[tuple[list[float], int, int]]:
    """Of each row: the IoUs of matched pairs, and the numbers of answered and of true boxes."""
    given, true = _read(answers), _read_truths(truths)
    overlaps = _overlaps(given, true)
    rows = zip(given, true, overlaps, strict=True)
    return [(_greedy(shared * _same_label(row, own)), len(row), len(own)) for row, own, shared in rows]


def _counts(answers: Sequence[Boxes | None], truths: Sequence[Boxes]) -> Stats:
    """Boxes found at an IoU of 1/2, invented and missed [N, 3]."""
    rows = []
    for answer, (overlaps, given, true) in zip(answers, _matched(answers, truths), strict=True):
        found = sum(overlap >= 0.5 - _ROUNDING for overlap in overlaps)
        # An unreadable answer is never right, not even where there is nothing to find.
        rows.append((found, 1 if answer is None and not true else given - found, true - found))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _f1(sums: Stats) -> Stats:
    found, wrong = sums[..., 0], sums[..., 1] + sums[..., 2]
    return np.where(found + wrong > 0, found / np.where(found + wrong > 0, found + wrong / 2, 1), 1.0)


def _measure_acc_at_05(answers: Sequence[Boxes | None], truths: Sequence[Boxes]) -> Stats:
    counts = _counts(answers, truths)
    return per_row((counts[:, 1:].sum(axis=1) == 0).astype(np.float64))


def _measure_mean_iou(answers: Sequence[Boxes | None], truths: Sequence[Boxes]) -> Stats:
    rows = zip(answers, _matched(answers, truths), strict=True)
    return per_row(
        sum(overlaps) / max(given, true) if given or true else float(answer is not None)
        for answer, (overlaps, given, true) in rows
    )


def _uncounted(answers: Sequence[Boxes | None], truths: Sequence[Boxes]) -> str | None:
    """Boxes that COCO's mAP leaves out although they may be right."""
    crowded = unnamed = 0
    for row, own in zip(_read(answers), _read_truths(truths), strict=True):
        names = Counter(box.label and label_key(box.label) for box in row)
        crowded += max(names.values(), default=0) > MOST_DETECTIONS
        several = len({box.label and label_key(box.label) for box in own}) > 1
        unnamed += names[None] if several else 0
    reasons = []
    if crowded:
        reasons.append(
            f"{crowded} answers have more than {MOST_DETECTIONS} boxes of a class, of which only {MOST_DETECTIONS} "
            "count, as in pycocotools"
        )
    if unnamed:
        reasons.append(
            f"{unnamed} answered boxes have no label where their row has several classes; they count for none, "
            "while f1_at_05 accepts them for any"
        )
    return "; ".join(reasons) or None


def _measure_coco_map(answers: Sequence[Boxes | None], truths: Sequence[Boxes]) -> Stats:
    """Stats [N, 2], linearised; every row split into its classes first."""
    given, true = _read(answers), _read_truths(truths)
    has_classes = any(box.label is not None for row in true for box in row)
    parts = []
    for n, (row, own) in enumerate(zip(given, true, strict=True)):
        names = [None if box.label is None else label_key(box.label) for box in own]
        only = names[0] if len(set(names)) == 1 else None
        classes: dict[str | None, tuple[list[LabelledBox], list[LabelledBox]]] = {}
        for name, box in zip(names, own, strict=True):
            classes.setdefault(name, ([], []))[1].append(box)
        for box in row:
            # Where the data has no classes, a label that the model adds is no class either.
            name = only if box.label is None or not has_classes else label_key(box.label)
            classes.setdefault(name, ([], []))[0].append(box)
        for name, (boxes, targets) in classes.items():
            ranked = sorted(boxes, key=lambda box: -(1.0 if box.score is None else box.score))[:MOST_DETECTIONS]
            scores = [1.0 if box.score is None else box.score for box in ranked]
            (overlaps,) = _overlaps([ranked], [targets])
            parts.append(RowOfClass(n, name or "", np.array(scores), overlaps))
    return per_row(linearised_map(parts, len(given)))


_MATCHING = "greedy 1:1 by IoU|labels where both have them|continuous"

acc_at_05 = Metric(
    name="acc_at_05",
    measure=_measure_acc_at_05,
    summarise=ratio,
    signature=f"all boxes of the row and no other, IoU >= 0.5|{_MATCHING}",
    truth="boxes",
    binary=True,
    allows_empty=True,
)
"""Acc@0.5: share of rows in which every true box is found with an IoU of at least 0.5, and no other box is answered.

With one true box and one answered box it is RefCOCO's accuracy; with any number of boxes, GREC's precision at F1 = 1
(He et al. 2023)."""

f1_at_05 = Metric(
    name="f1_at_05",
    measure=_counts,
    summarise=_f1,
    signature=f"micro|IoU >= 0.5|{_MATCHING}",
    truth="boxes",
    allows_empty=True,
)
"""F1@0.5: over the boxes of all rows, a box being found where its IoU is at least 0.5. With nothing to find and nothing
answered it is 1."""

mean_iou = Metric(
    name="mean_iou",
    measure=_measure_mean_iou,
    summarise=ratio,
    signature=f"mean over rows of the row's mean, 0 for a box without a partner|{_MATCHING}",
    truth="boxes",
    allows_empty=True,
    bounded=True,
)
"""Mean IoU: a row's is that of its matched pairs, summed and divided by the number of true or of answered boxes,
whichever is larger. With one box each, it is their IoU."""

coco_map = Metric(
    name="coco_map",
    measure=_measure_coco_map,
    summarise=ratio,
    signature=(
        "COCO AP@[.50:.95]|101 recalls|all areas|maxDets 100|mean over the classes of the truth|"
        "rank: score of the answer, 1 without one; equal ones in the order of the rows and of the answer"
    ),
    truth="boxes",
    allows_empty=True,
    linearised=True,
    caveat=_uncounted,
)
"""COCO's mean average precision, as pycocotools computes it.

Language models give no confidence, so all boxes usually rank equally and stand in the order of the file, as in
pycocotools: compare it only between files of the same rows in the same order. A box without a label counts for the
class of its row where the row has only one. Of more than 100 boxes of a class in an image, 100 count, so that even
references with more do not reach 1."""
