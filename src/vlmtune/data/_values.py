"""One value of a record, read as what its column is said to hold, or refused with row, column and reason."""

import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.errors import DataError


def text(value: Any, column: str, at: str) -> str:
    """A text that is neither empty nor spoiled.

    Raises:
        DataError: anything else.
    """
    if not isinstance(value, str):
        raise DataError(f"{at}: column {column!r} must hold text (got {type(value).__name__})")
    if "\0" in value:
        raise DataError(f"{at}: column {column!r} holds a NUL character; repair the row")
    if _has_half_pairs(value):
        raise DataError(f"{at}: column {column!r} holds half a surrogate pair, which is no character; repair the row")
    if not value.strip():
        raise DataError(f"{at}: column {column!r} is empty; repair or remove the row")
    return value


def answer(value: Any, column: str, at: str) -> str:
    """A reference or target: a text, or a whole number in decimal digits, as labels and counts often are.

    Raises:
        DataError: as `text`; a number of another kind, which could be written in several ways.
    """
    if isinstance(value, float | bool):
        raise DataError(
            f"{at}: column {column!r} must hold text or whole numbers (got {value!r}); write it as the text that "
            "answers are compared with"
        )
    return text(str(value) if isinstance(value, int) else value, column, at)


def texts(value: Any, column: str, at: str) -> list[str]:
    """A list of texts; may be empty.

    Raises:
        DataError: no list, or something else in it.
    """
    if not isinstance(value, list | tuple):
        raise DataError(f"{at}: column {column!r} must hold a list of texts (got {type(value).__name__})")
    return [text(item, column, at) for item in value]


def name(value: Any, key: str, column: str, at: str) -> str:
    """What a row or group is called: a text, number or date as text.

    Raises:
        DataError: null, NaN, empty, or not a single value; rows without a name are not one group.
    """
    said = f"{at}: dataset.{key} names column {column!r}, which"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(f"{said} is {'null' if value is None else value} here; give every row a {key}")
    if not isinstance(value, str | int | float | datetime.date):
        raise DataError(f"{said} holds no text or number here (got {type(value).__name__})")
    if not str(value).strip() or _has_half_pairs(str(value)):
        raise DataError(f"{said} is empty or no valid text here; give every row a {key}")
    return str(value)


def plain(value: Any, column: str, at: str) -> Any:
    """A value as it can stand in a JSON file: dates and times as ISO text, the rest untouched.

    Raises:
        DataError: JSON cannot hold it: an image, bytes, NaN.
    """
    made = _dated(value)
    try:
        json.dumps(made, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{at}: column {column!r} holds what JSON cannot hold ({error}); take it out of dataset.meta"
        ) from None
    return made


def structured(value: Any) -> Any:
    """A list or object, also where a column of texts holds it as JSON, as CSV must; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def identity(value: Any) -> Any:
    """What stands for a value in a hash of the content: bytes by their hash, the rest by itself."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Mapping):
        return {key: identity(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [identity(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _dated(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: _dated(item) for key, item in value.items()}
    return [_dated(item) for item in value] if isinstance(value, list | tuple) else value


def _has_half_pairs(value: str) -> bool:
    return not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value)
