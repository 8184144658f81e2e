"""How often intervals exclude what is not there, and find what is there. Writes results.json and README.md.

    OMP_NUM_THREADS=1 python benchmarks/calibration/run.py [--trials 2000]

Seeded, so the same numbers come out again. tests/invariants/test_calibration.py runs a small version of every line.
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from simulations import World, best_of, compared, power, under_the_null  # noqa: E402

from vlmtune.scoring import statistics as statistics_module  # noqa: E402

WORLDS = {
    "one row per image": World(),
    "one row per image, 500 images": World(groups=500),
    "five rows per image": World(groups=40, rows_per_group=5, cluster=1.0),
    "three seeds a side, no seed effect": World(seeds=3),
    "three seeds a side, seed effect as large as row noise": World(seeds=3, seed_effect=0.11),
    "three seeds a side, large seed effect": World(seeds=3, seed_effect=0.3),
    "three seeds against one baseline, seed effect as large as row noise": World(
        seeds=3, seed_effect=0.11, baseline_seeds=1
    ),
    "three seeds against one baseline, large seed effect": World(seeds=3, seed_effect=0.3, baseline_seeds=1),
    "two seeds against one baseline, large seed effect": World(seeds=2, seed_effect=0.3, baseline_seeds=1),
    "two seeds a side, seed effect twice the row noise": World(seeds=2, seed_effect=0.16),
}


def ungrouped(trials: int) -> float:
    """Five rows per image, taken for independent."""
    world, different = WORLDS["five rows per image"], 0
    for trial in range(trials):
        rng = np.random.default_rng([1, trial])
        different += compared(*world.draw(rng), seed=trial).status != "no_difference"
    return different / trials


def counted_twice(world: World, trials: int) -> float:
    """Rows + between seeds / K, with the row noise left in both."""
    honest = statistics_module._seed_variance

    def plain(scores: Any, drawn: Any) -> tuple[float, float, int]:
        spread, _, count = honest(scores, drawn)
        return spread, 0.0, count

    with mock.patch.object(statistics_module, "_seed_variance", plain):
        return under_the_null(world, trials, seed=1)["excluded"]


def measure(trials: int) -> dict[str, Any]:
    """Everything the page shows."""
    null = {name: under_the_null(world, trials, seed=1) for name, world in WORLDS.items()}
    found = {name: power(world, trials // 2, seed=2) for name, world in WORLDS.items()}
    several = {name: counted_twice(world, trials // 2) for name, world in WORLDS.items() if world.seeds > 1}
    wrong = {
        "five rows per image, taken for independent": ungrouped(trials // 2),
        "one seed a side, large seed effect, taken for the recipe": under_the_null(
            World(seed_effect=0.3), trials // 2, 1
        )["excluded"],
        **{f"{name}; row noise counted twice": share for name, share in several.items()},
    }
    best = {
        f"selection declared: {declared}": best_of(10, World(), trials // 4, seed=3, declared=declared)
        for declared in (False, True)
    }
    return {"null": null, "power": found, "wrong ways": wrong, "best of ten": best}


def page(results: dict[str, Any]) -> str:
    """README.md."""
    lines = [
        "# Coverage of confidence intervals",
        "",
        "<!-- Written by run.py. -->",
        "",
        f"Simulated scores with a known true difference: {results['trials']} comparisons per line, with 600 resamples",
        "each, of 80 images (40 with five rows each) unless the line says otherwise. Scores are skewed (exponential).",
        "A 95 % interval should exclude 0 in 5 % of comparisons without a difference. Power, which should be 80 %, is",
        "how often a true difference is found that is as large as an independent comparison reports as `detectable`,",
        "measured with half as many comparisons.",
        "",
        "| no true difference | interval excludes 0 | p < 0.05 | power |",
        "|---|---|---|---|",
    ]
    for name, shares in results["null"].items():
        p = "-" if results["worlds"][name]["seeds"] > 1 else f"{shares['significant']:.1%}"
        lines.append(f"| {name} | {shares['excluded']:.1%} | {p} | {results['power'][name]:.0%} |")
    lines += ["", "The same for wrong methods, without a true difference:", "", "| | excludes 0 |", "|---|---|"]
    lines += [f"| {name} | {share:.1%} |" for name, share in results["wrong ways"].items()]
    undeclared, declared = (
        results["best of ten"]["selection declared: False"],
        results["best of ten"]["selection declared: True"],
    )
    lines += [
        "",
        "The best of ten equally good checkpoints, compared on the rows that selected it, is called improved in "
        f"{undeclared.get('improved', 0):.0%} of",
        "comparisons (2.5 % would be right); with those rows named in its manifest, "
        f"{declared.get('inconclusive', 0):.0%} are inconclusive.",
        "",
        f"Command: `{results['command']}`; {results['cpu_s']:.0f} CPU-s; {results['machine']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    before = time.process_time()
    results = {"trials": trials, "worlds": {name: asdict(world) for name, world in WORLDS.items()}, **measure(trials)}
    results["command"] = "OMP_NUM_THREADS=1 python benchmarks/calibration/run.py" + (
        f" --trials {trials}" if trials != 2000 else ""
    )
    results["cpu_s"] = round(time.process_time() - before, 1)
    results["machine"] = f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
