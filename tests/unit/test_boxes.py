"""Boxes keep their place from one convention to another; IoU equals torchvision's box_iou, and is 0 without an area."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import SAME_BOX
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_vectors import VECTORS, score, values
from torchvision.ops import box_iou

from vlmtune.boxes import NORM1000, are_boxes, is_box, rescale, unit_scale, xyxy
from vlmtune.metrics import acc_at_05, mean_iou
from vlmtune.metrics.boxes import iou

CORNER = st.one_of(st.integers(0, 1000), st.floats(0, 1000, allow_nan=False))
BOX = st.tuples(CORNER, CORNER, CORNER, CORNER)
CASES = VECTORS["grounding_iou"]["vectors"]


SIDE = st.integers(1, 10_000)


@given(BOX, st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE))
def test_a_box_comes_back_from_another_scale(
    box: tuple[float, ...], one: tuple[int, int], other: tuple[int, int]
) -> None:
    assert rescale(rescale(box, one, other), other, one) == pytest.approx(list(box), rel=1e-12)
    assert rescale(box, one, one) == list(box)


@pytest.mark.parametrize(("unit", "corners", "box"), SAME_BOX)
def test_every_unit_and_corner_is_the_same_box(unit: Any, corners: Any, box: list[float]) -> None:
    scale = unit_scale(unit, (200, 100))
    assert rescale(xyxy(box, corners), scale, NORM1000) == pytest.approx([100, 100, 300, 900])
    assert rescale(xyxy(box, corners), scale, (280, 140)) == pytest.approx([28, 14, 84, 126])


@pytest.mark.parametrize(
    ("value", "box", "boxes"),
    [
        ([1, 2.5, 3, 4], True, False),
        ((1, 2, 3, 4), True, False),
        ([[1, 2, 3, 4]], False, True),
        ([1, 2, 3], False, False),
        ([1, 2, 3, True], False, False),
        ([1, 2, 3, "4"], False, False),
        ([[1, 2, 3, 4], [1, 2, 3]], False, False),
        ([], False, False),
        (None, False, False),
        ({"bbox_2d": [1, 2, 3, 4]}, False, False),
    ],
)
def test_four_numbers_are_a_box(value: Any, box: bool, boxes: bool) -> None:
    assert (is_box(value), are_boxes(value)) == (box, boxes)


def test_pixels_need_an_image() -> None:
    assert unit_scale("unit", None) == (1, 1)
    with pytest.raises(ValueError, match="need an image"):
        unit_scale("pixels", None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"])
def test_official_values(case: dict[str, Any]) -> None:
    """`torchvision`, and 0 where it divides 0 by 0. The variants that add a pixel to a side or compare pixel sets are
    other definitions."""
    assert score(mean_iou, [[case["pred"]]], [[case["gt"]]]) == pytest.approx(case["torchvision"] or 0, abs=1e-12)
    assert score(acc_at_05, [[case["pred"]]], [[case["gt"]]]) == case["acc_at_0.5"]


@settings(deadline=None)
@given(BOX, BOX)
def test_torchvision_agrees(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    boxes = [(min(x, u), min(y, v), max(x, u), max(y, v)) for x, y, u, v in (a, b)]
    ours = float(iou(np.array(boxes[0], dtype=float), np.array(boxes[1], dtype=float)))
    official = float(box_iou(*(torch.tensor([box], dtype=torch.float64) for box in boxes)))
    assert ours == pytest.approx(0 if np.isnan(official) else official, abs=1e-9)


@pytest.mark.parametrize(
    "box",
    [[10, 10, 0, 0], [10, 0, 0, 10], [5, 0, 5, 10], [5, 5, 5, 5], [0, 0, float("nan"), 9], [0, 0, float("inf"), 9]],
    ids=str,
)
def test_a_box_that_covers_nothing_meets_nothing(box: list[float]) -> None:
    for other in (box, [0, 0, 10, 10]):
        assert values(mean_iou, [[box], [other]], [[other], [box]]) == [0, 0]


def test_half_is_enough_and_a_little_less_is_not() -> None:
    true = [[0, 0, 1000, 1000]]
    assert values(acc_at_05, [[[0, 0, 1000, 500]], [[0, 0, 1000, 499]]], [true, true]) == [1, 0]


def test_the_first_box_counts_against_the_true_box_it_fits_best() -> None:
    true = [[0, 0, 10, 10], [20, 20, 30, 30]]
    answers = [[[20, 20, 30, 30], [0, 0, 10, 10]], [[90, 90, 99, 99], [0, 0, 10, 10]], [], None]
    assert values(mean_iou, answers, [true] * 4) == [1, 0, 0, 0]
    assert score(acc_at_05, answers, [true] * 4) == 0.25
