"""Closed forms, no resampling: McNemar's test, Wilson's interval, Holm's correction, quantiles of Student's t."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


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
