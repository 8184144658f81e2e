"""Boxes around what a phrase names or around all objects of some classes, in the JSON that Qwen-VL models write."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlmtune.boxes import NORM1000, Box, Corners, LabelledBox, Unit, labelled, read_boxes, rescale, unit_scale, xyxy
from vlmtune.errors import DataError
from vlmtune.images import size_of
from vlmtune.metrics import Metric
from vlmtune.metrics.boxes import acc_at_05, coco_map, f1_at_05, mean_iou
from vlmtune.tasks import BOX_SCALE, Task
from vlmtune.tasks._box_forms import find_boxes
from vlmtune.tasks._prompts import PromptConfig, prompt
from vlmtune.types import Example, Unparsed


class Config(PromptConfig):
    """Grounding and detection."""

    name: str = "grounding"
    """The task."""

    prompt: str = "Locate the {question} and report its bounding box coordinates in JSON format."
    """What the model is asked, after the image; {question} is the row's phrase. A prompt that names the classes to
    detect needs none."""

    unit: Unit = "pixels"
    """Unit of the boxes in the data: pixels of the image, thousandths of its sides, or fractions of them."""

    corners: Corners = "xyxy"
    """The numbers of a box: two corners, or the upper left corner with width and height."""


def target(config: Config, example: Example) -> str:
    """The row's boxes as the model writes them, on its own scale and rounded; each with its label, else the phrase."""
    scale, name = example.box_scale or NORM1000, example.question or "object"
    return json.dumps(
        [
            {"bbox_2d": [round(number) for number in rescale(one.box, NORM1000, scale)], "label": one.label or name}
            for one in _boxes(config, example)
        ],
        ensure_ascii=False,
    )


def parse(config: Config, text: str) -> list[LabelledBox] | Unparsed:
    """Boxes as written in an answer, in any form that is unambiguous; see `_box_forms`."""
    return find_boxes(text)


def truth(config: Config, example: Example) -> Mapping[str, Any]:
    """The row's boxes, from 0 to 1000, with their labels, and the scale of boxes in answers where it is another."""
    given = {key: value for key, value in example.truth.items() if key != "box_labels"}
    scale = {} if example.box_scale is None else {BOX_SCALE: list(example.box_scale)}
    return {**given, "boxes": [one.plain() for one in _boxes(config, example)], **scale}


def with_boxes(config: Config, example: Example, boxes: Sequence[Box]) -> Example:
    """The example with other boxes for the same labels, from 0 to 1000."""
    size = size_of(example.images[0]) if example.images and config.unit == "pixels" else None
    moved = []
    for one, box in zip(_boxes(config, example), boxes, strict=True):
        x1, y1, x2, y2 = rescale(box, NORM1000, unit_scale(config.unit, size))
        moved.append(one._replace(box=[x1, y1, x2 - x1, y2 - y1] if config.corners == "xywh" else [x1, y1, x2, y2]))
    truth = {key: value for key, value in example.truth.items() if key != "box_labels"}
    return replace(example, truth={**truth, "boxes": moved})


def suited(truths: Sequence[Mapping[str, Any]]) -> Sequence[Metric]:
    """Acc@0.5 where every row has one box of no class, as RefCOCO's have; else F1@0.5, and COCO's mAP beside it."""
    boxes = [truth.get("boxes") for truth in truths]
    if all(isinstance(row, list) and len(row) == 1 and labelled(row[0]).label is None for row in boxes):
        return (acc_at_05, mean_iou)
    return (f1_at_05, coco_map, mean_iou, acc_at_05)


def _boxes(config: Config, example: Example) -> list[LabelledBox]:
    """The row's boxes, from 0 to 1000."""
    try:
        boxes = read_boxes(example.truth.get("boxes"), example.truth.get("box_labels"))
        has_label = [one.label is not None for one in boxes]
        if any(has_label) and not all(has_label):
            raise ValueError("has boxes with and without a label; label all of them or none")
        size = size_of(example.images[0]) if example.images and config.unit == "pixels" else None
        scale = unit_scale(config.unit, size)
    except ValueError as error:
        raise DataError(f"{example.id}: {error}; see dataset.boxes and dataset.box_labels") from None
    return [one._replace(box=rescale(xyxy(one.box, config.corners), scale, NORM1000)) for one in boxes]


TASK = Task(
    prompt=prompt,
    target=target,
    parse=parse,
    metrics=(acc_at_05, mean_iou, f1_at_05, coco_map),
    truth=truth,
    suited=suited,
    with_boxes=with_boxes,
    boxes=True,
)
