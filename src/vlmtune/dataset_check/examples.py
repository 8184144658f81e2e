"""One row looked at: its texts, its pictures, its tokens, its labels and boxes. Everything wrong is a value.

What a row says is right: labels of the set, boxes inside the picture, texts in the right encoding.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlmtune.boxes import Box, Corners, is_box, unit_scale, xyxy
from vlmtune.config import Config
from vlmtune.data import Rows, SplitRole, open_role
from vlmtune.dataset_check.findings import Finding, Place
from vlmtune.dataset_check.image_index import Facts, Pictures
from vlmtune.errors import DataError, ExampleTooLong, ImageError
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.tasks import Task
from vlmtune.training.dataset import TrainingExamples
from vlmtune.types import Conversation, Example, ImageRef, Turn

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
    if task["unit"] == "pixels" and not example.images:
        return
    sides = unit_scale(task["unit"], sizes[example.images[0].where] if example.images else None)
    for box in [given] if is_box(given) else given:
        if is_box(box):
            yield from _of_box(box, task["corners"], *sides)


def _of_box(box: Box, corners: Corners, width: float, height: float) -> Iterator[Mistake]:
    left, top, right, bottom = xyxy(box, corners)
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


Size = tuple[int, int]


def whole(config: Config, role: SplitRole) -> Rows:
    """All rows of a role: a bad one is refused when it is asked for, and hides no other.

    Raises:
        DataError: the split cannot be opened.
    """
    return open_role(config.dataset.model_copy(update={"max_bad_fraction": 1.0}), role)


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of one lesson or prompt."""

    tokens: int
    image_tokens: int
    supervised: int


@dataclass(slots=True)
class Looked:
    """What one row came to. `asked` is a hash of what the model is asked, its pictures left out.

    `images` says of each of `pictures` which of the row's it is: one whose file cannot be read is not among them.
    """

    row: int
    images: list[int] = field(default_factory=list)
    pictures: list[Facts | int] = field(default_factory=list)
    lengths: list[Length] = field(default_factory=list)
    asked: bytes = b""
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reader:
    """Looks at rows of one role, or of a further evaluation set; from any thread.

    A row of a role that `teaches` must make a lesson for each of its targets, one of a role that is `answered` a prompt
    and something to compare the answer with.
    """

    config: Config
    task: Task
    role: str
    rows: Rows
    encoder: Encoder
    pictures: Pictures
    teaches: bool
    answered: bool

    def look(self, row: int) -> Looked:
        """Everything about one row."""
        looked = Looked(row)
        place = Place(self.role, row, self.rows.id(row))

        def found(kind: str, what: str, where: str = "") -> None:
            looked.findings.append(Finding(kind, self.role, what, place, where=where))

        try:
            # One reading of the record serves both: examples of a row differ in their target alone.
            count = self.rows.target_count(row) if self.teaches else 0
            examples = [self.rows.with_target(row, n) for n in range(count)]
            example = examples[0] if examples else self.rows[row]
        except DataError as error:
            where, colon, what = str(error).partition(": ")  # a source names the place first
            found("row", what if colon else where, where if colon else "")
            return looked
        for text in misread(example):
            found("text", text)
        sizes = self._sizes(example, looked, place)
        if len(sizes) < len(example.images):
            return looked  # what remains needs all pictures
        for kind, what in [*label_mistakes(self.config, example), *box_mistakes(self.config, example, sizes)]:
            found(kind, what)
        self._encode(looked, found, example, examples, sizes)
        return looked

    def _sizes(self, example: Example, looked: Looked, place: Place) -> dict[str, Size]:
        """Sizes of the row's pictures that can be decoded, by where they stand; the others are findings."""
        sizes: dict[str, Size] = {}
        for number, ref in enumerate(example.images):
            try:
                one = self.pictures.look(ref)
                looked.images.append(number)
                looked.pictures.append(one)
                error = one.error if isinstance(one, Facts) else self.pictures.error(one)
                if error is not None:
                    raise ImageError(error, ref.where)
            except ImageError as said:
                there = replace(place, image=number)
                looked.findings.append(Finding("image", self.role, said.reason, there, where=said.where))
                continue
            sizes[ref.where] = (one.width, one.height) if isinstance(one, Facts) else self.pictures.size(one)
        return sizes

    def _encode(
        self, looked: Looked, found: Any, example: Example, examples: Sequence[Example], sizes: Mapping[str, Size]
    ) -> None:
        """Tokens of every lesson, and of the prompt; what cannot be made is a finding, each reason once."""
        lessons = TrainingExamples(self.rows, self.task, self.config.task, self.encoder, self.config.training)
        known = {each.kind for each in looked.findings}
        said: set[str] = set()

        def attempt(make: Any) -> Any:
            try:
                return make()
            except (DataError, ImageError) as error:
                kind = "long" if isinstance(error, ExampleTooLong) else "lesson"
                # A task refuses a label or a box that is named already.
                if str(error) not in said and not (kind == "lesson" and known & {"label", "box"}):
                    # What to do stands with the kind of finding.
                    found(kind, str(error).partition("; ")[0] if kind == "long" else str(error))
                said.add(str(error))
                return None

        one = _with_sizes(example, sizes)
        prompt = attempt(lambda: self.task.ask(self.config.task, one))
        if prompt is not None:
            looked.asked = _asked(prompt)
        if self.answered and prompt is not None:
            attempt(lambda: self.task.truth(self.config.task, one))
            encoded = attempt(lambda: self.encoder.prompt(prompt))
            if encoded is not None and not self.teaches:
                looked.lengths.append(self._length(encoded))
        for taught in examples:
            encoded = attempt(lambda lesson=taught: lessons.encode_example(_with_sizes(lesson, sizes)))
            if encoded is not None:
                looked.lengths.append(self._length(encoded))

    def _length(self, encoded: Encoded) -> Length:
        return Length(len(encoded), self.encoder.image_tokens(encoded), encoded.rendered.supervised)


def _with_sizes(example: Example, sizes: Mapping[str, Size]) -> Example:
    """The example with images of known size: they are decoded already, and no file is read again."""

    def sized(part: Any) -> Any:
        return replace(part, size=sizes[part.where]) if isinstance(part, ImageRef) else part

    turns = example.turns
    if turns is not None:
        turns = tuple(Turn(turn.role, tuple(map(sized, turn.content))) for turn in turns)
    return replace(example, images=tuple(map(sized, example.images)), turns=turns)


def _asked(conversation: Conversation) -> bytes:
    """A hash of the words of a conversation; a picture counts as one."""
    words = [(turn.role, [part if isinstance(part, str) else None for part in turn.content]) for turn in conversation]
    return hashlib.blake2b(repr(words).encode(errors="replace"), digest_size=8).digest()
