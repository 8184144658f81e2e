"""Infers the roles of columns, the task that fits them, and its label set.

Settings that the user gave are never changed. Every inferred one comes with the reason, which the config file shows as
a comment; a reason that starts with "!" is doubtful and should be checked.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vlmtune import registry
from vlmtune.boxes import Corners
from vlmtune.data import IMAGE_ENDINGS, Records, unread_beside
from vlmtune.errors import DataError
from vlmtune.scaffold.columns import Column, listed
from vlmtune.scaffold.draft import Draft
from vlmtune.scaffold.infer_boxes import CLASSES, infer_boxes, infer_classes, infer_detection
from vlmtune.scaffold.infer_choices import find_choices, infer_choices
from vlmtune.scaffold.questions import Option, Undecided
from vlmtune.scaffold.split_names import ROLE_NAMES, role_of
from vlmtune.types import OBJECT_MARKS

QUESTIONS = {"question", "questions", "query", "prompt", "instruction", "problem", "input"}
COMPLETIONS = {"completion", "chosen"}
CONTEXT = {"input", "history", "system", "tools", "context", "hint", "choices", "options"}
PHRASES = {"phrase", "expression", "referring", "sentence", "caption", "text", "label", *QUESTIONS}
ANSWERS = {
    "answer",
    "answers",
    "answerkey",
    "reference",
    "references",
    "label",
    "labels",
    "response",
    "output",
    "target",
    "ground_truth",
    "solution",
}
BOX_COLUMNS: Mapping[Corners, tuple[tuple[str, ...], ...]] = {
    "xyxy": (
        ("xmin", "ymin", "xmax", "ymax"),
        ("x_min", "y_min", "x_max", "y_max"),
        ("x1", "y1", "x2", "y2"),
        ("left", "top", "right", "bottom"),
    ),
    "xywh": (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height")),
}
"""Usual names of four columns with a number of a box each; a prefix such as `bbox_` may stand before them."""

BOX_PREFIXES = ("", "bbox_", "box_", "bb_")
LABELS = {"label", "labels", "class", "category", "species", "target"}
CAPTIONS = {"caption", "captions", "description", "descriptions", "sentence", "sentences", "text", "raw", "alt_text"}
TRANSCRIPTS = {"transcription", "transcript", "ocr", "line_text", "ground_truth", "gt"}
IDENTIFIERS = {
    *("id", "ids", "uid", "key", "file_name", "filename", "file", "path", "filepath", "url", "split", "license"),
    *("image_id", "question_id", "width", "height", "source", "md5", "sha256"),
}
"""Columns that identify or describe a row rather than hold its content."""

SPLIT_COLUMNS = {"split", "subset", "fold", "partition", "set", "sheet", "phase", "usage"}
VIDEOS = {"video", "videos", "clip", "clips", "frames"}
"""Names of columns whose lists of images are the frames of videos."""

PLACEHOLDERS = re.compile(r"<(?:bbox|ref-object|ref|audio|video)>")
"""Placeholders that other programs fill from further columns; `<image>` stands for an image of the row."""

OCR_HINTS = ("ocr", "iam", "handwrit", "transcri", "receipt", "lines")
"""Parts of the names of datasets of text images."""

MAX_LABELS = 200
MAX_LISTED = 12
"""Columns that a message lists."""

MAX_ASKED = 5
"""Columns of which a question lists the readings."""

LONG_ANSWER = 6
"""Median words from which answers are sentences rather than short answers."""

LABEL_WORDS = 4


def infer_roles(columns: list[Column], given: Mapping[str, Any], hint: str) -> Draft:
    """Roles of columns, and the task.

    Args:
        columns: all columns of the dataset.
        given: the blocks dataset and task as far as the user set them.
        hint: name and path of the dataset, which may mention documents, charts or text.

    Raises:
        Undecided: several readings are possible.
        DataError: nothing fits; lists the columns and says what to set.
    """
    draft = Draft(dict(given.get("dataset", {})), dict(given.get("task", {})))
    columns = [column for column in columns if column.kind != "empty" or column.base not in SPLIT_COLUMNS]
    _infer_images(draft, columns)
    _refuse_placeholders(columns, draft.dataset.get("objects", "objects"), draft.dataset.get("videos") is not None)
    task = draft.task.get("name")
    rules = [rule for tasks, rule in _RULES if task is None or task in tasks or not tasks]
    if not any(rule(draft, columns, hint.lower()) for rule in rules) and not _is_decided(draft):
        raise _nothing_fits(draft, columns)
    if "video" in draft.dataset and draft.task.get("name") == "captioning":
        draft.infer("task", "prompt", "Describe this video in one concise, informative sentence.", "rows show videos")
    for column in columns:
        is_unique = column.distinct == len(column.values)
        if is_unique and column.base in ("id", "uid", "question_id", "key"):
            reason = "unique in the first rows; without it, ids are hashes of the content"
            draft.infer("dataset", "id", column.name, reason)
            break
    return draft


def split_column(columns: Iterable[Column]) -> Column | None:
    """The column with the official split of each row: all its values are names of splits."""
    named = [column for column in columns if column.base in SPLIT_COLUMNS and column.kind == "text"]
    return next((column for column in named if all(role_of(str(value)) for value in column.values)), None)


FLAGS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def split_flag(columns: Iterable[Column]) -> tuple[Column, str] | None:
    """A column such as `is_test` that says of each row whether it is in a split, and the role of that split."""
    for column in columns:
        name = re.sub(r"^(is|in)(?=_|train|test|val)_?|_?(set|split|flag)$", "", column.name.lower())
        role = next((role for role, words in ROLE_NAMES.items() if name in words), None)
        if role and column.kind in ("number", "text") and all(str(value).lower() in FLAGS for value in column.values):
            return column, role
    return None


def _listed(columns: Sequence[Column]) -> str:
    shown = "; ".join(f"{column.name} ({column.kind})" for column in columns[:MAX_LISTED])
    return shown + (f"; and {len(columns) - MAX_LISTED:,} more" if len(columns) > MAX_LISTED else "")


def _refuse_placeholders(columns: Sequence[Column], objects: str | None, videos: bool) -> None:
    """Refuse texts with placeholders that would be taught as they are.

    Messages are filled from the `objects`, and with the `videos`.
    """
    filled = OBJECT_MARKS if any(column.name == objects for column in columns) else ()
    filled = (*filled, *(("<video>",) if videos else ()))
    for column in columns:
        for value in column.values:
            found = PLACEHOLDERS.search(str(value))
            if found is not None and not (found[0] in filled and column.kind == "conversation"):
                raise DataError(
                    f"column {column.name!r} contains the placeholder {found[0]}, which another program fills from "
                    "further columns; the model would learn it as it is. Write the boxes and names into the texts, or "
                    "into columns of their own: --set dataset.question=COLUMN --set dataset.boxes=COLUMN "
                    "--set task.name=grounding"
                )


def _content(draft: Draft, columns: Iterable[Column]) -> list[Column]:
    """Columns of text that may be answers: they have no role yet, and no name of something else."""
    others = {*IDENTIFIERS, *SPLIT_COLUMNS}
    used = draft.used_columns()
    return [
        column
        for column in columns
        if column.kind in ("text", "texts") and column.name not in used and column.name.lower() not in others
    ]


def _nothing_fits(draft: Draft, columns: Sequence[Column]) -> DataError:
    """The readings of columns whose names say nothing, or an error that lists the columns."""
    task = draft.task.get("name")
    content = [column for column in _content(draft, columns) if column.base not in QUESTIONS]
    questions = [column for column in content if column.asks]
    numbers = [column for column in columns if column.kind == "number" and column.name not in draft.used_columns()]
    answers = [*(column for column in content if not column.asks), *numbers]
    if task is not None or not content or (questions and not answers):
        wanted = f" of {task}" if task else ""
        return DataError(
            f"cannot infer the question and the answer{wanted} from the columns: {_listed(columns)}. Set them with "
            "--set 'dataset.references=[COLUMN]' (and dataset.question, boxes or messages) --set task.name=NAME; "
            f"tasks: {', '.join(registry.available('tasks'))}"
        )
    options = [option for column in content[:MAX_ASKED] for option in _readings(column)]
    if questions:
        options = [_as_answer(questions[0], column) for column in answers[:MAX_ASKED]]
    elif 1 < len(fields := _fields(draft, columns)) <= MAX_LISTED:
        names = ", ".join(fields)
        options.append(Option(f"an object with {names}", (f"dataset.record=[{names}]", "task.name=extraction")))
    return Undecided(
        f"no column has a name that says what the model should answer: {_listed(columns)}.",
        options,
    )


def _as_answer(question: Column, answer: Column) -> Option:
    """That a column answers the questions in another one."""
    sets = (f"dataset.question={question.name}", f"dataset.references=[{answer.name}]")
    return Option(f"it answers {question.preview}, such as {answer.preview}", (*sets, "task.name=vqa"))


def _fields(draft: Draft, columns: Sequence[Column]) -> list[str]:
    """Columns that may together be a record."""
    used = draft.used_columns()
    others = {*IDENTIFIERS, *SPLIT_COLUMNS}
    fit = [column for column in columns if column.kind in ("text", "number") and column.words <= LONG_ANSWER]
    return [column.name for column in fit if column.name not in used and column.name.lower() not in others]


def _readings(column: Column) -> list[Option]:
    """What a column of texts may be."""
    references = f"dataset.references=[{column.name}]"
    caption = Option(f"sentences, such as {column.preview}", (references, "task.name=captioning"))
    label = Option(f"labels, such as {column.preview}", (references, "task.name=classification"))
    return [label, caption] if _may_be_label(column) else [caption]


def _may_be_label(column: Column) -> bool:
    return column.words <= LABEL_WORDS and column.kind != "texts" and column.distinct <= MAX_LABELS


def _repeats(column: Column) -> bool:
    """Whether the values repeat as labels do."""
    return column.kind == "text" and _may_be_label(column) and column.distinct * 3 <= len(column.values)


def _infer_videos(draft: Draft, columns: list[Column]) -> None:
    """The column with videos; a list of images is one if its name says so."""
    if "video" in draft.dataset or "videos" in draft.dataset:
        return
    frames = [column for column in columns if column.kind == "images" and column.base in VIDEOS]
    found = [*(column for column in columns if column.kind in ("video", "videos")), *frames]
    # As with images, a column that identifies the row counts if there is no other.
    column = next((column for column in found if column.name.lower() not in IDENTIFIERS), found[0] if found else None)
    if column is None:
        return
    if any(each.kind == "conversation" for each in columns):
        draft.infer("dataset", "videos", column.name, f"videos of the row: {column.preview}")
        return
    draft.infer("dataset", "video", column.name, f"holds videos: {column.preview}")
    if column in frames:
        draft.infer("dataset", "frame_rate", 2, "! frames per second of the lists of frames; files say it themselves")


def _infer_images(draft: Draft, columns: list[Column]) -> None:
    _infer_videos(draft, columns)
    if "image" in draft.dataset or "images" in draft.dataset:
        return
    video = draft.dataset.get("video") or draft.dataset.get("videos")
    columns = [column for column in columns if column.name != video]
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
    elif video is not None:
        return
    elif has_messages:
        inside = any(_holds_images(column) for column in columns if column.kind == "conversation")
        why = (
            "the messages hold their images" if inside else "! no column holds images; the conversations are text only"
        )
        draft.infer("dataset", "image", None, why)
    else:
        raise DataError(f"{_no_images(columns)} Set it with --set dataset.image=COLUMN; {WHAT_IMAGES_ARE}")


def _holds_images(column: Column) -> bool:
    """Whether conversations have image parts."""
    contents = (each.get("content") or each.get("value") for messages in column.values for each in messages)
    parts = (part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict))
    return any("image" in str(part.get("type")) or "video" in str(part.get("type")) for part in parts)


WHAT_IMAGES_ARE = "an image is a path relative to the file, base64, bytes, or an https address"


def _no_images(columns: Sequence[Column]) -> str:
    """That no column holds images, and which one names files that cannot be read."""
    for column in columns:
        if column.kind == "text" and column.endings:
            endings = ", ".join(column.endings)
            return (
                f"no column holds images: {column.name!r} names files that end in {endings} (first: {column.preview}), "
                f"which cannot be decoded. Convert them, for example to PNG; images end in {', '.join(IMAGE_ENDINGS)}."
            )
    return f"no column holds images: {_listed(columns)}."


def _named(columns: Iterable[Column], names: set[str], *kinds: str) -> Column | None:
    """The first column of some kinds whose name, or else a word of it, is among `names`."""
    fit = [column for column in columns if column.kind in kinds]
    exact = (column for column in fit if column.base in names)
    return next(exact, next((column for column in fit if names & set(column.base.split("_"))), None))


def _infer_conversation(draft: Draft, columns: list[Column], _: str) -> bool:
    completion = _named(columns, COMPLETIONS, "conversation", "object", "text")
    column = next((column for column in columns if column.kind == "conversation" and column is not completion), None)
    if column is None or "references" in draft.dataset:
        return False
    draft.infer("dataset", "messages", column.name, "whole conversations; the assistant's messages are trained on")
    turns = [messages[-1] for messages in column.values]
    if completion is not None and all(turn.get("role", turn.get("from")) in ("user", "human") for turn in turns):
        draft.infer("dataset", "references", [completion.name], f"the answers to {column.name}, which ends with users")
        turns = [value[-1] if isinstance(value, list) else value for value in completion.values]
    last = [turn if isinstance(turn, str) else str(turn.get("content") or turn.get("value") or "") for turn in turns]
    words = sorted(len(text.split()) for text in last)[len(last) // 2]
    name = "vqa" if words <= 4 else "captioning"
    draft.infer("task", "name", name, f"decides the metrics: the median length of the last answers is {words} words")
    return True


def _infer_grounding(draft: Draft, columns: list[Column], _: str) -> bool:
    box = next((column for column in columns if column.kind == "box"), None)
    corners, four = _four_columns(columns)
    content = [column for column in columns if column.name not in (*IDENTIFIERS, *four)]
    if "references" in draft.dataset:
        return False
    if box is None and not four:
        return infer_detection(draft, columns)
    phrase = _named(content, CLASSES, "text") if four else None
    phrase = phrase or _named(content, PHRASES, "text") or _first_text(draft, content)
    if phrase is None:
        return infer_detection(draft, columns)
    draft.infer("dataset", "question", phrase.name, f"the phrase to locate: {phrase.preview}")
    if box is not None:
        draft.infer("dataset", "boxes", box.name, f"four numbers, or lists of them: {box.preview}")
    else:
        draft.infer("dataset", "boxes", four, "a number of the box each")
        draft.infer("task", "corners", corners, "from the names of the columns")
        if {"width", "height"} <= {column.name.lower() for column in columns} - {name.lower() for name in four}:
            draft.infer("task", "unit", "pixels", "beside the width and height of the image")
    draft.infer("task", "name", "grounding", "there are boxes and phrases")
    return True


def _first_text(draft: Draft, columns: Sequence[Column]) -> Column | None:
    used = draft.used_columns()
    return next((column for column in columns if column.kind == "text" and column.name not in used), None)


def _four_columns(columns: Sequence[Column]) -> tuple[Corners, list[str]]:
    """Four columns with a number of a box each, and its corners; none if they are not named so."""
    names = {column.name.lower(): column.name for column in columns if column.kind in ("number", "text")}
    for prefix in BOX_PREFIXES:
        for corners, sets in BOX_COLUMNS.items():
            for four in sets:
                if all(f"{prefix}{name}" in names for name in four):
                    return corners, [names[f"{prefix}{name}"] for name in four]
    return "xyxy", []


def _infer_question(draft: Draft, columns: list[Column], hint: str) -> bool:
    used = draft.used_columns()
    question = _named(columns, QUESTIONS, "text")
    if question is None:
        question = next((column for column in _content(draft, columns) if column.asks), None)
    others = [column for column in columns if column is not question]
    answer = _named(others, ANSWERS, "text", "texts", "answers", "number")
    if answer is None:
        objects = [column for column in others if column.kind == "object"]
        objects = [column for column in objects if all("answer" in value for value in column.values)]
        answer = _named(objects, ANSWERS, "object")
    has_question = question is not None or "question" in draft.dataset
    if not has_question or (answer is None and "references" not in draft.dataset):
        return False
    if question is not None and question.name not in used:
        chosen = {*find_choices(others)} if answer is not None else set()
        more = [c.name for c in others if c.base in CONTEXT and c.kind != "empty" and c.name not in chosen]
        unread = f"! {', '.join(more)} not read, which may belong to the question; " if more else ""
        draft.infer("dataset", "question", question.name, f"{unread}by its name: {question.preview}")
        refused = [c.name for c in others if c.name in unread_beside(question.name) and c.kind != "empty"]
        if refused and not used & set(refused):
            reason = "! they would change what is asked; write the rows as messages if the model is to see them"
            draft.infer("dataset", "ignored_keys", refused, reason)
    if answer is not None and infer_choices(draft, others, answer):
        return True
    if draft.task.get("name") == "classification":
        return False
    if answer is not None:
        what = "lists of accepted answers" if answer.kind in ("texts", "answers") else "the answer"
        draft.infer("dataset", "references", [answer.name], f"{what}: {answer.preview}")
        if answer.kind != "answers" and answer.words > LONG_ANSWER and "name" not in draft.task:
            reason = f"questions with answers of {answer.words} words, which short-answer metrics cannot score"
            draft.infer("task", "name", "captioning", reason)
            draft.infer("task", "prompt", "{question}", "the row's question and nothing else")
            return True
    hints = {"docvqa": ("doc", "infographic", "receipt", "form"), "chartqa": ("chart", "plot", "figure")}
    name = next((task for task, words in hints.items() if any(word in hint for word in words)), "vqa")
    rest = " and ".join(task for task in ("vqa", "docvqa", "chartqa") if task != name)
    draft.infer("task", "name", name, f"questions with answers; {rest} differ only in their metrics")
    return True


def _infer_extraction(draft: Draft, columns: list[Column], _: str) -> bool:
    column = next((column for column in columns if column.kind == "object" and column.name != "objects"), None)
    if column is None and draft.task.get("name") == "extraction" and "references" not in draft.dataset:
        fields = draft.dataset.get("record") or _fields(draft, columns)
        draft.infer("dataset", "record", fields, "the columns of the row, as one JSON object")
        draft.infer("task", "fields", fields, "the columns of the record")
        return bool(fields)
    if column is None:
        return False
    draft.infer("dataset", "references", [column.name], f"JSON objects: {column.preview}")
    draft.infer("task", "name", "extraction", "the answers are JSON objects")
    keys = dict.fromkeys(key for value in column.values for key in value)
    draft.infer("task", "fields", list(keys), "all keys in the first rows; a row with another key is an error")
    return True


def _infer_single_text(draft: Draft, columns: list[Column], hint: str) -> bool:
    """A label, a transcript or a caption; several of them in different columns are a question."""
    if "references" in draft.dataset:
        return draft.task.get("name") is None and _infer_captions(draft, columns)
    found: dict[str, tuple[str, Column]] = {}
    for task, rule in (("classification", _label), ("ocr", _transcript), ("captioning", _caption)):
        column = rule(draft, columns, hint)
        if column is not None and draft.task.get("name") in (None, task):
            found.setdefault(column.name, (task, column))
    if len(found) > 1:
        options = [
            Option(f"{task}: {column.preview}", (f"dataset.references=[{column.name}]", f"task.name={task}"))
            for task, column in found.values()
        ]
        raise Undecided(f"several columns may hold the answer: {', '.join(found)}.", options)
    for task, column in found.values():
        if task == "captioning":
            return _infer_captions(draft, columns)
        what, why = {
            "classification": ("short texts", "one label per image; with captioning the model would answer freely"),
            "ocr": (
                "the text in the image",
                "from the names of the column and the dataset; captioning describes instead",
            ),
        }[task]
        draft.infer("dataset", "references", [column.name], f"{what}: {column.preview}")
        draft.infer("task", "name", task, why)
    return bool(found)


def _label(draft: Draft, columns: list[Column], _: str) -> Column | None:
    numbers = [column for column in columns if column.kind != "number" or column.is_integer]
    label = _named(numbers, LABELS, "text", "number")
    if label is None:  # choices and tags of annotations
        label = next((column for column in columns if column.name == "references" and _repeats(column)), None)
    is_split = label is not None and all(role_of(str(value)) is not None for value in label.values)
    return None if label is None or label.words > LABEL_WORDS or is_split else label


def _transcript(draft: Draft, columns: list[Column], hint: str) -> Column | None:
    transcript = _named(columns, TRANSCRIPTS, "text")
    if transcript is None and any(word in hint for word in OCR_HINTS):
        transcript = _named(columns, CAPTIONS, "text")
    content = _content(draft, columns)
    is_only = draft.task.get("name") == "ocr" and len(content) == 1
    return content[0] if transcript is None and is_only else transcript


def _caption(draft: Draft, columns: list[Column], _: str) -> Column | None:
    content = _content(draft, columns)
    named = _named(content, CAPTIONS, "text", "texts")
    if named is not None or len(content) != 1:
        return named
    # The only text: neither a question nor values that repeat as labels do.
    only = content[0]
    return None if only.base in QUESTIONS or only.asks or _repeats(only) else only


def _infer_captions(draft: Draft, columns: list[Column]) -> bool:
    if "references" not in draft.dataset:
        first = _caption(draft, columns, "")
        if first is None:
            return False
        content = _content(draft, columns)
        same = [column.name for column in content if column.base == first.base and column.kind == first.kind]
        same = same if first.base in CAPTIONS else [first.name]
        reason = f"{len(same)} columns with the same name" if len(same) > 1 else "sentences about the image"
        draft.infer("dataset", "references", same, f"{reason}: {first.preview}")
        if len(same) > 1 or first.kind == "texts":
            draft.infer("dataset", "target", "sample", "a random one of the references in every epoch")
    draft.infer("task", "name", "captioning", "a text per image; ocr transcribes, classification chooses, vqa answers")
    return True


def _is_decided(draft: Draft) -> bool:
    """Whether the task is known and the columns with the answers are."""
    return "name" in draft.task and bool({"references", "record", "messages", "boxes"} & set(draft.dataset))


_RULES: tuple[tuple[set[str], Callable[[Draft, list[Column], str], bool]], ...] = (
    (set(), _infer_conversation),
    ({"grounding"}, _infer_grounding),
    ({"vqa", "docvqa", "chartqa", "classification"}, _infer_question),
    ({"extraction"}, _infer_extraction),
    ({"classification", "ocr", "captioning"}, _infer_single_text),
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
        Undecided: boxes can be read in several ways.
    """
    if draft.task["name"] == "classification" and "labels" not in draft.task:
        _infer_labels(draft, records, is_complete)
    if draft.task["name"] == "grounding" and "messages" not in draft.dataset:
        infer_boxes(draft, records, first)
        infer_classes(draft, records)


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
            problem = (
                f"{unlabelled:,} of {records.count:,} rows have none: repair them, or set dataset.max_bad_fraction"
            )
            reason = f"! {reason.removeprefix('! ')}; {problem}"
    if len(labels) == 1:
        raise DataError(
            f"column {column!r} holds {labels[0]!r} in every row: there is nothing to choose, and the model would "
            "learn a constant. Name the column with the answers: --set 'dataset.references=[COLUMN]'"
        )
    if len(labels) > MAX_LABELS:
        raise DataError(
            f"column {column!r} has {len(labels):,} different texts, too many to list in a prompt. If they are "
            "sentences: --set task.name=captioning"
        )
    draft.infer("task", "labels", labels, reason)


def _texts(value: Any) -> list[str]:
    """The texts in a value of a label column; none if it is null or empty."""
    value = listed(value)
    texts = [str(item) for item in (value if isinstance(value, list) else [value]) if item is not None]
    return [text for text in texts if text.strip()]
