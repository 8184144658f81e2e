"""Where in an image the thing is that a phrase names: a box in Qwen3-VL's JSON, 0 to 1000 of width and height."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vlmtune.errors import DataError
from vlmtune.images import size_of
from vlmtune.metrics.boxes import acc_at_05, mean_iou
from vlmtune.tasks import Task
from vlmtune.tasks._parsing import json_value
from vlmtune.tasks._prompts import QuestionConfig, conversation
from vlmtune.types import Conversation, Example, Unparsed

Box = list[float]


class Config(QuestionConfig):
    """Grounding."""

    name: str = "grounding"
    """The task."""

    prompt: str = "Locate the {question} and report its bounding box coordinates in JSON format."
    """What the model is asked, behind the image; {question} is the row's phrase."""

    unit: Literal["pixels", "norm1000", "unit"] = "pixels"
    """Unit of the boxes in the data: pixels of the image, thousandths of its sides, or shares of them."""

    corners: Literal["xyxy", "xywh"] = "xyxy"
    """What a box's numbers are: two corners, or a corner, width and height."""


def ask(config: Config, example: Example) -> Conversation:
    """The image and the phrase, or the row's own conversation."""
    return conversation(config, example, config.prompt)


def teach(config: Config, example: Example) -> str:
    """The row's boxes as the model writes them."""
    found = [
        {"bbox_2d": [round(value) for value in box], "label": example.question or "object"}
        for box in _boxes(config, example)
    ]
    return json.dumps(found)


def read(config: Config, text: str) -> list[Box] | Unparsed:
    """Boxes [x1, y1, x2, y2] of an answer: under `bbox_2d`, `bbox` or `box`, or four numbers in brackets."""
    value = json_value(text)
    boxes = [] if isinstance(value, Unparsed) else _in(value)
    if not boxes:
        found = re.findall(r"[\[(]\s*" + r"\s*,\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*[\])]", text)
        boxes = [[float(number) for number in four] for four in found]
    return boxes or Unparsed("no box in the answer")


def _in(value: Any) -> list[Box]:
    """Boxes in a JSON value: a box itself, an object with one, or a list of either."""
    if _is_box(value):
        return [[float(number) for number in value]]
    if isinstance(value, Mapping):
        named = next((value[key] for key in ("bbox_2d", "bbox", "box") if key in value), None)
        return _in(named) if named is not None else []
    return [box for item in value for box in _in(item)] if isinstance(value, list) else []


def _is_box(value: Any) -> bool:
    numbers = isinstance(value, list | tuple) and len(value) == 4
    return numbers and all(isinstance(n, int | float) and not isinstance(n, bool) for n in value)


def truth(config: Config, example: Example) -> Mapping[str, Any]:
    """The row's boxes, on the model's scale."""
    return {**example.truth, "boxes": _boxes(config, example)}


def _boxes(config: Config, example: Example) -> list[Box]:
    given: Sequence[Any] = example.truth.get("boxes") or []
    boxes = [given] if _is_box(given) else given
    if not boxes or not all(_is_box(box) for box in boxes):
        raise DataError(
            f"{example.id}: needs a box of four numbers, or a list of such boxes (got {given!r:.80}); set dataset.boxes"
        )
    width, height = _sides(config, example)
    return [_scaled(box, config.corners, width, height) for box in boxes]


def _sides(config: Config, example: Example) -> tuple[float, float]:
    """Width and height of the image in the boxes' unit."""
    if config.unit == "pixels":
        if not example.images:
            raise DataError(f"{example.id}: boxes in pixels need an image")
        return size_of(example.images[0])
    return (1000, 1000) if config.unit == "norm1000" else (1, 1)


def _scaled(box: Sequence[float], corners: str, width: float, height: float) -> Box:
    x, y, right, bottom = box
    if corners == "xywh":
        right, bottom = x + right, y + bottom
    return [1000 * x / width, 1000 * y / height, 1000 * right / width, 1000 * bottom / height]


TASK = Task(ask=ask, teach=teach, read=read, metrics=(acc_at_05, mean_iou), truth=truth)
