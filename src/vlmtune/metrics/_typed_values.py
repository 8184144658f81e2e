"""What a value of a record means: a boolean, a number, a day, null or a text. Only unambiguous writing is interpreted.

"1,250" may be 1250 or 1.25, "05/03/2024" a day in May or in March, and "007" an identifier: all three stay texts.
"""

import datetime
import re
from collections.abc import Hashable
from decimal import Decimal, InvalidOperation
from typing import Any

EMPTY = ("empty",)
"""Stands for an empty list or object."""

_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
_PLAIN = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")
_THOUSANDS_AND_DECIMALS = re.compile(
    r"-?[1-9]\d{0,2}(?:(?:,\d{3})+\.\d+|(?:\.\d{3})+,\d+|(?:[ '’\u00a0\u202f]\d{3})+(?:[.,]\d{1,2})?)"
)
_GROUPS = re.compile(r"-?[1-9]\d{0,2}(?:(?:,\d{3}){2,}|(?:\.\d{3}){2,})")
_DECIMAL_COMMA = re.compile(r"-?(?:0,\d+|[1-9]\d*,(?:\d{1,2}|\d{4,}))")
_AMBIGUOUS = re.compile(r"-?[1-9]\d{0,2}\.\d{3}")
"""Thousands or three decimals; as a JSON number it is never ambiguous."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<year>\d{4})(?P<mark>[-/.])(?P<month>\d{1,2})(?P=mark)(?P<day>\d{1,2})"
        r"(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?\s*(?:Z|[+-]\d{2}:?\d{2})?)?",
        r"(?P<year>\d{4})年(?P<month>\d{1,2})月(?P<day>\d{1,2})日",
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[-\s.]+(?:of\s+)?{_MONTH}[-\s,]+(?P<year>\d{{4}})",
        rf"{_MONTH}[-\s]+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?[-\s]+(?P<year>\d{{4}})",
    )
]
_NUMERIC_DATE = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})")


def typed_value(value: Any) -> Hashable:
    """The meaning of a JSON value that is no list and no object, as a tagged value; equal meanings are equal."""
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | float):
        number = Decimal(str(value))
        return ("number", number) if number.is_finite() else ("text", str(value))
    text = str(value).strip()
    if text.lower() in _BOOLEANS:
        return ("boolean", _BOOLEANS[text.lower()])
    number_or_none = _number(text.replace("−", "-"))
    if number_or_none is not None:
        return ("number", number_or_none)
    day = _day(text)
    return ("day", day) if day is not None else ("text", text)


def _number(text: str) -> Decimal | None:
    if not text.isascii() and not re.fullmatch(r"[-\d.,'’\u00a0\u202f]+", text, re.ASCII):
        return None
    if _PLAIN.fullmatch(text) and not _AMBIGUOUS.fullmatch(text):
        plain = text
    elif _GROUPS.fullmatch(text):
        plain = re.sub(r"[.,]", "", text)
    elif _THOUSANDS_AND_DECIMALS.fullmatch(text) or _DECIMAL_COMMA.fullmatch(text):
        mark = max(text.rfind("."), text.rfind(","))
        whole, decimals = (text, "") if mark < 0 else (text[:mark], text[mark:].replace(",", "."))
        plain = re.sub(r"[^\d-]", "", whole) + decimals
    else:
        return None
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None


def _day(text: str) -> datetime.date | None:
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match:
            month = match["month"]
            number = int(month) if month.isdigit() else 1 + _MONTHS.index(month[:3].lower())
            return _date(int(match["year"]), number, int(match["day"]))
    match = _NUMERIC_DATE.fullmatch(text)
    if match is None:
        return None
    first, mark, second, year = int(match[1]), match[2], int(match[3]), int(match[4])
    day_first, month_first = _date(year, second, first), _date(year, first, second)
    # Only points are read as the day first; with slashes or hyphens both orders are common.
    if mark == "." and day_first is not None:
        return day_first
    return (day_first or month_first) if None in (day_first, month_first) or first == second else None


def _date(year: int, month: int, day: int) -> datetime.date | None:
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None
