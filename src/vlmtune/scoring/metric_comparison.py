"""Compares two sides in every metric: scores, difference, interval, p-values.

Letters: N rows, G groups, K statistics, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from vlmtune.metrics import Metric, Stats
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig
from vlmtune.scoring import StatisticsConfig
from vlmtune.scoring.estimation import (
    Design,
    DifferenceEstimate,
    PairedStatistics,
    estimate_differences,
    estimate_seed_differences,
)
from vlmtune.scoring.pairing import Evidence, Lines
from vlmtune.scoring.results import Difference, Interval, McNemar, MetricResult, Sides, Status
from vlmtune.scoring.score import measure, reread, signature, summary
from vlmtune.scoring.statistics import (
    Resamples,
    by_group,
    detectable_difference,
    holm,
    mcnemar,
    randomization_p,
    wilson,
)
from vlmtune.scoring.verdict import status_of
from vlmtune.tasks import Task


@dataclass(frozen=True, slots=True)
class SufficientStatistics:
    """One metric's statistics [N, K], or [G, K], per file of both sides."""

    metric: Metric
    a: tuple[Stats, ...]
    b: tuple[Stats, ...]

    @classmethod
    def of(cls, metric: Metric, a: Sequence[Lines], b: Sequence[Lines]) -> "SufficientStatistics":
        """The statistics of both sides' files; a line without a prediction counts as the worst answer."""
        return cls(metric, *(tuple(measure(metric, lines) for lines in files) for files in (a, b)))

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

    def reread(self, lines: Sequence[Line], predictions: Sequence[str]) -> Lines:
        """The lines with other predictions, read by the task."""
        changed = [replace(line, prediction=text) for line, text in zip(lines, predictions, strict=True)]
        return tuple(reread(changed, self.task, self.config))


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """Scores per file, and what is known about the difference of their means."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    estimate: DifferenceEstimate
    p: float | None
    mcnemar: McNemar | None

    def status(self, higher_is_better: bool, confidence: float) -> Status:
        """What interval and test show."""
        missing, level = self.estimate.missing, 1 - confidence
        if missing is None:
            return status_of(self.difference(), higher_is_better, self.p, level)
        denied = missing.status in ("improved", "worse") and self.p is not None and self.p >= level
        return "inconclusive" if denied else missing.status

    def difference(self) -> Difference:
        """Means over the files of a side, and the interval."""
        a, b, interval = fmean(self.a), fmean(self.b), self.estimate.interval
        return {"a": a, "b": b, "delta": b - a, "ci": [interval.low, interval.high] if interval else None}


def compare_metric(
    statistics: SufficientStatistics, groups: Sequence[str], settings: StatisticsConfig, test: bool = False
) -> MetricComparison:
    """`compare_metrics` for one metric."""
    return compare_metrics([statistics], groups, settings, test)[0]


def compare_metrics(
    statistics: Sequence[SufficientStatistics], groups: Sequence[str], settings: StatisticsConfig, test: bool = False
) -> list[MetricComparison]:
    """Compare the sides in every metric, on the same rows.

    Args:
        statistics: per metric, of N rows.
        groups: what each row depends on [N].
        settings: number of resamples, seed and level.
        test: whether p-values are computed, where each side is one file.
    """
    design = Design.of(groups)
    grouped = [one.grouped(groups) for one in statistics]
    scores = [[tuple(summary(one.metric, stats) for stats in side) for side in (one.a, one.b)] for one in grouped]
    resamples = Resamples(design.groups, settings.resamples, settings.seed)
    single = all(one.single for one in statistics)
    pairs = [
        PairedStatistics(one.metric, one.a, one.b, (sums.a, sums.b), design)
        for one, sums in zip(statistics, grouped, strict=True)
    ]
    estimate = estimate_differences if single else estimate_seed_differences
    estimates = estimate(pairs, resamples, settings.confidence)
    exact = [_mcnemar(one, design) if single else None for one in statistics]
    chances: list[float | None] = [None] * len(statistics)
    if test and single and design.enough:
        randomized = _randomized(grouped, resamples)
        chances = [
            counts["p"] if counts else randomization_p(under_null, b[0] - a[0])
            for counts, under_null, (a, b) in zip(exact, randomized, scores, strict=True)
        ]
    return [
        MetricComparison(a, b, estimate, p, counts)
        for (a, b), estimate, p, counts in zip(scores, estimates, chances, exact, strict=True)
    ]


def _randomized(grouped: Sequence[SufficientStatistics], resamples: Resamples) -> list[Stats]:
    """Differences [R] of every metric after random swaps of the sides, the same swaps for all metrics."""
    sums = resamples.randomize([(one.a[0], one.b[0]) for one in grouped])
    return [one.metric.summarise(y) - one.metric.summarise(x) for one, (x, y) in zip(grouped, sums, strict=True)]


def _right(one: SufficientStatistics) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows [N] on which each side is right, of a binary metric with one file a side."""
    a, b = (np.asarray(one.metric.summarise(side[0])) > 0.5 for side in (one.a, one.b))
    return a, b


def _mcnemar(one: SufficientStatistics, design: Design) -> McNemar | None:
    """McNemar's test, for a binary metric and independent rows."""
    if not one.metric.binary or not design.independent:
        return None
    a, b = _right(one)
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))
    return {"only_a": only_a, "only_b": only_b, "p": mcnemar(only_a, only_b)}


def metric_results(
    statistics: Sequence[SufficientStatistics], evidence: Evidence, settings: StatisticsConfig
) -> list[MetricResult]:
    """One result per metric, in the given order; `adjust_p_values` fills in `p_adjusted`.

    Args:
        statistics: per metric, of the answered rows.
        evidence: the rows.
        settings: number of resamples, seed and level.
    """
    rows = evidence.answered
    failures: list[Difference | None] = [None] * len(statistics)
    if len(evidence.asked) > len(rows):
        asked = evidence.asked
        with_failed = [SufficientStatistics.of(one.metric, asked.a, asked.b) for one in statistics]
        failures = [one.difference() for one in compare_metrics(with_failed, asked.groups, settings)]
    compared = compare_metrics(statistics, rows.groups, settings, test=True)
    results: list[MetricResult] = []
    for one, comparison, failed in zip(statistics, compared, failures, strict=True):
        result = metric_result(one, comparison, signature(one.metric, rows.a[0]), settings.confidence)
        results.append({**result, "failures_as_worst": failed})
    return results


def metric_result(
    one: SufficientStatistics, comparison: MetricComparison, signature: str, confidence: float
) -> MetricResult:
    """The result of one metric; `failures_as_worst` and `p_adjusted` are not yet known."""
    metric, estimate = one.metric, comparison.estimate
    missing = estimate.missing
    return {
        "name": metric.name,
        **comparison.difference(),
        "status": comparison.status(metric.higher_is_better, confidence),
        "interval_method": estimate.method,
        "no_interval": missing.reason if missing else None,
        "bound": missing.bound if missing else None,
        "rows_needed": missing.rows_needed if missing else None,
        "p": comparison.p,
        "p_adjusted": None,
        "detectable": detectable_difference(estimate.interval, confidence) if estimate.interval else None,
        "higher_is_better": metric.higher_is_better,
        "scale": metric.scale,
        "signature": signature,
        "seeds": None if one.single else {"a": list(comparison.a), "b": list(comparison.b)},
        "failures_as_worst": None,
        "mcnemar": comparison.mcnemar,
        "rate_ci": _rates(one, confidence) if comparison.mcnemar else None,
    }


def _rates(one: SufficientStatistics, confidence: float) -> Sides[Interval]:
    """Wilson's interval of each side's score."""
    a, b = (list(wilson(int(side.sum()), len(side), confidence)) for side in _right(one))
    return {"a": a, "b": b}


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
