"""Which row of one prediction file belongs to which row of another. Never compares two different rows.

By id where both files have ids, else in order where the references agree row by row, else by the references
themselves where those stand only once. What has no partner is counted and named.

The sides of a comparison, and the rows of their files that count as evidence.

A row is evidence where every file has it and nobody used it to choose a checkpoint or a setting; it is compared where
every file also answers it. Everything else is counted.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


Lines = tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """A prediction file: its lines, and what lies beside it (None for files of others)."""

    name: str
    lines: Sequence[Line]
    manifest: Mapping[str, Any] | None = None
    controls: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    """How the adapter that answered was trained: its curve, the steps at which it was resumed, the step taken."""

    @property
    def origin(self) -> Mapping[str, Any]:
        """What the answers were made from; empty for files of others."""
        origin: Mapping[str, Any] = (self.manifest or {}).get("origin", {})
        return origin

    @property
    def selection_ids(self) -> frozenset[str]:
        """Rows that chose the checkpoint or a setting."""
        return frozenset((self.manifest or {}).get("selection_ids", []))


Seeds = tuple[Side, ...]
"""One side: a file, or one file per training seed of the same recipe."""


def name_of(seeds: Seeds) -> str:
    """What a side is called."""
    return ", ".join(side.name for side in seeds)


@dataclass(frozen=True, slots=True)
class Rows:
    """The same rows in every file of both sides; `groups` names what each row is resampled with."""

    a: tuple[Lines, ...]
    b: tuple[Lines, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def independent(self) -> bool:
        """Whether every row is a group of its own."""
        return len(set(self.groups)) == len(self.groups)

    def keep(self, numbers: Sequence[int]) -> "Rows":
        """Some of the rows."""
        a, b = (tuple(tuple(lines[n] for n in numbers) for lines in files) for files in (self.a, self.b))
        return Rows(a, b, tuple(self.groups[n] for n in numbers))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What two sides have in common.

    `asked` are the rows that count, failed ones included; `answered` those of them that every file answers.
    `choosers` are files every paired row of which chose their checkpoint or a setting: then all rows are kept, and none
    is evidence.
    """

    asked: Rows
    answered: Rows
    counts: Mapping[str, int]
    by: str
    notes: tuple[str, ...]
    choosers: tuple[str, ...]


def gather(a: Seeds, b: Seeds, truths: Collection[str]) -> Evidence:
    """Pair every file with A's first and sort out the rows; possibly none is left.

    Args:
        a: files of the reference side.
        b: files of the side that is judged.
        truths: what answers are compared with; rows with the same id must agree in it.
    """
    found = [pair(a[0].lines, side.lines, truths) for side in (*a[1:], *b)]
    partners = [{n: n for n in range(len(a[0].lines))}, *(dict(pairs.rows) for pairs in found)]
    shared = [n for n in partners[0] if all(n in places for places in partners)]
    files = [tuple(side.lines[places[n]] for n in shared) for side, places in zip((*a, *b), partners, strict=True)]
    groups = tuple(_group(n, [lines[n] for lines in reversed(files)]) for n in range(len(shared)))
    paired = Rows(tuple(files[: len(a)]), tuple(files[len(a) :]), groups)
    chosen = frozenset[str]().union(*(side.selection_ids for side in (*a, *b)))
    selection = {n for n in range(len(shared)) if any(lines[n].id in chosen for lines in files)}
    choosers = tuple(
        side.name
        for side, lines in zip((*a, *b), files, strict=True)
        if shared and all(line.id in side.selection_ids for line in lines)
    )
    whole = len(selection) == len(shared)
    asked = paired if whole else paired.keep([n for n in range(len(shared)) if n not in selection])
    answered = asked.keep([n for n in range(len(asked)) if _answered([lines[n] for lines in (*asked.a, *asked.b)])])
    counts = {
        "a": max(len(side.lines) for side in a),
        "b": max(len(side.lines) for side in b),
        "paired": len(shared),
        "only_a": max(len(side.lines) for side in a) - len(shared),
        "only_b": max(len(side.lines) for side in b) - len(shared),
        "failed_a": sum(not _answered([lines[n] for lines in paired.a]) for n in range(len(shared))),
        "failed_b": sum(not _answered([lines[n] for lines in paired.b]) for n in range(len(shared))),
        "selection": len(selection),
        "compared": len(answered),
        "groups": len(set(answered.groups)),
    }
    notes = tuple(dict.fromkeys(note for pairs in found for note in pairs.notes))
    return Evidence(asked, answered, counts, found[-1].by, notes, choosers)


def group_of(number: int, line: Line) -> str:
    """What a row is resampled with: its cluster, else itself."""
    return line.cluster if line.cluster is not None else line.id or f"row {number}"


def _group(number: int, lines: Sequence[Line]) -> str:
    """The group that any of the files knows."""
    return group_of(number, next((line for line in lines if line.cluster is not None), lines[0]))


def _answered(lines: Sequence[Line]) -> bool:
    return all(line.prediction is not None for line in lines)
