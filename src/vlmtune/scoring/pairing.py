"""Pairs the rows of prediction files and decides which pairs count as evidence.

Files are paired by id where both have ids, else in order where the references agree row by row, else by the references
themselves where they occur only once. Two different rows are never compared; unpaired rows are counted.

A paired row is evidence unless it was used to choose a checkpoint or a setting; it is compared if every file answers
it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmtune.predictions import Controls, Line
from vlmtune.scoring.results import PairedBy, RowCounts, TrainingSummary

Row = tuple[int, int]
Lines = tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class PredictionFile:
    """The lines of a prediction file and its sidecars, which are None for files that vlmtune did not write."""

    name: str
    lines: Sequence[Line]
    manifest: Mapping[str, Any] | None = None
    controls: Controls | None = None
    training: TrainingSummary | None = None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the answers were made from; empty without a manifest."""
        provenance: Mapping[str, Any] = (self.manifest or {}).get("origin", {})
        return provenance

    @property
    def selection_ids(self) -> frozenset[str]:
        """Rows that chose the checkpoint or a setting."""
        return frozenset((self.manifest or {}).get("selection_ids", []))


Side = tuple[PredictionFile, ...]
"""One side of a comparison: a file, or one file per training seed of the same recipe."""


def name_of(side: Side) -> str:
    """The name of a side for messages."""
    return ", ".join(file.name for file in side)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of row numbers, how the rows were paired, and notes for the reader."""

    rows: tuple[Row, ...]
    by: PairedBy
    notes: tuple[str, ...] = ()


def pair(a: Sequence[Line], b: Sequence[Line], truths: Collection[str]) -> Pairs:
    """Pair two files, in the order of the first; the result may be empty.

    `truths` names the truths that metrics use; paired rows agree in them, and in their image if both name one.
    """
    if all(line.id is not None for line in (*a, *b)):
        by_id = _by_id(a, b, truths)
        if by_id.rows:
            return by_id
    if all(x.references and _same(x, y, truths) for x, y in zip(a, b, strict=False)):
        shared = min(len(a), len(b))
        note = () if len(a) == len(b) else (f"the files share their first {shared} rows; the others were left out",)
        return Pairs(tuple((n, n) for n in range(shared)), "order", note)
    return _by_references(a, b, truths)


def _same(one: Line, other: Line, truths: Collection[str]) -> bool:
    if one.image is not None and other.image is not None and one.image != other.image:
        return False
    return all(one.truth.get(truth) == other.truth.get(truth) for truth in truths)


def _by_id(a: Sequence[Line], b: Sequence[Line], truths: Collection[str]) -> Pairs:
    numbers = {line.id: m for m, line in enumerate(b)}
    same_id = [(n, numbers[line.id]) for n, line in enumerate(a) if line.id in numbers]
    kept = tuple((n, m) for n, m in same_id if _same(a[n], b[m], truths))
    differing = len(same_id) - len(kept)
    note = f"{differing} rows with the same id have another image or other references in the two files; left out"
    return Pairs(kept, "id", (note,) if differing else ())


def _by_references(a: Sequence[Line], b: Sequence[Line], truths: Collection[str]) -> Pairs:
    """Rows whose references occur once in each file are the same row; the others are ambiguous and left out."""
    counts_a, counts_b = (Counter(line.references for line in lines) for lines in (a, b))
    numbers = {line.references: m for m, line in enumerate(b)}
    shared = [(n, numbers[x.references]) for n, x in enumerate(a) if x.references and x.references in numbers]
    unique = [(n, m) for n, m in shared if counts_a[a[n].references] == counts_b[b[m].references] == 1]
    rows = tuple((n, m) for n, m in unique if _same(a[n], b[m], truths))
    notes = ["rows were paired by their references: the files have no common ids"]
    if len(unique) < len(shared):
        notes.append(f"{len(shared) - len(unique)} rows were left out: several rows have the same references")
    if len(rows) < len(unique):
        notes.append(f"{len(unique) - len(rows)} rows were left out: same references, but another image")
    return Pairs(rows, "references", tuple(notes))


@dataclass(frozen=True, slots=True)
class Rows:
    """The same N rows in every file of both sides; `groups` [N] names what each row is resampled with."""

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
        """A subset of the rows."""
        a, b = (tuple(tuple(lines[n] for n in numbers) for lines in files) for files in (self.a, self.b))
        return Rows(a, b, tuple(self.groups[n] for n in numbers))


@dataclass(frozen=True, slots=True)
class Evidence:
    """The rows that two sides share.

    `asked` are the rows that are evidence, failed ones included, and `answered` those of them that every file answers.
    `selected_on_all` names the files whose checkpoint or setting was chosen by all paired rows: then every row is kept,
    and none is evidence.
    """

    asked: Rows
    answered: Rows
    counts: RowCounts
    by: PairedBy
    notes: tuple[str, ...]
    selected_on_all: tuple[str, ...]


def gather(a: Side, b: Side, truths: Collection[str]) -> Evidence:
    """Pair every file with A's first and keep the rows that are evidence, possibly none.

    Args:
        a: files of the reference side.
        b: files of the side that is compared with it.
        truths: names of the truths that metrics use; rows with the same id must agree in them.
    """
    pairings = [pair(a[0].lines, file.lines, truths) for file in (*a[1:], *b)]
    partners = [{n: n for n in range(len(a[0].lines))}, *(dict(pairs.rows) for pairs in pairings)]
    shared = [n for n in partners[0] if all(n in numbers for numbers in partners)]
    files = [tuple(file.lines[numbers[n]] for n in shared) for file, numbers in zip((*a, *b), partners, strict=True)]
    groups = tuple(_group(n, [lines[n] for lines in reversed(files)]) for n in range(len(shared)))
    paired = Rows(tuple(files[: len(a)]), tuple(files[len(a) :]), groups)
    selection_ids = frozenset[str]().union(*(file.selection_ids for file in (*a, *b)))
    selection = {n for n in range(len(shared)) if any(lines[n].id in selection_ids for lines in files)}
    evidence = [n for n in range(len(shared)) if n not in selection]
    asked = paired.keep(evidence) if evidence else paired
    answered = asked.keep([n for n in range(len(asked)) if _answered([lines[n] for lines in (*asked.a, *asked.b)])])
    return Evidence(
        asked=asked,
        answered=answered,
        counts=_counts(a, b, paired, answered, len(selection)),
        by=pairings[-1].by,
        notes=tuple(dict.fromkeys(note for pairs in pairings for note in pairs.notes)),
        selected_on_all=tuple(
            file.name
            for file, lines in zip((*a, *b), files, strict=True)
            if shared and all(line.id in file.selection_ids for line in lines)
        ),
    )


def _counts(a: Side, b: Side, paired: Rows, answered: Rows, selection: int) -> RowCounts:
    count_a, count_b = (max(len(file.lines) for file in side) for side in (a, b))
    failed_a, failed_b = (
        sum(not _answered([lines[n] for lines in files]) for n in range(len(paired))) for files in (paired.a, paired.b)
    )
    return {
        "a": count_a,
        "b": count_b,
        "paired": len(paired),
        "only_a": count_a - len(paired),
        "only_b": count_b - len(paired),
        "failed_a": failed_a,
        "failed_b": failed_b,
        "selection": selection,
        "compared": len(answered),
        "groups": len(set(answered.groups)),
    }


def group_of(number: int, line: Line) -> str:
    """What a row is resampled with: its cluster, else itself."""
    return line.cluster if line.cluster is not None else line.id or f"row {number}"


def _group(number: int, lines: Sequence[Line]) -> str:
    """The group recorded by any of the files."""
    return group_of(number, next((line for line in lines if line.cluster is not None), lines[0]))


def _answered(lines: Sequence[Line]) -> bool:
    return all(line.prediction is not None for line in lines)
