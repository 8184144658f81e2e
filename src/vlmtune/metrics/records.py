"""Structured answers: JSON objects compared field by field. Truth: `record`, the expected object.

`field_f1` and `record_match` read records as Donut does (JSONParseEvaluator of github.com/clovaai/donut): values are
stripped texts, so 1 is "1"; null and empty containers are not fields; a single value is a list of one; keys are
compared verbatim. Donut also drops 0, false, "" and whatever is next to plain values in a list. Here they are fields: a
model that writes 0 where 0 is right is given credit. `typed_field_f1` compares what values mean (`_typed_values`).
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._ngram_counts import per_row, ratio
from vlmtune.metrics._typed_values import EMPTY, typed_value

Record = Mapping[str, Any]
Path = tuple[str | int, ...]


def _leaves(record: Record) -> Iterator[tuple[Path, str]]:
    """Every value with the keys and list positions that lead to it. Not recursive: answers may nest arbitrarily."""
    stack: list[tuple[Path, Any]] = [((), record)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, Mapping):
            children = ((key, child if isinstance(child, list) else [child]) for key, child in value.items())
            stack += [((*path, key), child) for key, child in children]
        elif isinstance(value, list):
            stack += [((*path, n), child) for n, child in enumerate(item for item in value if item is not None)]
        else:
            yield path, str(value).strip()


def _fields(record: Record) -> Counter[tuple[str, str]]:
    """(dotted keys, value) of every value, without list positions: {"a": [{"b": 1}]} has the field ("a.b", "1")."""
    return Counter((".".join(key for key in path if isinstance(key, str)), value) for path, value in _leaves(record))


def _typed_fields(record: Record) -> Counter[tuple[str, Hashable]]:
    """As `_fields`, with values by their meaning. Null and empty containers are values: what is missing is another."""
    fields: Counter[tuple[str, Hashable]] = Counter()
    stack: list[tuple[str, Any]] = [(str(key), value) for key, value in record.items()]
    while stack:
        path, value = stack.pop()
        if isinstance(value, Mapping) and value:
            stack += [(f"{path}.{key}", child) for key, child in value.items()]
        elif isinstance(value, list) and value:
            stack += [(path, child) for child in value]
        else:
            fields[path, EMPTY if isinstance(value, Mapping | list) else typed_value(value)] += 1
    return fields


def _measure_fields(
    fields: Callable[[Record], Counter[Any]],
) -> Callable[[Sequence[Record | None], Sequence[Record]], Stats]:
    def measure(answers: Sequence[Record | None], records: Sequence[Record]) -> Stats:
        """Stats [N, 2]: fields found, fields missing or invented."""
        rows = []
        for answer, record in zip(answers, records, strict=True):
            answered, expected = fields(answer or {}), fields(record)
            found = (answered & expected).total()
            wrong = answered.total() + expected.total() - 2 * found
            # An unreadable answer is never right, not even where there is nothing to find.
            rows.append((found, max(wrong, 1) if answer is None else wrong))
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    return measure


def _f1(sums: Stats) -> Stats:
    all_fields = sums[..., 0] + sums[..., 1] / 2
    return np.where(all_fields > 0, sums[..., 0] / np.where(all_fields > 0, all_fields, 1), 1.0)


field_f1 = Metric(
    name="field_f1",
    measure=_measure_fields(_fields),
    summarise=_f1,
    signature="micro over (path, value)|list order ignored|null dropped|norm:donut|0, false and empty text count",
    truth="record",
    bounded=True,
)
"""F1 over the fields of all rows, a field being (dotted keys, value), each as often as it occurs. With nothing to find
and nothing invented it is 1."""


typed_field_f1 = Metric(
    name="typed_field_f1",
    measure=_measure_fields(_typed_fields),
    summarise=_f1,
    signature="micro over (path, value)|list order ignored|numbers by value, dates by day, booleans|null is a value",
    truth="record",
)
"""`field_f1` over values by their meaning: 12.5, "12.50" and 12.50 are one number, "March 5, 2024" and "2024-03-05" one
day, "yes" and true one boolean, where the writing leaves no doubt ("1,250" and "05/03/2024" are compared as texts). A
key with null is a field whose value is null, and differs from a missing key."""


def _measure_match(answers: Sequence[Record | None], records: Sequence[Record]) -> Stats:
    pairs = zip(answers, records, strict=True)
    return per_row(
        float(answer is not None and dict(_leaves(answer)) == dict(_leaves(record))) for answer, record in pairs
    )


record_match = Metric(
    name="record_match",
    measure=_measure_match,
    summarise=ratio,
    signature="list order counts|null dropped|norm:donut|0, false and empty text count",
    truth="record",
    binary=True,
)
"""Share of rows whose record is right as a whole: every value at its place, in lists too, and nothing else."""
