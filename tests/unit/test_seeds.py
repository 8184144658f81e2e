"""Several training seeds are one side: mean of scores, two sources of chance, never pooled rows."""

from dataclasses import replace

import numpy as np
import pytest
from builders import QUICK, lines
from simulations import compared

from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.scoring.statistics import estimate_seed_difference, student_quantile
from vlmtune.tasks import captioning

RNG = np.random.default_rng(5)


def seeded(*b: PredictionFile, a: PredictionFile | None = None) -> Comparison:
    return compare(a or PredictionFile("base", lines(80, 0.6)), b, captioning.TASK, captioning.Config(), QUICK)


def seeds(count: int, noise: float = 0.4) -> list[PredictionFile]:
    return [PredictionFile(f"seed {n}", lines(80, noise, seed=10 + n)) for n in range(count)]


def test_the_image_control_is_of_all_seeds_that_ran_it() -> None:
    """Not of the first alone, which here looks at the picture as no other does."""
    several = seeds(3)
    blind = [
        {"image": {"lines": [{"id": line.id, "prediction": line.prediction} for line in side.lines]}}
        for side in several
    ]
    seeing = {"image": {"lines": [{"id": line.id, "prediction": "nothing at all here"} for line in several[0].lines]}}
    sides = [replace(side, controls=seeing if n == 0 else blind[n]) for n, side in enumerate(several)]
    found = seeded(*sides).result["controls"]["image"]["b"]
    alone = seeded(sides[0]).result["controls"]["image"]["b"]
    assert found["drop"] == pytest.approx(alone["original"] / 3)
    assert found["rows"] == 80
    part = seeded(sides[0], several[1]).result["controls"]["image"]["b"]
    assert part["drop"] == pytest.approx(alone["drop"]), "a seed whose control was not run is left out"


def test_the_score_is_the_mean_of_the_seeds_and_every_seed_is_named() -> None:
    several = seeds(3)
    found = seeded(*several)
    alone = [seeded(side).result["metrics"][0]["b"] for side in several]
    entry = found.result["metrics"][0]
    assert entry["seeds"] == {"a": [pytest.approx(entry["a"])], "b": pytest.approx(alone)}
    assert entry["b"] == pytest.approx(np.mean(alone))
    assert (entry["p"], entry["p_adjusted"]) == (None, None)
    assert found.result["seeds"] == {"a": ["base"], "b": ["seed 0", "seed 1", "seed 2"]}
    assert all(f"{score:.4f}" in found.verdict for score in alone)
    assert "holds for the recipe" in found.verdict
    assert "holds for this adapter, not for the recipe" in seeded(several[0]).verdict


def test_an_untrained_side_is_no_adapter() -> None:
    prompted = PredictionFile("other prompt", lines(80, 0.3), {"mock": False, "origin": {"adapter": None}})
    assert "adapter" not in seeded(prompted).verdict


def test_the_variance_is_rows_plus_between_seeds() -> None:
    """Noise that all seeds share, and luck of each seed: the textbook's numbers."""
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


def test_chance_on_the_rows_is_not_counted_as_luck_of_the_seeds() -> None:
    """Seeds that differ by no more than their rows do by chance: the interval is that of the rows."""
    drawn = RNG.normal(0, 0.3, (3, 20_000))
    found = estimate_seed_difference(([0.0], [0.1, 0.0, -0.1]), (np.zeros((1, 20_000)), drawn), 500, 0.95)
    assert found.standard_error == pytest.approx(0.3 / np.sqrt(3), rel=0.02)


def test_seeds_are_not_pooled() -> None:
    """Three times the same rows are no more rows: luck of the seed decides how wide the interval is."""
    base = RNG.normal(0, 0.01, 100)
    near, far = ([base + shift for shift in (0.5 - spread, 0.5, 0.5 + spread)] for spread in (0.01, 0.4))
    ends = [compared([base], side).result["metrics"][0]["ci"] for side in (near, far)]
    assert ends[0][0] > 0.45
    assert ends[1][0] < 0 < ends[1][1]
    assert compared([base], far).status == "no_difference"


def test_rows_must_be_in_and_answered_by_every_seed() -> None:
    one, two, three = seeds(3)
    two = replace(two, lines=two.lines[:70])
    gone = [replace(three.lines[0], prediction=None, failure={"stage": "engine", "reason": "x"}), *three.lines[1:]]
    rows = seeded(one, two, replace(three, lines=gone)).result["rows"]
    assert (rows["paired"], rows["compared"], rows["failed_a"], rows["failed_b"]) == (70, 69, 0, 1)


def test_the_same_answers_twice_are_not_two_seeds() -> None:
    one, _ = seeds(2)
    assert (
        "seed 0 and again have the same answers: they are one training run, not two seeds"
        in (seeded(one, replace(one, name="again")).result["warnings"])
    )


def test_seeds_trained_in_unlike_ways_are_said() -> None:
    made = [{"mock": False, "origin": {"adapter": n, "inference": {"max_new_tokens": 32 * n}}} for n in (1, 2)]
    one, two = (replace(side, manifest=manifest) for side, manifest in zip(seeds(2), made, strict=True))
    assert seeded(one, two).result["warnings"][0].startswith("seeds of one side were made differently: inference")


def test_length_alone_can_explain_the_gain_of_several_seeds() -> None:
    wordy = PredictionFile("base", lines(80, 0.5, extra=10))
    short = [PredictionFile(f"seed {n}", lines(80, 0.5, seed=n)) for n in (1, 2)]
    assert "Answer length alone explains it" in seeded(*short, a=wordy).verdict
