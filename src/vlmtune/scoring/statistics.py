"""Resampling, p-values, quantiles, and the interval of several training seeds; `intervals` has those of one file.

Everything works on whole groups, because rows that share an image are not independent, and on summed statistics,
because those of a metric add up: a resample is one matrix product instead of one evaluation. Several training seeds of
one side are never pooled. Each is scored on the same (resampled) rows, and the difference is that of their means.

Letters: G groups, K statistics or training seeds, N rows, R resamples.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vlmtune.metrics import Stats

FEWEST_GROUPS = 20
"""With fewer groups, or groups of uneven size that are worth fewer, no interval is given."""

POWER = 0.8
"""Power at the detectable difference."""

SEED_SPREAD = 1.4
"""How far the variance between seeds must exceed that of row sampling before it is attributed to the seeds.

At 1, sampling noise alone is mistaken for a seed effect every other time with three seeds a side, and a 95 % interval
excludes 0 in 2.2 % of null comparisons. The larger the value, the more often a seed effect as large as the sampling
noise is missed. benchmarks/calibration has the rates at this value.
"""

_COUNTS_AT_ONCE = 2_000_000
"""Resampled group counts that are in memory together, 8 bytes each."""

_GROUPS_AT_ONCE = 4_000
"""Groups of a block of counts that are in the processor's cache together."""

Resampled = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IntervalEstimate:
    """A confidence interval, and the standard error and degrees of freedom behind it."""

    low: float
    high: float
    standard_error: float
    df: float

    def clipped(self, largest: float) -> "IntervalEstimate":
        """Without the part outside -largest..largest."""
        return replace(self, low=max(self.low, -largest), high=min(self.high, largest))

    def union(self, other: "IntervalEstimate") -> "IntervalEstimate":
        """The smallest interval that contains both."""
        return replace(self, low=min(self.low, other.low), high=max(self.high, other.high))


def student_interval(centre: float, standard_error: float, df: float, confidence: float) -> IntervalEstimate:
    """Student's t interval."""
    reach = student_quantile((1 + confidence) / 2, df) * standard_error
    return IntervalEstimate(centre - reach, centre + reach, standard_error, df)


def by_group(stats: Stats, groups: Sequence[str]) -> Stats:
    """Statistics per row [N, K] summed per group [G, K], groups in order of appearance."""
    numbers = {name: n for n, name in enumerate(dict.fromkeys(groups))}
    if len(numbers) == len(groups):
        return stats
    summed = np.zeros((len(numbers), stats.shape[1]))
    np.add.at(summed, [numbers[name] for name in groups], stats)
    return summed


class Resamples:
    """Random draws of groups, the same ones for every metric of a comparison.

    Args:
        groups: number of groups, G.
        resamples: number of draws, R.
        seed: seed of the draws.
    """

    def __init__(self, groups: int, resamples: int, seed: int) -> None:
        self._groups, self._resamples, self._seed = groups, resamples, seed

    def bootstrap(self, sides: Sequence[Stats]) -> list[Stats]:
        """Sums [R, K] of each side's statistics [G, K] over groups drawn with replacement, the same for every side.

        With G = 3, a draw of the groups 0, 2, 2 has the counts [1, 0, 2]; counts @ side adds up row 0 and twice row 2.
        """
        columns = np.hstack(sides)
        sums = np.concatenate([_sums(counts, columns) for counts in self._counts()])
        return np.split(sums, np.cumsum([side.shape[1] for side in sides])[:-1], axis=1)

    def randomize(self, pairs: Sequence[tuple[Stats, Stats]]) -> Iterator[tuple[Stats, Stats]]:
        """Sums [R, K] of both sides [G, K] of each pair, after equal swaps of a group's sides with probability 1/2."""
        rng = np.random.default_rng([self._seed, 1])
        # Metrics share statistics, and many do not differ: each distinct column is added up once.
        distinct: dict[bytes, int] = {}
        kept: list[Stats] = []
        of_column = []
        for a, b in pairs:
            for k in range(a.shape[1]):
                column = b[:, k] - a[:, k]
                number = distinct.setdefault(blake2b(column.tobytes(), digest_size=16).digest(), len(kept))
                if number == len(kept):
                    kept.append(column)
                of_column.append(number)
        columns = np.stack(kept, axis=1)
        kept.clear()
        moved = np.concatenate([_sums(rng.integers(0, 2, (size, self._groups)), columns) for size in self._sizes()])
        numbers = iter(of_column)
        for a, b in pairs:
            own = moved[:, [next(numbers) for _ in range(a.shape[1])]]
            yield a.sum(axis=0) + own, b.sum(axis=0) - own

    def _counts(self) -> Iterator[NDArray[np.int64]]:
        """How often each group is drawn, [some resamples, G] at a time."""
        rng = np.random.default_rng([self._seed, 0])
        for size in self._sizes():
            drawn = rng.integers(0, self._groups, (size, self._groups), dtype=np.int32)
            drawn += np.arange(size, dtype=np.int32)[:, None] * self._groups
            yield np.bincount(drawn.ravel(), minlength=size * self._groups).reshape(size, -1)

    def _sizes(self) -> list[int]:
        most = max(1, _COUNTS_AT_ONCE // self._groups)
        whole, rest = divmod(self._resamples, most)
        return [most] * whole + ([rest] if rest else [])


def _sums(counts: NDArray[np.int64], columns: Stats) -> Stats:
    """`counts` [R, G] @ `columns` [G, K], a part of the groups at a time, as floats fill the memory otherwise."""
    total = np.zeros((len(counts), columns.shape[1]))
    for start in range(0, columns.shape[0], _GROUPS_AT_ONCE):
        part = slice(start, start + _GROUPS_AT_ONCE)
        total += counts[:, part].astype(np.float64) @ columns[part]
    return total


def randomization_p(randomized: Stats, observed: float) -> float:
    """Two-sided p-value of the randomization test (Noreen 1989).

    Args:
        randomized: differences [R] after random swaps of the sides.
        observed: the difference on the data.
    """
    # 1e-12: a swap that only reorders the terms of a sum must count as equal.
    as_large = int(np.count_nonzero(np.abs(randomized) >= abs(observed) - 1e-12))
    return (as_large + 1) / (len(randomized) + 1)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided mid-p value that both sides are right equally often.

    If so, the rows on which just one side is right fall on either side like coins (McNemar 1947, with the binomial
    distribution instead of chi²). Mid-p (Lancaster 1961) counts half of the probability of the observed counts. The
    exact test counts all of it, and with few such rows rejects far less often than its level.

    Args:
        only_a: rows on which only side A is right.
        only_b: rows on which only side B is right.
    """
    flips = only_a + only_b
    term = tail = 1
    for k in range(1, min(only_a, only_b) + 1):
        term = term * (flips - k + 1) // k
        tail += term
    return float((2 * tail - term) / 2**flips)


def wilson(hits: float, rows: int, confidence: float) -> tuple[float, float]:
    """Score interval of the share `hits` / `rows` of independent rows (Wilson 1927).

    It lies within 0..1 and has some width even at a share of 0 or 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, room = hits / rows, z * z / rows
    middle = (share + room / 2) / (1 + room)
    half = math.sqrt(share * (1 - share) * room + room * room / 4) / (1 + room)
    return max(0.0, middle - half), min(1.0, middle + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order (Holm 1979).

    Rejecting those below 0.05 keeps the chance of any false rejection at 5 %, however the tests depend on each other.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[n]))
        adjusted[n] = least
    return adjusted


@lru_cache(maxsize=64)
def student_quantile(level: float, df: float) -> float:
    """Quantile of Student's t to about five digits, for 0.5 <= level < 1 and df >= 1, which need not be whole.

    With t = sqrt(df) tan(angle) the density is cos(angle) ** (df - 1), which is integrated on a grid.
    """
    if df > 10_000:
        return NormalDist().inv_cdf(level)
    angles = np.linspace(0, np.pi / 2, 40_001)
    density = np.maximum(np.cos(angles), 0) ** (df - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(2 * level - 1, below / below[-1], angles)
    return float(math.sqrt(df) * math.tan(angle))


def estimate_seed_difference(
    scores: tuple[Sequence[float], Sequence[float]],
    resampled: tuple[Resampled, Resampled],
    groups: int,
    confidence: float,
    unseen: float = 0.0,
) -> IntervalEstimate:
    """Interval of mean(B) - mean(A), each over its seeds. There is no p-value: swapping sides would mix up seeds.

    Rows and seeds are both random. With V the bootstrap variance of the difference, S the variance of a side's K
    scores, and I the bootstrap variance of a seed's deviation from its side's mean, the variance of the difference is
    V - sum(I / K) + sum(S / K) over the sides: S contains the noise of these very rows, which V has already, so that
    part is subtracted once. The interval takes Student's t with Satterthwaite's (1946) degrees of freedom. Where S
    does not exceed `SEED_SPREAD` times I, the seeds add nothing and the variance is V. (Without the subtraction the
    interval is too wide; benchmarks/calibration has both.)

    Args:
        scores: per side, the scores [K] on the data.
        resampled: per side, the scores [K, R] on the same resampled rows.
        groups: G, for the degrees of freedom of V.
        confidence: level of the two-sided interval.
        unseen: variance added to V, for changes that the rows at hand do not show.
    """
    delta = float(np.mean(scores[1]) - np.mean(scores[0]))
    row_variance = float((resampled[1].mean(axis=0) - resampled[0].mean(axis=0)).var(ddof=1)) + unseen
    sides = [_seed_variance(observed, drawn) for observed, drawn in zip(scores, resampled, strict=True)]
    sampling = sum(noise for _, noise, _ in sides)
    spread = sum(variance for variance, _, _ in sides)
    rows_alone = max(0.0, row_variance - sampling)
    total = rows_alone + spread
    fewest = min(seeds for _, _, seeds in sides if seeds > 1)
    factor = SEED_SPREAD if fewest > 2 else 1.0  # the variance of two seeds is too uncertain to be dismissed as noise
    if total > row_variance and spread > factor * sampling:
        noise = rows_alone**2 / (groups - 1)
        noise += sum(variance**2 / (seeds - 1) for variance, _, seeds in sides if seeds > 1)
        df = max(1.0, total**2 / noise)
    else:
        total, df = row_variance, groups - 1.0
    return student_interval(delta, math.sqrt(total), df, confidence)


def _seed_variance(scores: Sequence[float], resampled: Resampled) -> tuple[float, float, int]:
    """S / K and I / K of one side, and K; a side with one seed has no variance between seeds."""
    seeds = len(scores)
    if seeds == 1:
        return 0.0, 0.0, 1
    noise = (resampled - resampled.mean(axis=0)).var(axis=1, ddof=1).mean() * seeds / (seeds - 1)
    return float(np.var(scores, ddof=1)) / seeds, float(noise) / seeds, seeds


def detectable_difference(estimate: IntervalEstimate, confidence: float) -> float:
    """The true difference whose interval excludes 0 with a power of 80 %.

    With few degrees of freedom the standard error is itself uncertain, here and in the comparison that would look for
    the difference. The ratio of two such errors exceeds `ratio` once in 5 times (Cacoullos 1965: half the difference of
    ratio and 1 / ratio, times sqrt(df), is Student's t); both risks are added in squares. That gives 79-80 % power from
    2 degrees of freedom on, where reach + t(0.8) gives 60 % with 2 and 71 % with 6.
    """
    df = estimate.df
    reach, risk = student_quantile((1 + confidence) / 2, df), student_quantile(POWER, df)
    half = risk / math.sqrt(df)
    ratio = half + math.hypot(1, half)
    return estimate.standard_error * (reach + math.hypot(reach * (ratio - 1), risk))
