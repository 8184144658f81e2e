"""Pairs the rows of prediction files and decides which pairs count as evidence.

Two different rows are never compared. Files are paired by id where both have ids. Otherwise every key that both have
and that tells rows apart (`scoring.row_keys`) must agree: row by row, then the files are paired in order; else as a
whole, where no other row of either file has the same values. Unpaired rows are counted.

A paired row is evidence unless it was used to choose a checkpoint or a setting; it is compared if every file answers
it.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlmtune.predictions import Controls, Line
from vlmtune.scoring.results import PairedBy, RowCounts, TrainingSummary
from vlmtune.scoring.row_keys import agree, normal, row_keys, without_partner

Row = tuple[int, int]
Lines = tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class PredictionFile:
    """The lines of a prediction file and its sidecars, which are None for files that vlmtune did not write.

    `notes` say how a file of another program was read.
    """

    name: str
    lines: Sequence[Line]
    manifest: Mapping[str, Any] | None = None
    controls: Controls | None = None
    training: TrainingSummary | None = None
    notes: tuple[str, ...] = ()

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
    """Pair two files, in the order of the first; the result may be empty, and its notes then say why.

    Args:
        a: rows of the first file.
        b: rows of the second file.
        truths: names of the truths that metrics use; paired rows agree in them but for white space, and in their image
            if both name one.
    """
    if all(line.id is not None for line in (*a, *b)):
        by_id = _by_id(a, b, truths)
        if by_id.rows:
            return by_id
    keys = row_keys(a, b)
    values = [_values(line, keys, truths) for line in a], [_values(line, keys, truths) for line in b]
    return _in_order(a, b, keys, values) or _by_values(a, b, keys, values)


def _same_row(one: Line, other: Line, truths: Collection[str]) -> bool:
    """Whether two rows agree in their images and, but for white space, in their truths."""
    if one.image is not None and other.image is not None and one.image != other.image:
        return False
    pairs = ((one.truth.get(truth), other.truth.get(truth)) for truth in truths)
    return all(x == y or normal(x) == normal(y) for x, y in pairs)


def _by_id(a: Sequence[Line], b: Sequence[Line], truths: Collection[str]) -> Pairs:
    numbers = {line.id: m for m, line in enumerate(b)}
    same_id = [(n, numbers[line.id]) for n, line in enumerate(a) if line.id in numbers]
    kept = tuple((n, m) for n, m in same_id if _same_row(a[n], b[m], truths))
    notes = []
    if len(kept) < len(same_id):
        count = len(same_id) - len(kept)
        notes.append(f"{count} rows with the same id have another image or other references in the two files; left out")
    spaced = sum(any(a[n].truth.get(truth) != b[m].truth.get(truth) for truth in truths) for n, m in kept)
    if spaced:
        notes.append(
            f"{spaced} rows with the same id have references that differ in white space only; those of the first file "
            "count"
        )
    return Pairs(kept, "id", tuple(notes))


Values = tuple[Sequence[Hashable], Sequence[Hashable]]
"""What tells the rows of two files apart."""


def _values(line: Line, keys: Sequence[str], truths: Collection[str]) -> Hashable:
    names = sorted({*keys, *truths, "references"})
    return (line.image, *(normal(line.truth.get(name)) for name in names))


def _in_order(a: Sequence[Line], b: Sequence[Line], keys: Sequence[str], values: Values) -> Pairs | None:
    """Pairs by position, if the rows agree in everything that both files have.

    Where one file is longer, the last two rows that the files share must differ: then a row that only one file lacks
    would have shifted a difference into view, wherever it is. For example, `no no yes yes` and `no no yes` also agree
    if the second file lacks the third row.
    """
    shared = min(len(a), len(b))
    if not all(x.references and agree(x, y, keys) for x, y in zip(a, b, strict=False)):
        return None
    ours, theirs = values[0][:shared], values[1][:shared]
    if ours != theirs or (len(a) != len(b) and shared > 1 and ours[-1] == ours[-2]):
        return None
    notes = []
    if len(a) != len(b):
        notes.append(f"the files share their first {shared} rows; the others were left out")
    return Pairs(tuple((n, n) for n in range(shared)), "order", tuple(notes))


def _by_values(a: Sequence[Line], b: Sequence[Line], keys: Sequence[str], values: Values) -> Pairs:
    """Rows whose values occur once in each file are the same row; the others are ambiguous and left out."""
    counts_a, counts_b = map(Counter, values)
    numbers = {value: m for m, value in enumerate(values[1])}
    shared = [(n, numbers[value]) for n, value in enumerate(values[0]) if a[n].references and value in numbers]
    rows = tuple((n, m) for n, m in shared if counts_a[values[0][n]] == counts_b[values[1][m]] == 1)
    named = f"{', '.join(repr(key) for key in keys)} and their references" if keys else "their references"
    notes = [f"rows were paired by {named}: the files have no common ids"]
    if len(rows) < len(shared):
        notes.append(
            f"{len(shared) - len(rows)} rows were left out: several rows have the same {named.rsplit(maxsplit=1)[-1]}"
        )
    key, alone = without_partner(a, b, keys)
    if key is not None and 2 * len(rows) < min(len(a), len(b)):
        notes.append(
            f"{alone} rows of A have a value of {key!r} that no row of B has; if it says nothing about the row, leave "
            f"it out with --ignore {key}"
        )
    images = _images_differ(a, b)
    if images:
        notes.append(f"{images} rows were left out: same references, but another image")
    return Pairs(rows, "keys" if keys else "references", tuple(notes))


def _images_differ(a: Sequence[Line], b: Sequence[Line]) -> int:
    """Rows whose references occur once in each file, but with different images."""
    counts_a, counts_b = (Counter(line.references for line in lines) for lines in (a, b))
    images = {line.references: line.image for line in b if counts_b[line.references] == 1}
    return sum(
        counts_a[line.references] == 1
        and None not in (line.image, images.get(line.references))
        and line.image != images[line.references]
        for line in a
    )


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
    files = [_with_truths(lines, files[0], truths) for lines in files]
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
        notes=tuple(
            dict.fromkeys(
                (
                    *(note for file in (*a, *b) for note in file.notes),
                    *(note for pairs in pairings for note in pairs.notes),
                )
            )
        ),
        selected_on_all=tuple(
            file.name
            for file, lines in zip((*a, *b), files, strict=True)
            if shared and all(line.id in file.selection_ids for line in lines)
        ),
    )


def _with_truths(lines: Lines, first: Lines, truths: Collection[str]) -> Lines:
    """The rows with the truths of the first file, where theirs differ in white space: all files are scored alike."""
    return tuple(
        line
        if all(line.truth.get(truth) == own.truth.get(truth) for truth in truths)
        else replace(line, truth={**line.truth, **{truth: own.truth[truth] for truth in truths if truth in own.truth}})
        for line, own in zip(lines, first, strict=True)
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
