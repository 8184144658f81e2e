"""Boxes around what a phrase names, as JSON the way the Qwen-VL models write it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from vlmtune.boxes import NORM1000, Corners, Unit, are_boxes, is_box, rescale, unit_scale, xyxy
from vlmtune.errors import DataError
from vlmtune.images import size_of
from vlmtune.metrics.boxes import acc_at_05, mean_iou
from vlmtune.tasks import BOX_SCALE, Task
from vlmtune.tasks._parsing import json_value
from vlmtune.tasks._prompts import QuestionConfig, ask
from vlmtune.types import Example, Unparsed


class Config(QuestionConfig):
    """Grounding."""

    name: str = "grounding"
    """The task."""

    prompt: str = "Locate the {question} and report its bounding box coordinates in JSON format."
    """What the model is asked, after the image; {question} is the row's phrase."""

    unit: Unit = "pixels"
    """Unit of the boxes in the data: pixels of the image, thousandths of its sides, or fractions of them."""

    corners: Corners = "xyxy"
    """The numbers of a box: two corners, or the upper left corner with width and height."""


def target(config: Config, example: Example) -> str:
    """The row's boxes as the model writes them, on its own scale and rounded."""
    boxes = [rescale(box, NORM1000, example.box_scale or NORM1000) for box in _boxes(config, example)]
    label = example.question or "object"
    return json.dumps([{"bbox_2d": [round(number) for number in box], "label": label} for box in boxes])


def parse(config: Config, text: str) -> list[list[float]] | Unparsed:
    """Boxes as written in an answer: under `bbox_2d`, `bbox` or `box`, or any four numbers in brackets."""
    value = json_value(text)
    boxes = [] if isinstance(value, Unparsed) else _in(value)
    if not boxes:
        quadruples = re.findall(r"[\[(]\s*" + r"\s*,\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*[\])]", text)
        boxes = [[float(number) for number in four] for four in quadruples]
    return boxes or Unparsed("no box in the answer")


def _in(value: Any) -> list[list[float]]:
    """Boxes in a JSON value: a box itself, an object with one, or a list of either."""
    if is_box(value):
        return [[float(number) for number in value]]
    if isinstance(value, Mapping):
        named = next((value[key] for key in ("bbox_2d", "bbox", "box") if key in value), None)
        return _in(named) if named is not None else []
    return [box for item in value for box in _in(item)] if isinstance(value, list) else []


def truth(config: Config, example: Example) -> Mapping[str, Any]:
    """The row's boxes, from 0 to 1000, and the scale of boxes in answers where it is another."""
    scale = {} if example.box_scale is None else {BOX_SCALE: list(example.box_scale)}
    return {**example.truth, "boxes": _boxes(config, example), **scale}


def _boxes(config: Config, example: Example) -> list[list[float]]:
    """The row's boxes, from 0 to 1000."""
    given = example.truth.get("boxes") or []
    boxes = [given] if is_box(given) else given
    if not are_boxes(boxes):
        raise DataError(
            f"{example.id}: needs a box of four numbers, or a list of such boxes (got {given!r:.80}); set dataset.boxes"
        )
    size = size_of(example.images[0]) if example.images and config.unit == "pixels" else None
    try:
        scale = unit_scale(config.unit, size)
    except ValueError as error:
        raise DataError(f"{example.id}: {error}") from None
    return [rescale(xyxy(box, config.corners), scale, NORM1000) for box in boxes]


TASK = Task(ask=ask, target=target, parse=parse, metrics=(acc_at_05, mean_iou), truth=truth, boxes=True)
