"""Confidence intervals and p-values from summed statistics: a paired bootstrap and a paired randomization test.

Works on whole groups (rows that share an image are not independent). Because a metric's sufficient statistics add up, a
resample is one matrix product instead of one evaluation. Letters: G groups, K statistics, R resamples.
"""

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
