"""Single values of a record, checked for the role of their column; errors name row, column and reason."""

import ast
import datetime
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.errors import DataError, EmptyField
from vlmtune.json_values import is_deep


def text(value: Any, column: str, at: str) -> str:
    """A non-empty string of valid characters.

    Raises:
        EmptyField: it is null or empty.
        DataError: the value is anything else.
    """
    if value is None:
        raise EmptyField(f"{at}: column {column!r} must hold text (got NoneType); repair or remove the row", column)
    if not isinstance(value, str):
        raise DataError(f"{at}: column {column!r} must hold text (got {type(value).__name__})")
    if "\0" in value:
        raise DataError(f"{at}: column {column!r} contains a NUL character; repair the row")
    if _has_lone_surrogate(value):
        raise DataError(f"{at}: column {column!r} contains half a surrogate pair, not a character; repair the row")
    if not value.strip():
        raise EmptyField(f"{at}: column {column!r} is empty; repair or remove the row", column)
    return value


def answer(value: Any, column: str, at: str) -> str:
    """A reference or target: text, a number (as labels and counts often are) or an object as JSON.

    A number is written with as few digits as tell it from all others, a whole one without a point: 0.5, 2.

    Raises:
        DataError: as `text`; a boolean, which could be written in several ways; not a finite number.
    """
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(
            f"{at}: column {column!r} must hold text or numbers (got {value!r}); write the text that answers are "
            "compared with"
        )
    if isinstance(value, Mapping):
        return json.dumps(plain(value, column, at), ensure_ascii=False)
    if isinstance(value, int | float):
        value = str(int(value)) if value == int(value) else repr(value)
    return text(value, column, at)


def answers(value: Any) -> list[Any]:
    """The answers that a value holds: those in a list, in a list as text (as CSV stores it), or the value itself.

    Of an object that is one answer with its ids, as in VQA's and Karpathy's lists, only the text counts.
    """
    if isinstance(value, str):
        parsed = python_list(structured(value))
        value = parsed if isinstance(parsed, list) and all(map(_is_answer, parsed)) else value
    if isinstance(value, Mapping):  # a list of objects, as Parquet stores it: an object of lists
        key = _answer_key(value)
        value = value[key] if key is not None and isinstance(value[key], list) else [value]
    items = value if isinstance(value, list | tuple) else [value]
    keys = [_answer_key(item) if isinstance(item, Mapping) else None for item in items]
    return [item if key is None else item[key] for item, key in zip(items, keys, strict=True)]


_ANSWER_KEYS = {
    "answer": {"answer_id", "answer_confidence", "confidence"},
    "caption": {"id", "image_id", "caption_id"},
    "raw": {"tokens", "sentid", "imgid"},
}
"""Keys of the text of an answer in a list of objects, with the keys that may accompany it."""

_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_TEXT_LIST = re.compile(rf"\s*\[\s*{_QUOTED}(?:\s*,?\s*{_QUOTED})*\s*,?\s*\]\s*", re.DOTALL)
"""A list of texts as JSON, Python or numpy (without commas) write it."""


def _is_answer(value: Any) -> bool:
    return isinstance(value, str | int | float) or (isinstance(value, Mapping) and _answer_key(value) is not None)


def _answer_key(value: Mapping[str, Any]) -> str | None:
    return next((key for key, others in _ANSWER_KEYS.items() if key in value and set(value) <= {key, *others}), None)


def python_list(value: Any) -> Any:
    """A list that text holds as Python prints it (`['a', 'b']`, as pandas writes lists); anything else unchanged.

    Texts without commas between them, as numpy prints them, are items of their own, not one text as in Python's syntax.
    """
    if not isinstance(value, str) or not (value.strip().startswith("[") and value.strip().endswith("]")):
        return value
    try:
        if _TEXT_LIST.fullmatch(value):
            return [ast.literal_eval(item) for item in re.findall(_QUOTED, value, re.DOTALL)]
        parsed = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return parsed if isinstance(parsed, list) else value


def numbers(values: Sequence[Any], at: str) -> list[float]:
    """Numbers, also written as text; no numbers if all values are empty.

    Raises:
        DataError: one is no finite number.
    """
    if all(value is None or value == "" for value in values):
        return []
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        found = [math.nan]
    if not all(map(math.isfinite, found)) or any(isinstance(value, bool) for value in values):
        raise DataError(f"{at}: must hold numbers (got {list(values)!r:.80})")
    return found


def texts(value: Any, column: str, at: str) -> list[str]:
    """A list of texts, possibly empty.

    Raises:
        DataError: the value is not a list, or an item is not text.
    """
    if not isinstance(value, list | tuple):
        raise DataError(f"{at}: column {column!r} must hold a list of texts (got {type(value).__name__})")
    return [text(item, column, at) for item in value]


def name(value: Any, key: str, column: str, at: str) -> str:
    """The id or group of a row: a text, number or date, as text.

    Raises:
        DataError: null, NaN, empty, or not a scalar. Rows without a group must not form a group.
    """
    subject = f"{at}: dataset.{key} names column {column!r}, which"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise EmptyField(f"{subject} is {'null' if value is None else value} here; give every row a {key}", column)
    if not isinstance(value, str | int | float | datetime.date):
        raise DataError(f"{subject} holds no text or number here (got {type(value).__name__})")
    if not str(value).strip() or _has_lone_surrogate(str(value)):
        raise DataError(f"{subject} is empty or not valid text here; give every row a {key}")
    return str(value)


def plain(value: Any, column: str, at: str) -> Any:
    """A value for a JSON file: dates and times as ISO text, everything else unchanged.

    Raises:
        DataError: JSON cannot represent it: an image, bytes, NaN.
    """
    converted = _with_iso_dates(value)
    try:
        json.dumps(converted, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{at}: column {column!r} holds a value that JSON cannot represent ({error}); remove it from dataset.meta"
        ) from None
    return converted


def structured(value: Any) -> Any:
    """A list or object, parsed where a text column holds it as JSON (in CSV it must); anything else unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return value if is_deep(parsed) else parsed


def hashable(value: Any) -> Any:
    """A value as it enters a content hash: JSON values unchanged, bytes as their SHA-256, the rest as text."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Mapping):
        return {key: hashable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [hashable(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _with_iso_dates(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: _with_iso_dates(item) for key, item in value.items()}
    return [_with_iso_dates(item) for item in value] if isinstance(value, list | tuple) else value


def _has_lone_surrogate(value: str) -> bool:
    return not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value)
