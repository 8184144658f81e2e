"""Simulated comparisons with a known true difference: how often does an interval exclude 0, or a test detect it?

Every row's prediction is its score, written as a number; a comparison takes the same path as real files. Used by
tests/invariants/test_calibration.py and, with more trials, by benchmarks/calibration.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.metrics import Metric
from vlmtune.predictions import Line
from vlmtune.scoring import EvaluationConfig, StatisticsConfig
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.tasks import Task, TaskConfig

Scores = NDArray[np.float64]
MEAN = Metric(
    name="mean",
    measure=lambda answers, truths: np.array([[float(answer), 1.0] for answer in answers]),
    summarise=lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1),
    signature="mean of the numbers",
)
TASK = Task(prompt=lambda c, e: (), target=lambda c, e: "", parse=lambda c, text: text, metrics=(MEAN,))


def compared(
    a: Sequence[Scores], b: Sequence[Scores], rows_per_group: int = 1, seed: int = 0, **manifest: object
) -> Comparison:
    """Compare sides of one or several files, each given as its rows' scores [N]."""
    evaluation = EvaluationConfig(statistics=StatisticsConfig(resamples=600, seed=seed))
    sides = []
    for name, files in (("a", a), ("b", b)):
        made = [
            [
                Line(f"{n}", repr(float(value)), {"references": [f"{n}"]}, cluster=f"g{n // rows_per_group}")
                for n, value in enumerate(scores)
            ]
            for scores in files
        ]
        beside = {"mock": False, **manifest} if name == "b" and manifest else None
        sides.append(tuple(PredictionFile(f"{name}{k}", lines, beside) for k, lines in enumerate(made)))
    return compare(sides[0], sides[1], TASK, TaskConfig(name="simulated"), evaluation)


@dataclass(frozen=True)
class World:
    """How scores come about: each row's difficulty, which both sides share, and what is specific to a side.

    `noise` is the spread of a side on each row, `cluster` that on each group of rows, `seed_effect` the standard
    deviation of a training seed over all rows alike. Scores are skewed: all are exponential but the seed effect.
    """

    groups: int = 80
    rows_per_group: int = 1
    noise: float = 1.0
    cluster: float = 0.0
    seed_effect: float = 0.0
    seeds: int = 1
    baseline_seeds: int | None = None
    """Seeds of side A, if other than B's; a single one stands for the untouched model, which has no seed effect."""

    def draw(self, rng: np.random.Generator, effect: float = 0.0) -> tuple[list[Scores], list[Scores]]:
        """The files of both sides; B's scores are higher by `effect`."""
        rows = self.groups * self.rows_per_group
        difficulty = rng.exponential(1, rows)
        sides = []
        for shift, seeds in ((0.0, self.baseline_seeds or self.seeds), (effect, self.seeds)):
            seed_effect = self.seed_effect if seeds > 1 or self.baseline_seeds is None else 0.0
            # A side's score on a group is the same for all of its seeds.
            by_group = np.repeat(rng.exponential(self.cluster or 0, self.groups), self.rows_per_group)
            sides.append(
                [
                    difficulty + by_group + rng.exponential(self.noise, rows) + rng.normal(0, seed_effect) + shift
                    for _ in range(seeds)
                ]
            )
        return sides[0], sides[1]


def under_the_null(world: World, trials: int, seed: int) -> dict[str, float]:
    """Shares of comparisons without a true difference in which the interval excludes 0, p is below 0.05, or both."""
    excluded = significant = verdicts = 0
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        entry = compared(*world.draw(rng), world.rows_per_group, seed=trial).result["metrics"][0]
        excluded += entry["ci"] is not None and not entry["ci"][0] <= 0 <= entry["ci"][1]
        significant += entry["p"] is not None and entry["p"] < 0.05
        verdicts += entry["status"] in ("improved", "worse")
    return {"excluded": excluded / trials, "significant": significant / trials, "verdicts": verdicts / trials}


def power(world: World, trials: int, seed: int) -> float:
    """Share of comparisons that find a true difference as large as a first comparison printed as detectable."""
    found = tried = 0
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        printed = compared(*world.draw(rng), world.rows_per_group, seed=trial).result["metrics"][0]["detectable"]
        if printed is None:  # no interval
            continue
        tried += 1
        found += compared(*world.draw(rng, printed), world.rows_per_group, seed=trial).status == "improved"
    return found / tried


def best_of(checkpoints: int, world: World, trials: int, seed: int, declared: bool) -> dict[str, float]:
    """Shares of each status when the best of equal checkpoints is compared on the rows that chose it.

    `declared`: whether the manifest lists the rows that chose it.
    """
    counts: dict[str, int] = {}
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        rows = world.groups * world.rows_per_group
        difficulty = rng.exponential(1, rows)
        files = [difficulty + rng.exponential(world.noise, rows) for _ in range(checkpoints + 1)]
        best = max(files[1:], key=lambda scores: float(scores.mean()))
        chosen = {"selection_ids": [f"{n}" for n in range(rows)]} if declared else {}
        status = compared(files[:1], [best], seed=trial, **chosen).status
        counts[status] = counts.get(status, 0) + 1
    return {status: count / trials for status, count in counts.items()}


def after_search(settings: int, world: World, trials: int, seed: int) -> dict[str, float]:
    """Shares of searches over settings that change nothing after which a comparison finds a significant improvement.

    "fresh": as `vlmtune search` compares, the best settings trained again, on rows that no trial has seen. "reused":
    the best trial's own adapter, on the validation rows that chose it.
    """
    found = {"fresh": 0, "reused": 0}
    rows = world.groups * world.rows_per_group
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        difficulty = rng.exponential(1, rows)
        base, *tried = (difficulty + rng.exponential(world.noise, rows) for _ in range(settings + 1))
        best = max(tried, key=lambda scores: float(scores.mean()))
        sides = {"reused": ([base], [best]), "fresh": world.draw(rng)}
        for name, (a, b) in sides.items():
            found[name] += compared(a, b, seed=trial).status == "improved"
    return {name: count / trials for name, count in found.items()}
