"""How often intervals hold the truth, exclude what is not there, and find what is there.

    OMP_NUM_THREADS=1 python benchmarks/calibration/run.py                      # results.json, README.md
    OMP_NUM_THREADS=1 python benchmarks/calibration/run.py --only intervals     # renews one part of both

Seeded, so the same numbers come out again. tests/invariants/test_calibration.py runs a small version of every line.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests")]

import coverage  # noqa: E402
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


def measure_comparisons(trials: int) -> dict[str, Any]:
    """Whole comparisons, of one file or several seeds a side."""
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
    worlds = {name: asdict(world) for name, world in WORLDS.items()}
    return {"worlds": worlds, "null": null, "power": found, "wrong ways": wrong, "best of ten": best}


def measure_intervals(trials: int) -> dict[str, Any]:
    """Every kind of difference at every number of groups."""
    cells = []
    for cell in coverage.cells():
        for groups in coverage.GROUPS:
            cells.append(coverage.measure(cell, groups, trials))
            print(json.dumps(cells[-1]), file=sys.stderr, flush=True)
    return {"cells": cells}


def by_groups(cells: Sequence[dict[str, Any]], show: Callable[[dict[str, Any]], str]) -> list[str]:
    """A table with a line for each kind of difference and a column for each number of groups."""
    lines = [f"| differences | {' | '.join(f'{groups} groups' for groups in coverage.GROUPS)} |"]
    lines.append("|---|" + "---|" * len(coverage.GROUPS))
    for name in dict.fromkeys(cell["cell"] for cell in cells):
        lines.append(f"| {name} | {' | '.join(show(cell) for cell in cells if cell['cell'] == name)} |")
    return lines


def intervals_page(part: dict[str, Any]) -> list[str]:
    """The tables of coverage, false verdicts and width."""
    cells = part["cells"]

    def covered(cell: dict[str, Any]) -> str:
        after = "inconclusive" if cell["no_interval"] > 0.5 else f"{cell['covered']:.1%}"
        return f"{cell['covered_before']:.1%} → {after}"

    def width(cell: dict[str, Any]) -> str:
        ratio = "-" if cell["width"] is None else f"{cell['width'] / cell['width_before_where_given']:.2f}"
        return ratio + (f", {cell['no_interval']:.0%} without" if cell["no_interval"] >= 0.005 else "")

    return [
        "## Intervals by kind of difference",
        "",
        f"{part['trials']} comparisons per cell. Before: the percentile interval of the paired bootstrap, which most",
        "tools give. After: the method that [docs/statistics.md](../../docs/statistics.md#which-interval) names for",
        "the kind. Nominal coverage is 95 %. Where fewer than 5 rows differ there is a bound instead of an interval,",
        "and counts as one. Where no method keeps the level there is neither, which claims nothing and counts as",
        "covering; *inconclusive* stands where that is so in most comparisons.",
        "",
        *by_groups(cells, covered),
        "",
        "False verdicts, in cells without a true difference: how often a change is called improved or worse. Before,",
        "that is an interval that excludes 0; after, interval and test have to agree.",
        "",
        *by_groups(
            [cell for cell in cells if cell["null"]],
            lambda cell: f"{cell['verdicts_before']:.1%} → {cell['verdicts']:.1%}",
        ),
        "",
        "What it costs: the mean width as a multiple of the percentile interval's, and the share of comparisons",
        "without interval and bound.",
        "",
        *by_groups(cells, width),
        "",
        "How often a true difference is found, before and after:",
        "",
        *by_groups(
            [cell for cell in cells if not cell["null"]],
            lambda cell: f"{cell['verdicts_before']:.0%} → {cell['verdicts']:.0%}",
        ),
        "",
        _made(part),
    ]


def comparisons_page(part: dict[str, Any]) -> list[str]:
    """The tables of whole comparisons."""
    lines = [
        "## Whole comparisons",
        "",
        f"Simulated scores with a known true difference: {part['trials']} comparisons per line, with 600 resamples",
        "each, of 80 images (40 with five rows each) unless the line says otherwise. Scores are skewed (exponential).",
        "A 95 % interval should exclude 0 in 5 % of comparisons without a difference; a verdict wants the test to",
        "agree. Power, which should be 80 %, is how often a true difference is found that is as large as an",
        "independent comparison reports as `detectable`, measured with half as many comparisons.",
        "",
        "| no true difference | interval excludes 0 | p < 0.05 | verdict | power |",
        "|---|---|---|---|---|",
    ]
    for name, shares in part["null"].items():
        p = "-" if part["worlds"][name]["seeds"] > 1 else f"{shares['significant']:.1%}"
        cells = (f"{shares['excluded']:.1%}", p, f"{shares['verdicts']:.1%}", f"{part['power'][name]:.0%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "The same for wrong methods, without a true difference:", "", "| | excludes 0 |", "|---|---|"]
    lines += [f"| {name} | {share:.1%} |" for name, share in part["wrong ways"].items()]
    undeclared, declared = (part["best of ten"][f"selection declared: {known}"] for known in (False, True))
    return [
        *lines,
        "",
        "The best of ten equally good checkpoints, compared on the rows that selected it, is called improved in "
        f"{undeclared.get('improved', 0):.0%} of",
        "comparisons (2.5 % would be right); with those rows named in its manifest, "
        f"{declared.get('inconclusive', 0):.0%} are inconclusive.",
        "",
        _made(part),
    ]


def _made(part: dict[str, Any]) -> str:
    note = f" {part['note']}" if "note" in part else ""
    return f"Command: `{part['command']}`; {part['cpu_s']:.0f} CPU-s; {part['machine']}.{note}"


PARTS = {"intervals": (measure_intervals, intervals_page), "comparisons": (measure_comparisons, comparisons_page)}
"""What is measured, and how it is shown."""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--only", choices=list(PARTS))
    given = parser.parse_args()
    file = HERE / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in [given.only] if given.only else PARTS:
        before = time.process_time()
        part = {"trials": given.trials, **PARTS[name][0](given.trials)}
        part["command"] = f"OMP_NUM_THREADS=1 python benchmarks/calibration/run.py --only {name}" + (
            f" --trials {given.trials}" if given.trials != 2000 else ""
        )
        part["cpu_s"] = round(time.process_time() - before, 1)
        part["machine"] = f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
        results[name] = part
    results = {name: results[name] for name in PARTS if name in results}
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    lines = ["# Coverage of confidence intervals", "", "<!-- Written by run.py. -->"]
    for name, part in results.items():
        lines += ["", *PARTS[name][1](part)]
    (HERE / "README.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
