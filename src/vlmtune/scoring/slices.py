"""The primary metric on parts of the rows: one slice per value of a metadata column.

Intervals are descriptive, each on its own. Whether a part got worse is judged for all parts together, after Holm: of
fifty slices of nothing, one or two would look worse by chance.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.errors import ConfigError
from vlmtune.plugs import closest
from vlmtune.predictions import Line
from vlmtune.scoring.evidence import Rows
from vlmtune.scoring.exact import holm
from vlmtune.scoring.judgement import Measured, Terms, weigh

MOST_VALUES = 50
"""Values of a column that are shown; a column with more (an id, a date) describes rows rather than parts."""

MISSING = "(none)"
"""What a row's value is called where the row has none."""


def sliced(
    columns: Sequence[str], measured: Measured, rows: Rows, terms: Terms
) -> tuple[list[dict[str, Any]], list[str]]:
    """{"column", "value", "rows", "a", "b", "delta", "ci", "p", "p_adjusted", "worse"} per column, in the given order,
    and value, sorted.

    `ci` is None below 20 groups, `p` also with several seeds: then no part is called `worse`. Of a column with more
    than 50 values the 50 largest are shown, and a sentence in the second list says what is left out.

    Raises:
        ConfigError: no row has such a column.
    """
    found, notes = [], []
    for column in dict.fromkeys(columns):
        parts: dict[str, list[int]] = {}
        for n, line in enumerate(rows.a[0]):
            parts.setdefault(_value(column, (line, *(lines[n] for lines in (*rows.a[1:], *rows.b)))), []).append(n)
        if set(parts) == {MISSING}:
            raise ConfigError(_unknown(column, rows))
        largest = sorted(parts, key=lambda value: (-len(parts[value]), value))[:MOST_VALUES]
        if len(parts) > len(largest):
            notes.append(f"slices: {column} has {len(parts)} values; the {MOST_VALUES} with the most rows are shown")
        for value in sorted(largest, key=_order):
            numbers = parts[value]
            kept, groups = measured.keep(numbers), [rows.groups[n] for n in numbers]
            result = weigh([kept], groups, terms.statistics, test=True)[0]
            p = result.found.p if result.found else None
            found.append({"column": column, "value": value, "rows": len(numbers), **result.values(), "p": p})
    return _judged(found, measured.metric.higher_is_better, 1 - terms.statistics.confidence), notes


def _judged(slices: Sequence[dict[str, Any]], higher_is_better: bool, level: float) -> list[dict[str, Any]]:
    """With `p_adjusted` over all slices, and `worse`."""
    tested = [part["p"] for part in slices if part["p"] is not None]
    corrected = iter(holm(tested))
    judged = []
    for part in slices:
        p = next(corrected) if part["p"] is not None else None
        fell = part["ci"] is not None and (part["ci"][1] < 0 if higher_is_better else part["ci"][0] > 0)
        judged.append({**part, "p_adjusted": p, "worse": fell and p is not None and p < level})
    return judged


def _value(column: str, lines: Sequence[Line]) -> str:
    """A row's value, from the first file that has it: its metadata, else a key of the line that is a single value."""
    for line in lines:
        for place in (line.meta, line.truth):
            value = place.get(column)
            if isinstance(value, str | int | float):
                return str(value)
    return MISSING


def _order(value: str) -> tuple[bool, bool, float, str]:
    """Numbers by size, then texts, then what is missing."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    return value == MISSING, not math.isfinite(number), number if math.isfinite(number) else 0.0, value


def _unknown(column: str, rows: Rows) -> str:
    names = sorted({name for lines in (*rows.a, *rows.b) for line in lines for name in _columns(line)})
    nearest = closest(column, names)
    there = f"there are: {', '.join(names)}" if names else "the rows carry none (dataset.meta puts columns there)"
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    return f"no compared row has the column {column!r} to slice by; {there}{hint}"


def _columns(line: Line) -> Sequence[str]:
    places: Mapping[str, Any] = {**line.truth, **line.meta}
    return [name for name, value in places.items() if isinstance(value, str | int | float)]
