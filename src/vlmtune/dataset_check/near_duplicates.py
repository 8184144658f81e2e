"""Pictures that nearly look like another one: found by their signs, believed after a look at small grey copies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Small = Callable[[Numbers], NDArray[np.uint8]]
"""Small grey copies [n, cells] of some pictures, by their places."""

NEAR = 7
"""Signs of 64 in which two near copies may differ. Four bands of 16 find all such pairs: one differs by at most 1."""

ALIKE = 0.95
"""Least correlation of the small grey copies of two near copies."""

FLAT = 2.0
"""Grey levels; a picture whose small copy deviates less from one tone has signs made of noise, and is never near."""

BANDS = 4
_BITS = 16
_ONCE = 1 << 18
"""Candidate pairs looked at together."""

WINDOW = 256
"""Neighbours of a picture that are looked at before it is asked whether one of them was enough."""

CROWD = 200
"""Pictures with like signs that one picture is compared with, at most."""


@dataclass(frozen=True, slots=True)
class Signs:
    """Different pictures in the order of their rows: their dHash and row [n] each, and what gives small grey copies."""

    gradients: NDArray[np.uint64]
    rows: Numbers
    small: Small


@dataclass(frozen=True, slots=True)
class Near:
    """Of every picture the place of one that it resembles [n], or -1; `skipped` had too many with like signs."""

    partner: Numbers
    skipped: int


def partners(these: Signs, among: Signs) -> Near:
    """For each of these pictures one that it resembles; where `among` is the same, an earlier one of another row.

    In a crowd of like pictures almost every comparison finds one, and one is enough. Where none of CROWD comparisons
    does, the picture is given up, and counted: forms of one layout cost no more than so many each.
    """
    search = _Search(these, among)
    for asked, others in candidates(these, among, search.wanted):
        search.compare(asked, others)
    return Near(search.partner, int(search.given_up.sum()))


@dataclass(slots=True)
class _Search:
    these: Signs
    among: Signs
    partner: Numbers = field(init=False)
    compared: Numbers = field(init=False)
    given_up: NDArray[np.bool_] = field(init=False)
    flat: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.these.gradients)
        self.partner = np.full(count, -1, np.int64)
        self.compared = np.zeros(count, np.int64)
        self.given_up, self.flat = np.zeros(count, bool), np.zeros(count, bool)

    def wanted(self) -> NDArray[np.bool_]:
        """Which pictures still want a partner [n]."""
        return (self.partner < 0) & ~self.given_up & ~self.flat

    def compare(self, asked: Numbers, others: Numbers) -> None:
        """Take in candidates; `asked` ascends."""
        still = self.wanted()[asked]
        asked, others = asked[still], others[still]
        number = np.arange(len(asked)) - np.searchsorted(asked, asked)  # of each pair among those of its picture
        room = number < CROWD - self.compared[asked]
        full = np.unique(asked[~room])
        asked, others = asked[room], others[room]
        if len(asked):
            self.compared += np.bincount(asked, minlength=len(self.compared))
            alike, flat = self._alike(asked, others)
            self.flat[asked[flat]] = True
            first, at = np.unique(asked[alike], return_index=True)
            self.partner[first] = others[alike][at]
        self.given_up[full] = True
        self.given_up &= (self.partner < 0) & ~self.flat

    def _alike(self, asked: Numbers, others: Numbers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether two pictures are alike beyond their signs, by small grey copies; whether the first is of one tone."""
        (one, here, near), (other, there, far) = _read(asked, self.these.small), _read(others, self.among.small)
        alike = np.zeros(len(asked), bool)
        for start in range(0, len(asked), 4096):
            some = slice(start, start + 4096)
            alike[some] = (one[here[some]] * other[there[some]]).mean(axis=1) >= ALIKE
        shown: NDArray[np.bool_] = (near >= FLAT)[here]
        return alike & shown & (far >= FLAT)[there], ~shown


def _read(places: Numbers, small: Small) -> tuple[NDArray[np.float32], Numbers, NDArray[np.float32]]:
    """Small copies with mean 0 and deviation 1, which of them each place has, and what they deviated before."""
    different, inverse = np.unique(places, return_inverse=True)
    cells = small(different).astype(np.float32)
    cells -= cells.mean(axis=1, keepdims=True)
    spread = np.sqrt((cells**2).mean(axis=1))
    cells /= np.maximum(spread, 1e-6)[:, None]
    return cells, inverse, spread


def candidates(
    these: Signs, among: Signs, wanted: Callable[[], NDArray[np.bool_]]
) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs whose hashes differ in at most NEAR signs, [pairs] each, each pair once, of pictures that are `wanted`.

    Multi-index hashing (Norouzi et al. 2012): every fourth sign goes to one band. Of two hashes that differ in at most
    7 signs, one band differs in at most 1: so the 17 neighbours of each band's value are looked up.
    """
    for band in range(BANDS):
        own, keys = _band(these.gradients, band), _band(among.gradients, band)
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << _BITS))])
        for flip in (0, *(1 << bit for bit in range(_BITS))):
            probes = (own ^ np.uint16(flip)).astype(np.int64)
            low, high = starts[probes], starts[probes + 1]
            while len(left := np.flatnonzero((low < high) & wanted())):
                counts = np.minimum(high[left] - low[left], WINDOW)
                for start, stop in _parts(counts):
                    some, each = left[start:stop], counts[start:stop]
                    asked = np.repeat(some, each)
                    inner = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
                    others = order[np.repeat(low[some], each) + inner]
                    yield _near(these, among, asked, others, band)
                low[left] += counts


def _near(these: Signs, among: Signs, asked: Numbers, others: Numbers, band: int) -> tuple[Numbers, Numbers]:
    """Of these pairs those that are candidates, and are not found in an earlier band."""
    if these is among:
        before = (others < asked) & (these.rows[others] != these.rows[asked])
        asked, others = asked[before], others[before]
    near = np.bitwise_count(these.gradients[asked] ^ among.gradients[others]) <= NEAR
    asked, others = asked[near], others[near]
    fresh = _first_band(these.gradients[asked], among.gradients[others]) == band
    return asked[fresh], others[fresh]


def _band(values: NDArray[np.uint64], band: int) -> NDArray[np.uint16]:
    """Every fourth sign, from the `band`-th on: neighbouring signs go together, and would fill few buckets."""
    made = np.zeros(len(values), np.uint16)
    for bit in range(_BITS):
        made |= (((values >> np.uint64(BANDS * bit + band)) & np.uint64(1)) << np.uint64(bit)).astype(np.uint16)
    return made


def _first_band(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The first band in which two hashes differ by at most 1 sign: a pair is found in several, and counted there."""
    close = np.stack([np.bitwise_count(_band(a, n) ^ _band(b, n)) <= 1 for n in range(BANDS)])
    return np.argmax(close, axis=0) if close.size else np.empty(0, np.int64)


def _parts(counts: Numbers) -> Iterator[tuple[int, int]]:
    """Stretches of `counts` whose sum is about _ONCE, so that memory stays bounded."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _ONCE, "right")))
        yield start, stop
        start = stop
