"""Intervals and p-values: equal to the slow computation and to published closed forms, calibrated under the null."""

import itertools
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from vlmtune.scoring.statistics import (
    Resamples,
    by_group,
    estimate_seed_difference,
    holm,
    mcnemar,
    randomization_p,
    student_quantile,
    wilson,
)

RNG = np.random.default_rng(7)


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
    assert next(Resamples(30, 100, seed=0).randomize([(stats, stats)]))[0].shape == (100, 2)


def test_p_value_agrees_with_every_possible_exchange() -> None:
    a, b = RNG.random((10, 1)), RNG.random((10, 1)) + 0.25
    observed = float(b.sum() - a.sum())
    signs = np.array(list(itertools.product([1, -1], repeat=10)))
    exact = np.mean(np.abs(signs @ (b - a)[:, 0]) >= abs(observed) - 1e-12)
    one, other = next(Resamples(10, 20_000, seed=0).randomize([(a, b)]))
    assert 0.001 < exact < 0.5
    assert randomization_p((other - one)[:, 0], observed) == pytest.approx(exact, abs=0.01)


def test_rows_of_a_group_stay_together() -> None:
    stats = np.array([[1.0], [2.0], [4.0], [8.0]])
    assert by_group(stats, ["x", "y", "x", "z"]).tolist() == [[5.0], [2.0], [8.0]]


def test_equal_sides_have_the_largest_p_value() -> None:
    assert randomization_p(np.zeros(300), 0.0) == 1


VECTORS = json.loads((Path(__file__).parents[1] / "data" / "metric_vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS["mcnemar"]["vectors"])
def test_mcnemar_is_statsmodels_exact_test_with_half_of_the_observed(vector: dict[str, float]) -> None:
    only_a, only_b = int(vector["b"]), int(vector["c"])
    observed = binom.pmf(only_a, only_a + only_b, 0.5) if only_a != only_b else 0
    assert mcnemar(only_a, only_b) == pytest.approx(vector["exact"] - observed, abs=1e-12)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)


def test_mcnemar_of_many_rows_does_not_overflow() -> None:
    assert mcnemar(5000, 5000) == 1
    assert 0 < mcnemar(4800, 5200) < 1e-4


@pytest.mark.parametrize("vector", VECTORS["wilson_interval_95"]["vectors"])
def test_wilson_is_statsmodels(vector: dict[str, object]) -> None:
    assert wilson(vector["k"], vector["n"], 0.95) == pytest.approx(vector["ci"], abs=1e-9)


def test_wilson_widens_with_confidence() -> None:
    (low, high), (lower, higher) = wilson(30, 100, 0.95), wilson(30, 100, 0.99)
    assert lower < low < 0.3 < high < higher


def test_holm_by_hand_and_in_order() -> None:
    # The least of three is tripled, the next doubled, and none may fall below one before it.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []
    assert holm([0.02]) == [0.02]
    assert holm([0.9, 0.8]) == [1, 1]


def test_holm_never_lowers_a_p_value_nor_changes_their_order() -> None:
    for p_values in product([0.001, 0.02, 0.02, 0.4], repeat=3):
        adjusted = holm(p_values)
        assert all(after >= before for before, after in zip(p_values, adjusted, strict=True))
        pairs = list(zip(p_values, adjusted, strict=True))
        assert all(x <= y for (p, x), (q, y) in product(pairs, repeat=2) if p < q)


@pytest.mark.parametrize(
    ("level", "df", "expected"),
    # scipy 1.17.1, scipy.stats.t.ppf
    [
        (0.975, 1, 12.7062047),
        (0.8, 1.5, 1.1533644),
        (0.975, 2, 4.3026527),
        (0.975, 3.7, 2.8675207),
        (0.975, 10, 2.2281389),
        (0.8, 100, 0.8452304),
        (0.975, 5000, 1.9604386),
    ],
)
def test_student_s_t_is_scipy_s(level: float, df: float, expected: float) -> None:
    assert student_quantile(level, df) == pytest.approx(expected, rel=2e-5)


def test_with_many_degrees_of_freedom_t_is_normal() -> None:
    assert student_quantile(0.975, 1e6) == pytest.approx(1.959964, abs=1e-5)
    assert student_quantile(0.975, 9_999) == pytest.approx(student_quantile(0.975, 10_001), abs=3e-4)


def test_the_variance_is_rows_plus_between_seeds() -> None:
    """Noise that all seeds share, and an effect of each seed: the textbook's numbers."""
    shared = RNG.normal(0, 0.5, 20_000)
    a, b = [1.0, 1.4, 1.9], [2.0, 2.2]
    found = estimate_seed_difference(
        (a, b), tuple(np.array(x)[:, None] + side * shared for x, side in ((a, 0), (b, 1))), 50, 0.95
    )
    parts = {49: shared.var(ddof=1), 2: np.var(a, ddof=1) / 3, 1: np.var(b, ddof=1) / 2}
    variance = sum(parts.values())
    df = variance**2 / sum(part**2 / own for own, part in parts.items())
    assert found.standard_error == pytest.approx(np.sqrt(variance))
    assert found.high - found.low == pytest.approx(2 * student_quantile(0.975, df) * np.sqrt(variance))
    assert (found.low + found.high) / 2 == pytest.approx(2.1 - np.mean(a))


def test_sampling_noise_of_the_rows_is_not_counted_as_a_seed_effect() -> None:
    """Seeds that differ by no more than their rows do by chance: the interval is that of the rows."""
    drawn = RNG.normal(0, 0.3, (3, 20_000))
    found = estimate_seed_difference(([0.0], [0.1, 0.0, -0.1]), (np.zeros((1, 20_000)), drawn), 500, 0.95)
    assert found.standard_error == pytest.approx(0.3 / np.sqrt(3), rel=0.02)
