"""Confidence intervals of a paired difference that keep their level with few rows.

A statistic of G groups is represented by its G jackknife values, whose mean is the statistic and whose spread is its
standard error. For the mean over equal groups they are the groups' own differences; for BLEU, what each group
contributes. The method depends on what the values look like:

- t interval of the jackknife values (Tukey 1958): means and corpus functions;
- that one united with the studentised bootstrap: values with a long tail on one side;
- t interval with two pseudo-groups at the ends of the scale: scores that are 0 or 1 in groups, or bounded and mostly
  tied, where a sample without large differences does not mean that there are none;
- Tango's score interval: scores that are 0 or 1 in independent rows.

docs/statistics.md says when each is used, and benchmarks/calibration measures their coverage.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vlmtune.scoring.statistics import IntervalEstimate, student_interval, student_quantile

Values = NDArray[np.float64]

SKEWNESS = 0.75
"""Sample skewness of the jackknife values above which a long tail is possible."""

TAIL_RATIO = 3.0
"""How much farther than the other tail, from the median, a long tail reaches."""


def jackknife_values(total: float, left_out: Values) -> Values:
    """Jackknife values [G] of a statistic, centred so that their mean is the statistic.

    Args:
        total: the statistic on all groups.
        left_out: the statistic without each of the groups [G].
    """
    values: Values = total + (len(left_out) - 1) * (left_out.mean() - left_out)
    return values


def effective_groups(sizes: NDArray[np.int64]) -> float:
    """How many groups of equal size would be as informative as groups of these sizes [G] (Kish 1965)."""
    return float(int(sizes.sum()) ** 2 / int((sizes**2).sum()))


def t_interval(values: Values, df: float, confidence: float) -> IntervalEstimate:
    """Student's t interval of the mean of jackknife values [G] (Tukey 1958)."""
    error = math.sqrt(float(values.var(ddof=1)) / len(values))
    return student_interval(float(values.mean()), error, df, confidence)


def pseudo_group_interval(values: Values, step: float, df: float, confidence: float) -> IntervalEstimate:
    """T interval of values [G] to which one at `step` and one at -`step` were added.

    The two keep the interval from shrinking to nothing where hardly any group differs, as the added successes and
    failures do in Agresti and Coull's (1998) interval of a share.
    """
    return t_interval(np.append(values, [step, -step]), df, confidence)


def pseudo_group_step(differences: Values, values: Values, scale: float) -> float:
    """Where the pseudo-groups of mostly tied rows stand: at the scale's end, nearer the more rows a group averages.

    Rows of a group that change together count as fewer. How many fewer is the design effect, measured but never taken
    for less than that of rows whose correlation is 1/2, since few changed rows say little about it.

    Args:
        differences: per row [N].
        values: jackknife values of the groups [G].
        scale: largest difference of a row.
    """
    rows, groups = len(differences), len(values)
    size = rows / groups
    among_rows = float(differences.var()) / rows
    design = float(values.var(ddof=1)) / groups / among_rows if among_rows > 0 else size
    return scale * math.sqrt(max(min(design, size), (1 + size) / 2) / size)


def has_long_tail(values: Values) -> bool:
    """Whether the values [G] are strongly skewed to one side; heavy tails on both sides do not count."""
    deviations = values - values.mean()
    variance = float((deviations**2).mean())
    if variance == 0 or abs(float((deviations**3).mean())) <= SKEWNESS * variance**1.5:
        return False
    median = float(np.median(values))
    shorter, longer = sorted([float(values.max()) - median, median - float(values.min())])
    return longer > TAIL_RATIO * shorter


def moment_columns(values: Values) -> Values:
    """Jackknife values [G] around their mean, and their squares [G, 2]; resampled, they give `studentised_interval`."""
    deviations = values - values.mean()
    return np.stack([deviations, deviations**2], axis=1)


def studentised_interval(values: Values, resampled: Values, moments: Values, confidence: float) -> IntervalEstimate:
    """Bootstrap-t interval (Efron 1979, Hall 1988) of the statistic whose jackknife values [G] are given.

    The standard error of a resample is that of the jackknife values it draws. An end is infinite where too many
    resamples draw only equal values.

    Args:
        values: jackknife values [G].
        resampled: the statistic of every resample [R].
        moments: `moment_columns` summed over the same draws [R, 2].
        confidence: level of the two-sided interval.
    """
    groups, centre = len(values), float(values.mean())
    error = math.sqrt(float(values.var(ddof=1)) / groups)
    means = moments / groups
    errors = np.sqrt(np.maximum(means[:, 1] - means[:, 0] ** 2, 0) / (groups - 1))
    moved, spread = resampled - centre, errors > 1e-9 * error
    certain = np.where(np.abs(moved) <= 1e-9 * error, 0.0, np.copysign(np.inf, moved))
    studentised = np.where(spread, moved / np.where(spread, errors, 1), certain)
    low = float(np.quantile(studentised, (1 - confidence) / 2, method="lower"))
    high = float(np.quantile(studentised, (1 + confidence) / 2, method="higher"))
    return IntervalEstimate(centre - high * error, centre - low * error, error, groups - 1.0)


def tango_interval(only_a: int, only_b: int, rows: int, confidence: float) -> IntervalEstimate:
    """Score interval of the difference of two paired shares (Tango 1998), with Student's t for the normal quantile.

    A difference D is in the interval if |only_b - only_a - rows D| is at most t times its standard deviation, given D
    and the most likely share of rows on which only A is right. The t quantile, with rows - 1 degrees of freedom, keeps
    the level with few rows.

    Args:
        only_a: rows on which only side A is right.
        only_b: rows on which only side B is right.
        rows: all rows.
        confidence: level of the two-sided interval.
    """
    reach = student_quantile((1 + confidence) / 2, rows - 1)

    def score(difference: float) -> float:
        linear = -only_a - only_b + (2 * rows - only_b + only_a) * difference
        constant = -only_a * difference * (1 - difference)
        share = (math.sqrt(max(linear**2 - 8 * rows * constant, 0.0)) - linear) / (4 * rows)
        variance = rows * (2 * share + difference * (1 - difference))
        return (only_b - only_a - rows * difference) / math.sqrt(max(variance, 1e-300))

    observed = (only_b - only_a) / rows
    low, high = _falling_to(reach, score, -1.0, observed), _falling_to(-reach, score, observed, 1.0)
    return IntervalEstimate(low, high, (high - low) / 2 / reach, rows - 1.0)


def _falling_to(goal: float, function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function reaches `goal` between `low` and `high`, by bisection; an end where it does not."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > goal else (low, middle)
    return (low + high) / 2


def largest_share(differing: int, rows: int, confidence: float) -> float:
    """Upper end of the two-sided exact interval of the share `differing` / `rows` (Clopper and Pearson 1934).

    With no differing row it is 1 - (1 - level) ** (1 / rows) for the one-sided level 97.5 %: 0.071 of 50 rows.
    """
    tail = (1 - confidence) / 2
    if differing == 0:
        return -math.expm1(math.log(tail) / rows)

    def at_most(share: float) -> float:
        terms = [math.comb(rows, k) * share**k * (1.0 - share) ** (rows - k) for k in range(differing + 1)]
        return float(sum(terms))

    return _falling_to(tail, at_most, differing / rows, 1.0)


def fewest_discordant(confidence: float) -> int:
    """The least number of discordant rows that can be significant: with all on one side, mid-p is 0.5 ** rows."""
    return math.floor(-math.log2(1 - confidence)) + 1
