"""What more training rows would bring: scores at several sizes, and an extrapolation that says how unsure it is.

Scores are taken to approach their limit with a power of the number of rows n: score(n) = a + b·n^-c. Three sources of
uncertainty enter: which rows were evaluated (the same resamples of them for every size), how much trainings differ (the
scatter around the curve), and the exponent c, which a few sizes hardly determine: it is drawn from a wide range, and
counts for more the better its curve fits.

Letters: R resamples, S trainings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXPONENTS = (0.08, 1.8)
"""Range of c, drawn evenly on a logarithmic scale. Published learning curves of neural networks lie between 0.2 and
0.7; few rows are steeper."""

FEWEST_SIZES = 3
"""Sizes below which nothing is extrapolated: two points say nothing about the scatter around a curve."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """The change of the score between two numbers of training rows, with the ends of its 95 % interval."""

    rows: int
    change: float
    low: float
    high: float


def extrapolate(sizes: Sequence[int], scores: Scores, rows: int, seed: int = 0) -> Extrapolation | None:
    """How the score would change from that of the largest size to that of a training on `rows` rows.

    The interval is one for what another training would measure on the same evaluated rows, or the mean of as many as
    each size has seeds. None with fewer than three sizes.

    Args:
        sizes: training rows of each training, S of them; a size with several seeds occurs as often.
        scores: of each training on each resample of the evaluated rows [R, S].
        rows: rows to extrapolate to.
        seed: of the draws.
    """
    if len(set(sizes)) < FEWEST_SIZES:
        return None
    rng, (draws, points) = np.random.default_rng(seed), scores.shape
    exponents = np.exp(rng.uniform(math.log(EXPONENTS[0]), math.log(EXPONENTS[1]), scores.shape[:1]))
    x, ahead = _powers(sizes, exponents), _powers([rows], exponents)[:, 0]
    off, ahead_off = x - x.mean(axis=1, keepdims=True), ahead - x.mean(axis=1)
    spread = (off**2).sum(axis=1)
    slopes = (off * scores).sum(axis=1) / spread
    residuals = scores - scores.mean(axis=1, keepdims=True) - slopes[:, None] * off
    squares, df = (residuals**2).sum(axis=1) + np.finfo(float).tiny, points - 2
    largest = np.asarray(sizes) == max(sizes)
    variance = squares / df * (1 / largest.sum() + 1 / points + ahead_off**2 / spread)
    predicted = scores.mean(axis=1) + slopes * ahead_off + np.sqrt(variance) * rng.standard_t(df, draws)
    changes = predicted - scores[:, largest].mean(axis=1)
    # An exponent counts for more the better its curve fits, but only by the root of the likelihood of normal residuals:
    # the scatter is estimated from the same few points, and the full likelihood would choose exponents that hide it.
    weights = (squares / squares.min()) ** (-df / 4)
    kept = rng.choice(draws, draws, p=weights / weights.sum())
    low, middle, high = np.percentile(changes[kept], [2.5, 50, 97.5])
    return Extrapolation(rows, float(middle), float(low), float(high))


def _powers(sizes: Sequence[int], exponents: Scores) -> Scores:
    """n^-c [R, S], with n in thousands of rows, so that numbers stay near 1."""
    return (np.asarray(sizes, float)[None, :] / 1000) ** -exponents[:, None]
