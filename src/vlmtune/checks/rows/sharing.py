"""Which rows show which pictures, and what follows where two rows show the same or nearly the same."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.checks.rows.copies import Numbers, near_pairs
from vlmtune.checks.rows.findings import Finding, Place
from vlmtune.checks.rows.pictures import Pictures
from vlmtune.data import SplitRole

PlaceOf = Callable[[int, int], Place]
"""(row, which of its pictures) -> place."""


class Shown:
    """Rows of one role and the pictures they show: 8 bytes a row and 4 a picture."""

    def __init__(self) -> None:
        self.pictures = array("I")
        self.rows = array("I")
        self._asked = bytearray()

    def add(self, row: int, asked: bytes, pictures: Sequence[int]) -> None:
        """The next row, the hash of what is asked about its pictures, and their numbers."""
        self._asked += asked or bytes(8)
        self.pictures.extend(pictures)
        self.rows.extend([row] * len(pictures))

    def occurrences(self) -> tuple[Numbers, Numbers, Numbers]:
        """Of every picture its row, which of the row's pictures it is, and its number [n]."""
        rows = np.array(self.rows, np.int64)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        before = np.repeat(starts, np.diff(starts, append=len(rows)))
        return rows, np.arange(len(rows)) - before, np.array(self.pictures, np.int64)

    def finished(self, pictures: Pictures, place: PlaceOf) -> "Told":
        """All rows are there: what can be decoded of them."""
        rows, images, numbers = self.occurrences()
        good = ~np.isin(numbers, pictures.broken)
        rows, images, numbers = rows[good], images[good], numbers[good]
        asked = np.array(np.frombuffer(self._asked, np.uint64))[rows] if self._asked else np.empty(0, np.uint64)
        return Told(rows, images, numbers, pictures.pixels(numbers), asked, place)


@dataclass(frozen=True, slots=True)
class Told:
    """Every decodable picture of one role, in the order of the rows: [n] each.

    `pixels` is the identity of its pixels, `asked` the hash of what its row asks (0: nothing could be asked).
    """

    rows: Numbers
    images: Numbers
    numbers: Numbers
    pixels: NDArray[np.void]
    asked: NDArray[np.uint64]
    _place: PlaceOf

    def place(self, at: int) -> Place:
        """Where the picture stands."""
        return self._place(int(self.rows[at]), int(self.images[at]))

    @property
    def firsts(self) -> Numbers:
        """Where the first picture of every row with one stands."""
        return np.flatnonzero(np.diff(self.rows, prepend=-1))


def copies(told: Told) -> Iterator[Finding]:
    """Rows whose pictures and question an earlier row has."""
    seen: dict[bytes, int] = {}
    ends = [*told.firsts[1:].tolist(), len(told.rows)]
    for start, end in zip(told.firsts.tolist(), ends, strict=True):
        if not told.asked[start]:
            continue
        key = told.asked[start].tobytes() + told.pixels[start:end].tobytes()
        first = seen.setdefault(key, start)
        if first != start:
            other = told.place(first)
            place = told.place(start)
            yield Finding("copy", place.role, f"asks the same about the same picture as {other.id}", place, other)


def leaks(train: Told, evaluated: Told) -> Iterator[Finding]:
    """Train rows that show a picture of the evaluated rows, each once."""
    for place, other in _common(train, evaluated):
        yield Finding("leak", place.role, f"shows the same pixels as {other.id} of the {other.role} rows", place, other)


def shared(select: Told, other: Told) -> Iterator[Finding]:
    """Select rows that show a picture of other rows, each once."""
    for place, there in _common(select, other):
        said = f"shows the same pixels as {there.id} of the {there.role} rows"
        yield Finding("shared", place.role, said, place, there)


def _common(one: Told, other: Told) -> Iterator[tuple[Place, Place]]:
    """(place, first place there) of every row of one whose picture stands in the other."""
    there, first = np.unique(other.pixels, return_index=True)
    if not len(there):
        return
    at = np.minimum(np.searchsorted(there, one.pixels), len(there) - 1)
    last = -1
    for here in np.flatnonzero(there[at] == one.pixels):
        if one.rows[here] != last:
            last = one.rows[here]
            yield one.place(int(here)), other.place(int(first[at[here]]))


def resembling(told: Sequence[Told], evaluated: SplitRole, pictures: Pictures) -> tuple[list[Finding], int]:
    """Pictures that resemble one of the train rows, or an earlier one of their own role, each once.

    Returns:
        The findings, and how many pairs were too many to compare.
    """
    pixels = np.concatenate([one.pixels for one in told])
    numbers = np.concatenate([one.numbers for one in told])
    owner = np.repeat(np.arange(len(told)), [len(one.rows) for one in told])
    inside = np.concatenate([np.arange(len(one.rows)) for one in told])
    _, first, identity = np.unique(pixels, return_index=True, return_inverse=True)
    near = near_pairs(pictures.gradients(numbers[first]), lambda places: pictures.small(numbers[first][places]))
    # Where each different picture stands first in each role; -1 where it does not.
    stands = np.full((len(told), len(first)), -1, np.int64)
    for at in range(len(pixels) - 1, -1, -1):
        stands[owner[at], identity[at]] = inside[at]
    found: dict[tuple[str, Place], Finding] = {}
    for a, b in zip(near.first.tolist(), near.second.tolist(), strict=True):
        for one in _of_pair(told, evaluated, stands[:, a].tolist(), stands[:, b].tolist()):
            assert one.place is not None
            found.setdefault((one.kind, one.place), one)
    return list(found.values()), near.skipped


def _of_pair(told: Sequence[Told], evaluated: SplitRole, a: Sequence[int], b: Sequence[int]) -> Iterator[Finding]:
    """What two pictures that resemble each other mean; `a` and `b` say where they stand in each role."""
    places = [
        {place.role: place for one, at in zip(told, where, strict=True) if at >= 0 for place in [one.place(at)]}
        for where in (a, b)
    ]
    for here, there in (places, places[::-1]):
        # A picture that is trained on as it is has an error of its own.
        if evaluated in here and "train" in there and "train" not in here and evaluated != "train":
            other = there["train"]
            said = f"resembles {other.id} of the train rows"
            yield Finding("near-leak", evaluated, said, here[evaluated], other)
    for role in places[0].keys() & places[1].keys():
        first, second = sorted((places[0][role], places[1][role]), key=lambda place: (place.row, place.image))
        if first.row != second.row:
            yield Finding("near-copy", role, f"resembles {first.id}", second, first)
