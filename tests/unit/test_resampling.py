"""Intervals and p-values: equal to the slow way, honest under the null, whole groups together."""

import itertools

import numpy as np
import pytest

from vlmtune.scoring.statistics import Resamples, by_group, estimate_difference

RNG = np.random.default_rng(7)


def ratio(sums: np.ndarray) -> np.ndarray:
    """A corpus metric that is not a mean of rows."""
    return sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1)


def test_a_resample_is_the_metric_of_drawn_groups() -> None:
    stats = RNG.integers(0, 9, (30, 2)).astype(float)
    resamples = Resamples(30, 200, seed=3)
    (sums,) = resamples.bootstrap([stats])
    drawn = np.random.default_rng([3, 0]).integers(0, 30, (200, 30), dtype=np.int32)
    assert np.array_equal(sums, stats[drawn].sum(axis=1))


def test_chunks_do_not_change_the_number_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = RNG.random((30, 2))
    monkeypatch.setattr("vlmtune.scoring.statistics._COUNTS_AT_ONCE", 7 * 30)
    a, b = Resamples(30, 100, seed=0).bootstrap([stats, stats])
    assert a.shape == (100, 2)
    assert np.array_equal(a, b), "both sides see the same draws"
    assert Resamples(30, 100, seed=0).randomize(stats, stats)[0].shape == (100, 2)


def test_p_value_agrees_with_every_possible_exchange() -> None:
    a, b = RNG.random((10, 1)), RNG.random((10, 1)) + 0.25
    observed = float(b.sum() - a.sum())
    signs = np.array(list(itertools.product([1, -1], repeat=10)))
    exact = np.mean(np.abs(signs @ (b - a)[:, 0]) >= abs(observed) - 1e-12)
    one, other = Resamples(10, 20_000, seed=0).randomize(a, b)
    found = estimate_difference((b - a).sum(axis=0) + np.zeros(20_000), (other - one)[:, 0], observed, 0.95)
    assert 0.001 < exact < 0.5
    assert found.p == pytest.approx(exact, abs=0.01)


def test_under_the_null_nothing_is_found_more_often_than_promised() -> None:
    excluded = significant = 0
    trials = 400
    for trial in range(trials):
        rng = np.random.default_rng([11, trial])
        rows = np.stack([rng.random(60), np.ones(60)], axis=1)
        a, b = (rows + np.stack([rng.normal(0, 0.3, 60), np.zeros(60)], axis=1) for _ in range(2))
        resamples = Resamples(60, 600, seed=trial)
        before, after = (ratio(sums) for sums in resamples.bootstrap([a, b]))
        one, other = resamples.randomize(a, b)
        observed = float(ratio(b.sum(axis=0)) - ratio(a.sum(axis=0)))
        found = estimate_difference(after - before, ratio(other) - ratio(one), observed, 0.95)
        excluded += not found.low <= 0 <= found.high
        significant += found.p < 0.05
    assert 0.03 <= excluded / trials <= 0.08
    assert 0.03 <= significant / trials <= 0.08


def test_rows_of_a_group_stay_together() -> None:
    stats = np.array([[1.0], [2.0], [4.0], [8.0]])
    assert by_group(stats, ["x", "y", "x", "z"]).tolist() == [[5.0], [2.0], [8.0]]


def test_equal_sides_give_exactly_zero() -> None:
    stats = RNG.random((500, 7))
    a, b = Resamples(500, 300, seed=0).bootstrap([stats, stats.copy()])
    found = estimate_difference(ratio(b) - ratio(a), np.zeros(300), 0.0, 0.95)
    assert (found.low, found.high, found.standard_error, found.p) == (0.0, 0.0, 0.0, 1.0)
