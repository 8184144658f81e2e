"""Rows that ask the same about the same image and expect different answers: no model can be right on all of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlmtune.predictions import Line, image_of, question_of
from vlmtune.scoring.results import Contradiction
from vlmtune.tasks import Task
from vlmtune.text_units import count_short


def contradictions(lines: Sequence[Line], task: Task) -> list[Contradiction]:
    """The groups of contradictory rows, in the order of the file.

    Captions of one image may well differ, so where the task allows that, only references of a few words contradict
    each other. Rows that do not name their image are left out.
    """
    if not task.one_answer and count_short([text for line in lines for text in line.references]) is None:
        return []
    alike: dict[tuple[str, str | None], list[Line]] = {}
    for line in lines:
        image = image_of(line)
        if image is not None:
            alike.setdefault((image, question_of(line)), []).append(line)
    groups = [group for group in alike.values() if len(group) > 1]
    return [
        _contradiction(group) for group in groups if disagree([accepted(one.truth, one.references) for one in group])
    ]


def disagree(answers: Sequence[frozenset[str]]) -> bool:
    """Whether two rows have no accepted answer in common."""
    distinct = set(answers) - {frozenset()}
    return any(not one & other for one in distinct for other in distinct)


def accepted(truth: Mapping[str, Any], references: Sequence[str]) -> frozenset[str]:
    """The answers that are right in a row, regardless of case and white space."""
    for key in ("record", "boxes"):
        if key in truth:
            return frozenset([json.dumps(truth[key], sort_keys=True)])
    return frozenset(" ".join(text.casefold().split()) for text in references)


def _contradiction(group: Sequence[Line]) -> Contradiction:
    return {
        "image": str(image_of(group[0])),
        "question": question_of(group[0]),
        "rows": [{"id": line.id, "expected": list(_expected(line))} for line in group],
    }


def _expected(line: Line) -> Iterator[str]:
    yield from line.references
    boxes: Any = line.truth.get("boxes")
    if boxes is not None:
        yield json.dumps(boxes)
