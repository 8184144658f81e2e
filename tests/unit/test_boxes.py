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

from vlmtune.boxes import NORM1000, are_boxes, is_box, label_key, labelled, read_boxes, rescale, unit_scale, xyxy
from vlmtune.errors import DataError
from vlmtune.metrics import acc_at_05, f1_at_05, mean_iou
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


TRUE = [[0, 0, 10, 10], [20, 20, 30, 30]]


@pytest.mark.parametrize(
    ("answer", "overlap", "right", "counts"),
    [
        ([[20, 20, 30, 30], [0, 0, 10, 10]], 1, 1, [2, 0, 0]),
        ([[20, 20, 30, 30]], 0.5, 0, [1, 0, 1]),
        ([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], 2 / 3, 0, [2, 1, 0]),
        ([[0, 0, 10, 10], [0, 0, 10, 10]], 0.5, 0, [1, 1, 1]),
        ([[0, 0, 10, 4], [20, 20, 30, 30]], 0.7, 0, [1, 1, 1]),
        ([], 0, 0, [0, 0, 2]),
        (None, 0, 0, [0, 0, 2]),
    ],
    ids=str,
)
def test_several_boxes_are_matched_one_to_one(answer: Any, overlap: float, right: float, counts: list[float]) -> None:
    """Counts are boxes found, invented and missed. A box without a partner has an IoU of 0, on either side."""
    assert values(mean_iou, [answer], [TRUE]) == pytest.approx([overlap])
    assert values(acc_at_05, [answer], [TRUE]) == [right]
    assert f1_at_05.measure([answer], [TRUE]).tolist() == [counts]


def test_the_pair_that_overlaps_most_is_matched_first() -> None:
    """In the order of the answer, the first box would take the second true box, and leave the second nothing."""
    true = [[0, 0, 10, 10], [0, 5, 10, 15]]
    answer = [[0, 4, 10, 14], [0, 5, 10, 15]]
    assert values(mean_iou, [answer], [true]) == pytest.approx([(1 + 6 / 14) / 2])


def test_f1_counts_the_boxes_of_all_rows() -> None:
    answers = [[[0, 0, 10, 10]], [[0, 0, 10, 10]] * 3, None]
    truths = [TRUE, [[0, 0, 10, 10]], [[0, 0, 10, 10]]]
    assert score(f1_at_05, answers, truths) == pytest.approx(2 * 2 / (2 * 2 + 2 + 2))


def test_labels_are_compared_where_both_boxes_have_one() -> None:
    box = [0, 0, 10, 10]
    true = [{"box": box, "label": "Traffic light"}]
    same = [[box], [{"box": box, "label": "traffic_light"}], [{"box": box, "label": "traffic light", "score": 0.2}]]
    other = [{"box": box, "label": "car"}]
    assert values(mean_iou, [*same, other], [true] * 4) == [1, 1, 1, 0]
    assert values(acc_at_05, [other], [[box]]) == [1], "data without classes"
    assert f1_at_05.measure([other], [true]).tolist() == [[0, 1, 1]]


def test_an_image_without_objects_asks_for_no_box() -> None:
    answers = [[], [[0, 0, 1, 1]], None]
    for metric in (mean_iou, acc_at_05):
        assert values(metric, answers, [[]] * 3) == [1, 0, 0]
    assert f1_at_05.measure(answers, [[]] * 3).tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert score(f1_at_05, [[]], [[]]) == 1


@settings(deadline=None)
@given(BOX, BOX)
def test_one_box_each_is_refcoco(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    boxes = [[min(x, u), min(y, v), max(x, u), max(y, v)] for x, y, u, v in (a, b)]
    overlap = float(iou(np.array(boxes[0], dtype=float), np.array(boxes[1], dtype=float)))
    assert score(mean_iou, [[boxes[0]]], [[boxes[1]]]) == overlap
    assert score(acc_at_05, [[boxes[0]]], [[boxes[1]]]) == score(f1_at_05, [[boxes[0]]], [[boxes[1]]])


def test_conversions_do_not_cost_a_box_its_half() -> None:
    """An IoU of exactly 1/2 in pixels of 700 x 300, after both boxes were written from 0 to 1000."""
    boxes = [rescale(box, (700, 300), NORM1000) for box in ([33, 41, 66, 101], [33, 41, 66, 71])]
    assert score(acc_at_05, [boxes[:1]], [boxes[1:]]) == 1


@pytest.mark.parametrize(
    ("value", "labels", "expected"),
    [
        ([1, 2, 3, 4], None, [([1, 2, 3, 4], None)]),
        ([1, 2, 3, 4], "cat", [([1, 2, 3, 4], "cat")]),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], [" cat", "dog"], [([1, 2, 3, 4], "cat"), ([5, 6, 7, 8], "dog")]),
        ([], None, []),
        ([{"bbox": [1, 2, 3, 4], "label": "cat"}], None, [([1, 2, 3, 4], "cat")]),
        ([{"box": [1, 2, 3, 4], "category": "cat"}], None, [([1, 2, 3, 4], "cat")]),
        ({"bbox": [[1, 2, 3, 4]], "category": ["cat"]}, None, [([1, 2, 3, 4], "cat")]),
        ({"bbox": [], "category": []}, None, []),
        ({"bbox_2d": [1, 2, 3, 4]}, None, [([1, 2, 3, 4], None)]),
    ],
    ids=str,
)
def test_boxes_of_a_dataset(value: Any, labels: Any, expected: list[Any]) -> None:
    assert [(one.box, one.label) for one in read_boxes(value, labels)] == expected


@pytest.mark.parametrize(
    ("value", "labels", "message"),
    [
        (None, None, "needs a box of four numbers"),
        ([1, 2, 3], None, "needs a box of four numbers"),
        ([[1, 2, 3, 4], None], None, "needs a box of four numbers"),
        ({"x": 1}, None, "needs a box of four numbers"),
        ([[1, 2, 3, 4]], ["a", "b"], "needs a label for each of its 1 boxes"),
        ([[1, 2, 3, 4]], [3], "needs labels that are texts, the names of the classes .got 3"),
        ({"bbox": [[1, 2, 3, 4]], "category": [3]}, None, "needs labels that are texts"),
    ],
    ids=str,
)
def test_boxes_that_are_none_are_refused(value: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_boxes(value, labels)


def test_a_bad_truth_of_a_prediction_file_is_named() -> None:
    with pytest.raises(DataError, match="'boxes' of row 2 needs a box of four numbers"):
        f1_at_05.measure([None, None], [[[1, 2, 3, 4]], [[1, 2, 3]]])


def test_labels_that_read_the_same_are_equal() -> None:
    assert label_key("Traffic_Light ") == label_key("traffic-light") == label_key("\uff34raffic light")
    assert label_key("+") != label_key("-")
    assert labelled({"box": [1, 2, 3, 4], "label": "cat"}).plain() == {"box": [1, 2, 3, 4], "label": "cat"}
    assert labelled([1, 2, 3, 4]).plain() == [1, 2, 3, 4]


def test_boxes_that_were_read_already_stay_as_they_are() -> None:
    (one,) = read_boxes([{"box": [1, 2, 3, 4], "label": "cat"}])
    assert read_boxes([one]) == [one]
