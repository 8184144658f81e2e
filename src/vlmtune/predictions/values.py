"""Values of foreign files as text, as Python prints them: 1 is "1", True is "True", 1.0 is "1.0"."""

import ast
import datetime
import hashlib
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from vlmtune.errors import DataError

WRAPPERS = ("generated_text", "prediction_text", "content", "text")
"""Keys of objects that only wrap an answer, as pipelines of transformers, SQuAD's metric and chat messages do."""

BESIDE_A_TEXT = {*WRAPPERS, "role", "type", "id", "no_answer_probability", "refusal", "tool_calls", "source"}
"""Keys that such an object may have."""


def is_missing(value: Any) -> bool:
    """Whether a value is null, or NaN as pandas writes null."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def scalar_text(value: Any) -> str | None:
    """The text of an id: a whole number is written without `.0`; None for what is no text, number or date."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float | Decimal | datetime.date) else None


def answer_text(value: Any, key: str, at: str) -> str | None:
    """The answer in a value; None where there is none.

    A list with one element is that element. Of messages, the last one is the answer, and an object that is no message
    is an answer in JSON.

    Raises:
        DataError: several values, of which none is the answer.
    """
    if is_missing(value) or value == []:
        return None
    if isinstance(value, str | int | float | Decimal | datetime.date):
        return str(value)
    if isinstance(value, Mapping):
        choices = value.get("choices")
        if (
            isinstance(choices, list) and choices and isinstance(choices[0], Mapping)
        ):  # the body of a chat server's reply
            return answer_text(choices[0].get("message", choices[0].get("text")), key, at)
        if set(value) == {"from", "value"}:
            return answer_text(value["value"], key, at)
        wrapped = next((name for name in WRAPPERS if name in value and set(value) <= BESIDE_A_TEXT), None)
        return json.dumps(value, ensure_ascii=False) if wrapped is None else answer_text(value[wrapped], key, at)
    if not isinstance(value, list):
        raise DataError(f"{at}: {key!r} holds no text (got {type(value).__name__})")
    return _text_of_list(value, key, at)


def _text_of_list(values: list[Any], key: str, at: str) -> str | None:
    if len(values) == 1 or all(isinstance(item, Mapping) and ("role" in item or "from" in item) for item in values):
        return answer_text(values[-1], key, at)
    if all(isinstance(item, Mapping) and "type" in item for item in values):
        return "".join(str(item.get("text") or "") for item in values)
    parts = [part for item in values for part in (item if isinstance(item, list) else [item])]
    if any(isinstance(part, str) for part in parts):
        raise DataError(
            f"{at}: {key!r} holds {len(values)} values, not one answer; name the one to score, as in "
            f"--prediction {key}.0"
        )
    return json.dumps(values, ensure_ascii=False)  # boxes, or other data


def reference_texts(value: Any, lists_as_text: bool = False) -> list[str]:
    """The references in a value: one, or a list of them.

    Args:
        value: as the file has it. Of an object, `answer` or `text` counts (VQA, SQuAD), else all of it as JSON.
        lists_as_text: whether a text such as `['a', 'b']` is a list.
    """
    if is_missing(value):
        return []
    if lists_as_text and isinstance(value, str):
        value = _list_in(value)
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = value["text"]
    if isinstance(value, Mapping) and isinstance(value.get("answers"), Mapping | list):
        return reference_texts(value["answers"])
    if isinstance(value, Mapping) and set(value) <= BESIDE_A_TEXT:
        value = next((value[name] for name in WRAPPERS if name in value), value)
    if not isinstance(value, list):
        return [_text(value)]
    if all(isinstance(item, str) for item in value):
        return value
    return [_text(item["answer"] if isinstance(item, Mapping) and "answer" in item else item) for item in value]


def _list_in(text: str) -> Any:
    """A list of texts that was written as text, in the notation of Python or JSON; else the text."""
    if not text.lstrip().startswith("["):
        return text
    for parse in (ast.literal_eval, json.loads):
        try:
            value = parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return value
    return text


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list):
        return json.dumps(plain(value), ensure_ascii=False)
    return str(value)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: bytes as their SHA-256, dates as text, messages without the model's last answer."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [plain(item) for item in value]
        while items and isinstance(items[-1], dict) and items[-1].get("role") == "assistant":
            items.pop()
        return items
    if is_missing(value):
        return None
    return value if isinstance(value, str | int | float | bool) else str(value)
