"""Near-duplicate images: candidates by dHash, confirmed by comparing thumbnails part by part, and their colours.

The hash sees the layout of an image, which receipts of one shop, lines of text and icons of one set have in common. A
copy that was scaled, compressed or brightened agrees with its original everywhere; another receipt does not where the
numbers are. So the correlation is taken in small windows, and the lowest counts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]
ReadThumbnails = Callable[[Indices], NDArray[np.uint8]]
"""Thumbnails [n, THUMBNAIL_BYTES] of the images with some indices [n]."""

SIDE = 48
"""Width and height of the grey part of a thumbnail in cells."""

CHROMA_SIDE = 8
"""Width and height of both colour parts (Cb, Cr) of a thumbnail."""

THUMBNAIL_BYTES = SIDE**2 + 2 * CHROMA_SIDE**2

MAX_BITS = 7
"""Bits of 64 in which the dHashes of near-duplicates may differ. Four bands of 16 find all such pairs: in one of them
the hashes differ by at most 1 bit."""

BLOCK = 4
"""Cells of the side of a block. Windows are two by two blocks, one for each block."""

SPREAD = 0.25
"""How far the lowest correlation of the windows may be below 1 where a cell is the mean of one pixel. Large images must
agree more closely, because compression changes their cells less."""

FEWEST_PIXELS, FALL = 1.2, 2 / 3
"""Pixels per cell from which large images must agree more closely, and the power of their number with which that grows;
measured in benchmarks/data."""

MAX_SHIFT, LEAST_SHIFT = 0.4, 0.05
"""Most difference of the means of a window, in deviations of the image, where a cell is the mean of one pixel, and what
is allowed everywhere in addition."""

NOISE = 4.0
"""Grey levels by which compression changes a window of an image that is almost even."""

FLOOR = 0.2
"""Deviation that is added to that of every window, as a fraction of the image's: an empty part has only noise."""

MAX_CHROMA = 20
"""Most difference of Cb or Cr in a part of the image; flags and icons may differ in nothing but a colour."""

CLOSE_BITS = 3
"""Bits in which hashes may differ that are looked at first; one band of the four is then equal."""

MIN_DEVIATION = 2.0
"""Grey levels. The hash of an image with a smaller standard deviation is noise, and it has no near-duplicates."""

BANDS = 4
_BAND_BITS = 16
_PAIRS_AT_ONCE = 1 << 18
"""Candidate pairs looked at, and whose thumbnails are compared, at once."""

_PAIRS_IN_CACHE = 64

WINDOW = 256
"""Candidates of an image that are compared before it is checked whether a match was found."""

MAX_COMPARISONS = 1000
"""Images with a similar hash that one image is compared with, at most."""


@dataclass(frozen=True, slots=True)
class ImageHashes:
    """Different images in row order: dHash, row index and number of pixels of each [n], and a function that reads their
    thumbnails.
    """

    dhashes: NDArray[np.uint64]
    rows: Indices
    areas: Indices
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
    for least, most in ((0, CLOSE_BITS), (CLOSE_BITS + 1, MAX_BITS)):  # copies are among the closest
        for first, second in candidates(images, among, search.wanted, least, most):
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
        """Whether the images of each pair agree everywhere [pairs], and whether the first one is flat [pairs]."""
        one, one_at = _thumbnails(first, self.images)
        two, two_at = _thumbnails(second, self.among)
        areas = np.minimum(self.images.areas[first], self.among.areas[second])
        alike = np.zeros(len(first), bool)
        for start in range(0, len(first), _PAIRS_IN_CACHE):
            some = np.arange(start, min(start + _PAIRS_IN_CACHE, len(first)))
            means = np.abs(one.mean[one_at[some]] - two.mean[two_at[some]]).max(axis=(1, 2))
            even = NOISE / 2 / np.minimum(one.deviation[one_at[some]], two.deviation[two_at[some]])
            some = some[means <= MAX_SHIFT * _noise(areas[some]) + LEAST_SHIFT + even]
            alike[some] = _agree(one[one_at[some]], two[two_at[some]], areas[some])
        textured: NDArray[np.bool_] = (one.deviation >= MIN_DEVIATION)[one_at]
        return alike & textured & (two.deviation >= MIN_DEVIATION)[two_at], ~textured


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Thumbnails of n images, prepared for comparison.

    `grey` [n, SIDE, SIDE] has mean 0 and deviation 1, which was `deviation` [n] grey levels before;
    `mean` and `variance` [n, windows, windows] are those of its windows, `chroma` [n, values] is not scaled.
    """

    grey: Floats
    deviation: Floats
    mean: Floats
    variance: Floats
    chroma: Floats

    def __getitem__(self, some: Indices) -> "Thumbnails":
        return Thumbnails(
            self.grey[some], self.deviation[some], self.mean[some], self.variance[some], self.chroma[some]
        )


def prepare(thumbnails: NDArray[np.uint8]) -> Thumbnails:
    """Thumbnails [n, THUMBNAIL_BYTES] for `_agree`."""
    values = thumbnails.astype(np.float32)
    grey = values[:, : SIDE**2].reshape(-1, SIDE, SIDE)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    deviation = np.maximum(np.sqrt((grey**2).mean(axis=(1, 2))), np.float32(1e-3))
    grey /= deviation[:, None, None]
    mean = _window_means(grey)
    return Thumbnails(grey, deviation, mean, _window_means(grey**2) - mean**2, values[:, SIDE**2 :])


def _thumbnails(indices: Indices, images: ImageHashes) -> tuple[Thumbnails, Indices]:
    """The different thumbnails of some images, and the position of each image among them."""
    different, inverse = np.unique(indices, return_inverse=True)
    return prepare(images.thumbnails(different)), inverse


def _agree(one: Thumbnails, two: Thumbnails, areas: Indices) -> NDArray[np.bool_]:
    """Whether each pair [pairs] agrees in every window and in its colours; `areas` are pixels of the smaller image."""
    floor = (FLOOR**2 + NOISE**2 / (one.deviation * two.deviation))[:, None, None]
    covariance = _window_means(one.grey * two.grey) - one.mean * two.mean
    correlation = (covariance + floor) / (np.sqrt(np.maximum(one.variance * two.variance, 0)) + floor)
    same_colours = np.abs(one.chroma - two.chroma).max(axis=1) <= MAX_CHROMA
    agree: NDArray[np.bool_] = (correlation.min(axis=(1, 2)) >= 1 - SPREAD * _noise(areas)) & same_colours
    return agree


def _noise(areas: Indices) -> NDArray[np.float64]:
    """How much copying changes a cell of images with a number of pixels, relative to a cell that is one pixel."""
    noise: NDArray[np.float64] = np.maximum(areas / SIDE**2, FEWEST_PIXELS) ** -FALL
    return noise


def _window_means(values: Floats) -> Floats:
    """Means [n, windows, windows] over all windows of two by two blocks."""
    blocks = SIDE // BLOCK
    sums = values.reshape(-1, blocks, BLOCK, SIDE).sum(axis=2).reshape(-1, blocks, blocks, BLOCK).sum(axis=3)
    rows = sums[:, 1:] + sums[:, :-1]
    means: Floats = (rows[:, :, 1:] + rows[:, :, :-1]) / np.float32(4 * BLOCK**2)
    return means


def candidates(
    images: ImageHashes,
    among: ImageHashes,
    wanted: Callable[[], NDArray[np.bool_]],
    least: int = 0,
    most: int = MAX_BITS,
) -> Iterator[tuple[Indices, Indices]]:
    """Pairs [pairs] of a wanted image and another one whose hashes differ in `least` to `most` bits; each pair once.

    Multi-index hashing (Norouzi et al. 2012): the bits are dealt into four bands. Two hashes that differ in at most 7
    bits differ in at most 1 bit in some band, so for each band its value and the 16 values next to it are looked up; up
    to 3 bits leave some band equal.
    """
    radius = most // BANDS
    for band in range(BANDS):
        probe, keys = _band(images.dhashes, band), _band(among.dhashes, band)
        order = np.argsort(keys, kind="stable")
        # Bucket k holds order[starts[k] : starts[k + 1]].
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << _BAND_BITS))])
        for flip in (0, *(1 << bit for bit in range(_BAND_BITS * radius))):
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
                    pairs = _close_pairs(images, among, first, second, (least, most))
                    new = _first_band(images.dhashes[pairs[0]], among.dhashes[pairs[1]], radius) == band
                    yield pairs[0][new], pairs[1][new]
                low[left] += counts


def _close_pairs(
    images: ImageHashes, among: ImageHashes, first: Indices, second: Indices, bits: tuple[int, int]
) -> tuple[Indices, Indices]:
    """The pairs that differ in as many bits; of one set of images, those with an earlier image of another row."""
    if images is among:
        earlier = (second < first) & (images.rows[second] != images.rows[first])
        first, second = first[earlier], second[earlier]
    distance = np.bitwise_count(images.dhashes[first] ^ among.dhashes[second])
    close = (bits[0] <= distance) & (distance <= bits[1])
    return first[close], second[close]


def _band(hashes: NDArray[np.uint64], band: int) -> NDArray[np.uint16]:
    """Bits `band`, `band` + 4, `band` + 8, … of each hash: neighbouring bits correlate and would fill few buckets."""
    values = np.zeros(len(hashes), np.uint16)
    for bit in range(_BAND_BITS):
        values |= (((hashes >> np.uint64(BANDS * bit + band)) & np.uint64(1)) << np.uint64(bit)).astype(np.uint16)
    return values


def _first_band(a: NDArray[np.uint64], b: NDArray[np.uint64], radius: int) -> Indices:
    """The first band in which two hashes differ by few enough bits: several may find a pair, this one counts it."""
    close = np.stack([np.bitwise_count(_band(a, n) ^ _band(b, n)) <= radius for n in range(BANDS)])
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
