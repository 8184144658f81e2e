"""Which row of one prediction file belongs to which row of another. Never compares two different rows.

By id where both files have ids, else in order where the references agree row by row, else by the references
themselves. What has no partner is counted and named.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from vlmtune.predictions import Line

Row = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of row numbers, how they were found, and what the reader should know about that."""

    rows: tuple[Row, ...]
    by: Literal["id", "order", "references"]
    notes: tuple[str, ...] = ()


def pair(a: Sequence[Line], b: Sequence[Line], truths: Collection[str]) -> Pairs:
    """Pair two files, in the order of the first; possibly no row at all.

    `truths` names what the answers are compared with; rows with the same id must agree in it.
    """
    if all(line.id is not None for line in (*a, *b)):
        found = _by_id(a, b, truths)
        if found.rows:
            return found
    if all(x.references == y.references and x.references for x, y in zip(a, b, strict=False)):
        shared = min(len(a), len(b))
        note = () if len(a) == len(b) else (f"the files share their first {shared} rows; the rest was left out",)
        return Pairs(tuple((n, n) for n in range(shared)), "order", note)
    return _by_references(a, b)


def _by_id(a: Sequence[Line], b: Sequence[Line], truths: Collection[str]) -> Pairs:
    places = {line.id: n for n, line in enumerate(b)}
    same_id = [(n, places[line.id]) for n, line in enumerate(a) if line.id in places]
    kept = tuple((n, m) for n, m in same_id if all(a[n].truth.get(t) == b[m].truth.get(t) for t in truths))
    unlike = len(same_id) - len(kept)
    note = f"{unlike} rows have the same id but other references in the two files; they were left out"
    return Pairs(kept, "id", (note,) if unlike else ())


def _by_references(a: Sequence[Line], b: Sequence[Line]) -> Pairs:
    """Rows with the same references are the same row; where those stand several times, only if equally often."""
    counts_a, counts_b = (Counter(line.references for line in lines) for lines in (a, b))
    places: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for m, line in enumerate(b):
        places[line.references].append(m)
    rows: list[Row] = []
    unclear = 0
    for n, line in enumerate(a):
        key = line.references
        if not key or key not in places:
            continue
        if counts_a[key] == counts_b[key]:
            rows.append((n, places[key].pop(0)))
        else:
            unclear += 1
    notes = ["rows were paired by their references: the files have no common ids"]
    if unclear:
        notes.append(f"{unclear} rows were left out: their references stand in several rows, not equally often")
    return Pairs(tuple(rows), "references", tuple(notes))
