"""Near-duplicate images: candidates by dHash, confirmed by the correlation of small grey thumbnails."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
ReadThumbnails = Callable[[Indices], NDArray[np.uint8]]
"""Thumbnails [n, pixels] of the images with some indices [n]."""

MAX_BITS = 7
"""Bits of 64 in which the dHashes of near-duplicates may differ. Four bands of 16 find all such pairs: in one of them
the hashes differ by at most 1 bit."""

MIN_CORRELATION = 0.95
"""Least correlation of the thumbnails of near-duplicates."""

MIN_DEVIATION = 2.0
"""Grey levels. The hash of an image with a smaller standard deviation is noise, and it has no near-duplicates."""

BANDS = 4
_BAND_BITS = 16
_PAIRS_AT_ONCE = 1 << 18
"""Candidate pairs compared at once."""

WINDOW = 256
"""Candidates of an image that are compared before it is checked whether a match was found."""

MAX_COMPARISONS = 200
"""Images with a similar hash that one image is compared with, at most."""


@dataclass(frozen=True, slots=True)
class ImageHashes:
    """Different images in row order: dHash and row index of each [n], and a function that reads their thumbnails."""

    dhashes: NDArray[np.uint64]
    rows: Indices
    thumbnails: ReadThumbnails


@dataclass(frozen=True, slots=True)
class Matches:
    """For every image the index of one that it resembles, or -1 [n]; `skipped` images had too many candidates."""

    partner: Indices
    skipped: int


def find_matches(images: ImageHashes, among: ImageHashes) -> Matches:
    """For each image one that it resembles; if `among` is the same object, an earlier one of another row.

    One match is enough, and among many similar images almost every comparison is one. The search for an
    image ends after MAX_COMPARISONS and is counted, so that thousands of scans of one form stay affordable.
    """
    search = _Search(images, among)
    for first, second in candidates(images, among, search.wanted):
        search.compare(first, second)
    return Matches(search.partner, int(search.given_up.sum()))


@dataclass(slots=True)
class _Search:
    images: ImageHashes
    among: ImageHashes
    partner: Indices = field(init=False)
    compared: Indices = field(init=False)
    given_up: NDArray[np.bool_] = field(init=False)
    flat: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.images.dhashes)
        self.partner = np.full(count, -1, np.int64)
        self.compared = np.zeros(count, np.int64)
        self.given_up, self.flat = np.zeros(count, bool), np.zeros(count, bool)

    def wanted(self) -> NDArray[np.bool_]:
        """Which images still need a partner [n]."""
        return (self.partner < 0) & ~self.given_up & ~self.flat

    def compare(self, first: Indices, second: Indices) -> None:
        """Compare candidate pairs [pairs]; `first` is sorted."""
        still = self.wanted()[first]
        first, second = first[still], second[still]
        # Number of each pair among those of its image: [3, 3, 3, 8, 8] -> [0, 1, 2, 0, 1].
        number = np.arange(len(first)) - np.searchsorted(first, first)
        allowed = number < MAX_COMPARISONS - self.compared[first]
        exhausted = np.unique(first[~allowed])
        first, second = first[allowed], second[allowed]
        if len(first):
            self.compared += np.bincount(first, minlength=len(self.compared))
            alike, flat = self._alike(first, second)
            self.flat[first[flat]] = True
            matched, at = np.unique(first[alike], return_index=True)
            self.partner[matched] = second[alike][at]
        self.given_up[exhausted] = True
        self.given_up &= (self.partner < 0) & ~self.flat

    def _alike(self, first: Indices, second: Indices) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether the thumbnails of each pair correlate [pairs], and whether the first one is flat [pairs]."""
        one, one_at, one_deviation = _standardized(first, self.images.thumbnails)
        two, two_at, two_deviation = _standardized(second, self.among.thumbnails)
        alike = np.zeros(len(first), bool)
        for start in range(0, len(first), 4096):
            some = slice(start, start + 4096)
            alike[some] = (one[one_at[some]] * two[two_at[some]]).mean(axis=1) >= MIN_CORRELATION
        textured: NDArray[np.bool_] = (one_deviation >= MIN_DEVIATION)[one_at]
        return alike & textured & (two_deviation >= MIN_DEVIATION)[two_at], ~textured


def _standardized(indices: Indices, read: ReadThumbnails) -> tuple[NDArray[np.float32], Indices, NDArray[np.float32]]:
    """Thumbnails with mean 0 and deviation 1, the position of each index among them, and their deviations before."""
    different, inverse = np.unique(indices, return_inverse=True)
    pixels = read(different).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    deviation = np.sqrt((pixels**2).mean(axis=1))
    pixels /= np.maximum(deviation, 1e-6)[:, None]
    return pixels, inverse, deviation


def candidates(
    images: ImageHashes, among: ImageHashes, wanted: Callable[[], NDArray[np.bool_]]
) -> Iterator[tuple[Indices, Indices]]:
    """Pairs [pairs] of a wanted image and another one whose hashes differ in at most MAX_BITS; each pair once.

    Multi-index hashing (Norouzi et al. 2012): the bits are dealt into four bands. Two hashes that differ in at most 7
    bits differ in at most 1 bit in some band, so for each band its value and the 16 values next to it are looked up.
    """
    for band in range(BANDS):
        probe, keys = _band(images.dhashes, band), _band(among.dhashes, band)
        order = np.argsort(keys, kind="stable")
        # Bucket k holds order[starts[k] : starts[k + 1]].
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << _BAND_BITS))])
        for flip in (0, *(1 << bit for bit in range(_BAND_BITS))):
            probes = (probe ^ np.uint16(flip)).astype(np.int64)
            low, high = starts[probes], starts[probes + 1]
            while len(left := np.flatnonzero((low < high) & wanted())):
                counts = np.minimum(high[left] - low[left], WINDOW)
                for start, stop in _chunks(counts):
                    some, each = left[start:stop], counts[start:stop]
                    # Image i is paired with each[i] entries from low[i] on: each = [2, 3] -> offsets [0, 1, 0, 1, 2].
                    first = np.repeat(some, each)
                    offsets = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
                    second = order[np.repeat(low[some], each) + offsets]
                    yield _close_pairs(images, among, first, second, band)
                low[left] += counts


def _close_pairs(
    images: ImageHashes, among: ImageHashes, first: Indices, second: Indices, band: int
) -> tuple[Indices, Indices]:
    """The pairs that differ in at most MAX_BITS and that no earlier band finds."""
    if images is among:
        earlier = (second < first) & (images.rows[second] != images.rows[first])
        first, second = first[earlier], second[earlier]
    close = np.bitwise_count(images.dhashes[first] ^ among.dhashes[second]) <= MAX_BITS
    first, second = first[close], second[close]
    new = _first_band(images.dhashes[first], among.dhashes[second]) == band
    return first[new], second[new]


def _band(hashes: NDArray[np.uint64], band: int) -> NDArray[np.uint16]:
    """Bits `band`, `band` + 4, `band` + 8, … of each hash: neighbouring bits correlate and would fill few buckets."""
    values = np.zeros(len(hashes), np.uint16)
    for bit in range(_BAND_BITS):
        values |= (((hashes >> np.uint64(BANDS * bit + band)) & np.uint64(1)) << np.uint64(bit)).astype(np.uint16)
    return values


def _first_band(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Indices:
    """The first band in which two hashes differ by at most 1 bit: several bands may find a pair, this one counts it."""
    close = np.stack([np.bitwise_count(_band(a, n) ^ _band(b, n)) <= 1 for n in range(BANDS)])
    return np.argmax(close, axis=0) if close.size else np.empty(0, np.int64)


def _chunks(counts: Indices) -> Iterator[tuple[int, int]]:
    """Slices of `counts` that each sum to about _PAIRS_AT_ONCE, which bounds memory."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, "right")))
        yield start, stop
        start = stop
