"""The size rule that the Qwen-VL processors share."""

import math

from vlmtune.families import ImageLimits

MAX_ASPECT = 200


def smart_resize(height: int, width: int, limits: ImageLimits) -> tuple[int, int]:
    """Height and width as multiples of `limits.factor`, within the area limits, with nearly the same aspect ratio.

    Equal to `smart_resize` of transformers' Qwen2-VL image processor.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    factor = limits.factor
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ValueError(f"{width}x{height}: one side is more than {MAX_ASPECT} times the other")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > limits.max_pixels:
        shrink = math.sqrt(height * width / limits.max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < limits.min_pixels:
        grow = math.sqrt(limits.min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns
