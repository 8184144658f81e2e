"""Multiple-choice questions: which columns hold the choices, and how the right one is named."""

import re
from collections.abc import Mapping, Sequence

from vlmtune.data import LETTERS
from vlmtune.scaffold.columns import Column, listed
from vlmtune.scaffold.draft import Draft
from vlmtune.scaffold.questions import Option, Undecided

CHOICES = {"choices", "options", "choice", "option", "alternatives", "candidates"}
PROMPT = "{question}\nAnswer with the letter of the right choice only."

_LETTERED = re.compile(r"(?:choice|option|opt)?[ _-]?([A-Za-z])", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:choice|option|opt|alternative)[ _-]?(\d)", re.IGNORECASE)
_MARKED = re.compile(r"\s*(?:\(?[A-Za-z][).:]?|\d{1,2})\s*")
"""A letter or a number as an answer."""


def find_choices(columns: Sequence[Column]) -> list[str]:
    """The column with a list of choices, or a column for each, such as A, B, C or option_1, option_2; else none."""
    for column in columns:
        if column.base in CHOICES and column.kind in ("texts", "answers", "object") and _most(column) >= 2:
            return [column.name]
    for pattern, names in ((_LETTERED, LETTERS), (_NUMBERED, "0123456789"), (_NUMBERED, "123456789")):
        found = {match[1].upper(): column.name for column in columns if (match := pattern.fullmatch(column.name))}
        run = [found[name] for name in names[: len(found)] if name in found]
        if len(run) >= 2 and len(run) == len(found):
            return run
    return []


def infer_choices(draft: Draft, columns: Sequence[Column], answer: Column) -> bool:
    """Set the choices and what follows from them; False where there are none.

    Raises:
        Undecided: the answers are numbers that count the choices from 0 or from 1.
    """
    names = find_choices([column for column in columns if column is not answer])
    if not names or draft.task.get("name") not in (None, "classification") or "references" in draft.dataset:
        return False
    several = [column for column in columns if column.name in names]
    shown = several[0]
    if not _names_choices(answer, several):
        return False
    draft.infer("dataset", "choices", names[0] if len(names) == 1 else names, f"listed behind it: {shown.preview}")
    most = len(names) if len(names) > 1 else _most(shown)
    if "choices_from" not in draft.dataset and (numbers := _numbers(answer)):
        if max(numbers) < most and min(numbers) > 0 and most > 2:
            raise Undecided(
                f"the answers in {answer.name!r} are numbers from {min(numbers)} to {max(numbers)} of {most} choices.",
                [Option(f"the first choice is number {first}", (f"dataset.choices_from={first}",)) for first in (0, 1)],
            )
        first = 0 if min(numbers) == 0 else 1
        draft.infer("dataset", "choices_from", first, f"the answers are numbers from {min(numbers)} to {max(numbers)}")
    draft.infer("dataset", "references", [answer.name], f"the right choice: {answer.preview}")
    draft.infer("task", "name", "classification", "the answer is the letter of a choice")
    draft.infer("task", "labels", list(LETTERS[:most]), f"letters of the choices, of which rows have up to {most}")
    draft.infer("task", "prompt", PROMPT, "the question with its choices, and how to answer")
    return True


def _names_choices(answer: Column, several: Sequence[Column]) -> bool:
    """Whether the answers are numbers, letters, or texts and labels of the choices."""
    known = {text.strip().casefold() for column in several for value in column.values for text in _texts(value)}
    return answer.kind in ("text", "number") and all(
        isinstance(value, int | float) or _MARKED.fullmatch(value) or value.strip().casefold() in known
        for value in answer.values
    )


def _texts(value: object) -> list[str]:
    """Texts and labels in the value of a column with choices."""
    value = listed(value)
    parts = list(value.values()) if isinstance(value, Mapping) else [value]
    items = [item for part in parts for item in (part if isinstance(part, list) else [part])]
    found = [item.get("text") if isinstance(item, Mapping) else item for item in items]
    return [str(item) for item in [*found, *(value if isinstance(value, Mapping) else ())] if item is not None]


def _most(column: Column) -> int:
    """The largest number of choices in the first rows."""
    return max((_count(listed(value)) for value in column.values), default=0)


def _count(value: object) -> int:
    if isinstance(value, Mapping):
        texts = value.get("text")
        return len(texts) if isinstance(texts, list) else len(value)
    return len(value) if isinstance(value, list) else 0


def _numbers(answer: Column) -> list[int]:
    """The answers, if all of them are whole numbers; empty otherwise."""
    texts = [str(value).strip().removesuffix(".0") for value in answer.values]
    return [int(text) for text in texts] if texts and all(text.isdecimal() for text in texts) else []
