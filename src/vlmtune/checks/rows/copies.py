"""Pictures that stand in two places: the same pixels, or nearly the same, within a split and across splits."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
_ONCE = 1 << 20
"""Candidate pairs looked at together."""

CROWD = 200
"""Of pictures with the same signs, so many are compared with each other; each further one with these."""


@dataclass(frozen=True, slots=True)
class Near:
    """Pairs of near copies: places in what was asked, [pairs] each, `first` < `second`; `skipped` were too many."""

    first: Numbers
    second: Numbers
    skipped: int


def near_pairs(gradients: NDArray[np.uint64], small: Small) -> Near:
    """Pictures that resemble another one.

    Args:
        gradients: dHash of every picture [n], no two pictures with the same pixels.
        small: gives the small grey copies of some of them.
    """
    values, owner = np.unique(gradients, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(values) + 1))
    firsts: list[Numbers] = []
    seconds: list[Numbers] = []
    skipped = 0
    crowded = np.flatnonzero(np.diff(starts) > 1)
    for pairs in itertools.chain([np.stack([crowded, crowded], 1)], candidates(values)):
        a, b, left = _expanded(pairs, order, starts)
        skipped += left
        if len(a):
            kept = _alike(a, b, small)
            firsts.append(a[kept])
            seconds.append(b[kept])
    first = np.concatenate([*firsts, np.empty(0, np.int64)])
    second = np.concatenate([*seconds, np.empty(0, np.int64)])
    first, second = np.minimum(first, second), np.maximum(first, second)
    sort = np.lexsort((second, first))
    return Near(first[sort], second[sort], skipped)


def candidates(values: NDArray[np.uint64]) -> Iterator[Numbers]:
    """Pairs of different hashes that differ in at most NEAR signs, [pairs, 2], each pair once.

    Multi-index hashing (Norouzi et al. 2012): every fourth sign goes to one band. Of two hashes that differ in at most
    7 signs, one band differs in at most 1: so the 17 neighbours of each band's value are looked up in its sorted list.
    """
    for band in range(BANDS):
        keys = _band(values, band)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for flip in (0, *(1 << bit for bit in range(_BITS))):
            probes = keys ^ np.uint16(flip)
            low, high = np.searchsorted(ordered, probes, "left"), np.searchsorted(ordered, probes, "right")
            for start, stop in _parts(high - low):
                a = np.repeat(np.arange(start, stop), (high - low)[start:stop])
                counts = (high - low)[start:stop]
                inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                b = order[np.repeat(low[start:stop], counts) + inner]
                a, b = a[a < b], b[a < b]
                near = np.bitwise_count(values[a] ^ values[b]) <= NEAR
                a, b = a[near], b[near]
                fresh = _first_band(values[a], values[b]) == band
                yield np.stack([a[fresh], b[fresh]], 1)


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


def _expanded(pairs: Numbers, order: Numbers, starts: Numbers) -> tuple[Numbers, Numbers, int]:
    """Pairs of hashes as pairs of pictures, and how many pairs were left out of crowds."""
    firsts: list[Numbers] = []
    seconds: list[Numbers] = []
    skipped = 0
    for a, b in pairs:
        one, other = order[starts[a] : starts[a + 1]], order[starts[b] : starts[b + 1]]
        few, many = one[:CROWD], other
        if a != b and len(few) * len(many) > CROWD * CROWD:
            many = many[:CROWD]
        x, y = np.repeat(few, len(many)), np.tile(many, len(few))
        total = len(one) * (len(one) - 1) // 2 if a == b else len(one) * len(other)
        if a == b:
            x, y = x[x < y], y[x < y]
        skipped += total - len(x)
        firsts.append(x)
        seconds.append(y)
    if not firsts:
        return np.empty(0, np.int64), np.empty(0, np.int64), skipped
    return np.concatenate(firsts), np.concatenate(seconds), skipped


def _alike(a: Numbers, b: Numbers, small: Small) -> NDArray[np.bool_]:
    """Whether two pictures are alike beyond their signs: the correlation of their small grey copies."""
    places, inverse = np.unique(np.concatenate([a, b]), return_inverse=True)
    cells = small(places).astype(np.float32)
    cells -= cells.mean(axis=1, keepdims=True)
    spread = np.sqrt((cells**2).mean(axis=1))
    cells /= np.maximum(spread, 1e-6)[:, None]
    one, other = inverse[: len(a)], inverse[len(a) :]
    alike = np.zeros(len(a), bool)
    for start in range(0, len(a), 4096):
        some = slice(start, start + 4096)
        alike[some] = (cells[one[some]] * cells[other[some]]).mean(axis=1) >= ALIKE
    shown: NDArray[np.bool_] = spread >= FLAT
    return alike & shown[one] & shown[other]
