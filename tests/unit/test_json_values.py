"""JSON of others is read strictly, and what is not of a type is said with its place."""

import pytest
from typing_extensions import TypedDict

from vlmtune.json_values import MAX_DEPTH, mismatch, parse_json


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "nested deeper"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested deeper"),
        ("NaN", "NaN is not JSON"),
        ("[1e999]", "Out of range float|not JSON compliant"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ("9" * 5000, "digits"),
        ("", "Expecting value"),
    ],
)
def test_what_is_no_json_is_a_value_error(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_ordinary_values_are_unchanged() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep) is not None
    assert parse_json('{"a": [1, 0.5, "é\u2028", null, true]}') == {"a": [1, 0.5, "é\u2028", None, True]}


class Shape(TypedDict, total=False):
    tokens: int
    parts: list[dict[str, float]]


def test_a_mismatch_names_its_place() -> None:
    assert mismatch({"tokens": 3, "other": object}, Shape) is None
    assert mismatch({"tokens": "3"}, Shape) == "tokens: should be a valid integer"
    assert mismatch({"tokens": True}, Shape) == "tokens: should be a valid integer"
    assert mismatch({"parts": [{"a": 1}, {"b": None}]}, Shape) == "parts.1.b: should be a valid number"
    assert mismatch([], Shape) == "should be a valid dictionary"
