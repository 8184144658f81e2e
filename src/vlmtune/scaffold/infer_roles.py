"""Columns as roles, and the task that fits them; what was told counts, and every guess says why.

What a task needs to know of the rows beyond their columns: the label set, and what a box's numbers mean.
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
LINES = {"transcription", "transcript", "ocr", "line_text", "ground_truth", "gt"}
NAMES = {
    "id",
    "ids",
    "uid",
    "key",
    "file_name",
    "filename",
    "path",
    "url",
    "split",
    "license",
    "image_id",
    "question_id",
}
PLACES_OF_TEXT = ("ocr", "iam", "handwrit", "transcri", "receipt", "lines")
MOST_LABELS = 200


@dataclass
class Guess:
    """Keys of the blocks dataset and task, and why each was chosen, by block and key."""

    dataset: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    why: dict[tuple[str, str], str] = field(default_factory=dict)

    def put(self, block: str, key: str, value: Any, why: str) -> None:
        """A key that nobody told yet."""
        keys = self.dataset if block == "dataset" else self.task
        if key not in keys:
            keys[key] = value
            self.why[block, key] = why

    def names(self) -> set[str]:
        """Columns that have a role."""
        found: set[str] = set()
        for value in self.dataset.values():
            found |= set(value) if isinstance(value, list) else {value} if isinstance(value, str) else set()
        return found


def guess(columns: list[Column], told: Mapping[str, Any], about: str) -> Guess:
    """Roles and task.

    Args:
        columns: those of the dataset.
        told: keys of the blocks dataset and task that are settled.
        about: name and path of the dataset, which may speak of documents, charts or text.

    Raises:
        DataError: it cannot be told; says which columns there are and which choices remain.
    """
    made = Guess(dict(told.get("dataset", {})), dict(told.get("task", {})))
    _images(made, columns)
    asked = made.task.get("name")
    rules = [rule for tasks, rule in _RULES if asked is None or asked in tasks or not tasks]
    if not any(rule(made, columns, about.lower()) for rule in rules) and not _is_told(made):
        listed = "; ".join(f"{column.name} ({column.kind})" for column in columns)
        raise DataError(
            f"cannot tell what is asked and what is answered{f' in {asked}' if asked else ''}. There are the columns: "
            f"{listed}. Say it, as --set 'dataset.references=[COLUMN]' (and dataset.question, boxes or messages) --set "
            f"task.name=NAME; tasks: {', '.join(registry.available('tasks'))}"
        )
    for column in columns:
        if column.base in ("id", "uid", "question_id", "key") and len(set(map(str, column.values))) == len(
            column.values
        ):
            made.put(
                "dataset", "id", column.name, "differs in every row looked at; without it, ids are made of the content"
            )
            break
    return made


def _images(made: Guess, columns: list[Column]) -> None:
    lists = [column for column in columns if column.kind == "images"]
    every = [column for column in columns if column.kind == "image"]
    # Columns that name a row often hold its picture's name, too; the picture where no other column does.
    single = [column for column in every if column.name.lower() not in NAMES] or every[:1]
    talk = any(column.kind == "talk" for column in columns)
    if "image" in made.dataset or "images" in made.dataset:
        return
    if lists or (talk and single):
        column = (lists or single)[0]
        made.put("dataset", "images", column.name, f"the images of a row: {column.shown}")
    elif single:
        more = ", ".join(column.name for column in single[1:])
        also = f"; {more} hold images, too: image: [{single[0].name}, {more}] shows all" if more else ""
        made.put("dataset", "image", single[0].name, f"holds images: {single[0].shown}{also}")
    elif talk:
        made.put("dataset", "image", None, "! no column holds images; these conversations are text alone")
    else:
        listed = "; ".join(f"{column.name} ({column.kind})" for column in columns)
        raise DataError(
            f"no column holds images. There are: {listed}. Name it with --set dataset.image=COLUMN; an image is a path "
            "beside the file, base64, bytes, or an https address"
        )


def _named(columns: Iterable[Column], names: set[str], *kinds: str) -> Column | None:
    """The first column of a kind with one of the names, whole or as a word of it; numbers are whole ones."""
    fit = [column for column in columns if column.kind in kinds and (column.kind != "number" or column.is_whole)]
    whole = (column for column in fit if column.base in names)
    return next(whole, next((column for column in fit if names & set(column.base.split("_"))), None))


def _talk(made: Guess, columns: list[Column], _: str) -> bool:
    column = next((column for column in columns if column.kind == "talk"), None)
    if column is None or "references" in made.dataset:
        return False
    made.put("dataset", "messages", column.name, "whole conversations; what the assistant says in them is learnt")
    last = [str(turns[-1].get("content") or turns[-1].get("value") or "") for turns in column.values]
    words = sorted(len(text.split()) for text in last)[len(last) // 2]
    name = "vqa" if words <= 4 else "captioning"
    made.put("task", "name", name, f"names the metrics: the last answers have {words} words, in the middle of all")
    return True


def _grounding(made: Guess, columns: list[Column], _: str) -> bool:
    box = next((column for column in columns if column.kind == "box"), None)
    free = [column for column in columns if column.name not in NAMES]
    phrase = _named(free, PHRASES, "text") or next((column for column in free if column.kind == "text"), None)
    if box is None or phrase is None or "references" in made.dataset:
        return False
    made.put("dataset", "question", phrase.name, f"the phrase that is looked for: {phrase.shown}")
    made.put("dataset", "boxes", box.name, f"four numbers, or lists of them: {box.shown}")
    made.put("task", "name", "grounding", "there are boxes and phrases")
    return True


def _question(made: Guess, columns: list[Column], about: str) -> bool:
    told = {column.name for column in columns} & made.names()
    question = _named(columns, QUESTIONS, "text")
    answer = _named((column for column in columns if column is not question), ANSWERS, "text", "texts", "number")
    if (question is None and "question" not in made.dataset) or (answer is None and "references" not in made.dataset):
        return False
    if question is not None and question.name not in told:
        made.put("dataset", "question", question.name, f"by its name: {question.shown}")
    if answer is not None:
        many = "lists of answers, any of them counts" if answer.kind == "texts" else "the answer"
        made.put("dataset", "references", [answer.name], f"{many}: {answer.shown}")
    kinds = {"docvqa": ("doc", "infographic", "receipt", "form"), "chartqa": ("chart", "plot", "figure")}
    name = next((task for task, words in kinds.items() if any(word in about for word in words)), "vqa")
    others = ", ".join(task for task in ("vqa", "docvqa", "chartqa") if task != name)
    made.put("task", "name", name, f"questions with answers; {others} ask the same and score otherwise")
    return True


def _extraction(made: Guess, columns: list[Column], _: str) -> bool:
    record = next((column for column in columns if column.kind == "record"), None)
    if record is None:
        return False
    made.put("dataset", "references", [record.name], f"JSON objects as text: {record.shown}")
    made.put("task", "name", "extraction", "the answers are JSON objects")
    keys = dict.fromkeys(key for value in record.values for key in value)
    made.put("task", "fields", list(keys), "all keys of the rows looked at; a row with another key is an error")
    return True


def _classification(made: Guess, columns: list[Column], _: str) -> bool:
    label = _named(columns, LABELS, "text", "number")
    if label is None or label.words > 4 or "references" in made.dataset:
        return False
    made.put("dataset", "references", [label.name], f"short texts that repeat: {label.shown}")
    made.put(
        "task", "name", "classification", "one label for each picture; captioning would let the model answer freely"
    )
    return True


def _lines(made: Guess, columns: list[Column], about: str) -> bool:
    line = _named(columns, LINES, "text")
    if line is None and any(word in about for word in PLACES_OF_TEXT):
        line = _named(columns, CAPTIONS, "text")
    if line is None or "references" in made.dataset:
        return False
    made.put("dataset", "references", [line.name], f"what stands in the picture: {line.shown}")
    made.put("task", "name", "ocr", "by the names of column and dataset; captioning describes instead")
    return True


def _captions(made: Guess, columns: list[Column], _: str) -> bool:
    texts = [
        c for c in columns if c.kind in ("text", "texts") and c.name.lower() not in NAMES and c.name not in made.names()
    ]
    first = _named(texts, CAPTIONS, "text", "texts") or (texts[0] if len(texts) == 1 else None)
    if "references" not in made.dataset:
        if first is None:
            return False
        same = [column.name for column in texts if column.base == first.base and column.kind == first.kind]
        why = f"{len(same)} columns of one name" if len(same) > 1 else "sentences about the picture"
        made.put("dataset", "references", same, f"{why}: {first.shown}")
    made.put("task", "name", "captioning", "a text for each picture; ocr reads, classification chooses, vqa answers")
    return True


def _is_told(made: Guess) -> bool:
    """Whether the user said what is answered, and which task that is."""
    return "name" in made.task and bool({"references", "messages", "boxes"} & set(made.dataset))


_RULES: tuple[tuple[set[str], Callable[[Guess, list[Column], str], bool]], ...] = (
    (set(), _talk),
    ({"grounding"}, _grounding),
    ({"vqa", "docvqa", "chartqa"}, _question),
    ({"extraction"}, _extraction),
    ({"classification"}, _classification),
    ({"ocr"}, _lines),
    ({"captioning"}, _captions),
)
"""Rules in the order in which they are tried, with the tasks they lead to; conversations may be of any."""


def complete(made: Guess, records: Records, first: Sequence[Mapping[str, Any]], whole: bool) -> None:
    """Put labels, or the boxes' unit and corners, into the guess.

    Args:
        made: roles and task.
        records: all records of the training split, or the first ones.
        first: some of them, read already.
        whole: whether `records` are all of them.

    Raises:
        DataError: a column has more labels than a prompt can name.
    """
    if made.task["name"] == "classification" and "labels" not in made.task:
        _labels(made, records, whole)
    if made.task["name"] == "grounding" and "messages" not in made.dataset:
        _boxes(made, records, first)


def _labels(made: Guess, records: Records, whole: bool) -> None:
    column = made.dataset["references"][0]
    if column in records.class_names:
        found, why = list(records.class_names[column]), "all labels that the dataset names"
    else:
        read = records.read if records.select is None else records.select([column])
        labels = [_texts(read(index).get(column)) for index in range(records.count)]
        found = sorted({text for each in labels for text in each})
        bare = sum(not each for each in labels)
        why = f"all labels of {records.count:,} rows"
        if not whole:
            why = f"! labels of the first {records.count:,} rows; add those that are missing"
        if bare:
            without = f"{bare:,} of {records.count:,} rows have none: repair them, or see dataset.max_bad_fraction"
            why = f"! {why.removeprefix('! ')}; {without}"
    if len(found) > MOST_LABELS:
        raise DataError(
            f"column {column!r} has {len(found):,} different texts, too many to choose from in a prompt. If they are "
            "sentences: --set task.name=captioning"
        )
    made.put("task", "labels", found, why)


def _texts(value: Any) -> list[str]:
    """The answers in a cell, as rows give them; none where it is null or empty."""
    texts = [str(each) for each in (value if isinstance(value, list) else [value]) if each is not None]
    return [text for text in texts if text.strip()]


def _boxes(made: Guess, records: Records, first: Sequence[Mapping[str, Any]]) -> None:
    """The first meaning that all boxes and pictures allow."""
    image = made.dataset.get("image", "image")
    seen = []
    for index, record in enumerate(first):
        value = structured(record.get(made.dataset["boxes"]))
        picture = record.get(image if isinstance(image, str) else image[0])
        if value and picture is not None:
            size = size_of(records.open_image(picture, f"{records.where}, row {index}"))
            seen += [(box, size) for box in (value if isinstance(value[0], list) else [value])]
    fit = [
        (unit, corners)
        for unit in get_args(Unit)
        for corners in get_args(Corners)
        if all(_fits(box, size, unit, corners) for box, size in seen)
    ]
    # What lies within 1 lies within any picture, too; shares are meant.
    fit = [each for each in fit if each[0] == "unit"] or fit
    unit, corners = fit[0] if fit else ("pixels", "xyxy")
    units = sorted({found for found, _ in fit})
    if len(units) == 1:
        said = f"the only unit in which {len(seen)} boxes lie in their pictures"
    else:
        said = f"! {' and '.join(units)} would fit; check" if units else "! the boxes lie in no picture; check"
    made.put("task", "unit", unit, said)
    sure = len({found for found_unit, found in fit if found_unit == unit}) == 1
    said = "the other would leave the picture" if sure else "! two corners, or corner and size: both would fit; check"
    made.put("task", "corners", corners, said)


def _fits(box: Box, size: tuple[int, int], unit: Unit, corners: Corners) -> bool:
    width, height = unit_scale(unit, size)
    x, y, right, bottom = xyxy(box, corners)
    # Annotations go a pixel over the edge now and then.
    return x >= 0 and y >= 0 and x < right <= width * 1.01 and y < bottom <= height * 1.01
