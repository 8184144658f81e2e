"""Prediction files of other programs, read as they are: the keys are recognized, or named by the user.

Every other key of a row is kept, so that rows can be told apart by it: its name stays, and an image becomes its hash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmtune.errors import DataError
from vlmtune.predictions.columns import (
    ANTHROPIC_BATCH,
    OPENAI_BATCH,
    VLMTUNE,
    Keys,
    Layout,
    find_layout,
    has,
    keys_of,
    lookup,
)
from vlmtune.predictions.lines import NOT_TRUTH, FailureRecord, Line, check_ids, line_of
from vlmtune.predictions.replies import Reply, anthropic_reply, openai_reply
from vlmtune.predictions.tables import Row, Table, read_table
from vlmtune.predictions.values import answer_text, is_missing, plain, reference_texts, scalar_text

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
    _refuse_several_filters(table)
    lines = [(row.where, _line(row, layout, table.flat, ignored)) for row in table.rows]
    check_ids(lines)
    read = [line for _, line in lines]
    absent = {option: key for option, key in given.given().items() if not has(table, key)}
    notes = (*_notes(file, layout, read), *(_absent_note(file, key, layout, option) for option, key in absent.items()))
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
    if layout.id is None or layout.reference is None:
        lacking, option = ("ids", "id") if layout.id is None else ("references", "reference")
        raise DataError(
            f"{file}: no key is known to hold the {lacking}; name it with --{option} KEY. {keys_of(table, option)}"
        )
    lines = [(row.where, _line(row, replace(layout, answer=None), table.flat, ())) for row in table.rows]
    check_ids(lines)
    return {line.id: line.truth for _, line in lines if line.id is not None}


def _refuse_several_filters(table: Table) -> None:
    values = list(dict.fromkeys(str(row.values.get(FILTER)) for row in table.rows))
    if len(values) > 1 and "doc_id" in table.keys:
        raise DataError(
            f"{table.file}: every row occurs once per filter ({', '.join(values[:9])}); keep the rows of one of them"
        )


def _line(row: Row, layout: Layout, flat: bool, ignored: Sequence[str]) -> Line:
    record, at = row.values, row.where
    reply = _reply(row, layout)
    references = _references(record, layout, flat)
    if layout.tool == VLMTUNE:
        converted = {**record, "prediction": reply.text, "references": references, "id": _id(record, layout, at)}
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
            meta=rest["meta"] if isinstance(rest.get("meta"), dict) else {},
        )
    image = plain(record["image"]) if "image" in record and "image" not in layout.consumed() else None
    is_hash = isinstance(image, str) and len(image) == 64 and layout.tool == VLMTUNE
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
    record, at = row.values, row.where
    if layout.tool == OPENAI_BATCH:
        return openai_reply(record)
    if layout.tool == ANTHROPIC_BATCH:
        return anthropic_reply(record)
    if layout.answer is None:
        return Reply(None)
    try:
        value = lookup(record, layout.answer)
    except KeyError:
        raise DataError(f"{at}: no key {layout.answer!r}, which holds the answers of other rows") from None
    text = answer_text(value, layout.answer, at)
    if text is None:
        return Reply(None, failure={"stage": "engine", "reason": "no prediction recorded"})
    if layout.failure is not None and text.startswith(layout.failure):
        failure: FailureRecord = {"stage": "engine", "reason": text}
        return Reply(None, failure=failure)
    return Reply(text)


def _references(record: Mapping[str, Any], layout: Layout, flat: bool) -> list[str]:
    if layout.reference is None:
        return []
    try:
        value = lookup(record, layout.reference)
    except KeyError:
        return []
    if flat and value == "":
        return []
    texts = reference_texts(value, flat or layout.lists_as_text)
    return [text.rstrip("\n") for text in texts] if layout.strip_reference else texts


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
    return text


def _ending(value: Any) -> str | None:
    return value if value in ("stop", "length") else None


def _notes(file: Path, layout: Layout, lines: Sequence[Line]) -> tuple[str, ...]:
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
