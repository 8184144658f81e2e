"""Compares two sides in every metric: scores, difference, interval, p-values.

Letters: N rows, G groups, K statistics, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from vlmtune.metrics import Metric, Stats
from vlmtune.registry import BaseConfig
from vlmtune.scoring import StatisticsConfig
from vlmtune.scoring.pairing import Evidence, Lines, Rows
from vlmtune.scoring.results import Difference, Interval, McNemar, MetricResult, Sides
from vlmtune.scoring.score import measure, signature, summary
from vlmtune.scoring.statistics import (
    FEWEST_GROUPS,
    DifferenceEstimate,
    Resamples,
    by_group,
    estimate_difference,
    estimate_seed_difference,
    holm,
    mcnemar,
    wilson,
)
from vlmtune.tasks import Task


@dataclass(frozen=True, slots=True)
class SufficientStatistics:
    """One metric's statistics [N, K], or [G, K], per file of both sides."""

    metric: Metric
    a: tuple[Stats, ...]
    b: tuple[Stats, ...]

    def keep(self, rows: Sequence[int]) -> "SufficientStatistics":
        """A subset of the rows. What depends on the whole set (CIDEr's document frequencies) is kept."""
        return SufficientStatistics(self.metric, tuple(x[rows] for x in self.a), tuple(x[rows] for x in self.b))

    def grouped(self, groups: Sequence[str]) -> "SufficientStatistics":
        """Summed per group [G, K]."""
        a, b = (tuple(by_group(stats, groups) for stats in side) for side in (self.a, self.b))
        return SufficientStatistics(self.metric, a, b)

    @property
    def single(self) -> bool:
        """Whether each side is one file."""
        return len(self.a) == len(self.b) == 1


@dataclass(frozen=True, slots=True)
class ScoringContext:
    """How answers are read, and how differences are tested."""

    task: Task
    config: BaseConfig
    statistics: StatisticsConfig

    def measure(self, metric: Metric, a: Sequence[Lines], b: Sequence[Lines]) -> SufficientStatistics:
        """The statistics of both sides' files; a line without a prediction counts as the worst answer."""
        sides = ([measure(metric, lines, self.task, self.config) for lines in files] for files in (a, b))
        return SufficientStatistics(metric, *map(tuple, sides))


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """Scores per file, and the difference of their means; `estimate` is None with fewer than 20 groups."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    estimate: DifferenceEstimate | None

    @property
    def p(self) -> float | None:
        """The p-value, where there is one."""
        return self.estimate.p if self.estimate else None

    def difference(self) -> Difference:
        """Means over the files of a side, and the interval."""
        a, b, estimate = fmean(self.a), fmean(self.b), self.estimate
        return {"a": a, "b": b, "delta": b - a, "ci": [estimate.low, estimate.high] if estimate else None}


def compare_metric(
    statistics: SufficientStatistics, groups: Sequence[str], settings: StatisticsConfig, test: bool = False
) -> MetricComparison:
    """`compare_metrics` for one metric."""
    return compare_metrics([statistics], groups, settings, test)[0]


def compare_metrics(
    statistics: Sequence[SufficientStatistics], groups: Sequence[str], settings: StatisticsConfig, test: bool = False
) -> list[MetricComparison]:
    """Compare the sides in every metric, on the same resampled rows.

    Args:
        statistics: per metric, of N rows.
        groups: what each row is resampled with [N].
        settings: number of resamples, seed and level.
        test: whether p-values are computed, where each side is one file.
    """
    grouped = [one.grouped(groups) for one in statistics]
    scores = [[tuple(summary(one.metric, stats) for stats in side) for side in (one.a, one.b)] for one in grouped]
    count = len(set(groups))
    if count < FEWEST_GROUPS:
        return [MetricComparison(a, b, None) for a, b in scores]
    resamples = Resamples(count, settings.resamples, settings.seed)
    sums = iter(resamples.bootstrap([stats for one in grouped for stats in (*one.a, *one.b)]))
    single = all(one.single for one in grouped)
    randomized = _randomized(grouped, resamples) if test and single else [None] * len(grouped)
    compared = []
    for one, (a, b), under_null in zip(grouped, scores, randomized, strict=True):
        resampled = [np.stack([one.metric.summarise(next(sums)) for _ in side]) for side in (a, b)]
        if single:
            spread = resampled[1][0] - resampled[0][0]
            estimate = estimate_difference(spread, under_null, b[0] - a[0], settings.confidence)
        else:
            estimate = estimate_seed_difference((a, b), (resampled[0], resampled[1]), count, settings.confidence)
        compared.append(MetricComparison(a, b, estimate))
    return compared


def _randomized(grouped: Sequence[SufficientStatistics], resamples: Resamples) -> list[Stats]:
    """Differences [R] of every metric after random swaps of the sides, the same swaps for all metrics."""
    sides = (np.hstack([one.a[0] for one in grouped]), np.hstack([one.b[0] for one in grouped]))
    ends = np.cumsum([one.a[0].shape[1] for one in grouped])[:-1]
    left, right = (np.split(sums, ends, axis=1) for sums in resamples.randomize(*sides))
    return [one.metric.summarise(y) - one.metric.summarise(x) for one, x, y in zip(grouped, left, right, strict=True)]


def metric_results(metrics: Sequence[Metric], evidence: Evidence, context: ScoringContext) -> list[MetricResult]:
    """One result per metric, in the given order; `adjust_p_values` fills in `p_adjusted`."""
    rows, settings = evidence.answered, context.statistics
    statistics = [context.measure(metric, rows.a, rows.b) for metric in metrics]
    failures: list[Difference | None] = [None] * len(metrics)
    if len(evidence.asked) > len(rows):
        asked = evidence.asked
        with_failed = [context.measure(metric, asked.a, asked.b) for metric in metrics]
        failures = [one.difference() for one in compare_metrics(with_failed, asked.groups, settings)]
    results: list[MetricResult] = []
    compared = compare_metrics(statistics, rows.groups, settings, test=True)
    for one, comparison, failed in zip(statistics, compared, failures, strict=True):
        exact, rates = _exact(one, rows, settings.confidence)
        results.append({
            "name": one.metric.name,
            **comparison.difference(),
            "p": comparison.p,
            "p_adjusted": None,
            "detectable": comparison.estimate.detectable if comparison.estimate else None,
            "higher_is_better": one.metric.higher_is_better,
            "scale": one.metric.scale,
            "signature": signature(one.metric, rows.a[0]),
            "seeds": None if one.single else {"a": list(comparison.a), "b": list(comparison.b)},
            "failures_as_worst": failed,
            "mcnemar": exact,
            "rate_ci": rates,
        })  # fmt: skip
    return results


def _exact(
    one: SufficientStatistics, rows: Rows, confidence: float
) -> tuple[McNemar, Sides[Interval]] | tuple[None, None]:
    """McNemar's test and Wilson's intervals, for a binary metric, independent rows and one file a side."""
    if not one.metric.binary or not rows.independent or not one.single:
        return None, None
    a, b = (np.asarray(one.metric.summarise(side[0])) > 0.5 for side in (one.a, one.b))
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))
    rate_a, rate_b = (list(wilson(int(side.sum()), len(side), confidence)) for side in (a, b))
    exact: McNemar = {"only_a": only_a, "only_b": only_b, "p": mcnemar(only_a, only_b)}
    rates: Sides[Interval] = {"a": rate_a, "b": rate_b}
    return exact, rates


def adjust_p_values(systems: Sequence[Sequence[MetricResult]]) -> list[list[MetricResult]]:
    """The results of every system with `p_adjusted`, after Holm.

    The primary metric, first of each, is one family over the systems: with one system it stays as it is. All other
    metrics of all systems are another. Results without a p-value belong to none.
    """
    adjusted = [[result.copy() for result in results] for results in systems]
    primary = [result for results in adjusted for result in results[:1]]
    others = [result for results in adjusted for result in results[1:]]
    for family in (primary, others):
        tested = [(result, result["p"]) for result in family if result["p"] is not None]
        for (result, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
            result["p_adjusted"] = p
    return adjusted
