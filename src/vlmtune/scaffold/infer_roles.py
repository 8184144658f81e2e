"""Infers the roles of columns, the task that fits them, and its settings: the label set, the meaning of box numbers.

Settings that the user gave are never changed. Every inferred one comes with the reason, which the config file shows as
a comment; a reason that starts with "!" is doubtful and should be checked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from vlmtune import registry
from vlmtune.boxes import Box, Corners, Unit, unit_scale, xyxy
from vlmtune.data import Records, structured
from vlmtune.errors import DataError
from vlmtune.images import size_of
from vlmtune.scaffold.columns import Column

QUESTIONS = {"question", "questions", "query", "prompt", "instruction", "problem", "input"}
PHRASES = {"phrase", "expression", "referring", "sentence", "caption", "text", "label", *QUESTIONS}
ANSWERS = {"answer", "answers", "label", "labels", "response", "output", "target", "ground_truth", "solution"}
LABELS = {"label", "labels", "class", "category", "species", "target"}
CAPTIONS = {"caption", "captions", "description", "descriptions", "sentence", "sentences", "text", "raw", "alt_text"}
TRANSCRIPTS = {"transcription", "transcript", "ocr", "line_text", "ground_truth", "gt"}
IDENTIFIERS = {
    *("id", "ids", "uid", "key", "file_name", "filename", "path", "url", "split", "license", "image_id", "question_id")
}
"""Columns that identify or describe a row rather than hold its content."""

OCR_HINTS = ("ocr", "iam", "handwrit", "transcri", "receipt", "lines")
"""Parts of the names of datasets of text images."""

MAX_LABELS = 200


@dataclass
class Draft:
    """Keys of the blocks dataset and task, and for inferred ones the reason, by (block, key)."""

    dataset: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)

    def infer(self, block: str, key: str, value: Any, reason: str) -> None:
        """Set a key that is not set yet."""
        keys = self.dataset if block == "dataset" else self.task
        if key not in keys:
            keys[key] = value
            self.reasons[block, key] = reason

    def used_columns(self) -> set[str]:
        """Columns that have a role."""
        used: set[str] = set()
        for value in self.dataset.values():
            used |= set(value) if isinstance(value, list) else {value} if isinstance(value, str) else set()
        return used


def infer_roles(columns: list[Column], given: Mapping[str, Any], hint: str) -> Draft:
    """Roles of columns, and the task.

    Args:
        columns: all columns of the dataset.
        given: the blocks dataset and task as far as the user set them.
        hint: name and path of the dataset, which may mention documents, charts or text.

    Raises:
        DataError: nothing fits; lists the columns and says what to set.
    """
    draft = Draft(dict(given.get("dataset", {})), dict(given.get("task", {})))
    _infer_images(draft, columns)
    task = draft.task.get("name")
    rules = [rule for tasks, rule in _RULES if task is None or task in tasks or not tasks]
    if not any(rule(draft, columns, hint.lower()) for rule in rules) and not _is_decided(draft):
        raise DataError(
            f"cannot infer the question and the answer{f' of {task}' if task else ''} from the columns: "
            f"{_listed(columns)}. Set them with --set 'dataset.references=[COLUMN]' (and dataset.question, boxes or "
            f"messages) --set task.name=NAME; tasks: {', '.join(registry.available('tasks'))}"
        )
    for column in columns:
        is_unique = len(set(map(str, column.values))) == len(column.values)
        if is_unique and column.base in ("id", "uid", "question_id", "key"):
            reason = "unique in the first rows; without it, ids are hashes of the content"
            draft.infer("dataset", "id", column.name, reason)
            break
    return draft


def _listed(columns: Iterable[Column]) -> str:
    return "; ".join(f"{column.name} ({column.kind})" for column in columns)


def _infer_images(draft: Draft, columns: list[Column]) -> None:
    if "image" in draft.dataset or "images" in draft.dataset:
        return
    lists = [column for column in columns if column.kind == "images"]
    paths = [column for column in columns if column.kind == "image"]
    # A column that identifies the row may also be the path of its image; it counts if there is no other.
    single = [column for column in paths if column.name.lower() not in IDENTIFIERS] or paths[:1]
    has_messages = any(column.kind == "conversation" for column in columns)
    if lists or (has_messages and single):
        column = (lists or single)[0]
        draft.infer("dataset", "images", column.name, f"images of the row: {column.preview}")
    elif single:
        more = ", ".join(column.name for column in single[1:])
        hint = f"; {more} too: use image: [{single[0].name}, {more}] for all" if more else ""
        draft.infer("dataset", "image", single[0].name, f"holds images: {single[0].preview}{hint}")
    elif has_messages:
        draft.infer("dataset", "image", None, "! no column holds images; the conversations are text only")
    else:
        raise DataError(
            f"no column holds images: {_listed(columns)}. Set it with --set dataset.image=COLUMN; an image is a path "
            "relative to the file, base64, bytes, or an https address"
        )


def _named(columns: Iterable[Column], names: set[str], *kinds: str) -> Column | None:
    """The first column of some kinds whose name, or else a word of it, is among `names`; of numbers only integers."""
    fit = [column for column in columns if column.kind in kinds and (column.kind != "number" or column.is_integer)]
    exact = (column for column in fit if column.base in names)
    return next(exact, next((column for column in fit if names & set(column.base.split("_"))), None))


def _infer_conversation(draft: Draft, columns: list[Column], _: str) -> bool:
    column = next((column for column in columns if column.kind == "conversation"), None)
    if column is None or "references" in draft.dataset:
        return False
    draft.infer("dataset", "messages", column.name, "whole conversations; the assistant's messages are trained on")
    last = [str(messages[-1].get("content") or messages[-1].get("value") or "") for messages in column.values]
    words = sorted(len(text.split()) for text in last)[len(last) // 2]
    name = "vqa" if words <= 4 else "captioning"
    draft.infer("task", "name", name, f"decides the metrics: the median length of the last answers is {words} words")
    return True


def _infer_grounding(draft: Draft, columns: list[Column], _: str) -> bool:
    box = next((column for column in columns if column.kind == "box"), None)
    content = [column for column in columns if column.name not in IDENTIFIERS]
    phrase = _named(content, PHRASES, "text") or next((column for column in content if column.kind == "text"), None)
    if box is None or phrase is None or "references" in draft.dataset:
        return False
    draft.infer("dataset", "question", phrase.name, f"the phrase to locate: {phrase.preview}")
    draft.infer("dataset", "boxes", box.name, f"four numbers, or lists of them: {box.preview}")
    draft.infer("task", "name", "grounding", "there are boxes and phrases")
    return True


def _infer_question(draft: Draft, columns: list[Column], hint: str) -> bool:
    used = draft.used_columns()
    question = _named(columns, QUESTIONS, "text")
    answer = _named((column for column in columns if column is not question), ANSWERS, "text", "texts", "number")
    has_question = question is not None or "question" in draft.dataset
    if not has_question or (answer is None and "references" not in draft.dataset):
        return False
    if question is not None and question.name not in used:
        draft.infer("dataset", "question", question.name, f"by its name: {question.preview}")
    if answer is not None:
        what = "lists of accepted answers" if answer.kind == "texts" else "the answer"
        draft.infer("dataset", "references", [answer.name], f"{what}: {answer.preview}")
    hints = {"docvqa": ("doc", "infographic", "receipt", "form"), "chartqa": ("chart", "plot", "figure")}
    name = next((task for task, words in hints.items() if any(word in hint for word in words)), "vqa")
    others = " and ".join(task for task in ("vqa", "docvqa", "chartqa") if task != name)
    draft.infer("task", "name", name, f"questions with answers; {others} differ only in their metrics")
    return True


def _infer_extraction(draft: Draft, columns: list[Column], _: str) -> bool:
    column = next((column for column in columns if column.kind == "object"), None)
    if column is None:
        return False
    draft.infer("dataset", "references", [column.name], f"JSON objects as text: {column.preview}")
    draft.infer("task", "name", "extraction", "the answers are JSON objects")
    keys = dict.fromkeys(key for value in column.values for key in value)
    draft.infer("task", "fields", list(keys), "all keys in the first rows; a row with another key is an error")
    return True


def _infer_classification(draft: Draft, columns: list[Column], _: str) -> bool:
    label = _named(columns, LABELS, "text", "number")
    if label is None or label.words > 4 or "references" in draft.dataset:
        return False
    draft.infer("dataset", "references", [label.name], f"short texts that repeat: {label.preview}")
    reason = "one label per image; with captioning the model would answer freely"
    draft.infer("task", "name", "classification", reason)
    return True


def _infer_ocr(draft: Draft, columns: list[Column], hint: str) -> bool:
    transcript = _named(columns, TRANSCRIPTS, "text")
    if transcript is None and any(word in hint for word in OCR_HINTS):
        transcript = _named(columns, CAPTIONS, "text")
    if transcript is None or "references" in draft.dataset:
        return False
    draft.infer("dataset", "references", [transcript.name], f"the text in the image: {transcript.preview}")
    draft.infer("task", "name", "ocr", "from the names of the column and the dataset; captioning describes instead")
    return True


def _infer_captions(draft: Draft, columns: list[Column], _: str) -> bool:
    content = [c for c in columns if c.name.lower() not in IDENTIFIERS and c.name not in draft.used_columns()]
    texts = [column for column in content if column.kind in ("text", "texts")]
    first = _named(texts, CAPTIONS, "text", "texts") or (texts[0] if len(texts) == 1 else None)
    if "references" not in draft.dataset:
        if first is None:
            return False
        same = [column.name for column in texts if column.base == first.base and column.kind == first.kind]
        reason = f"{len(same)} columns with the same name" if len(same) > 1 else "sentences about the image"
        draft.infer("dataset", "references", same, f"{reason}: {first.preview}")
    draft.infer("task", "name", "captioning", "a text per image; ocr transcribes, classification chooses, vqa answers")
    return True


def _is_decided(draft: Draft) -> bool:
    """Whether the task is known and the columns with the answers are."""
    return "name" in draft.task and bool({"references", "messages", "boxes"} & set(draft.dataset))


_RULES: tuple[tuple[set[str], Callable[[Draft, list[Column], str], bool]], ...] = (
    (set(), _infer_conversation),
    ({"grounding"}, _infer_grounding),
    ({"vqa", "docvqa", "chartqa"}, _infer_question),
    ({"extraction"}, _infer_extraction),
    ({"classification"}, _infer_classification),
    ({"ocr"}, _infer_ocr),
    ({"captioning"}, _infer_captions),
)
"""(tasks that the rule leads to, rule) in the order in which they are tried; conversations may belong to any task."""


def infer_task_settings(draft: Draft, records: Records, first: Sequence[Mapping[str, Any]], is_complete: bool) -> None:
    """Infer labels, or the boxes' unit and corners.

    Args:
        draft: roles and task.
        records: records of the train split.
        first: the first of them, read already.
        is_complete: whether `records` are the whole split.

    Raises:
        DataError: a column has more labels than a prompt can list.
    """
    if draft.task["name"] == "classification" and "labels" not in draft.task:
        _infer_labels(draft, records, is_complete)
    if draft.task["name"] == "grounding" and "messages" not in draft.dataset:
        _infer_boxes(draft, records, first)


def _infer_labels(draft: Draft, records: Records, is_complete: bool) -> None:
    column = draft.dataset["references"][0]
    if column in records.class_names:
        labels, reason = list(records.class_names[column]), "all classes that the dataset declares"
    else:
        read = records.read if records.select is None else records.select([column])
        per_row = [_texts(read(index).get(column)) for index in range(records.count)]
        labels = sorted({text for texts in per_row for text in texts})
        reason = f"all labels of {records.count:,} rows"
        if not is_complete:
            reason = f"! labels of the first {records.count:,} rows; add missing ones"
        if unlabelled := sum(not texts for texts in per_row):
            problem = f"{unlabelled:,} of {records.count:,} have none: repair them, or set dataset.max_bad_fraction"
            reason = f"! {reason.removeprefix('! ')}; {problem}"
    if len(labels) > MAX_LABELS:
        raise DataError(
            f"column {column!r} has {len(labels):,} different texts, too many to list in a prompt. If they are "
            "sentences: --set task.name=captioning"
        )
    draft.infer("task", "labels", labels, reason)


def _texts(value: Any) -> list[str]:
    """The texts in a value of a label column; none if it is null or empty."""
    texts = [str(item) for item in (value if isinstance(value, list) else [value]) if item is not None]
    return [text for text in texts if text.strip()]


def _infer_boxes(draft: Draft, records: Records, first: Sequence[Mapping[str, Any]]) -> None:
    """The first unit and corners with which all boxes lie inside their images."""
    column = draft.dataset.get("image", "image")
    boxes = []
    for index, record in enumerate(first):
        value = structured(record.get(draft.dataset["boxes"]))
        image = record.get(column if isinstance(column, str) else column[0])
        if value and image is not None:
            size = size_of(records.open_image(image, f"{records.where}, row {index}"))
            boxes += [(box, size) for box in (value if isinstance(value[0], list) else [value])]
    fit = [
        (unit, corners)
        for unit in get_args(Unit)
        for corners in get_args(Corners)
        if all(_fits(box, size, unit, corners) for box, size in boxes)
    ]
    # Numbers from 0 to 1 fit every unit, but can only mean fractions.
    fit = [each for each in fit if each[0] == "unit"] or fit
    unit, corners = fit[0] if fit else ("pixels", "xyxy")
    units = sorted({unit for unit, _ in fit})
    if len(units) == 1:
        reason = f"the only unit with which {len(boxes)} boxes lie inside their images"
    else:
        reason = f"! both {' and '.join(units)} fit; check" if units else "! no unit puts the boxes inside; check"
    draft.infer("task", "unit", unit, reason)
    is_unique = len({fitting for fitting_unit, fitting in fit if fitting_unit == unit}) == 1
    reason = "with the other format, boxes would leave the image" if is_unique else "! both xyxy and xywh fit; check"
    draft.infer("task", "corners", corners, reason)


def _fits(box: Box, size: tuple[int, int], unit: Unit, corners: Corners) -> bool:
    width, height = unit_scale(unit, size)
    x, y, right, bottom = xyxy(box, corners)
    # Annotation tools round, so boxes may extend slightly beyond the edge.
    return x >= 0 and y >= 0 and x < right <= width * 1.01 and y < bottom <= height * 1.01
