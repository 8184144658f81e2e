"""Writes the names and boxes of a row's objects into its texts, in the way of one model family."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from vlmtune.boxes import NORM1000, BoxForm, Scale, rescale, unit_scale
from vlmtune.images import size_of
from vlmtune.types import OBJECT_MARKS, Example, ImageRef, Message


def write_objects(example: Example, form: BoxForm, scale_of: Callable[[ImageRef], Scale]) -> Example:
    """The example with a name or box in place of every mark: first in its prompt, then in its answers.

    Args:
        example: with objects; any other is returned as it is.
        form: of the family.
        scale_of: what x and y count to in boxes that the model writes about an image.

    Raises:
        ImageError: an image's header cannot be read.
    """
    objects = example.objects
    if objects is None:
        return example
    boxes = []
    for box, image in zip(objects.boxes, objects.images, strict=True):
        ref = example.images[image] if example.images else None
        source = unit_scale(objects.unit, size_of(ref) if ref is not None and objects.unit == "pixels" else None)
        scale = scale_of(ref) if ref is not None else NORM1000
        boxes.append(form.box([round(number) for number in rescale(box, source, scale)]))
    names = [form.name.format(name) for name in objects.names]
    left = {mark: iter(texts) for mark, texts in zip(OBJECT_MARKS, (names, boxes), strict=True)}
    messages = example.messages and tuple(map(partial(_written, left=left), example.messages))
    rest = {mark: list(texts) for mark, texts in left.items()}

    def answer(text: str) -> str:
        return _replaced(text, {mark: iter(texts) for mark, texts in rest.items()})

    references = example.truth["references"]
    return replace(
        example,
        messages=messages,
        target=None if example.target is None else answer(example.target),
        truth={**example.truth, "references": list(map(answer, references))},
        objects=None,
    )


def _written(message: Message, left: dict[str, Iterator[str]]) -> Message:
    return replace(
        message, content=tuple(_replaced(part, left) if isinstance(part, str) else part for part in message.content)
    )


def _replaced(text: str, left: dict[str, Iterator[str]]) -> str:
    for mark, texts in left.items():
        first, *others = text.split(mark)
        text = first + "".join(next(texts, mark) + other for other in others)
    return text
