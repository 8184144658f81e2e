"""Checks of one row: its text, images, labels, boxes and tokens. Problems become findings instead of exceptions."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from vlmtune.boxes import Box, Corners, read_boxes, unit_scale, xyxy
from vlmtune.config import Config
from vlmtune.data import Rows, SplitRole, open_role
from vlmtune.dataset_check.findings import Finding, RowLocation
from vlmtune.dataset_check.image_index import ROTATED, ImageFacts, ImageIndex
from vlmtune.dataset_check.texts import collection, encoding_problems, placeholder, prompt_texts, texts_of
from vlmtune.errors import DataError, EmptyField, ExampleTooLong, ImageError
from vlmtune.processing.answer_lengths import expected_answers
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.processing.video_processor import Moments
from vlmtune.scoring.contradictions import accepted
from vlmtune.tasks import Task, for_model
from vlmtune.text_units import count_short
from vlmtune.training.dataset import TrainingExamples
from vlmtune.types import Conversation, Example, ImageRef, VideoRef

Problem = tuple[str, str]
"""(kind of finding, message)."""

Size = tuple[int, int]
T = TypeVar("T")

BEYOND = ("box", "edge")
EDGE_TOLERANCE = 0.01
"""Fraction of a side by which a box may extend beyond the image with a warning only: annotation tools round."""


def target_problems(config: Config, task: Task, example: Example, answers: Sequence[str]) -> Iterator[Problem]:
    """Placeholders in the texts of a row, and answers that are lists or objects where the task expects plain text.

    Args:
        config: of the run.
        task: its task.
        example: the row.
        answers: what is compared with answers or taught.
    """
    if (mark := placeholder(texts_of(example))) is not None:
        yield "placeholder", f"{mark} is not replaced by anything"
    writes_text = not task.boxes and "fields" not in type(config.task).model_fields and example.messages is None
    for text in dict.fromkeys(answers) if writes_text and "." not in config.task.name else ():
        if (kind := collection(text)) is not None:
            yield "collection", f"{text!r:.80} is a text that holds {'an' if kind == 'object' else 'a'} {kind}"


def label_problems(config: Config, example: Example) -> Iterator[Problem]:
    """References outside the label set of the task."""
    labels = config.task.model_dump().get("labels")
    if labels is None:
        return
    for reference in example.truth["references"]:
        if reference.strip() not in labels:
            yield "label", f"{reference!r} is not one of the {len(labels)} labels"


def box_problems(
    config: Config, example: Example, sizes: Mapping[str, Size], rotated: Collection[str] = ()
) -> Iterator[Problem]:
    """Boxes that are empty, have their corners in the wrong order, or extend beyond the first image.

    Args:
        config: of the run.
        example: the row.
        sizes: upright width and height of its images.
        rotated: those of them that an EXIF orientation turns upright.
    """
    task = config.task.model_dump()
    try:
        boxes = read_boxes(example.truth.get("boxes"))
    except ValueError:
        return  # a task that needs boxes reports this itself
    if not boxes or "unit" not in task:
        return
    if task["unit"] == "pixels" and not example.images:
        return
    width, height = unit_scale(task["unit"], sizes[example.images[0].where] if example.images else None)
    for one in boxes:
        for kind, message in _box_problem(one.box, task["corners"], width, height):
            is_turned = kind in BEYOND and task["unit"] == "pixels" and example.images[0].where in rotated
            fits = is_turned and not any(_box_problem(one.box, task["corners"], height, width))
            yield kind, f"{message}, but fits the image as it is stored, without its EXIF rotation" if fits else message


def _box_problem(box: Box, corners: Corners, width: float, height: float) -> Iterator[Problem]:
    left, top, right, bottom = xyxy(box, corners)
    shown, image = f"box {list(box)}", f"the image of {width}x{height}"
    if not all(abs(n) < float("inf") for n in box):
        yield "box", f"{shown} has a number that is not finite"
    elif left == right or top == bottom:
        yield "box", f"{shown} is empty"
    elif left > right or top > bottom:
        problem = "its corners in the wrong order" if corners == "xyxy" else "a negative side"
        yield "box", f"{shown} has {problem}"
    else:
        beyond = max(-left / width, -top / height, (right - width) / width, (bottom - height) / height)
        if beyond > EDGE_TOLERANCE:
            yield "box", f"{shown} extends {beyond:.0%} of a side beyond {image}"
        elif beyond > 0:
            yield "edge", f"{shown} extends beyond {image}"


def video_problems(encoder: Encoder, example: Example) -> Iterator[Problem]:
    """Videos of which the model sees fewer frames than it is set to."""
    for ref in example.images:
        if isinstance(ref, VideoRef):
            try:
                moments = encoder.images.measure(ref)
            except DataError:
                continue  # encoding the row reports it
            if isinstance(moments, Moments) and moments.sparse:
                yield "sparse", f"{ref.where}: only {len(moments.indices)} of its frames are taken"


def all_rows(config: Config, role: SplitRole) -> Rows:
    """All rows of a role, including bad ones, which raise when they are accessed.

    Raises:
        DataError: the split cannot be opened.
    """
    return open_role(config.dataset.model_copy(update={"max_bad_fraction": 1.0}), role)


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of one training example or prompt."""

    tokens: int
    image_tokens: int
    supervised: int


@dataclass(slots=True)
class CheckedRow:
    """The result for one row.

    `images` are its readable images, `positions` their positions in the row. `prompt_hash` is a hash of the prompt's
    text, `accepted` are the answers that are right, `short` counts the references of a few words. `targets` are the
    texts to train on, `answers` the tokens of each expected answer. `prompt_mark` is a placeholder in the prompt of the
    task, `empty` the columns of references that hold none.
    """

    row: int
    positions: list[int] = field(default_factory=list)
    images: list[ImageFacts | int] = field(default_factory=list)
    lengths: list[Length] = field(default_factory=list)
    prompt_hash: bytes = b""
    accepted: frozenset[str] = frozenset()
    targets: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    references: int = 0
    short: int = 0
    prompt_mark: str = ""
    empty: str = ""
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RowChecker:
    """Checks the rows of one role or additional evaluation set; callable from any thread.

    Rows of a `trained` role must yield an example for each of their targets, those of an `answered` one a prompt and
    something to compare the answer with.
    """

    config: Config
    task: Task
    role: str
    rows: Rows
    encoder: Encoder
    index: ImageIndex
    trained: bool
    answered: bool

    def check(self, row: int) -> CheckedRow:
        """Everything about one row."""
        checked = CheckedRow(row)
        location = RowLocation(self.role, row, self.rows.id(row))

        def report(kind: str, message: str, where: str = "", empty: str = "") -> None:
            checked.findings.append(Finding(kind, self.role, message, location, where=where, field=empty))

        try:
            # The examples of a row differ only in their target, so one of them serves for the prompt as well.
            count = self.rows.target_count(row) if self.trained else 0
            examples = [self.rows.with_target(row, n) for n in range(count)]
            example = examples[0] if examples else self.rows[row]
        except DataError as error:
            where, colon, message = str(error).partition(": ")  # a source names the location first
            empty = error.field if isinstance(error, EmptyField) else ""
            report("row", message if colon else where, where if colon else "", empty)
            return checked
        for message in encoding_problems(texts_of(example)):
            report("encoding", message)
        if not example.truth["references"] and self.config.dataset.references:
            checked.empty = ", ".join(self.config.dataset.references)
        checked.accepted = accepted_answers(example)
        checked.references = len(example.truth["references"])
        checked.short = sum(count_short([text]) is not None for text in example.truth["references"])
        rotated: set[str] = set()
        sizes = self._check_images(example, checked, location, rotated)
        if len(sizes) < len(example.images):
            return checked  # the other checks need all images
        if example.objects is not None:
            example, *examples = (self.encoder.with_objects(_with_sizes(one, sizes)) for one in (example, *examples))
            checked.accepted = accepted_answers(example)
        targets = [one.target for one in examples if one.target is not None]
        answers = [*example.truth["references"], *targets]
        for kind, message in [
            *target_problems(self.config, self.task, example, answers),
            *label_problems(self.config, example),
            *box_problems(self.config, example, sizes, rotated),
            *video_problems(self.encoder, example),
        ]:
            report(kind, message)
        self._encode(checked, report, example, examples, sizes)
        return checked

    def _check_images(
        self, example: Example, checked: CheckedRow, location: RowLocation, rotated: set[str]
    ) -> dict[str, Size]:
        """Sizes of the images that can be decoded, by `ImageRef.where`; the others become findings.

        Adds those that an EXIF orientation turns to `rotated`.
        """
        sizes: dict[str, Size] = {}
        for position, ref in enumerate(example.images):
            try:
                facts = self.index.examine(ref)
                checked.positions.append(position)
                checked.images.append(facts)
                error = facts.error if isinstance(facts, ImageFacts) else self.index.error(facts)
                if error is not None:
                    raise ImageError(error, ref.where)
            except ImageError as error:
                at = replace(location, image=position)
                checked.findings.append(Finding("image", self.role, error.reason, at, where=error.where))
                continue
            if isinstance(facts, ImageFacts):
                sizes[ref.where], properties = facts.size, facts.properties
            else:
                sizes[ref.where], properties = self.index.size(facts), self.index.properties(facts)
            if ROTATED in properties:
                rotated.add(ref.where)
        return sizes

    def _encode(
        self,
        checked: CheckedRow,
        report: Callable[[str, str], None],
        example: Example,
        examples: Sequence[Example],
        sizes: Mapping[str, Size],
    ) -> None:
        """Encode the prompt and every training example; each failure becomes one finding."""
        training = TrainingExamples(self.rows, self.task, self.config.task, self.encoder, self.config.training)
        known = {finding.kind for finding in checked.findings}
        reported: set[str] = set()

        def attempt(make: Callable[[], T]) -> T | None:
            try:
                return make()
            except (DataError, ImageError) as error:
                too_long, message = isinstance(error, ExampleTooLong), str(error)
                # A task also refuses labels and boxes that were reported above.
                if message not in reported and (too_long or not known & {"label", "box"}):
                    # The kind of finding has its own advice.
                    report("too-long" if too_long else "example", message.partition("; ")[0] if too_long else message)
                reported.add(message)
                return None

        sized = _with_sizes(example, sizes)
        prompt = attempt(lambda: self.task.prompt(self.config.task, sized))
        if prompt is not None:
            checked.prompt_hash = _prompt_hash(prompt)
            # The texts of a row were looked at already; what is left is the task's.
            if "placeholder" not in known:
                checked.prompt_mark = placeholder(prompt_texts(prompt)) or ""
        if (
            prompt is not None
            and self.answered
            and attempt(lambda: self.task.truth(self.config.task, sized)) is not None
        ):
            task = for_model(self.task, self.encoder.with_box_scale, self.encoder.with_objects)
            answers = expected_answers(task, self.config.task, sized)
            checked.answers = [self.encoder.answer_length(text) for text in answers]
            encoded = attempt(lambda: self.encoder.prompt(prompt))
            if encoded is not None and not self.trained:
                checked.lengths.append(self._length(encoded))
        for one in [_with_sizes(one, sizes) for one in examples]:
            encoded = attempt(lambda one=one: training.encode_example(one))  # type: ignore[misc]
            if encoded is not None:
                checked.lengths.append(self._length(encoded))
                checked.targets.append(training.target(one))

    def _length(self, encoded: Encoded) -> Length:
        return Length(len(encoded), self.encoder.image_tokens(encoded), encoded.rendered.supervised)


def _with_sizes(example: Example, sizes: Mapping[str, Size]) -> Example:
    """The example with the sizes of its images, which were decoded already, so that no file is read again."""

    def sized(part: Any) -> Any:
        is_image = isinstance(part, ImageRef) and not isinstance(part, VideoRef)
        return replace(part, size=sizes[part.where]) if is_image else part

    messages = example.messages
    if messages is not None:
        messages = tuple(replace(one, content=tuple(map(sized, one.content))) for one in messages)
    return replace(example, images=tuple(map(sized, example.images)), messages=messages)


def accepted_answers(example: Example) -> frozenset[str]:
    """The answers that are right for a row."""
    truth = example.truth
    boxes, labels = truth.get("boxes"), truth.get("box_labels")
    if boxes is None:
        return accepted({}, truth["references"])
    return accepted({"boxes": boxes if labels is None else [boxes, labels]}, truth["references"])


def _prompt_hash(conversation: Conversation) -> bytes:
    """A hash of the text of a conversation; every image counts the same."""
    words = [(one.role, [part if isinstance(part, str) else None for part in one.content]) for one in conversation]
    return hashlib.blake2b(repr(words).encode(errors="replace"), digest_size=8).digest()
