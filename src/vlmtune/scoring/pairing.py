"""Which row of one prediction file belongs to which row of another. Never compares two different rows.

By id where both files have ids, else in order where the references agree row by row, else by the references
themselves where those stand only once. What has no partner is counted and named.
"""

from collections import Counter
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

    `truths` names what the answers are compared with; paired rows agree in it, and in their image where both name one.
    """
    if all(line.id is not None for line in (*a, *b)):
        found = _by_id(a, b, truths)
        if found.rows:
            return found
    if all(x.references and _same(x, y, truths) for x, y in zip(a, b, strict=False)):
        shared = min(len(a), len(b))
        note = () if len(a) == len(b) else (f"the files share their first {shared} rows; the rest was left out",)
        return Pairs(tuple((n, n) for n in range(shared)), "order", note)
    return _by_references(a, b, truths)


def _same(one: Line, other: Line, truths: Collection[str]) -> bool:
    if one.image is not None and other.image is not None and one.image != other.image:
        return False
    return all(one.truth.get(truth) == other.truth.get(truth) for truth in truths)


def _by_id(a: Sequence[Line], b: Sequence[Line], truths: Collection[str]) -> Pairs:
    places = {line.id: n for n, line in enumerate(b)}
    same_id = [(n, places[line.id]) for n, line in enumerate(a) if line.id in places]
    kept = tuple((n, m) for n, m in same_id if _same(a[n], b[m], truths))
    unlike = len(same_id) - len(kept)
    note = f"{unlike} rows have the same id but another image or other references in the two files; they were left out"
    return Pairs(kept, "id", (note,) if unlike else ())


def _by_references(a: Sequence[Line], b: Sequence[Line], truths: Collection[str]) -> Pairs:
    """Rows whose references stand once in each file are the same row; others could be anybody's and are left out."""
    counts_a, counts_b = (Counter(line.references for line in lines) for lines in (a, b))
    places = {line.references: m for m, line in enumerate(b)}
    met = [(n, places[line.references]) for n, line in enumerate(a) if line.references and line.references in places]
    clear = [(n, m) for n, m in met if counts_a[a[n].references] == counts_b[b[m].references] == 1]
    rows = tuple((n, m) for n, m in clear if _same(a[n], b[m], truths))
    notes = ["rows were paired by their references: the files have no common ids"]
    if len(clear) < len(met):
        notes.append(f"{len(met) - len(clear)} rows were left out: their references stand in several rows")
    if len(rows) < len(clear):
        notes.append(f"{len(clear) - len(rows)} rows were left out: same references, but another image")
    return Pairs(rows, "references", tuple(notes))
