"""Chooses how the difference of two files is estimated in a metric: by which interval, or why by none.

Every interval that comes out keeps its level, as benchmarks/calibration shows. Where none does, a `NoInterval` says
why, and what can still be said.

Letters: N rows, G groups, K statistics, R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vlmtune.metrics import Metric, Stats
from vlmtune.scoring.intervals import (
    Values,
    effective_groups,
    fewest_discordant,
    has_long_tail,
    jackknife_values,
    largest_share,
    moment_columns,
    pseudo_group_interval,
    pseudo_group_step,
    studentised_interval,
    t_interval,
    tango_interval,
)
from vlmtune.scoring.results import IntervalMethod, Status
from vlmtune.scoring.statistics import FEWEST_GROUPS, IntervalEstimate, Resamples, estimate_seed_difference

FEWEST_SKEWED = 60
"""With fewer groups, no interval of strongly skewed differences keeps its level."""

FAR = 12.0
"""Standard errors from 0 beyond which the sign of a strongly skewed change is not in doubt on few groups. Without a
difference, 20 to 59 groups of ten skewed distributions are as far away in 0 to 1.4 % of the cases; of a lognormal with
sigma 2, in up to 3.5 %."""

MANY_TIES = 0.1
"""Share of tied rows from which a bounded metric is taken as discrete."""

SPARSE = 0.8
"""Share of tied rows from which those that differ are too few to show how large a difference can be."""

NOTHING = 1e-4
"""Share of the scale up to which a score is 0. COCO's BLEU adds constants against a division by zero: without any
matching n-gram it is not 0 but up to so much, and what moves it are the lengths of the answers."""


@dataclass(frozen=True, slots=True)
class NoInterval:
    """Why there is no interval, and what can be said without one."""

    reason: str
    status: Status
    bound: float | None = None
    """Differences up to this size are not excluded; None where nothing can be said."""
    rows_needed: int | None = None
    """Independent rows that an interval would take, where known."""


@dataclass(frozen=True, slots=True)
class DifferenceEstimate:
    """An interval and its method, or what is missing."""

    interval: IntervalEstimate | None
    method: IntervalMethod | None
    missing: NoInterval | None


@dataclass(frozen=True, slots=True)
class Design:
    """Which rows depend on each other: rows per group [G], and the group number of each row [N]."""

    sizes: NDArray[np.int64]
    of_row: NDArray[np.int64]

    @classmethod
    def of(cls, groups: Sequence[str]) -> "Design":
        """From the name of each row's group [N]; groups in order of appearance, as in `by_group`."""
        numbers = {name: n for n, name in enumerate(dict.fromkeys(groups))}
        of_row = np.array([numbers[name] for name in groups], dtype=np.int64)
        return cls(np.bincount(of_row, minlength=len(numbers)), of_row)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.sizes)

    @property
    def independent(self) -> bool:
        """Whether every row is a group of its own."""
        return len(self.of_row) == len(self.sizes)

    @property
    def effective(self) -> float:
        """How many groups of equal size are as informative; the number of groups where all have one size."""
        return effective_groups(self.sizes) if len(self.sizes) else 0.0

    @property
    def enough(self) -> bool:
        """Whether there are enough groups for an interval."""
        return self.effective >= FEWEST_GROUPS

    @property
    def noun(self) -> str:
        """What is independent."""
        return "row" if self.independent else "group"

    def too_small(self) -> NoInterval:
        """Why there is no interval if the groups are too few."""
        if self.groups < FEWEST_GROUPS:
            count = self.groups
            what = f"{self.noun} was" if count == 1 else f"{self.noun}s were"
            reason = f"only {count} independent {what} compared; an interval needs {FEWEST_GROUPS}"
            return NoInterval(reason, "inconclusive", rows_needed=FEWEST_GROUPS)
        needed = math.ceil(FEWEST_GROUPS * self.groups / self.effective)
        reason = (
            f"the {self.groups} groups have such uneven sizes that they are worth only {self.effective:.0f}; an "
            f"interval needs {FEWEST_GROUPS}, about {needed} groups of such sizes"
        )
        return NoInterval(reason, "inconclusive", rows_needed=needed)


@dataclass(frozen=True)
class PairedStatistics:
    """One metric's statistics per file of both sides: per row [N, K], and summed per group [G, K]."""

    metric: Metric
    a: tuple[Stats, ...]
    b: tuple[Stats, ...]
    grouped: tuple[tuple[Stats, ...], tuple[Stats, ...]]
    design: Design

    @property
    def single(self) -> bool:
        """Whether each side is one file."""
        return len(self.a) == len(self.b) == 1

    def difference(self, a: Sequence[Stats], b: Sequence[Stats]) -> Values:
        """B - A of summed statistics [..., K], each the mean over its files."""
        before, after = (np.mean([self.metric.summarise(stats) for stats in side], axis=0) for side in (a, b))
        difference: Values = after - before
        return difference

    @cached_property
    def row_scores(self) -> tuple[Values, Values]:
        """Scores of each row alone [N], the means over the files of each side."""
        before, after = (np.mean([self.metric.summarise(stats) for stats in side], axis=0) for side in (self.a, self.b))
        return before, after

    @cached_property
    def tied(self) -> NDArray[np.bool_]:
        """Rows that score the same in all files [N], also as a part of a corpus."""
        files = np.stack((*self.a, *self.b))
        if self.metric.binary:
            files = np.asarray(self.metric.summarise(files))[..., None]
        tied: NDArray[np.bool_] = (files == files[0]).all(axis=(0, 2))
        return tied

    @cached_property
    def values(self) -> Values:
        """Jackknife values [G] of the difference."""
        totals = [[stats.sum(axis=0) for stats in side] for side in self.grouped]
        without = [[stats.sum(axis=0) - stats for stats in side] for side in self.grouped]
        return jackknife_values(float(self.difference(*totals)), self.difference(*without))

    @cached_property
    def differing(self) -> int:
        """Groups with a row that is not tied."""
        return len(np.unique(self.design.of_row[~self.tied]))

    @property
    def constant(self) -> bool:
        """Whether every group changes by the same amount."""
        return bool(np.ptp(self.values) <= 1e-9 * max(1.0, abs(float(self.values.mean()))))

    @property
    def errors_from_zero(self) -> float:
        """The change in units of its standard error."""
        return float(self.values.mean() / (self.values.std(ddof=1) / math.sqrt(self.design.effective)))

    @property
    def df(self) -> float:
        """Degrees of freedom of the jackknife."""
        return self.design.effective - 1

    @property
    def bounded(self) -> bool:
        """Whether one row can change by the whole scale."""
        return self.metric.binary or self.metric.bounded

    @property
    def within_scale(self) -> bool:
        """Whether every row scores within the metric's scale, so that no difference can exceed it."""
        scores = np.concatenate(self.row_scores)
        return bool(
            self.metric.higher_is_better and scores.min() >= 0 and scores.max() <= self.metric.scale * (1 + 1e-9)
        )

    @cached_property
    def method(self) -> IntervalMethod:
        """The method that keeps its level on such differences."""
        if self.metric.binary and self.design.independent and self.single:
            return "tango"
        if self.constant or (self.bounded and (self.metric.binary or self.tied.mean() >= MANY_TIES)):
            return "pseudo_groups_t"
        return "jackknife_t_and_bootstrap_t" if has_long_tail(self.values) else "jackknife_t"

    @property
    def pseudo_step(self) -> float:
        """Where the pseudo-groups stand."""
        if self.constant:
            return self.metric.scale
        if self.metric.binary or self.tied.mean() >= SPARSE:
            before, after = self.row_scores
            return pseudo_group_step(after - before, self.values, self.metric.scale)
        return self.metric.scale / 2


def estimate_differences(
    metrics: Sequence[PairedStatistics], resamples: Resamples, confidence: float
) -> list[DifferenceEstimate]:
    """The difference B - A in every metric, on the same rows and resamples, of one file a side."""
    missing = [_missing(one, confidence) for one in metrics]
    skewed = [
        one
        for one, reason in zip(metrics, missing, strict=True)
        if reason is None and one.method == "jackknife_t_and_bootstrap_t"
    ]
    columns = [part for one in skewed for part in (one.grouped[0][0], one.grouped[1][0], moment_columns(one.values))]
    sums = iter(resamples.bootstrap(columns) if columns else [])
    estimates = []
    for one, reason in zip(metrics, missing, strict=True):
        if reason is not None:
            estimates.append(DifferenceEstimate(None, None, reason))
            continue
        interval = _interval(one, confidence)
        if one.method == "jackknife_t_and_bootstrap_t":
            resampled = one.difference([next(sums)], [next(sums)])
            interval = interval.union(studentised_interval(one.values, resampled, next(sums), confidence))
        estimates.append(_within_scale(one, interval))
    return estimates


def _interval(one: PairedStatistics, confidence: float) -> IntervalEstimate:
    """The interval by a closed form."""
    if one.method == "tango":
        before, after = one.row_scores
        only_a, only_b = int(np.count_nonzero(before > after)), int(np.count_nonzero(after > before))
        return tango_interval(only_a, only_b, len(before), confidence)
    if one.method == "pseudo_groups_t":
        return pseudo_group_interval(one.values, one.pseudo_step, one.df, confidence)
    return t_interval(one.values, one.df, confidence)


def _within_scale(one: PairedStatistics, interval: IntervalEstimate) -> DifferenceEstimate:
    """The interval without what the metric's scale excludes, if that leaves both ends finite."""
    clipped = interval.clipped(one.metric.scale) if one.within_scale else interval
    if math.isfinite(clipped.low) and math.isfinite(clipped.high):
        return DifferenceEstimate(clipped, one.method, None)
    reason = f"{one.differing} {one.design.noun}s that differ are too few for an interval"
    return DifferenceEstimate(None, None, NoInterval(reason, "inconclusive"))


def _missing(one: PairedStatistics, confidence: float) -> NoInterval | None:
    """Why there is no interval; None if there is one."""
    design, reason = one.design, None
    needed = 1 if one.method == "pseudo_groups_t" and not one.constant else fewest_discordant(confidence)
    if nothing := _no_evidence(one, needed, confidence):
        return nothing
    if one.constant and not one.within_scale:
        reason = f"every {design.noun} changes by the same amount"
    elif one.method == "jackknife_t_and_bootstrap_t" and design.effective < FEWEST_SKEWED:
        return _skewed(one)
    return NoInterval(reason, "inconclusive") if reason else None


def _skewed(one: PairedStatistics) -> NoInterval:
    """What can be said about a strongly skewed change on few groups: its sign, if it is far from 0."""
    noun, errors = one.design.noun, one.errors_from_zero
    if abs(errors) < FAR:
        reason = (
            f"the change is strongly skewed: a few {noun}s decide it, and {one.design.effective:.0f} {noun}s are too "
            f"few for that; an interval needs {FEWEST_SKEWED}"
        )
        return NoInterval(reason, "inconclusive", rows_needed=FEWEST_SKEWED)
    status: Status = "improved" if (errors > 0) == one.metric.higher_is_better else "worse"
    reason = (
        f"the change is {abs(errors):.0f} times its standard error; how large it is among other {noun}s cannot be "
        f"told, because it is strongly skewed: an interval needs {FEWEST_SKEWED} {noun}s"
    )
    return NoInterval(reason, status, rows_needed=FEWEST_SKEWED)


def estimate_seed_differences(
    metrics: Sequence[PairedStatistics], resamples: Resamples, confidence: float
) -> list[DifferenceEstimate]:
    """The difference B - A in every metric, on the same rows and resamples, each side the mean over its seeds."""
    sums = iter(resamples.bootstrap([stats for one in metrics for side in one.grouped for stats in side]))
    estimates = []
    for one in metrics:
        drawn = [np.stack([one.metric.summarise(next(sums)) for _ in side]) for side in one.grouped]
        if missing := _no_evidence(one, fewest_discordant(confidence), confidence):
            estimates.append(DifferenceEstimate(None, None, missing))
            continue
        scores = [[float(one.metric.summarise(stats.sum(axis=0))) for stats in side] for side in one.grouped]
        groups, discrete = one.design.groups, one.method == "pseudo_groups_t" and one.within_scale
        step = one.pseudo_step if discrete else 0.0
        # What two groups at `step` and -`step` would add to the variance of the mean over the rows.
        unseen = 2 * step**2 / ((groups + 1) * (groups + 2))
        interval = estimate_seed_difference((scores[0], scores[1]), (drawn[0], drawn[1]), groups, confidence, unseen)
        if interval.standard_error > 0:
            estimates.append(replace(_within_scale(one, interval), method="seeds_t"))
        else:
            reason = f"every {one.design.noun} changes by the same amount in every seed"
            estimates.append(DifferenceEstimate(None, None, NoInterval(reason, "inconclusive")))
    return estimates


def _no_evidence(one: PairedStatistics, needed: int, confidence: float) -> NoInterval | None:
    """Why these rows cannot show a change, whatever the method; None if they can.

    `needed` is how many groups have to differ for an interval.
    """
    if not one.design.enough:
        return one.design.too_small()
    if constant := _constant_score(one.metric, (*one.a, *one.b)):
        return NoInterval(constant, "inconclusive")
    return _few_differ(one, confidence) if one.differing < needed else None


def _constant_score(metric: Metric, files: Sequence[Stats]) -> str | None:
    """What is said where all rows of all files score the same, or nothing at all.

    All right is no such reason: that no row differs bounds the difference.
    """
    totals = [float(metric.summarise(stats.sum(axis=0))) for stats in files]
    alone = np.concatenate([np.ravel(metric.summarise(stats)) for stats in files])
    nothing = metric.higher_is_better and alone.min() >= 0 and max(totals) <= NOTHING * metric.scale
    if not nothing and max(np.ptp(totals), np.ptp(alone)) > 1e-9 * metric.scale:
        return None
    if math.isclose(totals[0], metric.scale if metric.higher_is_better else 0.0, rel_tol=1e-9):
        return None
    found = f"both sides score {0:.4f}" if nothing else "all answers of both sides have the same score"
    return f"{found} in {metric.name}, which therefore cannot show a change"


def _few_differ(one: PairedStatistics, confidence: float) -> NoInterval:
    """What can be said if too few groups differ.

    For bounded metrics it is how large a difference can be at most. For others nothing bounds it, not even where a few
    groups differ; where none does, it is how many of all groups may.
    """
    metric, design, differing, fewest = one.metric, one.design, one.differing, fewest_discordant(confidence)
    noun = design.noun
    reason = ("no", "only one")[differing] if differing < 2 else f"only {differing}"
    reason += f" {noun} differs" if differing < 2 else f" {noun}s differ"
    share, bound = largest_share(differing, int(design.effective), confidence), None
    if one.bounded:
        bound = share * metric.scale
        reason += f"; differences up to {100 * share:.1f} points are not excluded"
    elif differing == 0:
        reason += f"; among other {noun}s, up to {share:.1%} may"
    needed = math.ceil(design.groups * fewest / differing) if differing else None
    if needed:
        reason += f"; a verdict needs {fewest}, about {needed} {noun}s at this rate"
    inconclusive = bound is None and differing > 0
    return NoInterval(reason, "inconclusive" if inconclusive else "no_difference", bound, needed)
