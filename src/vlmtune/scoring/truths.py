"""Completes rows that vlmtune did not write: references from elsewhere, and what a task makes of references.

Classification compares with `label`, grounding with `boxes`, extraction with `record`. A file of another program has
them as references at most, from which the task makes them as it does from a dataset.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlmtune.errors import DataError
from vlmtune.metrics import Metric
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig
from vlmtune.tasks import Task, json_value
from vlmtune.types import Example, ImageRef, Unparsed

ROWS_NAMED = 3
"""How many rows a note names."""

IDS_NAMED = 2
"""How many ids of each file an error shows."""

References = Mapping[str, Mapping[str, Any]]
"""What metrics compare with, by the id of the row."""


def rows_named(numbers: Sequence[int], lines: Sequence[Line]) -> str:
    """The first of some rows, by id or else by position from 1, and how many more there are."""
    names = [f"{lines[n].id!r}" if lines[n].id is not None else f"number {n + 1}" for n in numbers[:ROWS_NAMED]]
    more = f" and {len(numbers) - len(names)} more" if len(numbers) > len(names) else ""
    return ", ".join(names) + more


def has_truth(line: Line, task: Task) -> bool:
    """Whether a row has anything that a metric of the task compares with, references included."""
    return bool(line.references) or any(has_metric_truth(line.truth, metric) for metric in task.metrics)


def has_metric_truth(truth: Mapping[str, Any], metric: Metric) -> bool:
    """Whether a row's truths have what a metric compares with; an empty list of boxes says that there is no object."""
    value = truth.get(metric.truth)
    return bool(value) or (metric.allows_empty and value is not None)


def join_references(lines: Sequence[Line], references: References, name: str) -> tuple[list[Line], tuple[str, ...]]:
    """The rows with references from elsewhere, by id, where they have none; and a note.

    Args:
        lines: rows of the file `name`.
        references: by id.
        name: of the file, for messages.

    Raises:
        DataError: rows have no ids, or no id has references.
    """
    lacking = [line for line in lines if not line.references]
    if not lacking:
        return list(lines), ()
    if any(line.id is None for line in lacking):
        raise DataError(f"{name}: rows without an id cannot be joined with references; name their ids with --id KEY")
    found = [line for line in lacking if line.id in references]
    if not found:
        ours = ", ".join(repr(line.id) for line in lacking[:IDS_NAMED])
        theirs = ", ".join(repr(key) for key in list(references)[:IDS_NAMED])
        raise DataError(
            f"{name}: none of its {len(lacking)} ids has references (here {ours}, there {theirs}); name the ids with "
            "--id KEY"
        )
    joined = [
        replace(line, truth={**line.truth, **references[line.id]})
        if not line.references and line.id is not None and line.id in references
        else line
        for line in lines
    ]
    return joined, (f"{name}: {len(found)} of {len(lines)} rows have their references from elsewhere, by id",)


def complete(
    lines: Sequence[Line], where: Sequence[str], task: Task, config: BaseConfig
) -> tuple[list[Line], tuple[str, ...]]:
    """The rows with the truths that the task makes of their references, where they lack some; and notes.

    Args:
        lines: rows.
        where: names each row in messages.
        task: makes the truths.
        config: the task's.

    Raises:
        DataError: a reference is not what the task needs: not one of the labels, not JSON, no box.
    """
    needed = {metric.truth for metric in task.metrics}
    if all(needed <= set(line.truth) for line in lines):
        return list(lines), ()
    notes: tuple[str, ...] = ()
    if task.boxes and "unit" not in config.model_fields_set and not all("boxes" in line.truth for line in lines):
        config = config.model_copy(update={"unit": "norm1000"})
        notes = ("boxes of the references are read on the scale of the answers, 0 to 1000; task.unit sets another one",)
    completed = [
        _completed(line, at, task, config) if line.references and not needed <= set(line.truth) else line
        for line, at in zip(lines, where, strict=True)
    ]
    return completed, notes


def _completed(line: Line, at: str, task: Task, config: BaseConfig) -> Line:
    given = dict(line.truth)
    if task.boxes and given.get("boxes") is None:
        given["boxes"] = _boxes(line.references, at, task, config)
    if any(metric.truth == "record" for metric in task.metrics):
        given["references"] = list(map(_as_json, line.references))
    size = given.get("image_size") or [given.get("width"), given.get("height")]
    images = (_sized(at, size),) if isinstance(size, list) and all(isinstance(side, int) for side in size) else ()
    question = given.get("question")
    example = Example(at, images, None, given, question=question if isinstance(question, str) else None)
    truth = {**line.truth, **task.truth(config, example)}
    return line if truth == line.truth else replace(line, truth=truth)


def _boxes(references: Sequence[str], at: str, task: Task, config: BaseConfig) -> Any:
    """The boxes in references, read as in an answer: one text with them all, a text for each, or a text per number."""
    numbers = all(_is_number(text) for text in references)
    text = f"[{', '.join(references)}]" if numbers else "\n".join(references)
    boxes = task.parse(config, text) if numbers or len(references) == 1 else _each(references, task, config)
    if isinstance(boxes, Unparsed):
        raise DataError(f"{at}: the reference {text!r:.80} holds no box; write [x1, y1, x2, y2]")
    return boxes


def _as_json(text: str) -> str:
    """An object that was written in Python's spelling as JSON; any other text as it is."""
    read = json_value(text) if text.strip()[:1] == "{" else text
    return json.dumps(read, ensure_ascii=False) if isinstance(read, dict) else text


def _each(references: Sequence[str], task: Task, config: BaseConfig) -> Any:
    parsed = [task.parse(config, text) for text in references]
    unread = next((boxes for boxes in parsed if isinstance(boxes, Unparsed)), None)
    return unread or [box for boxes in parsed if not isinstance(boxes, Unparsed) for box in boxes]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _sized(at: str, size: Sequence[int]) -> ImageRef:
    """An image of which only the size is known."""

    def read() -> bytes:
        raise DataError(f"{at}: only the size of the image is known")

    return ImageRef(at, read, (size[0], size[1]))
