"""Every metric of two sides judged: scores, difference, interval, p-values. Plain values, no words.

Letters: N rows, G groups, K statistics, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from vlmtune.metrics import Metric, Stats
from vlmtune.registry import BaseConfig
from vlmtune.scoring import StatisticsConfig
from vlmtune.scoring.pairing import Evidence, Lines, Rows
from vlmtune.scoring.score import measure, signature, summary
from vlmtune.scoring.statistics import (
    FEWEST_GROUPS,
    Difference,
    Resamples,
    by_group,
    holm,
    judge,
    judge_seeds,
    mcnemar,
    wilson,
)
from vlmtune.tasks import Task


@dataclass(frozen=True, slots=True)
class Terms:
    """How answers are read, and how differences are judged."""

    task: Task
    config: BaseConfig
    statistics: StatisticsConfig

    def measured(self, metric: Metric, a: Sequence[Lines], b: Sequence[Lines]) -> "Measured":
        """The statistics of both sides' files; a line without a prediction counts as the worst answer."""
        sides = ([measure(metric, lines, self.task, self.config) for lines in files] for files in (a, b))
        return Measured(metric, *map(tuple, sides))


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric's statistics [N, K] per file of both sides."""

    metric: Metric
    a: tuple[Stats, ...]
    b: tuple[Stats, ...]

    def keep(self, rows: Sequence[int]) -> "Measured":
        """Some of the rows. What the metric learned from the whole set (CIDEr's document counts) stays."""
        return Measured(self.metric, tuple(x[rows] for x in self.a), tuple(x[rows] for x in self.b))


@dataclass(frozen=True, slots=True)
class Weighed:
    """Scores per file, and the difference of their means; `found` is None with too few groups."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    found: Difference | None

    def values(self) -> dict[str, Any]:
        """{"a", "b", "delta", "ci"}: means over the files of a side, and the interval."""
        a, b = fmean(self.a), fmean(self.b)
        return {"a": a, "b": b, "delta": b - a, "ci": [self.found.low, self.found.high] if self.found else None}


def weigh(
    measured: Sequence[Measured], groups: Sequence[str], statistics: StatisticsConfig, test: bool = False
) -> list[Weighed]:
    """Judge every metric on the same resampled rows; without `test` no p-value is computed."""
    grouped = [
        Measured(one.metric, *(tuple(by_group(stats, groups) for stats in side) for side in (one.a, one.b)))
        for one in measured
    ]
    scores = [[tuple(summary(one.metric, stats) for stats in side) for side in (one.a, one.b)] for one in grouped]
    count = len(set(groups))
    if count < FEWEST_GROUPS:
        return [Weighed(a, b, None) for a, b in scores]
    resamples = Resamples(count, statistics.resamples, statistics.seed)
    drawn = iter(resamples.bootstrap([stats for one in grouped for stats in (*one.a, *one.b)]))
    single = all(len(one.a) == len(one.b) == 1 for one in grouped)
    exchanged = _exchanged(grouped, resamples) if test and single else [None] * len(grouped)
    weighed = []
    for one, (a, b), swapped in zip(grouped, scores, exchanged, strict=True):
        spreads = [np.stack([one.metric.summarise(next(drawn)) for _ in side]) for side in (a, b)]
        if single:
            found = judge(spreads[1][0] - spreads[0][0], swapped, b[0] - a[0], statistics.confidence)
        else:
            found = judge_seeds((a, b), (spreads[0], spreads[1]), count, statistics.confidence)
        weighed.append(Weighed(a, b, found))
    return weighed


def _exchanged(grouped: Sequence[Measured], resamples: Resamples) -> list[Stats]:
    """Differences [R] of every metric after the same random exchanges, which are drawn once."""
    sides = (np.hstack([one.a[0] for one in grouped]), np.hstack([one.b[0] for one in grouped]))
    ends = np.cumsum([one.a[0].shape[1] for one in grouped])[:-1]
    left, right = (np.split(sums, ends, axis=1) for sums in resamples.exchange(*sides))
    return [one.metric.summarise(y) - one.metric.summarise(x) for one, x, y in zip(grouped, left, right, strict=True)]


def judged(metrics: Sequence[Metric], evidence: Evidence, terms: Terms) -> list[dict[str, Any]]:
    """One entry per metric, in the given order.

    `ci`, `p` and `detectable` are None with too few groups, `p` with several seeds as well; `seeds`, `mcnemar`,
    `rate_ci` and `failures_as_worst` where there is nothing of the kind. `p_adjusted` is set by `adjust`.
    """
    rows = evidence.answered
    measured = [terms.measured(metric, rows.a, rows.b) for metric in metrics]
    failures: list[dict[str, Any] | None] = [None] * len(metrics)
    if len(evidence.asked) > len(rows):
        every = [terms.measured(metric, evidence.asked.a, evidence.asked.b) for metric in metrics]
        failures = [one.values() for one in weigh(every, evidence.asked.groups, terms.statistics)]
    entries = []
    weighed = weigh(measured, rows.groups, terms.statistics, test=True)
    for one, result, failed in zip(measured, weighed, failures, strict=True):
        metric, found = one.metric, result.found
        several = len(result.a) + len(result.b) > 2
        entries.append({
            "name": metric.name,
            **result.values(),
            "p": found.p if found else None,
            "p_adjusted": None,
            "detectable": found.detectable if found else None,
            "higher_is_better": metric.higher_is_better,
            "scale": metric.scale,
            "signature": signature(metric, rows.a[0]),
            "seeds": {"a": list(result.a), "b": list(result.b)} if several else None,
            "failures_as_worst": failed,
            **_shares(one, rows, terms.statistics.confidence),
        })  # fmt: skip
    return entries


def _shares(one: Measured, rows: Rows, confidence: float) -> dict[str, Any]:
    """McNemar's test and Wilson's intervals: of metrics that are 0 or 1, one file a side, rows that are independent."""
    if not one.metric.binary or not rows.independent or len(one.a) + len(one.b) > 2:
        return {"mcnemar": None, "rate_ci": None}
    a, b = (np.asarray(one.metric.summarise(side[0])) > 0.5 for side in (one.a, one.b))
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))
    rates = [wilson(int(side.sum()), len(side), confidence) for side in (a, b)]
    return {
        "mcnemar": {"only_a": only_a, "only_b": only_b, "p": mcnemar(only_a, only_b)},
        "rate_ci": {"a": list(rates[0]), "b": list(rates[1])},
    }


def adjust(systems: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Entries of every system with `p_adjusted`, after Holm.

    The primary metric, first of each, is one family over the systems: with one system it stays as it is. All other
    metrics of all systems are another. Entries without a p-value belong to none.
    """
    adjusted = [[dict(entry) for entry in entries] for entries in systems]
    first = [entry for entries in adjusted for entry in entries[:1]]
    rest = [entry for entries in adjusted for entry in entries[1:]]
    for family in (first, rest):
        tested = [entry for entry in family if entry["p"] is not None]
        for entry, p in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
            entry["p_adjusted"] = p
    return adjusted
