"""Coverage of the intervals by kind of difference and number of groups, beside the percentile bootstrap.

Every cell draws its own rows and goes through a comparison from the metric's statistics on; `run.py` writes the tables.
In a cell without a true difference, a status of improved or worse is a false verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.metrics import Metric, Stats, bleu, cider_d
from vlmtune.scoring import StatisticsConfig
from vlmtune.scoring.metric_comparison import SufficientStatistics, compare_metric
from vlmtune.scoring.statistics import Resamples, by_group

Rows = NDArray[np.float64]
Numbers = NDArray[np.int64]
Generator = np.random.Generator
Drawn = tuple[Stats, Stats, list[str]]
Draw = Callable[[Generator, int], Drawn]

GROUPS = (20, 50, 80, 300)
RESAMPLES = 600
WORDS = [f"w{n}" for n in range(60)]
ZIPF = 1 / np.arange(1, len(WORDS) + 1)


@dataclass(frozen=True)
class Cell:
    """A kind of difference; `truth` is the true difference."""

    name: str
    metric: Metric
    draw: Draw
    truth: float = 0.0

    @property
    def null(self) -> bool:
        """Whether there is no true difference."""
        return self.truth == 0


def _mean(sums: Stats) -> Stats:
    mean: Stats = sums[..., 0] / np.maximum(sums[..., 1], 1)
    return mean


MEAN = Metric("mean", lambda answers, truths: np.empty((0, 2)), _mean, "mean")
RIGHT = Metric("right", MEAN.measure, _mean, "right", binary=True)
F1 = Metric("f1", MEAN.measure, _mean, "f1", bounded=True)


def _scores(a: Rows, b: Rows, sizes: Numbers | None = None) -> Drawn:
    """Statistics of rows whose metric is a mean, and the group of each row."""
    sides = [np.stack([side.ravel(), np.ones(side.size)], axis=1) for side in (a, b)]
    numbers = np.repeat(np.arange(len(a)), a[0].size) if sizes is None else np.repeat(np.arange(len(sizes)), sizes)
    return sides[0], sides[1], [str(number) for number in numbers]


def _clustered(rng: Generator, draw: Callable[[tuple[int, ...]], Rows], groups: int, size: int) -> Rows:
    """Rows [groups, size] with an intraclass correlation of 1/2: some are a copy of their group's draw."""
    copied = rng.random((groups, size)) < np.sqrt(0.5)
    return np.where(copied, draw((groups, 1)), draw((groups, size)))


def normal(rng: Generator, groups: int) -> Drawn:
    """Normal differences."""
    return _scores(rng.standard_normal((groups, 1)), rng.standard_normal((groups, 1)))


def skewed(rng: Generator, groups: int) -> Drawn:
    """Lognormal differences of mean 0: most rows lose a little, a few gain much."""
    return _scores(np.full((groups, 1), np.exp(0.5)), np.exp(rng.standard_normal((groups, 1))))


def flips(share: float, change: float = 0.0, size: int = 1) -> Draw:
    """0/1 scores: a share of the rows differs, B is right on `change` more of all rows than A."""

    def draw(rng: Generator, groups: int) -> Drawn:
        u = _clustered(rng, rng.random, groups, size) if size > 1 else rng.random((groups, 1))
        only_b = u < (share + change) / 2
        only_a = (u < share) & ~only_b
        both = _clustered(rng, rng.random, groups, size) if size > 1 else rng.random((groups, 1))
        right = both < 0.7
        return _scores(np.where(only_a, 1.0, right & ~only_b), np.where(only_b, 1.0, right & ~only_a))

    return draw


def partial(rng: Generator, groups: int) -> Drawn:
    """Scores of 0, 1 or between; six rows of ten are tied."""

    def side() -> Rows:
        u = rng.random((groups, 1))
        return np.where(u < 0.25, 0.0, np.where(u < 0.7, 1.0, rng.beta(2, 2, (groups, 1))))

    a = side()
    return _scores(a, np.where(rng.random((groups, 1)) < 0.6, a, side()))


def clustered(rng: Generator, groups: int) -> Drawn:
    """Normal differences, five correlated rows a group."""
    return _scores(_clustered(rng, rng.standard_normal, groups, 5), rng.standard_normal((groups, 5)))


def uneven(rng: Generator, groups: int) -> Drawn:
    """Normal differences that share a part per group, in groups of 1 to about 20 rows."""
    sizes = np.maximum(1, np.rint(np.exp(rng.normal(1.2, 0.7, groups)))).astype(int)
    shared = np.repeat(rng.standard_normal(groups), sizes)
    return _scores((shared + rng.standard_normal(len(shared)))[:, None], np.zeros((len(shared), 1)), sizes)


def _captions(kept: tuple[float, float], rows: int, rng: Generator) -> tuple[list[str], list[str], list[list[str]]]:
    """Answers of both sides to `rows` images: words of the first reference, each kept with a probability."""
    chance = ZIPF / ZIPF.sum()
    references = rng.choice(WORDS, (rows, 3, 9), p=chance)
    difficulty = rng.normal(0, 0.1, (rows, 1))
    answers = []
    for share in kept:
        same = rng.random((rows, 9)) < share + difficulty
        words = np.where(same, references[:, 0], rng.choice(WORDS, (rows, 9), p=chance))
        answers.append([" ".join(row[: rng.integers(7, 10)]) for row in words])
    return answers[0], answers[1], [[" ".join(text) for text in row] for row in references]


def corpus_bleu(kept: tuple[float, float], pool_rows: int = 10_000) -> tuple[Draw, float]:
    """Rows drawn from a large pool, whose score is the truth."""
    before, after, references = _captions(kept, pool_rows, np.random.default_rng(2026))
    a, b = bleu.measure(before, references), bleu.measure(after, references)
    truth = 0.0 if kept[0] == kept[1] else float(bleu.summarise(b.sum(axis=0)) - bleu.summarise(a.sum(axis=0)))

    def draw(rng: Generator, groups: int) -> Drawn:
        rows, swap = _from_pool(rng, pool_rows, groups, exchange=truth == 0)
        swapped = swap[:, None] == 1
        return np.where(swapped, b[rows], a[rows]), np.where(swapped, a[rows], b[rows]), [str(n) for n in range(groups)]

    return draw, truth


def cider(pool_rows: int = 10_000) -> Draw:
    """Rows drawn from a large pool and measured together, since document frequencies come from the evaluated rows."""
    before, after, references = _captions((0.6, 0.6), pool_rows, np.random.default_rng(2027))

    def draw(rng: Generator, groups: int) -> Drawn:
        rows, swap = _from_pool(rng, pool_rows, groups, exchange=True)
        truths, sides = [references[n] for n in rows], (before, after)
        a = [sides[exchanged][n] for n, exchanged in zip(rows, swap, strict=True)]
        b = [sides[1 - exchanged][n] for n, exchanged in zip(rows, swap, strict=True)]
        # Together, which is faster: twice the references have the same inverse document frequencies.
        both = cider_d.measure([*a, *b], [*truths, *truths])
        return both[:groups], both[groups:], [str(n) for n in range(groups)]

    return draw


def _from_pool(rng: Generator, pool_rows: int, rows: int, exchange: bool) -> tuple[Numbers, Numbers]:
    """Rows of a pool, and for each whether its sides are exchanged (1).

    Where there is to be no difference they are at random, so that the pool's own difference does not count.
    """
    return rng.integers(0, pool_rows, rows), rng.integers(0, 2, rows) * exchange


def cells() -> list[Cell]:
    """Every kind of difference."""
    null, _ = corpus_bleu((0.6, 0.6))
    rare, rare_truth = corpus_bleu((0.3, 0.9))
    return [
        Cell("normal", MEAN, normal),
        Cell("skewed", MEAN, skewed),
        Cell("0/1, 1 % differ", RIGHT, flips(0.01)),
        Cell("0/1, 5 % differ", RIGHT, flips(0.05)),
        Cell("0/1, 20 % differ", RIGHT, flips(0.2)),
        Cell("0/1, 1 % differ, +1 point", RIGHT, flips(0.01, 0.01), 0.01),
        Cell("0/1, 5 % differ, +3 points", RIGHT, flips(0.05, 0.03), 0.03),
        Cell("0/1, 5 % differ, 5 rows a group", RIGHT, flips(0.05, size=5)),
        Cell("0/1, 20 % differ, 5 rows a group", RIGHT, flips(0.2, size=5)),
        Cell("0/1, 5 % differ, 5 rows a group, +3 points", RIGHT, flips(0.05, 0.03, size=5), 0.03),
        Cell("0 to 1, 60 % tied", F1, partial),
        Cell("5 rows a group", MEAN, clustered),
        Cell("uneven groups", MEAN, uneven),
        Cell("corpus BLEU", bleu, null),
        Cell(f"corpus BLEU from near 0, {rare_truth:+.2f}", bleu, rare, rare_truth),
        Cell("CIDEr-D", cider_d, cider()),
    ]


@lru_cache(maxsize=len(GROUPS))
def _draws(groups: int) -> Rows:
    """How often each resample draws each group [R, G]; the same in every trial, which saves half of the time."""
    return Resamples(groups, RESAMPLES, 0).bootstrap([np.eye(groups)])[0]


def percentile(a: Stats, b: Stats, metric: Metric, groups: Sequence[str]) -> tuple[float, float]:
    """The percentile interval of the paired bootstrap, which vlmtune used before."""
    before, after = (by_group(side, groups) for side in (a, b))
    draws = _draws(len(before))
    low, high = np.quantile(metric.summarise(draws @ after) - metric.summarise(draws @ before), [0.025, 0.975])
    return float(low), float(high)


def measure(cell: Cell, groups: int, trials: int) -> dict[str, Any]:
    """Both methods in one cell; seeds depend on the cell, its size and the trial.

    A bound counts as an interval from minus it to it, and no interval as one that holds everything: it claims nothing.
    """
    now, then, statuses, needed = [], [], [], []
    for trial in range(trials):
        rng = np.random.default_rng([*cell.name.encode(), groups, trial, 2026])
        a, b, names = cell.draw(rng, groups)
        settings = StatisticsConfig(resamples=RESAMPLES, seed=trial)
        sides = SufficientStatistics(cell.metric, (a,), (b,))
        found = compare_metric(sides, names, settings)
        status = found.status(True, settings.confidence)
        if status in ("improved", "worse"):  # the test can only take a verdict away
            status = compare_metric(sides, names, settings, test=True).status(True, settings.confidence)
        missing = found.estimate.missing
        bound = missing.bound if missing and missing.bound is not None else np.inf
        now.append(found.difference()["ci"] or (-bound, bound))
        statuses.append(status)
        if missing and missing.bound is None:
            needed.append(missing.rows_needed)
        then.append(percentile(a, b, cell.metric, names))
    ends_now, ends_then = np.array(now), np.array(then)
    given, widths = np.isfinite(ends_now[:, 0]), np.ptp(ends_then, axis=1)
    return {
        "cell": cell.name,
        "groups": groups,
        "trials": trials,
        "truth": cell.truth,
        "null": cell.null,
        "covered_before": _covered(ends_then, cell.truth),
        "covered": _covered(ends_now, cell.truth),
        "covered_where_given": _covered(ends_now[given], cell.truth) if given.any() else None,
        "no_interval": float((~given).mean()),
        "inconclusive": statuses.count("inconclusive") / trials,
        "rows_needed_said": sum(count is not None for count in needed) / len(needed) if needed else None,
        "zero_width_before": float((widths < 1e-12).mean()),
        "width_before": float(widths.mean()),
        "width": float(np.ptp(ends_now[given], axis=1).mean()) if given.any() else None,
        "width_before_where_given": float(widths[given].mean()) if given.any() else None,
        "verdicts_before": float(((ends_then[:, 0] > 0) | (ends_then[:, 1] < 0)).mean()),
        "verdicts": sum(status in ("improved", "worse") for status in statuses) / trials,
    }


def _covered(ends: NDArray[np.float64], truth: float) -> float:
    return float(((ends[:, 0] <= truth + 1e-9) & (ends[:, 1] >= truth - 1e-9)).mean())
