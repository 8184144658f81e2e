"""The sides of a comparison, and the rows of their files that count as evidence.

A row is evidence where every file has it and nobody used it to choose a checkpoint or a setting; it is compared where
every file also answers it. Everything else is counted.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmtune.predictions import Line
from vlmtune.scoring.pairing import pair

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
