"""Multiple-choice questions: the choices stand behind the question, each with a letter, and the letter is the answer.

Datasets write the choices as a list, an object, or a column each, and the right one as its index, letter or text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.data import _values
from vlmtune.errors import DataError, EmptyField

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Of the choices, in order."""

_MARKED = re.compile(r"\s*\(?([A-Za-z])[).:]?\s*")
"""A letter as an answer: "B", "(b)", "B."."""


def with_choices(question: str, choices: Sequence[str]) -> str:
    """The question and its choices, a line each.

    >>> print(with_choices("What is it?", ["a dog", "a cat"]))
    What is it?
    A. a dog
    B. a cat
    """
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False))])


class Choices:
    """The choices of a row.

    Args:
        values: the value of the column, or of each column, by name.
        first: what a number counts the choices from, 0 or 1.
        at: where the row is.

    Raises:
        DataError: fewer than two choices, more than there are letters, or something else.
    """

    def __init__(self, values: Mapping[str, Any], first: int, at: str) -> None:
        self._columns, self._first, self._at = ", ".join(values), first, at
        labels, texts = _parts(next(iter(values.values()))) if len(values) == 1 else ([], _filled(values, at))
        self.texts = [_values.answer(text, self._columns, at) for text in texts]
        self._labels = [str(label).strip().casefold() for label in labels]
        if not 2 <= len(self.texts) <= len(LETTERS):
            raise DataError(
                f"{at}: column {self._columns!r} must hold 2 to {len(LETTERS)} choices (got {len(self.texts)})"
            )

    def letter(self, value: Any, column: str) -> str:
        """The letter of the right choice, given as its number, label, letter or text.

        A text that is one of the choices means that one, even if it is also a number.

        Raises:
            DataError: it is none of them.
        """
        number = self._number(value)
        if number is None or not 0 <= number < len(self.texts):
            raise DataError(
                f"{self._at}: column {column!r} must name one of the {len(self.texts)} choices, by its letter, its "
                f"text or its number from {self._first} (got {value!r:.80})"
            )
        return LETTERS[number]

    def _number(self, value: Any) -> int | None:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value - self._first
        if not isinstance(value, str):
            return None
        text = value.strip()
        for known in (self._labels, [choice.strip().casefold() for choice in self.texts]):
            if known.count(text.casefold()) == 1:
                return known.index(text.casefold())
        if marked := _MARKED.fullmatch(text):
            return LETTERS.index(marked[1].upper())
        return int(text) - self._first if text.isdecimal() else None


def _parts(value: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """Labels, possibly none, and texts of the choices in one value."""
    value = _values.python_list(_values.structured(value))
    if isinstance(value, Mapping) and {"label", "text"} <= set(value):
        return list(value["label"]), list(value["text"])
    if isinstance(value, Mapping):
        return list(value), list(value.values())
    items = list(value) if isinstance(value, list | tuple) else []
    if items and all(isinstance(item, Mapping) and {"label", "text"} <= set(item) for item in items):
        return [item["label"] for item in items], [item["text"] for item in items]
    return [], items


def _filled(values: Mapping[str, Any], at: str) -> list[Any]:
    """The values of several columns; rows with fewer choices leave the last ones empty."""
    # A value that differs from itself is not a number: what an empty cell of a table becomes.
    found = [None if value in (None, "") or value != value else value for value in values.values()]  # noqa: PLR0124
    while found and found[-1] is None:
        found.pop()
    for column, value in zip(values, found, strict=False):
        if value is None:
            raise EmptyField(f"{at}: column {column!r} is empty, and a later choice is not", column)
    return found
