"""How many tokens the expected answers have, compared with `inference.max_new_tokens`: longer ones are cut off."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from vlmtune.data import Rows
from vlmtune.errors import DataError
from vlmtune.processing.encoder import Encoder
from vlmtune.tasks import Task
from vlmtune.types import Example

SURVEYED_ROWS = 1000
"""Rows whose answers are counted before a run, evenly spaced."""

STEP = 16
"""A proposed limit is a multiple of this."""


def expected_answers(task: Task, config: Any, example: Example) -> Sequence[str]:
    """What a perfect model would write: the references of a row, or its target in a task whose answers are boxes.

    Raises:
        DataError: the boxes are invalid.
    """
    return [task.target(config, example)] if task.boxes else list(example.truth["references"])


def count_answers(rows: Rows, task: Task, config: Any, encoder: Encoder) -> list[int]:
    """Tokens of the expected answers of evenly spaced rows, with the token that ends an answer; bad rows have none."""
    return list(_count(rows, task, config, encoder))


def _count(rows: Rows, task: Task, config: Any, encoder: Encoder) -> Iterator[int]:
    for index in range(0, len(rows), max(1, math.ceil(len(rows) / SURVEYED_ROWS))):
        try:
            answers = expected_answers(task, config, rows[index])
        except DataError:  # `data check` lists bad rows
            continue
        yield from map(encoder.answer_length, answers)


def cut_off(tokens: Sequence[int], limit: int) -> str | None:
    """In words, how many of the answers are longer than a limit, and which limit fits all; None if none is longer.

    Args:
        tokens: of every answer, with the token that ends it.
        limit: `inference.max_new_tokens`.
    """
    longer = sum(each > limit for each in tokens)
    if not longer:
        return None
    longest = max(tokens)
    share = f"{longer:,} of {len(tokens):,} references ({longer / len(tokens):.0%})"
    return (
        f"{share} are longer than inference.max_new_tokens ({limit}), where answers are cut off; the longest has "
        f"{longest:,} tokens: --set inference.max_new_tokens={math.ceil(longest / STEP) * STEP}"
    )
