"""The `objects` of a row in ms-swift's format: names and boxes that stand for marks in its texts, in order."""

import json
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal

from vlmtune.data import _turns, _values
from vlmtune.errors import DataError
from vlmtune.types import OBJECT_MARKS, Objects

_KEYS = {"ref", "bbox", "bbox_type", "image_id", "width", "height"}
"""Sizes are read from the images themselves, as ms-swift does."""
_UNITS: dict[str, Literal["pixels", "unit"]] = {"real": "pixels", "norm1": "unit"}
"""`bbox_type`: pixels of the image as it is stored, or fractions of its sides."""


def has_marks(messages: Any) -> bool:
    """Whether messages, as a row holds them, refer to objects."""
    return any(mark in str(messages) for mark in OBJECT_MARKS)


def read_objects(
    value: Any, messages: Any, system: str | None, images: int, ignored: Set[str], at: str
) -> Objects | None:
    """The objects of a row; None if it has none, and its texts then mean what they say.

    Args:
        value: {ref, bbox, bbox_type, image_id}, or a list of objects with a caption and a box each, as ms-swift 2 has.
        messages: of the row, whose marks are counted.
        system: its own system prompt, whose marks come first.
        images: number of its images.
        ignored: `dataset.ignored_keys`.
        at: where the row is.

    Raises:
        DataError: a box is none, or of an image that the row does not have, or there are more or fewer marks.
    """
    value = _values.structured(value)
    if isinstance(value, list | tuple) and has_marks([system, messages]):
        value = _listed(value, at)
    if not value:
        return None
    if not isinstance(value, Mapping) or not (has_marks([system, messages]) or value.keys() <= _KEYS):
        return None  # something else that has this name
    _turns.refuse_unknown(value, _KEYS, ignored, f"{at}, objects")
    for key in ("ref", "bbox", "image_id"):
        if not isinstance(value.get(key) or [], list | tuple):
            raise DataError(f"{at}: objects.{key} must be a list (got {value[key]!r:.80})")
    names, boxes = (list(value.get(key) or ()) for key in ("ref", "bbox"))
    numbers = list(value.get("image_id") or [0] * len(boxes))
    kind = value.get("bbox_type") or "real"
    unit = _UNITS.get(kind) if isinstance(kind, str) else None
    if unit is None:
        raise DataError(f"{at}: bbox_type must be real (pixels) or norm1 (got {kind!r:.80})")
    _check_counts([system, *_texts(messages)], names, boxes, at)
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{at}: objects.ref must hold texts (got {names!r:.80})")
    if len(numbers) != len(boxes) or any(number not in range(max(images, 1)) for number in numbers):
        raise DataError(
            f"{at}: objects.image_id must name one of the row's {images} images, from 0, for each of its {len(boxes)} "
            f"boxes (got {numbers!r:.80})"
        )
    if boxes and unit == "pixels" and not images:
        raise DataError(f"{at}: objects.bbox are pixels of an image, but the row has none")
    return Objects(tuple(names), tuple(_points(box, at) for box in boxes), tuple(map(int, numbers)), unit)


def _check_counts(texts: Sequence[Any], names: Sequence[Any], boxes: Sequence[Any], at: str) -> None:
    text = json.dumps(texts, default=str, ensure_ascii=False)
    for mark, key, given in zip(OBJECT_MARKS, ("ref", "bbox"), (names, boxes), strict=True):
        if text.count(mark) != len(given):
            raise DataError(
                f"{at}: {mark} occurs {text.count(mark)} times in the texts, but objects.{key} has {len(given)} "
                "entries; each of them stands for one mark, in order"
            )


def _texts(messages: Any) -> list[Any]:
    """Contents of the turns; marks in thoughts and calls of tools are not filled in."""
    turns = [turn for turn in messages if isinstance(turn, Mapping)] if isinstance(messages, list | tuple) else []
    texts = [turn for turn in turns if turn.get("role", turn.get("from")) not in _turns.CALLS]
    return [turn.get("content", turn.get("value")) for turn in texts]


def _points(box: Any, at: str) -> tuple[float, ...]:
    """The x and y of one or more points, in turn."""
    if isinstance(box, list | tuple) and len(box) in (2, 4) and all(map(_is_number, box)):
        return tuple(map(float, box))
    raise DataError(f"{at}: objects.bbox must hold points [x, y] or boxes [x1, y1, x2, y2] (got {box!r:.80})")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _listed(objects: Sequence[Any], at: str) -> dict[str, Any]:
    """Objects with a caption and a box each, as two lists."""
    found: dict[str, Any] = {"ref": [], "bbox": [], "image_id": []}
    for one in objects:
        if not isinstance(one, Mapping) or one.get("bbox_type", "real") != objects[0].get("bbox_type", "real"):
            raise DataError(f"{at}: objects must have caption and bbox each, all of one bbox_type (got {one!r:.80})")
        _turns.refuse_unknown(one, {"caption", "bbox", "bbox_type", "image"}, frozenset(), f"{at}, objects")
        boxes = one.get("bbox") or []
        if not isinstance(boxes, list | tuple) or (boxes and not isinstance(boxes[0], list | tuple)):
            boxes = [boxes]  # what is no box is named later
        found["ref"] += [one["caption"]] if one.get("caption") else []
        found["bbox"] += boxes
        found["image_id"] += [one.get("image") or 0] * len(boxes)
    return found | ({"bbox_type": objects[0].get("bbox_type", "real")} if objects else {})
