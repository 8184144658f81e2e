"""CPU seconds and memory per sample of the classic loop, of TRL and of our own step, and what each saving is worth.

    uv sync --group bench
    OMP_NUM_THREADS=1 python benchmarks/training/run.py                    # writes results.json and README.md

All arms take turns in one process, round after round, so that a busy machine is busy for all; what counts is the CPU
time of the whole process, threads included, over one epoch with its decoding. Memory is measured in one
process per arm.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHAPES = {"like 8B": "LIKE_8B", "head-heavy": "HEAD_HEAVY"}
FEW = ("classic loop", "TRL as shipped", "TRL, its CUDA head path", "ours")
FIVE = "ours, five captions"
PROMISED = {
    ("like 8B", "classic loop", "ours"): 1.10,
    ("like 8B", "TRL, its CUDA head path", "ours"): 1.05,
    ("head-heavy", "classic loop", "ours"): 2.8,
    ("like 8B", f"{FIVE}, separate sequences", FIVE): 2.5,
}
"""Ratios of CPU seconds that are to be reached at least: (shape, slower arm, faster arm)."""


def prepared(shape: str, names: list[str], samples: int, folder: Path) -> dict[str, Any]:
    """The epochs of some arms on one checkpoint and the same photos."""
    import torch
    import transformers
    import workload
    from arms import ARMS

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    model = workload.build(getattr(workload, SHAPES[shape]), folder / shape)
    photos = workload.photos(samples, folder / f"{shape} photos")
    return {name: ARMS[name](model, photos) for name in names}


def names_of(shape: str) -> list[str]:
    """The arms measured on a shape."""
    from arms import ARMS

    return list(ARMS) if shape == "like 8B" else list(FEW)


def timed(shape: str, rounds: int, samples: int) -> dict[str, list[float]]:
    """CPU seconds per sample, or per caption with five a photo, of each arm in each round but the first."""
    with tempfile.TemporaryDirectory() as folder:
        epochs = prepared(shape, names_of(shape), samples, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in epochs}
        for number in range(rounds + 1):
            for name, epoch in epochs.items():
                begin = time.process_time()
                epoch()
                answers = samples * (5 if name.startswith(FIVE) else 1)
                if number:
                    seconds[name].append((time.process_time() - begin) / answers)
    return seconds


def peak(shape: str, name: str, samples: int) -> float:
    """Megabytes that training takes at most over what was there before its first step (Linux)."""
    with tempfile.TemporaryDirectory() as folder:
        epoch = prepared(shape, [name], samples, Path(folder))[name]
        Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak
        before = memory("VmRSS")
        epoch()
        return memory("VmHWM") - before


def memory(field: str) -> float:
    """Megabytes of this process, from the kernel (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000


def child(*words: str) -> Any:
    """What this script prints, last, when started anew."""
    ended = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1])


def ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Ratio of the medians, with the smallest and the largest ratio of a round.

    A mean of the rounds' ratios follows a single round that something else disturbed; with seven rounds, the range
    contains the true median of a round's ratio in 98 of 100 measurements.
    """
    rounds = [a / b for a, b in zip(slow, fast, strict=True)]
    return statistics.median(slow) / statistics.median(fast), min(rounds), max(rounds)


def ratios(seconds: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """The ratios that are to be reached."""
    found = []
    for (shape, slow, fast), promised in PROMISED.items():
        middle, low, high = ratio(seconds[shape][slow], seconds[shape][fast])
        found.append(
            {"shape": shape, "slow": slow, "fast": fast, "ratio": middle, "range": [low, high], "promised": promised}
        )
    return found


def measure(rounds: int, samples: int) -> dict[str, Any]:
    """Everything."""
    common = ["--samples", str(samples), "--rounds", str(rounds)]
    seconds = {shape: child("--time", shape, *common) for shape in SHAPES}
    peaks = {shape: {name: child("--memory", shape, "--arm", name, *common) for name in FEW} for shape in SHAPES}
    packages = {}
    for name in ("torch", "transformers", "peft", "trl", "accelerate"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    return {
        "samples": samples,
        "rounds": rounds,
        "machine": machine,
        "packages": packages,
        "cpu_s_per_answer": seconds,
        "peak_mb_over_model": peaks,
        "ratios": ratios(seconds),
    }


def readme(results: dict[str, Any]) -> str:
    """The results as Markdown."""

    def middle(values: list[float]) -> str:
        return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"

    rows, mine = [], {shape: arms["ours"] for shape, arms in results["cpu_s_per_answer"].items()}
    for shape, arms in results["cpu_s_per_answer"].items():
        for name, values in arms.items():
            against = arms[FIVE] if name.startswith(FIVE) else mine[shape]
            share = ratio(values, against)[0]
            peaks = results["peak_mb_over_model"][shape].get(name)
            rows.append(f"| {shape} | {name} | {middle(values)} | {share:.2f} | {f'{peaks:.0f}' if peaks else ''} |")
    proved = [
        f"| {r['shape']} | {r['slow']} / {r['fast']} | {r['ratio']:.2f} ({r['range'][0]:.2f}-{r['range'][1]:.2f}) "
        f"| >= {r['promised']:.2f} |"
        for r in results["ratios"]
    ]
    return (
        (HERE / "page.md")
        .read_text()
        .format(
            samples=results["samples"],
            rounds=results["rounds"],
            table="\n".join(rows),
            ratios="\n".join(proved),
            machine=results["machine"],
            packages=", ".join(f"{name} {number}" for name, number in results["packages"].items()),
        )
    )


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--time", choices=SHAPES)
    parser.add_argument("--memory", choices=SHAPES)
    parser.add_argument("--arm")
    parser.add_argument("--page", action="store_true", help="only write README.md again from results.json")
    given = parser.parse_args()
    file = HERE / "results.json"
    if given.page:
        results = json.loads(file.read_text())
        results["ratios"] = ratios(results["cpu_s_per_answer"])
        file.write_text(json.dumps(results, indent=1) + "\n")
        (HERE / "README.md").write_text(readme(results))
        return
    if find_spec("trl") is None:
        parser.error("TRL is one of the arms and not installed here: uv sync --group bench")
    sys.path.insert(0, str(HERE))
    if given.time:
        print("\n" + json.dumps(timed(given.time, given.rounds, given.samples)))
    elif given.memory:
        print("\n" + json.dumps(peak(given.memory, given.arm, given.samples)))
    else:
        results = measure(given.rounds, given.samples)
        file.write_text(json.dumps(results, indent=1) + "\n")
        (HERE / "README.md").write_text(readme(results))
        print(readme(results))


if __name__ == "__main__":
    main()
