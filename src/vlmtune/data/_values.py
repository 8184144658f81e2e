"""Single values of a record, checked for the role of their column; errors name row, column and reason."""

import ast
import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.errors import DataError


def text(value: Any, column: str, at: str) -> str:
    """A non-empty string of valid characters.

    Raises:
        DataError: the value is anything else.
    """
    if not isinstance(value, str):
        raise DataError(f"{at}: column {column!r} must hold text (got {type(value).__name__})")
    if "\0" in value:
        raise DataError(f"{at}: column {column!r} contains a NUL character; repair the row")
    if _has_lone_surrogate(value):
        raise DataError(f"{at}: column {column!r} contains half a surrogate pair, not a character; repair the row")
    if not value.strip():
        raise DataError(f"{at}: column {column!r} is empty; repair or remove the row")
    return value


def answer(value: Any, column: str, at: str) -> str:
    """A reference or target: text; a number as its shortest decimal digits (7.0, as pandas writes counts, is "7").

    Of an object with an answer, as VQA lists them, the answer counts; any other object becomes JSON text.

    Raises:
        DataError: as `text`; a boolean, which could be written in several ways, or a number that is not finite.
    """
    if isinstance(value, Mapping):
        value = value["answer"] if "answer" in value else json.dumps(plain(value, column, at), ensure_ascii=False)
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(
            f"{at}: column {column!r} must hold text or numbers (got {value!r}); write the text that answers are "
            "compared with"
        )
    if isinstance(value, int | float):
        value = str(int(value)) if value == int(value) else repr(value)
    return text(value, column, at)


def answers(value: Any) -> Sequence[Any]:
    """The answers in a value: the items of a list, also of one written as text in JSON or Python, else the value."""
    parsed = python_list(structured(value))
    is_flat = isinstance(parsed, list | tuple) and not any(isinstance(item, list | tuple) for item in parsed)
    return parsed if is_flat else [value]


def python_list(value: Any) -> Any:
    """A list that text holds as Python prints it (`['a', 'b']`, as pandas writes lists); anything else unchanged."""
    if not isinstance(value, str) or not (value.startswith("[") and value.endswith("]")):
        return value
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return parsed if isinstance(parsed, list) else value


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
        raise DataError(f"{subject} is {'null' if value is None else value} here; give every row a {key}")
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
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


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
