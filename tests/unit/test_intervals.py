"""Intervals: equal to scipy and to slow computations, and each method where its kind of differences needs it."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats

from vlmtune.metrics import Metric, bleu, bleu_1
from vlmtune.scoring import StatisticsConfig
from vlmtune.scoring.intervals import (
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
from vlmtune.scoring.metric_comparison import MetricComparison, SufficientStatistics, compare_metric
from vlmtune.scoring.statistics import Resamples, mcnemar

Scores = np.ndarray
RNG = np.random.default_rng(5)


def mean(sums: Scores) -> Scores:
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


MEAN = Metric("mean", lambda answers, truths: np.empty((0, 2)), mean, "mean")
RIGHT = Metric("right", MEAN.measure, mean, "right", binary=True)
F1 = Metric("f1", MEAN.measure, mean, "f1", bounded=True)
QUICK = StatisticsConfig(resamples=600)


def compared(metric: Metric, a: Scores, b: Scores, size: int = 1, test: bool = True) -> MetricComparison:
    """Two sides given by their rows' scores, `size` rows a group."""
    sides = (np.stack([side, np.ones(len(side))], axis=1).astype(float) for side in (a, b))
    statistics = SufficientStatistics(metric, *((side,) for side in sides))
    return compare_metric(statistics, [f"{n // size}" for n in range(len(a))], QUICK, test)


def flips(rows: int, only_a: int, only_b: int) -> tuple[Scores, Scores]:
    """0/1 scores, right on both sides but for some rows."""
    a, b = np.ones(rows), np.ones(rows)
    b[:only_a], a[only_a : only_a + only_b] = 0, 0
    return a, b


# Closed forms


def test_of_a_mean_the_jackknife_is_student_s_interval() -> None:
    differences = RNG.normal(1, 2, 23)
    found = t_interval(jackknife_values(differences.mean(), (differences.sum() - differences) / 22), 22, 0.95)
    expected = stats.t.interval(0.95, 22, differences.mean(), stats.sem(differences))
    assert (found.low, found.high) == pytest.approx(expected, rel=2e-5)


def test_of_a_ratio_the_jackknife_leaves_out_every_group_in_turn() -> None:
    top, bottom = RNG.random(12), RNG.random(12) + 1
    without = np.array([np.delete(top, n).sum() / np.delete(bottom, n).sum() for n in range(12)])
    values = jackknife_values(top.sum() / bottom.sum(), without)
    assert values.mean() == pytest.approx(top.sum() / bottom.sum())
    error = math.sqrt(11 / 12 * ((without - without.mean()) ** 2).sum())
    assert t_interval(values, 11, 0.95).standard_error == pytest.approx(error)


def test_groups_of_uneven_size_are_worth_fewer() -> None:
    assert effective_groups(np.array([3, 3, 3])) == 3
    assert effective_groups(np.array([1, 1, 2])) == pytest.approx(16 / 6)


def most_likely_score(only_a: int, only_b: int, rows: int, difference: float) -> float:
    """Tango's statistic with the share found by maximising the likelihood numerically."""

    def unlikely(share: float) -> float:
        shares = (share, share + difference, 1 - 2 * share - difference)
        counts = (only_a, only_b, rows - only_a - only_b)
        return -sum(n * math.log(max(p, 1e-300)) for n, p in zip(counts, shares, strict=True) if n)

    ends = max(0.0, -difference), (1 - difference) / 2
    share = optimize.minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    variance = rows * (2 * share + difference * (1 - difference))
    return float((only_b - only_a - rows * difference) / math.sqrt(variance))


@pytest.mark.parametrize(("only_a", "only_b", "rows"), [(3, 9, 40), (9, 3, 40), (1, 4, 20), (2, 30, 300), (5, 5, 25)])
def test_both_ends_of_tango_s_interval_are_t_deviations_away(only_a: int, only_b: int, rows: int) -> None:
    found = tango_interval(only_a, only_b, rows, 0.95)
    reach = stats.t.ppf(0.975, rows - 1)
    assert most_likely_score(only_a, only_b, rows, found.low) == pytest.approx(reach, rel=1e-3)
    assert most_likely_score(only_a, only_b, rows, found.high) == pytest.approx(-reach, rel=1e-3)
    mirrored = tango_interval(only_b, only_a, rows, 0.95)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


def test_tango_s_interval_has_a_width_where_all_rows_change() -> None:
    found = tango_interval(0, 30, 30, 0.95)
    reach = stats.t.ppf(0.975, 29)
    assert found.low == pytest.approx((30 - reach**2) / (30 + reach**2), rel=1e-4), "solved by hand"
    assert found.high == pytest.approx(1)


@pytest.mark.parametrize(("differing", "rows"), [(0, 20), (0, 300), (1, 50), (4, 80), (3, 5000)])
def test_the_bound_is_clopper_and_pearson_s(differing: int, rows: int) -> None:
    assert largest_share(differing, rows, 0.95) == pytest.approx(stats.beta.ppf(0.975, differing + 1, rows - differing))


def test_fewer_discordant_rows_can_never_be_significant() -> None:
    for confidence in (0.9, 0.95, 0.99, 0.999):
        fewest = fewest_discordant(confidence)
        assert mcnemar(0, fewest) < 1 - confidence <= mcnemar(0, fewest - 1)
    assert fewest_discordant(0.95) == 5


def test_pseudo_groups_stand_at_both_ends() -> None:
    values = np.array([0.0] * 28 + [1.0, 1.0])
    found = pseudo_group_interval(values, 1.0, 29, 0.95)
    more = np.array([*values, 1.0, -1.0])
    expected = stats.t.interval(0.95, 29, more.mean(), stats.sem(more))
    assert (found.low, found.high) == pytest.approx(expected, rel=2e-5)


def test_rows_that_change_together_put_the_pseudo_groups_farther_out() -> None:
    alone = RNG.choice([-1.0, 0.0, 1.0], (400, 5))
    together = np.repeat(alone[:, :1], 5, axis=1)
    steps = [pseudo_group_step(rows.ravel(), rows.mean(axis=1), 1.0) for rows in (alone, together)]
    assert steps == pytest.approx([math.sqrt(3 / 5), 1], rel=1e-2)
    assert pseudo_group_step(alone[:, 0], alone[:, 0], 10.0) == pytest.approx(10, rel=1e-2)


def test_the_studentised_interval_is_that_of_the_drawn_groups() -> None:
    values = RNG.exponential(1, 60)
    draws = np.random.default_rng([3, 0]).integers(0, 60, (400, 60), dtype=np.int32)
    drawn = values[draws]
    ratios = np.sort((drawn.mean(axis=1) - values.mean()) / (drawn.std(axis=1) / math.sqrt(59)))
    error = values.std(ddof=1) / math.sqrt(60)
    sums, moments = Resamples(60, 400, 3).bootstrap([values[:, None], moment_columns(values)])
    found = studentised_interval(values, sums[:, 0] / 60, moments, 0.95)
    assert found.low == pytest.approx(values.mean() - ratios[math.ceil(0.975 * 399)] * error)
    assert found.high == pytest.approx(values.mean() - ratios[math.floor(0.025 * 399)] * error)


def test_a_long_tail_is_one_sided() -> None:
    def flagged(draw: Callable[[int], Scores]) -> float:
        return float(np.mean([has_long_tail(draw(60)) for _ in range(200)]))

    assert flagged(lambda n: np.exp(RNG.standard_normal(n))) > 0.95
    assert flagged(lambda n: -np.exp(RNG.standard_normal(n))) > 0.95
    assert flagged(RNG.standard_normal) < 0.03
    assert flagged(lambda n: RNG.laplace(size=n)) < 0.1
    assert not has_long_tail(np.zeros(30))


# Which method, and what is said without one


def test_every_kind_of_difference_has_its_method() -> None:
    normal, skewed = RNG.standard_normal(60), np.exp(1.3 * RNG.standard_normal(60))
    tied = np.where(RNG.random(60) < 0.6, 0.5, np.clip(RNG.random(60), 0, 1))
    zero = np.zeros(60)
    methods = {
        "jackknife_t": compared(MEAN, zero, normal),
        "jackknife_t_and_bootstrap_t": compared(MEAN, zero, skewed),
        "tango": compared(RIGHT, *flips(60, 2, 9)),
        "pseudo_groups_t": compared(RIGHT, *flips(60, 2, 9), size=3),
    }
    assert {name: found.estimate.method for name, found in methods.items()} == {name: name for name in methods}
    assert compared(F1, zero + 0.5, tied).estimate.method == "pseudo_groups_t"
    assert compared(F1, zero + 0.5, RNG.random(60)).estimate.method == "jackknife_t"


def test_a_metric_of_a_corpus_has_the_interval_of_its_groups() -> None:
    references = [[" ".join(RNG.choice(list("abcdefgh"), 9))] for _ in range(90)]
    answers = [[text[0] if RNG.random() < share else text[0][:9] for text in references] for share in (0.5, 0.7)]
    a, b = (bleu.measure(side, references) for side in answers)
    found = compare_metric(SufficientStatistics(bleu, (a,), (b,)), [f"{n // 3}" for n in range(90)], QUICK)
    assert found.estimate.interval is not None
    groups = np.arange(90) // 3

    def change(kept: Scores) -> float:
        return float(bleu.summarise(b[kept].sum(axis=0)) - bleu.summarise(a[kept].sum(axis=0)))

    without = np.array([change(groups != n) for n in range(30)])
    error = math.sqrt(29 / 30 * ((without - without.mean()) ** 2).sum())
    assert found.estimate.interval.standard_error == pytest.approx(error)


def test_where_no_row_differs_the_bound_is_said() -> None:
    for metric in (RIGHT, F1):
        same = np.arange(50) % 2
        missing = compared(metric, same, same).estimate.missing
        assert missing is not None
        assert missing.reason == "no row differs; differences up to 7.1 points are not excluded"
        assert (missing.status, missing.bound) == ("no_difference", pytest.approx(1 - 0.025 ** (1 / 50)))
    grouped = compared(RIGHT, np.arange(100) % 2, np.arange(100) % 2, size=2).estimate.missing
    assert grouped is not None
    assert grouped.reason.startswith("no group differs; differences up to 7.1 points")


def test_a_few_discordant_rows_are_no_verdict() -> None:
    found = compared(RIGHT, *flips(50, 0, 4))
    missing = found.estimate.missing
    assert missing is not None
    assert (missing.status, missing.rows_needed) == ("no_difference", 63)
    assert missing.bound == pytest.approx(stats.beta.ppf(0.975, 5, 46))
    assert missing.reason.startswith(
        "only 4 rows differ; differences up to 19.2 points are not excluded; a verdict needs 5"
    )
    assert compared(RIGHT, *flips(50, 0, 5)).estimate.interval is not None


def test_equal_answers_in_a_metric_without_a_scale_bound_nothing() -> None:
    some = RNG.random(40)
    missing = compared(MEAN, some, some).estimate.missing
    assert missing is not None
    assert (missing.bound, missing.status) == (None, "no_difference")
    assert missing.reason == "no row differs; among other rows, up to 8.8% may"
    few = compared(MEAN, some, np.where(np.arange(40) < 2, some + 0.1, some)).estimate.missing
    assert few is not None
    assert (few.status, few.rows_needed) == ("inconclusive", 100), "nothing is known about how much the others may move"


def test_a_skewed_change_far_from_zero_has_a_sign_and_no_size() -> None:
    """As captions that had no word in common with their references, and now have most."""
    skewed = np.array([0.62] * 10 + [0.66] * 10 + [0.7] * 10 + [0.92] * 10)
    for sign, status in ((1, "improved"), (-1, "worse")):
        found = compared(MEAN, np.ones(40), 1 + sign * skewed)
        assert found.estimate.interval is None
        assert found.status(True, 0.95) == status
        assert found.estimate.missing is not None
        assert found.estimate.missing.reason.startswith("the change is 39 times its standard error")
    assert replace(found, p=0.2).status(True, 0.95) == "inconclusive", "the test has to agree"
    near = compared(MEAN, np.ones(40), 1 + skewed - 0.65).estimate.missing
    assert near is not None
    assert near.status == "inconclusive"


def test_few_or_uneven_groups_and_long_tails_say_how_many_rows_it_takes() -> None:
    few = compared(MEAN, np.zeros(19), RNG.random(19)).estimate.missing
    skewed = compared(MEAN, np.zeros(59), np.exp(1.5 * RNG.standard_normal(59))).estimate.missing
    assert few is not None
    assert skewed is not None
    assert (few.status, few.rows_needed) == ("inconclusive", 20)
    assert (skewed.status, skewed.rows_needed) == ("inconclusive", 60)
    assert "strongly skewed" in skewed.reason
    values = RNG.random((2, 120))
    sides = [(np.stack([side, np.ones(120)], axis=1),) for side in values]
    groups = [f"{max(0, n - 90)}" for n in range(120)]
    uneven = compare_metric(SufficientStatistics(MEAN, *sides), groups, QUICK).estimate.missing
    assert uneven is not None
    assert uneven.reason.startswith("the 30 groups have such uneven sizes that they are worth only 2;")
    assert uneven.rows_needed == math.ceil(20 * 30 * (91**2 + 29) / 120**2)
    assert compared(MEAN, np.zeros(1), np.ones(1)).estimate.missing.reason.startswith("only 1 independent row was")
    in_groups = compared(MEAN, np.zeros(100), np.ones(100), size=10).estimate.missing.reason
    assert in_groups.startswith("only 10 independent groups were compared")


def test_scores_that_all_are_equal_cannot_show_a_change() -> None:
    """Also where they are 0 but for the constants of COCO's BLEU, which follow the lengths of the answers."""
    rows = np.arange(40)
    for metric, a, b, why in (
        (RIGHT, rows * 0, rows * 0, "both sides score 0.0000 in right, which"),
        (MEAN, rows * 0 + 0.5, rows * 0 + 0.5, "all answers of both sides have the same score in mean, which"),
        (MEAN, rows * 1e-12, rows * 2e-12, "both sides score 0.0000 in mean, which"),
    ):
        missing = compared(metric, a, b).estimate.missing
        assert missing is not None
        assert missing.reason.startswith(why)
        assert missing.status == "inconclusive"
    best = compared(RIGHT, rows * 0 + 1, rows * 0 + 1).estimate.missing
    assert best is not None
    assert (best.status, best.bound) == ("no_difference", pytest.approx(1 - 0.025 ** (1 / 40)))
    references = [[f"{word} b c d"] for word in "efghijklmnopqrstuvwxyz"]
    sides = [[text * (n % length + 1) for n in range(22)] for text, length in (("nothing ", 3), ("right ", 6))]
    stats = [bleu_1.measure(side, references) for side in sides]
    assert 0 < bleu_1.summarise(stats[0].sum(axis=0)) < 1e-9
    found = compare_metric(
        SufficientStatistics(bleu_1, (stats[0],), (stats[1],)), list("abcdefghijklmnopqrstuv"), QUICK
    )
    assert found.status(True, 0.95) == "inconclusive"


def test_seeds_that_hardly_differ_are_no_proof() -> None:
    """As with one file: a bound, not the narrow interval of the few rows."""
    one, same = np.arange(50) % 2, np.arange(50) % 2
    other = same.copy()
    other[3] = 1 - other[3]

    def seeds(*files: Scores, metric: Metric = RIGHT) -> MetricComparison:
        a, *b = (np.stack([file, np.ones(50)], axis=1).astype(float) for file in (one, *files))
        return compare_metric(SufficientStatistics(metric, (a,), tuple(b)), [f"{n}" for n in range(50)], QUICK)

    found = seeds(same, same, other)
    assert found.estimate.missing is not None
    assert found.estimate.missing.reason.startswith("only one row differs; differences up to 10.6 points are not")
    assert found.status(True, 0.95) == "no_difference"
    assert seeds(same, same).estimate.missing.reason.startswith("no row differs; differences up to 7.1 points")
    assert seeds(1 - same, same, other).estimate.interval is not None
    # Equally right in every row and seed is not certain, either.
    zero, all_right = np.zeros(50), np.ones(50)
    stats = [np.stack([side, np.ones(50)], axis=1) for side in (zero, all_right)]
    sure = SufficientStatistics(F1, (stats[0],), (stats[1],) * 3)
    interval = compare_metric(sure, [f"{n}" for n in range(50)], QUICK).estimate.interval
    assert interval is not None
    assert 0.85 < interval.low < 0.96
    assert interval.high == 1


def test_a_difference_that_is_the_same_in_every_row_is_not_certain() -> None:
    found = compared(MEAN, np.zeros(40), np.ones(40)).estimate.interval
    assert found is not None
    assert 0.85 < found.low < 0.95
    assert found.high == 1, "the scale ends there"
    errors = Metric("errors", MEAN.measure, mean, "errors", higher_is_better=False)
    assert compared(errors, np.zeros(40), np.ones(40)).estimate.missing is not None, "its scale has no end"


def test_interval_and_test_have_to_agree() -> None:
    """Tango's interval leaves out 0, mid-p stays above 0.05."""
    disagreeing = [
        (only_a, only_b, rows)
        for rows in (60, 200)
        for only_b in range(5, 30)
        for only_a in range(only_b)
        if tango_interval(only_a, only_b, rows, 0.95).low > 0 and mcnemar(only_a, only_b) >= 0.05
    ]
    assert disagreeing
    only_a, only_b, rows = disagreeing[0]
    found = compared(RIGHT, *flips(rows, only_a, only_b))
    assert found.difference()["ci"][0] > 0
    assert found.p == mcnemar(only_a, only_b) >= 0.05
    assert found.status(True, 0.95) == "no_difference"
    assert compared(RIGHT, *flips(rows, only_a, only_b), test=False).status(True, 0.95) == "improved"
    sure = compared(RIGHT, *flips(200, 5, 30))
    assert (sure.status(True, 0.95), sure.status(False, 0.95)) == ("improved", "worse")


# Coverage: a light version of benchmarks/calibration


def discordant(rng: np.random.Generator, rows: int, share: float) -> tuple[Scores, Scores]:
    """0/1 scores that differ on a share of the rows, either way."""
    u = rng.random(rows)
    a = np.where(u < share / 2, 0, 1)
    return a, np.where((u >= share / 2) & (u < share), 0, 1)


WORLDS: dict[str, tuple[Metric, int, Callable[[np.random.Generator], tuple[Scores, Scores]]]] = {
    "normal, 20 rows": (MEAN, 1, lambda rng: (rng.normal(size=20), rng.normal(size=20))),
    "skewed, 60 rows": (MEAN, 1, lambda rng: (np.full(60, math.exp(0.5)), np.exp(rng.normal(size=60)))),
    "0/1, 5 % differ, 50 rows": (RIGHT, 1, lambda rng: discordant(rng, 50, 0.05)),
    "0/1, 20 % differ, 20 rows": (RIGHT, 1, lambda rng: discordant(rng, 20, 0.2)),
    "0/1 in groups of 5": (RIGHT, 5, lambda rng: tuple(np.repeat(side, 5) for side in discordant(rng, 50, 0.05))),
}


@pytest.mark.parametrize("name", WORLDS)
def test_intervals_cover_what_they_promise(name: str) -> None:
    """Counting bounds as intervals on both sides, and what is inconclusive as right: it claims nothing."""
    metric, size, draw = WORLDS[name]
    covered = false = 0
    for trial in range(500):
        found = compared(metric, *draw(np.random.default_rng([17, trial])), size=size)
        missing, ends = found.estimate.missing, found.difference()["ci"]
        covered += ends[0] <= 0 <= ends[1] if ends else missing is not None
        false += found.status(True, 0.95) in ("improved", "worse")
    assert covered / 500 >= 0.925
    assert false / 500 <= 0.065


def test_the_percentile_interval_would_not() -> None:
    """What these simulations can tell: resampled quantiles miss the truth too often."""
    covered = 0
    _, _, draw = WORLDS["0/1, 5 % differ, 50 rows"]
    for trial in range(300):
        a, b = draw(np.random.default_rng([17, trial]))
        (sums,) = Resamples(50, 600, trial).bootstrap([(b - a)[:, None].astype(float)])
        low, high = np.quantile(sums, [0.025, 0.975])
        covered += low <= 0 <= high and low < high
    assert covered / 300 < 0.925
