"""An extrapolated learning curve covers what it should, and says nothing where it knows nothing."""

import numpy as np
import pytest

from vlmtune.report.learning_curve_page import render, sentence
from vlmtune.scoring.learning_curve import extrapolate

SIZES = [125, 250, 500, 1000]


def truth(rows: int, exponent: float) -> float:
    return float(0.8 - 0.5 * (rows / 125) ** -exponent)


def covered(exponent: float, scatter: float, seeds: int, trials: int = 60) -> float:
    """Share of simulated curves whose interval covers what is then measured with twice as many rows."""
    hits, sizes = 0, SIZES * seeds
    for trial in range(trials):
        rng = np.random.default_rng([trial, 7])
        rows = rng.normal(0, 0.3, 200)
        scores = np.array(
            [
                truth(n, exponent) + rng.normal(0, scatter) + rows + rng.normal(0, 0.3, 200)
                for n in [*sizes, *[2000] * seeds]
            ]
        )
        resampled = scores[: len(sizes), rng.integers(0, 200, (300, 200))].mean(axis=2).T
        found = extrapolate(sizes, resampled, 2000, trial)
        assert found is not None
        measured = scores[len(sizes) :].mean() - scores[np.array([*sizes, *[0] * seeds]) == 1000].mean()
        hits += found.low <= measured <= found.high
    return hits / trials


@pytest.mark.parametrize("exponent", [0.2, 0.5, 1.2])
@pytest.mark.parametrize(("scatter", "seeds"), [(0.0, 1), (0.03, 1), (0.03, 3)])
def test_the_interval_covers_what_is_measured_later(exponent: float, scatter: float, seeds: int) -> None:
    share = covered(exponent, scatter, seeds)
    print(share)
    assert share >= 0.85


def test_more_seeds_and_more_rows_narrow_it() -> None:
    rng = np.random.default_rng(1)
    wide = SIZES
    found = []
    for sizes, noise in ((wide, 0.03), (wide * 3, 0.03), (wide * 3, 0.003)):
        scores = np.array([truth(n, 0.5) for n in sizes]) + rng.normal(0, noise, len(sizes))
        found.append(extrapolate(sizes, np.repeat(scores[None], 500, axis=0), 2000))
    widths = [each.high - each.low for each in found if each is not None]
    assert widths == sorted(widths, reverse=True)
    assert found[2] is not None
    assert found[2].low > 0


def test_two_sizes_are_not_extrapolated() -> None:
    assert extrapolate([100, 200, 200], np.zeros((10, 3)), 400) is None


def result(low: float, high: float, better: bool = True) -> dict[str, object]:
    points = [{"rows": n, "score": 0.1 * k, "low": 0.0, "high": 0.5, "seeds": [0.1 * k]} for k, n in enumerate(SIZES)]
    ahead = [{"rows": 2000, "change": (low + high) / 2, "low": low, "high": high}]
    names = {"metric": "<bleu>", "higher_is_better": better, "scale": 1.0, "evaluated_rows": 60, "fewest_sizes": 3}
    return {**names, "points": points, "extrapolations": ahead}


def test_the_sentence_claims_no_more_than_the_interval() -> None:
    assert "Twice as many would change it by +0.0200 to +0.0500" in sentence(result(0.02, 0.05))
    assert "is not shown" in sentence(result(-0.02, 0.05))
    assert "is not shown" in sentence(result(0.02, 0.05, better=False))
    assert "Twice as many" in sentence(result(-0.05, -0.02, better=False))
    assert "Fewer than 3 sizes" in sentence({**result(0, 1), "extrapolations": []})
    page = render(result(0.02, 0.05))
    assert "&lt;bleu&gt; over train rows" in page
    assert "<bleu>" not in page
