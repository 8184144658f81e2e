"""Bounding boxes: their units, their corners, and the scale on which a model writes them.

Tasks, metrics and reports know one box: [x1, y1, x2, y2], each from 0 to 1000 of the image's width or height. Datasets
and model families have conventions of their own and are converted at the border, in both directions:

    dataset (`task.unit`, `task.corners`)  <->  0 to 1000  <->  text of the model (`Family.boxes`)

For example, an image of 200 x 100 pixels that Qwen2.5-VL reads resized to 280 x 140:

    [20, 10, 40, 80], pixels, xywh  <->  [100, 100, 300, 900]  <->  [28, 14, 84, 126]
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeGuard

Box = Sequence[float]

Unit = Literal["pixels", "norm1000", "unit"]
"""Pixels of the image as the dataset has it, thousandths of its sides, or fractions of them."""

Corners = Literal["xyxy", "xywh"]
"""Two corners, or the upper left corner with width and height."""

ModelBoxes = Literal["norm1000", "resized_pixels"]
"""How a model family writes boxes: thousandths of the sides, or pixels of the image as the model reads it."""

BoxFormName = Literal["list", "tokens", "tags"]
"""How boxes are written in running text: `BOX_FORMS`."""

Scale = tuple[float, float]
"""What x and y count to at the right and the lower edge of the image."""

NORM1000: Scale = (1000, 1000)

_BOX_KEYS = ("box", "bbox", "bbox_2d", "bboxes", "boxes")
_LABEL_KEYS = ("label", "category", "class", "name", "labels", "categories")


class BoxForm(NamedTuple):
    """A way to write names and boxes in running text, and the special tokens that it takes.

    `name` and `around` are templates; a box is a list of numbers, or points in brackets.
    """

    name: str
    around: str
    as_points: bool = False
    tokens: tuple[str, ...] = ()

    def box(self, numbers: Sequence[int]) -> str:
        """The text of one or more points, their x and y in turn."""
        points = [f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        return self.around.format(",".join(points) if self.as_points else list(numbers))


_QWEN_TOKENS = ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")

BOX_FORMS: dict[BoxFormName, BoxForm] = {
    "list": BoxForm("{}", "{}"),
    "tokens": BoxForm("{}{{}}{}".format(*_QWEN_TOKENS), "{2}{{}}{3}".format(*_QWEN_TOKENS), True, _QWEN_TOKENS),
    "tags": BoxForm("<ref>{}</ref>", "<box>[{}]</box>", False, ("<ref>", "</ref>", "<box>", "</box>")),
}
"""As Qwen2.5-VL and its successors, Qwen2-VL, and InternVL write them; ms-swift has the same three."""


class LabelledBox(NamedTuple):
    """A box with what is in it. `score` is the confidence that a model gave; `scale` None is the model's own scale."""

    box: list[float]
    label: str | None = None
    score: float | None = None
    scale: Scale | None = None

    def plain(self) -> list[float] | dict[str, Any]:
        """As a prediction file holds it: four numbers, with a label or a score {"box", "label", "score"}."""
        if self.label is None and self.score is None:
            return self.box
        shown = {"box": self.box, "label": self.label, "score": self.score}
        return {key: value for key, value in shown.items() if value is not None}


def labelled(value: LabelledBox | Box | Mapping[str, Any]) -> LabelledBox:
    """A box of a prediction file, in either form of `LabelledBox.plain`."""
    if isinstance(value, LabelledBox):
        return value
    if isinstance(value, Mapping):
        return LabelledBox(list(value["box"]), value.get("label"), value.get("score"))
    return LabelledBox(list(value))


def read_boxes(value: Any, labels: Any = None) -> list[LabelledBox]:
    """The boxes of a dataset's row, in their own unit and corners.

    Args:
        value: a box of four numbers; a list of boxes, possibly empty; a list of objects with a box (under "bbox", "box"
            or "bbox_2d") and a label (under "label", "category", "class" or "name"); or an object with a list of each.
        labels: a label for each box, or one for the only box.

    Raises:
        ValueError: anything else; as many labels as there are no boxes; a label that is not text.
    """
    if isinstance(value, Mapping):
        keys = [next((key for key in names if key in value), None) for names in (_BOX_KEYS, _LABEL_KEYS)]
        if keys[0] is not None:
            return read_boxes(value[keys[0]], value[keys[1]] if labels is None and keys[1] is not None else labels)
    if is_box(value):
        value, labels = [value], [labels] if isinstance(labels, str) else labels
    if not isinstance(value, list | tuple):
        raise ValueError(f"needs a box of four numbers, or a list of such boxes (got {value!r:.80})")
    if labels is None:
        return [_one(item) for item in value]
    if not isinstance(labels, list | tuple) or len(labels) != len(value):
        raise ValueError(f"needs a label for each of its {len(value)} boxes (got {labels!r:.80})")
    return [_one(item)._replace(label=_text(label)) for item, label in zip(value, labels, strict=True)]


def _one(value: Any) -> LabelledBox:
    if isinstance(value, LabelledBox):
        return value
    if isinstance(value, Mapping):
        found = read_boxes(value)
        if len(found) == 1:
            return found[0]
    if not is_box(value):
        raise ValueError(f"needs a box of four numbers, or a list of such boxes (got {value!r:.80} among them)")
    return LabelledBox(list(value))


def _text(label: Any) -> str:
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"needs labels that are texts, the names of the classes (got {label!r:.80})")
    return label.strip()


def label_key(label: str) -> str:
    """Equal for labels that differ only in case, punctuation and white space: "Traffic_light" and "traffic light"."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", label).casefold())) or label.strip()


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
