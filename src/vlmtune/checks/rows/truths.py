"""What a row says is right: labels of the set, boxes inside the picture, texts in the right encoding."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlmtune.config import Config
from vlmtune.types import Example

Mistake = tuple[str, str]
"""(kind of finding, what is wrong)."""

ROOM = 20
"""Characters shown on both sides of a mistake in a text."""

EDGE = 0.01
"""A box may reach over the edge by this share of the side: annotators' tools round. Further out it is wrong."""


def label_mistakes(config: Config, example: Example) -> Iterator[Mistake]:
    """References of a task with a label set that are none of it."""
    labels = config.task.model_dump().get("labels")
    if labels is None:
        return
    for said in example.truth["references"]:
        if said.strip() not in labels:
            yield "label", f"{said!r} is not one of the {len(labels)} labels"


def box_mistakes(config: Config, example: Example, sizes: Mapping[str, tuple[int, int]]) -> Iterator[Mistake]:
    """Boxes that cover nothing, have their corners in the wrong order, or lie outside the first picture."""
    given = example.truth.get("boxes")
    task = config.task.model_dump()
    if not isinstance(given, list | tuple) or not given or "unit" not in task:
        return  # a task that needs boxes says so itself
    sides = {"norm1000": (1000, 1000), "unit": (1, 1)}.get(task["unit"])
    if sides is None:
        if not example.images:
            return
        sides = sizes[example.images[0].where]
    for box in [given] if _is_box(given) else given:
        if _is_box(box):
            yield from _of_box(box, task["corners"], *sides)


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(isinstance(n, int | float) and not isinstance(n, bool) for n in value)
    )


def _of_box(box: Any, corners: str, width: float, height: float) -> Iterator[Mistake]:
    left, top, right, bottom = box if corners == "xyxy" else (box[0], box[1], box[0] + box[2], box[1] + box[3])
    said, of = f"box {list(box)}", f"of {width}x{height}"
    if not all(abs(n) < float("inf") for n in box):
        yield "box", f"{said} has a number that is not finite"
    elif left == right or top == bottom:
        yield "box", f"{said} covers nothing"
    elif left > right or top > bottom:
        yield (
            "box",
            f"{said} has its corners in the wrong order" if corners == "xyxy" else f"{said} has a negative side",
        )
    else:
        over = max(-left / width, -top / height, (right - width) / width, (bottom - height) / height)
        if over > EDGE:
            yield "box", f"{said} reaches {over:.0%} of the side beyond the picture {of}"
        elif over > 0:
            yield "edge", f"{said} reaches over the edge of the picture {of}"


def misread(example: Example) -> list[str]:
    """Texts that hold the mark of an unreadable character, or UTF-8 that was read as something else."""
    parts = [part for turn in example.turns or () for part in turn.content if isinstance(part, str)]
    texts = [*example.truth["references"], *([example.question] if example.question else []), *parts]
    if example.target is not None:
        texts.append(example.target)
    found = []
    for text in dict.fromkeys(texts):
        if "\ufffd" in text:
            start = text.index("\ufffd")
            found.append(f"a character was lost: {text[max(0, start - ROOM) : start + ROOM]!r}")
        elif not text.isascii() and (right := _repaired(text)) is not None:
            start = next(n for n, (wrong, char) in enumerate(zip(text, right, strict=False)) if wrong != char)
            near = slice(max(0, start - ROOM), start + ROOM)
            found.append(f"{text[near]!r} was read in a wrong encoding; it should be {right[near]!r}")
    return found


def _repaired(text: str) -> str | None:
    """What a text should have been whose UTF-8 was read as Windows-1252; None where it was not."""
    try:
        right = text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None
    return right if right != text else None
