"""Several training seeds as one side: the mean of their scores, and how sure it is.

The seeds are never pooled. Each is scored on the same rows, and the same resampled rows; what is judged is the mean
over the seeds. Rows and seeds are both random: other rows, and other seeds, would have given another difference.
Letters: K seeds, R resamples, G groups.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmtune.scoring.exact import student_quantile
from vlmtune.scoring.resampling import POWER, Difference

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
