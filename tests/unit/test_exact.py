"""Closed forms equal the published ones (statsmodels, scipy, tables)."""

import json
from itertools import product
from pathlib import Path

import pytest

from vlmtune.scoring.statistics import holm, mcnemar, student_quantile, wilson

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "metric_vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS["mcnemar"]["vectors"])
def test_mcnemar_is_statsmodels(vector: dict[str, float]) -> None:
    assert mcnemar(int(vector["b"]), int(vector["c"])) == pytest.approx(vector["exact"], abs=1e-12)
    assert mcnemar(int(vector["c"]), int(vector["b"])) == mcnemar(int(vector["b"]), int(vector["c"]))


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
