"""Random changes to training images: a function of (seed, step, row), so that a resumed run sees the same pixels.

Images keep their size, and so their number of tokens. Boxes move along with what they surround.
"""

import io
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlmtune.boxes import Box, labelled
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb, size_of
from vlmtune.tasks import Task
from vlmtune.training.config import AugmentationConfig
from vlmtune.types import Conversation, Example, ImageRef, VideoRef

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = (128, 128, 128)
BEST_QUALITY = 95
VISIBLE = 0.5
"""Least part of a box that a rotation must leave in the image."""

SIDES = re.compile(
    r"\b(?:(?:left|right)(?:most|wards?|[- ]hand)?|links|rechts|gauche|droite|izquierd[ao]|derech[ao]|sinistr[ao]|"
    r"destr[ao]|esquerd[ao]|direit[ao]|(?:слев|справ)а|лев[а-я]+|прав[а-я]{2})\b|[左右]|왼|오른",
    re.IGNORECASE,
)
"""Words for left and right, which are wrong in a mirrored image."""


def refuse_sides(conversation: Conversation) -> None:
    """Refuse a conversation that says left or right.

    Raises:
        DataError: names the word.
    """
    for message in conversation:
        for part in message.content:
            if isinstance(part, str) and (found := SIDES.search(part)):
                raise DataError(
                    f"says {found[0]!r}, which is wrong in a mirrored image; set training.augmentation.flip to false"
                )


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to an image, in this order. `angle` is counterclockwise, in degrees.

    `window` is (left, top, side) of what is kept, in fractions of the width and the height; `color` the factors of
    brightness, contrast and saturation.
    """

    angle: float
    window: tuple[float, float, float]
    flipped: bool
    color: tuple[float, float, float]
    quality: int | None

    def image(self, image: "Image") -> "Image":
        """The changed image, of the same size."""
        from PIL import Image, ImageEnhance, ImageOps

        (width, height), (left, top, side) = image.size, self.window
        if self.angle:
            image = image.rotate(self.angle, Image.Resampling.BICUBIC, fillcolor=GREY)
        if side < 1:
            kept = (left * width, top * height, (left + side) * width, (top + side) * height)
            image = image.resize(image.size, Image.Resampling.BICUBIC, kept)
        if self.flipped:
            image = ImageOps.mirror(image)
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhancer, factor in zip(enhancers, self.color, strict=True):
            image = enhancer(image).enhance(factor) if factor != 1 else image
        if self.quality is not None:
            compressed = io.BytesIO()
            image.save(compressed, "JPEG", quality=self.quality)
            image = Image.open(compressed).convert("RGB")
        return image

    def box(self, box: Box, size: tuple[int, int]) -> list[float]:
        """Where a box of an image of some size is afterwards; both corners from 0 to 1000, before and after."""
        (left, top, side), inside = self.window, _clipped(_rotated(box, self.angle, size)) if self.angle else box
        x1, y1, x2, y2 = (
            (number - 1000 * start) / side for number, start in zip(inside, (left, top, left, top), strict=True)
        )
        return [1000 - x2, y1, 1000 - x1, y2] if self.flipped else [x1, y1, x2, y2]


def draw(settings: AugmentationConfig, key: str, size: tuple[int, int], boxes: Sequence[Box]) -> Change:
    """The change of an image.

    Args:
        settings: its limits. Turning one of them on does not change what is drawn for another.
        key: seeds the draw.
        size: width and height of the image.
        boxes: to keep in it; both corners, from 0 to 1000.
    """
    drawn = random.Random(key)
    angle, cut = settings.rotation * drawn.uniform(-1, 1), settings.crop * drawn.random()
    place, flipped = (drawn.random(), drawn.random()), drawn.random() < 0.5
    brightness, contrast, saturation = (1 + settings.color * drawn.uniform(-1, 1) for _ in range(3))
    quality = None if settings.jpeg is None else drawn.randint(settings.jpeg, BEST_QUALITY)
    rotated = [_rotated(box, angle, size) for box in boxes]
    if any(_area(_clipped(box)) < VISIBLE * _area(box) for box in rotated):
        angle, rotated = 0.0, [list(box) for box in boxes]
    window = _window(cut, place, [_clipped(box) for box in rotated])
    return Change(angle, window, flipped and settings.flip, (brightness, contrast, saturation), quality)


def _window(cut: float, place: tuple[float, float], boxes: Sequence[Box]) -> tuple[float, float, float]:
    """(left, top, side) of the part to keep, at a random `place` where it contains all boxes."""
    if not boxes:
        return place[0] * cut, place[1] * cut, 1 - cut
    low = [min(box[n] for box in boxes) / 1000 for n in (0, 1)]
    high = [max(box[n] for box in boxes) / 1000 for n in (2, 3)]
    side = max(1 - cut, high[0] - low[0], high[1] - low[1])
    first, last = [max(0.0, end - side) for end in high], [min(start, 1 - side) for start in low]
    left, top = (a + (b - a) * share for a, b, share in zip(first, last, place, strict=True))
    return left, top, side


def _rotated(box: Box, angle: float, size: tuple[int, int]) -> list[float]:
    """The box around a rotated box, which may extend beyond the image."""
    width, height = size
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    x1, y1, x2, y2 = box
    corners = [((x / 1000 - 0.5) * width, (y / 1000 - 0.5) * height) for x in (x1, x2) for y in (y1, y2)]
    across = [(x * cosine + y * sine) / width * 1000 + 500 for x, y in corners]
    down = [(y * cosine - x * sine) / height * 1000 + 500 for x, y in corners]
    return [min(across), min(down), max(across), max(down)]


def _clipped(box: Box) -> list[float]:
    return [min(max(number, 0.0), 1000.0) for number in box]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def augment(example: Example, task: Task, task_config: Any, settings: AugmentationConfig, key: str) -> Example:
    """The example with all of its images changed alike, and its boxes, if it has any, where they are afterwards.

    Args:
        example: may have no image, and is then returned as it is.
        task: of the example.
        task_config: its settings.
        settings: of the changes.
        key: seeds them, and names the images.

    Raises:
        DataError: the header of its first image, or its boxes, cannot be read; or it has a video.
    """
    if not example.images:
        return example
    if example.objects is not None and example.objects.boxes and (settings.crop or settings.flip or settings.rotation):
        raise DataError(
            "has boxes in its texts (dataset.objects), which would not move along with the image; set crop, flip and "
            "rotation of training.augmentation to 0"
        )
    if any(isinstance(ref, VideoRef) for ref in example.images):
        raise DataError("videos are not augmented; leave training.augmentation out")
    size, boxes = size_of(example.images[0]), list[Box]()
    if task.with_boxes is not None:
        boxes = [labelled(box).box for box in task.truth(task_config, example)["boxes"]]
    change = draw(settings, key, size, boxes)
    if task.with_boxes is not None:
        example = task.with_boxes(task_config, example, [change.box(box, size) for box in boxes])

    def changed(part: Any) -> Any:
        return _changed(part, change, key) if isinstance(part, ImageRef) else part

    messages = example.messages
    if messages is not None:
        messages = tuple(replace(one, content=tuple(map(changed, one.content))) for one in messages)
    return replace(example, images=tuple(map(changed, example.images)), messages=messages)


def _changed(ref: ImageRef, change: Change, key: str) -> ImageRef:
    return ImageRef(f"{ref.where}, augmented {key}", lambda: change.image(decode_rgb(ref)), size_of(ref), cached=False)
