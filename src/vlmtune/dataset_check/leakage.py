"""Which rows show which pictures, and what follows where two rows show the same or nearly the same."""

import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.dataset_check.findings import Finding, Place
from vlmtune.dataset_check.image_index import Pictures
from vlmtune.dataset_check.near_duplicates import Numbers, Signs, partners

PlaceOf = Callable[[int, int], Place]
"""(row, which of its pictures) -> place."""


class Shown:
    """Rows of one role and the pictures they show: 8 bytes a row and 10 a picture."""

    def __init__(self) -> None:
        self.pictures = array("I")
        self.rows = array("I")
        self._images = array("H")
        self._asked = bytearray()

    def add(self, row: int, asked: bytes, images: Sequence[int], pictures: Sequence[int]) -> None:
        """The next row, the hash of what is asked, which of its pictures could be read, and their numbers."""
        self._asked += asked or bytes(8)
        self._images.extend(images)
        self.pictures.extend(pictures)
        self.rows.extend([row] * len(pictures))

    def occurrences(self) -> tuple[Numbers, Numbers, Numbers]:
        """Of every picture its row, which of the row's pictures it is, and its number [n]."""
        return tuple(np.array(column, np.int64) for column in (self.rows, self._images, self.pictures))  # type: ignore[return-value]

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
    for start, end in itertools.pairwise([*told.firsts.tolist(), len(told.rows)]):
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


def shared(validation: Told, other: Told) -> Iterator[Finding]:
    """Select rows that show a picture of other rows, each once."""
    for place, there in _common(validation, other):
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


def near_copies(told: Told, pictures: Pictures) -> tuple[list[Finding], int]:
    """Pictures that resemble an earlier one of their role, each once.

    Returns:
        The findings, and of how many pictures not all like ones were compared.
    """
    first, signs = _different(told, pictures, np.empty(0, "V16"))
    near = partners(signs, signs)
    found = []
    for at in np.flatnonzero(near.partner >= 0):
        place, other = told.place(int(first[at])), told.place(int(first[near.partner[at]]))
        found.append(Finding("near-copy", place.role, f"resembles {other.id}", place, other))
    return found, near.skipped


def near_leaks(evaluated: Told, train: Told, pictures: Pictures) -> tuple[list[Finding], int]:
    """Evaluated pictures that resemble one of the train rows, each once; one that stands there as it is is a leak.

    Returns:
        As `near_copies`.
    """
    (here, asked), (there, among) = (
        _different(evaluated, pictures, train.pixels),
        _different(train, pictures, np.empty(0, "V16")),
    )
    near = partners(asked, among)
    found = []
    for at in np.flatnonzero(near.partner >= 0):
        place, other = evaluated.place(int(here[at])), train.place(int(there[near.partner[at]]))
        found.append(Finding("near-leak", place.role, f"resembles {other.id} of the {other.role} rows", place, other))
    return found, near.skipped


def _different(told: Told, pictures: Pictures, without: NDArray[np.void]) -> tuple[Numbers, Signs]:
    """Where each different picture stands first, in the order of the rows, and their signs."""
    pixels, first = np.unique(told.pixels, return_index=True)
    first = np.sort(first[~np.isin(pixels, without)]) if len(without) else np.sort(first)
    numbers = told.numbers[first]
    return first, Signs(pictures.gradients(numbers), told.rows[first], lambda places: pictures.small(numbers[places]))
