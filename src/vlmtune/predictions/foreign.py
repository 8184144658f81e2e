"""Prediction files of other programs, read as they are: the keys are recognized, or named by the user.

Every other key of a row is kept, so that rows can be told apart by it: its name stays, and an image becomes its hash.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmtune.errors import DataError
from vlmtune.predictions.columns import (
    ANTHROPIC_BATCH,
    LM_EVAL,
    LMMS_EVAL,
    OPENAI_BATCH,
    VLMTUNE,
    Keys,
    Layout,
    find_layout,
    has,
    keys_of,
    lookup,
)
from vlmtune.predictions.images import group_by_image
from vlmtune.predictions.lines import NO_META, NOT_TRUTH, Line, check_ids, line_of
from vlmtune.predictions.replies import Reply, anthropic_reply, choice_of, choice_text, is_choice, openai_reply
from vlmtune.predictions.tables import Row, Table, read_table
from vlmtune.predictions.values import WRAPPERS, answer_text, is_missing, plain, reference_texts, scalar_text

FILTER = "filter"
"""Key of lm-eval: each document occurs once per filter."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The lines of a file, and notes for the reader about how it was read.

    `tool` wrote it, where it is known; `absent` are the keys named by the user that it does not have, by option;
    `where` are the places of its rows; `keys` is a sentence about its keys, and `names` has them all.
    """

    lines: Sequence[Line]
    notes: tuple[str, ...] = ()
    tool: str | None = None
    absent: Mapping[str, str] | None = None
    where: Sequence[str] = ()
    keys: str = ""
    names: Sequence[str] = ()


def read_any(file: Path, keys: Keys | None = None, ignored: Sequence[str] = ()) -> Predictions:
    """The lines of a prediction file of any program.

    Args:
        file: JSON lines, JSON, CSV, TSV, Parquet, Arrow or Excel; gzipped or not.
        keys: the keys that hold answers, references and ids, where their names do not say it.
        ignored: keys that say nothing about which row it is; they are dropped.

    Raises:
        DataError: the file cannot be read, a key cannot be recognized, a value is no answer, or an id occurs twice.
        EnvironmentProblem: an Excel file without the extra `excel`.
    """
    given = keys or Keys()
    table = read_table(file)
    if not table.rows:
        return Predictions([], (f"{file}: no rows",))
    layout = find_layout(table, given)
    table, filtered = _of_one_filter(table, layout, given.filter)
    layout = replace(layout, empty_lists=_has_lists_of_objects(table, layout))
    lines = [(row.where, _line(row, layout, table.flat, ignored)) for row in table.rows]
    check_ids(lines)
    read, grouped = group_by_image([line for _, line in lines], table, layout.consumed())
    absent = {option: key for option, key in given.given().items() if not has(table, key)}
    notes = (
        *_notes(file, layout),
        *filtered,
        *grouped,
        *(_absent_note(file, key, layout, option) for option, key in absent.items()),
    )
    where = [row.where for row in table.rows]
    return Predictions(read, notes, layout.tool, absent, where, keys_of(table, "reference"), table.keys)


def read_references(file: Path, keys: Keys | None = None) -> dict[str, Mapping[str, Any]]:
    """What metrics compare answers with, by id, from a file of references; answers in it are not used.

    Raises:
        DataError: as `read_any`, or the rows have no id or no reference.
    """
    given = keys or Keys()
    table = read_table(file)
    layout = find_layout(table, replace(given, prediction=None), answers=False)
    table, _ = _of_one_filter(table, layout, given.filter)
    if layout.id is None or layout.reference is None:
        lacking, option = ("ids", "id") if layout.id is None else ("references", "reference")
        raise DataError(
            f"{file}: no key is known to hold the {lacking}; name it with --{option} KEY. {keys_of(table, option)}"
        )
    layout = replace(layout, answer=None, empty_lists=_has_lists_of_objects(table, layout))
    lines = [(row.where, _line(row, layout, table.flat, ())) for row in table.rows]
    check_ids(lines)
    return {line.id: line.truth for _, line in lines if line.id is not None}


def _of_one_filter(table: Table, layout: Layout, chosen: str | None) -> tuple[Table, tuple[str, ...]]:
    """The rows of one filter, by which lm-eval and lmms-eval read an answer; both log each document once per filter.

    Raises:
        DataError: no row is of the chosen filter.
    """
    names = list(dict.fromkeys(str(row.values.get(FILTER)) for row in table.rows if FILTER in row.values))
    if layout.tool not in (LM_EVAL, LMMS_EVAL):
        return table, ()
    if chosen is not None and chosen not in names:
        there = f"there are: {', '.join(names[:9])}" if names else "the rows name none"
        raise DataError(f"{table.file}: no row is of the filter {chosen!r} of --filter; {there}")
    if len(names) > 1:
        used = chosen or names[0]
        kept = [row for row in table.rows if str(row.values.get(FILTER)) == used]
        note = (
            f"{table.file.name}: every row occurs once per filter ({', '.join(names[:9])}); those of {used!r} are read"
        )
        return replace(table, rows=kept), (note + ("" if chosen else ", --filter names another one"),)
    counts = Counter(str(row.values.get("doc_id")) for row in table.rows)
    times = set(counts.values())
    if layout.tool == LMMS_EVAL and len(times) == 1 and times != {1}:  # it does not log the names of filters
        first = {str(row.values.get("doc_id")): row for row in reversed(table.rows)}
        kept = [row for row in table.rows if first[str(row.values.get("doc_id"))] is row]
        note = f"{table.file.name}: every row occurs {times.pop()} times, once per filter; those of the first are read"
        return replace(table, rows=kept), (note,)
    return table, ()


def _has_lists_of_objects(table: Table, layout: Layout) -> bool:
    """Whether references or answers are lists of boxes or other objects, so that an empty list says: there is none."""
    if layout.tool == VLMTUNE:
        return False
    values = [row.values.get(key) for row in table.rows for key in (layout.reference, layout.answer) if key is not None]
    items = [value[0] for value in values if isinstance(value, list) and value]
    return any(
        isinstance(item, list)
        or (isinstance(item, Mapping) and not {"role", "type", "answer", *WRAPPERS} & item.keys())
        for item in items
    )


def _line(row: Row, layout: Layout, flat: bool, ignored: Sequence[str]) -> Line:
    record, at = row.values, row.where
    reply = _reply(row, layout)
    references = _references(record, layout, flat)
    if layout.tool == VLMTUNE:
        converted = {**record, "prediction": reply.text, "references": references, "id": _id(record, layout, at)}
        converted["image"] = None  # read below: it may be the image itself
        line = line_of({**converted, "failure": record.get("failure") or reply.failure}, at)
    else:
        rest = {key: plain(value) for key, value in record.items() if key not in layout.consumed()}
        line = Line(
            id=_id(record, layout, at),
            prediction=reply.text,
            truth={"references": references, **_truth(rest, layout)},
            failure=reply.failure,
            finish_reason=reply.finish_reason or _ending(rest.get("finish_reason")),
            tokens=reply.tokens,
            cluster=scalar_text(rest.get("cluster")),
            meta=rest["meta"] if isinstance(rest.get("meta"), dict) else NO_META,
        )
    image = plain(record["image"]) if "image" in record and "image" not in layout.consumed() else None
    is_hash = isinstance(image, str) and len(image) == 64 and layout.tool == VLMTUNE
    if image is None and not line.truth.keys() & set(ignored):
        return line
    truth = dict(line.truth) if is_hash or image is None else {**line.truth, "image": image}
    for key in ignored:
        truth.pop(key, None)
    return replace(line, truth=truth, image=image if is_hash else None)


def _truth(rest: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """The keys that are kept: a batch's own names of a request differ in every run."""
    if layout.tool in (OPENAI_BATCH, ANTHROPIC_BATCH):
        return {}
    return {key: value for key, value in rest.items() if key not in NOT_TRUTH}


def _reply(row: Row, layout: Layout) -> Reply:
    """The answer of a row, or why it has none."""
    if layout.tool == OPENAI_BATCH:
        return openai_reply(row.values)
    if layout.tool == ANTHROPIC_BATCH:
        return anthropic_reply(row.values)
    if layout.answer is None:
        return Reply(None)
    text, failed = _answer(row, layout.answer, layout), layout.failure
    if text is None or (failed is not None and text.startswith(failed)):
        return Reply(None, failure={"stage": "engine", "reason": text or "no prediction recorded"})
    return Reply(text)


def _answer(row: Row, key: str, layout: Layout) -> str | None:
    try:
        value = lookup(row.values, key)
    except KeyError:
        raise DataError(f"{row.where}: no key {key!r}, which holds the answers of other rows") from None
    if layout.tool in (LM_EVAL, LMMS_EVAL) and is_choice(value):
        return choice_of(value, row.values, most_likely=layout.tool == LM_EVAL)
    return "[]" if layout.empty_lists and value == [] else answer_text(value, key, row.where)


def _references(record: Mapping[str, Any], layout: Layout, flat: bool) -> list[str]:
    if layout.reference is None:
        return []
    try:
        value = lookup(record, layout.reference)
    except KeyError:
        return []
    if flat and value == "":
        return []
    if layout.empty_lists and value == []:
        return ["[]"]
    if layout.tool in (LM_EVAL, LMMS_EVAL) and layout.answer is not None and is_choice(record.get(layout.answer)):
        value = choice_text(value, record)
    texts = reference_texts(value, flat or layout.lists_as_text)
    if layout.strip_reference:
        texts = [text.rstrip("\n") for text in texts]
    return [*map(sys.intern, texts)]  # the other file's rows have the same references


def _id(record: Mapping[str, Any], layout: Layout, at: str) -> str | None:
    if layout.id is None:
        return None
    try:
        value = lookup(record, layout.id)
    except KeyError:
        return None
    if is_missing(value):
        return None
    text = scalar_text(value)
    if text is None:
        raise DataError(f"{at}: {layout.id!r} holds no id (got {type(value).__name__}); name another key with --id KEY")
    return sys.intern(text)  # the other file has the same ids


def _ending(value: Any) -> str | None:
    return value if value in ("stop", "length") else None


def _notes(file: Path, layout: Layout) -> tuple[str, ...]:
    """How a file was read, unless it has the keys that our own files have."""
    if layout.tool == VLMTUNE:
        return ()
    holds = {"answers": layout.answer, "references": layout.reference, "ids": layout.id}
    roles = ", ".join(f"{role} {'are not there' if key is None else f'from {key!r}'}" for role, key in holds.items())
    return (f"{file.name}: read as {layout.tool}: {roles}" if layout.tool else f"{file.name}: {roles}",)


def _absent_note(file: Path, key: str, layout: Layout, option: str) -> str:
    used = {"prediction": layout.answer, "reference": layout.reference, "id": layout.id}[option]
    return f"{file.name}: no row has the key {key!r} of --{option}; " + (
        f"{used!r} was read" if used else "none was read"
    )
