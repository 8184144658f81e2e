"""Bounding boxes: their units, their corners, and the scale on which a model writes them.

Tasks, metrics and reports know one box: [x1, y1, x2, y2], each from 0 to 1000 of the image's width or height. Datasets
and model families have conventions of their own and are converted at the border, in both directions:

    dataset (`task.unit`, `task.corners`)  <->  0 to 1000  <->  text of the model (`Family.boxes`)

For example, an image of 200 x 100 pixels that Qwen2.5-VL reads resized to 280 x 140:

    [20, 10, 40, 80], pixels, xywh  <->  [100, 100, 300, 900]  <->  [28, 14, 84, 126]
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeGuard

Box = Sequence[float]

Unit = Literal["pixels", "norm1000", "unit"]
"""Pixels of the image as the dataset has it, thousandths of its sides, or fractions of them."""

Corners = Literal["xyxy", "xywh"]
"""Two corners, or the upper left corner with width and height."""

ModelBoxes = Literal["norm1000", "resized_pixels"]
"""How a model family writes boxes: thousandths of the sides, or pixels of the image as the model reads it."""

Scale = tuple[float, float]
"""What x and y count to at the right and the lower edge of the image."""

NORM1000: Scale = (1000, 1000)


def is_box(value: Any) -> TypeGuard[Box]:
    """Whether a value is a list of four numbers. They may still be infinite, or corners in the wrong order."""
    return _are_numbers(value, 4)


def are_boxes(value: Any) -> TypeGuard[Sequence[Box]]:
    """Whether a value is a list of boxes, at least one."""
    return isinstance(value, list | tuple) and bool(value) and all(map(is_box, value))


def is_scale(value: Any) -> TypeGuard[Scale]:
    """Whether a value is a width and a height, both positive."""
    return _are_numbers(value, 2) and min(value) > 0


def _are_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == count
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    )


def xyxy(box: Box, corners: Corners) -> list[float]:
    """Both corners of a box, in its own unit."""
    x, y, right, bottom = box
    return [x, y, x + right, y + bottom] if corners == "xywh" else [x, y, right, bottom]


def unit_scale(unit: Unit, image_size: tuple[int, int] | None) -> Scale:
    """The scale of boxes in a dataset.

    Args:
        unit: of the boxes.
        image_size: upright width and height in pixels; not needed for other units than pixels.

    Raises:
        ValueError: boxes in pixels, and no image.
    """
    if unit != "pixels":
        return NORM1000 if unit == "norm1000" else (1, 1)
    if image_size is None:
        raise ValueError("boxes in pixels need an image")
    return image_size


def rescale(box: Box, source: Scale, target: Scale) -> list[float]:
    """The same box (both corners) on another scale."""
    if source == target:
        return list(box)
    return [number * target[n % 2] / source[n % 2] for n, number in enumerate(box)]
