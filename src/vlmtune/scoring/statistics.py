"""Confidence intervals and p-values from summed statistics: a paired bootstrap and a paired randomization test.

Works on whole groups (rows that share an image are not independent). Because a metric's sufficient statistics add up, a
resample is one matrix product instead of one evaluation. Letters: G groups, K statistics, R resamples.

Closed forms, no resampling: McNemar's test, Wilson's interval, Holm's correction, quantiles of Student's t.

Several training seeds as one side: the mean of their scores, and how sure it is.

The seeds are never pooled. Each is scored on the same rows, and the same resampled rows; what is judged is the mean
over the seeds. Rows and seeds are both random: other rows, and other seeds, would have given another difference.
Letters: K seeds, R resamples, G groups.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vlmtune.metrics import Stats

FEWEST_GROUPS = 20
"""Below this many groups a percentile interval promises more than it holds; none is given."""

POWER = 0.8
"""How often the detectable difference would have been found: 4 times in 5."""

_AT_ONCE = 2_000_000
"""Drawn group counts held in memory together (8 bytes each)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Spread of a difference: interval, standard error, two-sided p-value (None where there is no test).

    A true difference of `detectable` would have been found, that is, 0 would lie outside the interval, 4 times in 5.
    """

    low: float
    high: float
    standard_error: float
    p: float | None
    detectable: float


def by_group(stats: Stats, groups: Sequence[str]) -> Stats:
    """Statistics per row [N, K] summed per group [G, K], groups in order of appearance."""
    numbers = {name: n for n, name in enumerate(dict.fromkeys(groups))}
    summed = np.zeros((len(numbers), stats.shape[1]))
    np.add.at(summed, [numbers[name] for name in groups], stats)
    return summed


class Resamples:
    """The same random draws for every metric of a comparison.

    Args:
        groups: number of groups, G.
        resamples: number of draws, R.
        seed: of the draws.
    """

    def __init__(self, groups: int, resamples: int, seed: int) -> None:
        self._groups, self._resamples, self._seed = groups, resamples, seed

    def bootstrap(self, sides: Sequence[Stats]) -> list[Stats]:
        """Sums [R, K] of each side's [G, K] over groups drawn with replacement; the same draws for every side."""
        sums = [[counts @ side for side in sides] for counts in self._counts()]
        return [np.concatenate(side) for side in zip(*sums, strict=True)]

    def exchange(self, a: Stats, b: Stats) -> tuple[Stats, Stats]:
        """Sums [R, K] of both sides [G, K] after each group changed sides with probability 1/2."""
        rng = np.random.default_rng([self._seed, 1])
        moved = np.concatenate([rng.integers(0, 2, (size, self._groups)) @ (b - a) for size in self._sizes()])
        return a.sum(axis=0) + moved, b.sum(axis=0) - moved

    def _counts(self) -> Iterator[NDArray[np.float64]]:
        """How often each group is drawn, [some resamples, G] at a time."""
        rng = np.random.default_rng([self._seed, 0])
        for size in self._sizes():
            drawn = rng.integers(0, self._groups, (size, self._groups), dtype=np.int32)
            drawn += np.arange(size, dtype=np.int32)[:, None] * self._groups
            yield np.bincount(drawn.ravel(), minlength=size * self._groups).reshape(size, -1).astype(np.float64)

    def _sizes(self) -> list[int]:
        most = max(1, _AT_ONCE // self._groups)
        whole, rest = divmod(self._resamples, most)
        return [most] * whole + ([rest] if rest else [])


def judge(drawn: Stats, exchanged: Stats | None, observed: float, confidence: float) -> Difference:
    """Interval and p-value of a difference.

    Args:
        drawn: bootstrap differences [R].
        exchanged: differences [R] after random exchange of sides; None where no p-value is wanted.
        observed: the difference on the data.
        confidence: level of the two-sided percentile interval; at 95 %, 2.80 standard errors are detectable.
    """
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    error = float(drawn.std(ddof=1))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(POWER)
    p = None
    if exchanged is not None:
        # 1e-12: an exchange that only reorders sums must count as equal.
        as_large = int(np.count_nonzero(np.abs(exchanged) >= abs(observed) - 1e-12))
        p = (as_large + 1) / (len(exchanged) + 1)
    return Difference(float(low), float(high), error, p, reach * error)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value that both sides are right equally often.

    The rows on which just one side is right fall on either side like coins (McNemar 1947, binomial instead of chi²);
    the randomization test of a 0/1 metric estimates the same number.

    Args:
        only_a: rows on which only side A is right.
        only_b: rows on which only side B is right.
    """
    flips = only_a + only_b
    term = tail = 1
    for k in range(1, min(only_a, only_b) + 1):
        term = term * (flips - k + 1) // k
        tail += term
    return float(min(1.0, 2 * tail / 2**flips))


def wilson(hits: float, rows: int, confidence: float) -> tuple[float, float]:
    """Interval of a share of independent rows (Wilson 1927); inside 0..1 and of some width even at 0 and 1."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, room = hits / rows, z * z / rows
    middle = (share + room / 2) / (1 + room)
    half = math.sqrt(share * (1 - share) * room + room * room / 4) / (1 + room)
    return max(0.0, middle - half), min(1.0, middle + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order (Holm 1979).

    Calling those below 0.05 found keeps the chance of any false finding among all at 5 %, however they hang together.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[n]))
        adjusted[n] = least
    return adjusted


def student_quantile(level: float, df: float) -> float:
    """Quantile of Student's t, 0.5 <= level < 1, df >= 1 and not necessarily whole; to about five digits.

    With t = sqrt(df) tan(angle) the density is cos(angle) ** (df - 1), which is summed on a grid.
    """
    if df > 10_000:
        return NormalDist().inv_cdf(level)
    angles = np.linspace(0, np.pi / 2, 40_001)
    density = np.maximum(np.cos(angles), 0) ** (df - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(2 * level - 1, below / below[-1], angles)
    return float(math.sqrt(df) * math.tan(angle))


Drawn = NDArray[np.float64]

LUCK = 1.4
"""How far the spread of seeds must exceed that of chance on the rows before it is taken for luck of the seeds.

At 1, chance alone is taken for luck every other time with three seeds a side, and a 95 % interval excludes 0 in 2.2 %
of comparisons of nothing; the larger it is, the more often luck as large as chance is missed. benchmarks/calibration
has the share at this value.
"""


def judge_seeds(
    scores: tuple[Sequence[float], Sequence[float]], drawn: tuple[Drawn, Drawn], groups: int, confidence: float
) -> Difference:
    """Interval of mean(B) - mean(A), each over its seeds. There is no p-value: exchanging sides would mix up seeds.

    Variance = rows + between seeds / K, with Student's t at Satterthwaite's degrees of freedom. Scores of different
    seeds differ by chance on these rows, too; that part of their spread, which the resampling of rows knows already, is
    counted once: variance = V - sum(I / K) + sum(S / K) over the sides, V the bootstrap variance of the difference, S
    the variance of a side's scores, I the bootstrap variance of a seed's deviation from its side's mean. Where S does
    not exceed what chance alone would make of it (`LUCK` times I), there is nothing between seeds to add, and the
    variance is V. (Counting chance twice makes the interval too wide; benchmarks/calibration has both.)

    Args:
        scores: per side, the scores [K] on the data.
        drawn: per side, the scores [K, R] on the same resampled rows.
        groups: G, for the degrees of freedom of V.
        confidence: level of the two-sided interval.
    """
    delta = float(np.mean(scores[1]) - np.mean(scores[0]))
    rows = float((drawn[1].mean(axis=0) - drawn[0].mean(axis=0)).var(ddof=1))
    between = [_between(own, resampled) for own, resampled in zip(scores, drawn, strict=True)]
    alone = max(0.0, rows - sum(chance for _, chance, _ in between))
    spread_of_seeds = sum(spread for spread, _, _ in between)
    total = alone + spread_of_seeds
    least = min(seeds for _, _, seeds in between if seeds > 1)
    luck = LUCK if least > 2 else 1.0  # two seeds tell so little of their spread that none of it is given away
    if total > rows and spread_of_seeds > luck * sum(chance for _, chance, _ in between):
        noise = alone**2 / (groups - 1) + sum(spread**2 / (seeds - 1) for spread, _, seeds in between if seeds > 1)
        df = max(1.0, total**2 / noise)
    else:
        total, df = rows, groups - 1.0
    error, reach = math.sqrt(total), student_quantile((1 + confidence) / 2, df)
    return Difference(delta - reach * error, delta + reach * error, error, None, _detectable(reach, df) * error)


def _detectable(reach: float, df: float) -> float:
    """The detectable difference in standard errors, for an interval of `reach` standard errors.

    With few degrees of freedom the standard error is itself uncertain, here and in the comparison that would look for
    the difference. The ratio of two such errors exceeds `ratio` once in 5 times (Cacoullos 1965: half the difference of
    ratio and 1 / ratio, times sqrt(df), is Student's t); both risks are added in squares. That gives 79-80 % power from
    2 degrees of freedom on, where reach + t(0.8) gives 60 % with 2 and 71 % with 6.
    """
    risk = student_quantile(POWER, df)
    half = risk / math.sqrt(df)
    ratio = half + math.hypot(1, half)
    return reach + math.hypot(reach * (ratio - 1), risk)


def _between(scores: Sequence[float], drawn: Drawn) -> tuple[float, float, int]:
    """S / K and I / K of one side, and K; a side without several seeds adds nothing."""
    seeds = len(scores)
    if seeds == 1:
        return 0.0, 0.0, 1
    chance = (drawn - drawn.mean(axis=0)).var(axis=1, ddof=1).mean() * seeds / (seeds - 1)
    return float(np.var(scores, ddof=1)) / seeds, float(chance) / seeds, seeds
