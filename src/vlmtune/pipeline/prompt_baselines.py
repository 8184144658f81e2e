"""Untrained columns: the untouched model asked differently, for a training that must beat the best way of asking.

A column changes nothing but the conversation: another prompt, a sentence about the length of the answers, train rows
shown as examples. Everything is a function of the config and the rows, so every run asks the same.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from vlmtune.data import Rows
from vlmtune.errors import DataError, ImageError
from vlmtune.images import decode_rgb, pixel_hash
from vlmtune.pipeline.session import Session, rows_facts
from vlmtune.scoring import BaselineConfig
from vlmtune.types import Conversation, Example, Turn

Ask = Callable[[Example], Conversation]


@dataclass(frozen=True, slots=True)
class Column:
    """One way of asking; `facts` says which, for the origin of its answers."""

    name: str
    facts: Mapping[str, Any]
    ask: Ask


def columns(session: Session) -> list[Column]:
    """The columns of `evaluation.baselines`, in their order. Train rows are read only where a column needs them.

    Raises:
        DataError: the train rows have no reference to take a length from, or are fewer than a column shows.
    """
    asked = session.config.evaluation.baselines
    if not asked:
        return []
    train = session.rows("train")
    words = _median_words(train) if any(one.length_instruction for one in asked) else 0
    return [_column(session, one, train, words) for one in asked]


def length_instruction(words: int) -> str:
    """The sentence behind the prompt."""
    return f"Answer in about {words} {'word' if words == 1 else 'words'}."


def _column(session: Session, asked: BaselineConfig, train: Rows, words: int) -> Column:
    task, config = session.task, session.config.task
    if asked.prompt is not None:
        config = config.model_copy(update={"prompt": asked.prompt})
    facts: dict[str, Any] = {"asked": asked.model_dump(mode="json")}
    if asked.length_instruction:
        facts["words"] = words

    def said(example: Example) -> Conversation:
        turns = task.ask(config, example)
        return _behind(turns, length_instruction(words)) if asked.length_instruction else turns

    if not asked.examples:
        return Column(asked.name, facts, said)
    if len(train) < asked.examples:
        raise DataError(
            f"evaluation.baselines: {asked.name!r} shows {asked.examples} train rows, and there are {len(train)}"
        )
    shown = Shown(asked.name, train, asked.examples)

    def shots(example: Example) -> Conversation:
        system, turns = _parted(said(example))
        before: list[Turn] = []
        for row in shown.beside(example):
            before += [*_parted(said(row))[1], Turn("assistant", (task.teach(config, row),))]
        return (*system, *before, *turns)

    return Column(asked.name, {**facts, "train": rows_facts(train)}, shots)


class Shown:
    """Train rows as examples: the first ones by a hash of their id that have no picture and no group of the asked row.

    Args:
        name: of the column, for messages.
        rows: the train rows.
        count: how many are shown.
    """

    def __init__(self, name: str, rows: Rows, count: int) -> None:
        self._name, self._rows, self._count = name, rows, count
        self._order = sorted(range(len(rows)), key=lambda n: hashlib.sha256(rows.id(n).encode()).digest())
        self._candidate = functools.cache(self._read)

    def beside(self, asked: Example) -> list[Example]:
        """The examples of one row, no two of them with a picture in common.

        Raises:
            DataError: too few train rows have other pictures; or one of them cannot be read.
        """
        try:
            seen = _pixels(asked)
        except ImageError:
            # The engine says so of this row; what cannot be read cannot be given away either.
            seen = frozenset()
        found: list[Example] = []
        for number in self._order:
            if len(found) == self._count:
                break
            row, pixels = self._candidate(number)
            grouped = row.cluster is not None and row.cluster == asked.cluster
            if row.id != asked.id and not grouped and not pixels & seen:
                found.append(row)
                seen |= pixels
        if len(found) < self._count:
            raise DataError(
                f"evaluation.baselines: {self._name!r} shows {self._count} train rows with other pictures than "
                f"{asked.id}, and there are {len(found)}; show fewer"
            )
        return found

    def _read(self, number: int) -> tuple[Example, frozenset[str]]:
        row = self._rows.with_target(number, 0)
        return row, _pixels(row)


def _pixels(example: Example) -> frozenset[str]:
    return frozenset(pixel_hash(decode_rgb(image)) for image in example.images)


def _median_words(train: Rows) -> int:
    """Median number of words of all references of all train rows, at least 1."""
    counts = [len(text.split()) for row in train for text in row.truth["references"]]
    if not counts:
        raise DataError(
            "evaluation.baselines: length_instruction takes the length from the train rows' references, and there are "
            "none; see dataset.references"
        )
    return max(1, round(median(counts)))


def _behind(turns: Conversation, sentence: str) -> Conversation:
    """A sentence at the end of the last turn."""
    *before, last = turns
    *content, end = last.content
    ending = (f"{end} {sentence}",) if isinstance(end, str) else (end, sentence)
    return (*before, Turn(last.role, (*content, *ending)))


def _parted(turns: Conversation) -> tuple[Conversation, Conversation]:
    """(the system turn if there is one, the others)."""
    start = 1 if turns[0].role == "system" else 0
    return turns[:start], turns[start:]
