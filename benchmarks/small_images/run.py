"""CPU and wall time of `vlmtune data check` on many small images, beside a plain loop that decodes the same files.

    OMP_NUM_THREADS=1 python benchmarks/small_images/run.py             # writes results.json and README.md

Half of the files are JPEG, half PNG, each with a caption. The plain loop is `Image.open(file).convert("RGB")` in one
thread. Both take turns in one process, the check without its image index.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmtune import registry, run_layout
from vlmtune.config import Config, load
from vlmtune.dataset_check.runner import DatasetCheck
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest

HERE = Path(__file__).parent
SIZES = ((96, 64), (320, 240))
CONFIG = """\
schema_version: 1
model: {{name: tiny}}
task: {{name: captioning}}
dataset:
  source: jsonl
  path: {folder}
  id: id
  splits: {{train: train.jsonl, validation: few.jsonl, test: few.jsonl}}
  references: [caption]
output: {{dir: {folder}/out}}
"""


def write(folder: Path, count: int, size: tuple[int, int]) -> tuple[Config, list[Path]]:
    """A dataset of smooth random images, and its config."""
    rng, files, lines = np.random.default_rng(0), [], []
    (folder / "images").mkdir(parents=True)
    for n in range(count):
        files.append(folder / "images" / f"{n:06d}.{'jpg' if n % 2 else 'png'}")
        noise = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        noise.resize(size, Image.Resampling.BICUBIC).save(files[-1])
        row = {"id": f"row {n}", "image": f"images/{files[-1].name}", "caption": f"a picture of thing {n} on grass"}
        lines.append(json.dumps(row) + "\n")
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "few.jsonl").write_text("".join(lines[:5]), encoding="utf-8")
    (folder / "check.yaml").write_text(CONFIG.format(folder=folder), encoding="utf-8")
    return load(str(folder / "check.yaml")).config, files


def check(config: Config) -> None:
    """`vlmtune data check`."""
    folder = Path(config.output.dir)
    task, checkpoint = registry.load("tasks", config.task.name).TASK, find_checkpoint(config.model)
    index = folder / ".vlmtune" / run_layout.IMAGE_INDEX
    DatasetCheck(config, task, checkpoint, index, Progress(Silent()), StopRequest()).write(folder)


def decode(files: Sequence[Path]) -> None:
    """Plain decoding."""
    for file in files:
        Image.open(file).convert("RGB")


def timed(work: Callable[[], None]) -> dict[str, float]:
    """CPU seconds of all threads, and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def measure(folder: Path, count: int, size: tuple[int, int], pairs: int) -> dict[str, Any]:
    """Both sides in turn."""
    config, files = write(folder, count, size)
    found = []
    for _ in range(pairs):
        plain = timed(lambda: decode(files))
        shutil.rmtree(config.output.dir, ignore_errors=True)
        found.append({"plain": plain, "check": timed(lambda: check(config))})
        print(size, found[-1], flush=True)
    return {"size": list(size), "count": count, "pairs": found}


def readme(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# What does checking many small images cost?",
        "",
        "<!-- Written by run.py. -->",
        "",
        "`vlmtune data check` beside a loop that decodes the same files in one thread, and nothing else. The check",
        "also reads the rows, writes and tokenizes every conversation, hashes files and pixels, looks for",
        "near-duplicates and writes its page; the smaller the images, the more of its time that is. Medians of",
        f"{len(results['measured'][0]['pairs'])} pairs in turn.",
        "",
        "| images | | plain decoding, ms an image | `data check`, ms an image | ratio |",
        "|---|---|---|---|---|",
    ]
    for entry in results["measured"]:
        name = f"{entry['count']:,} of {entry['size'][0]}x{entry['size'][1]}"
        for unit in ("cpu", "wall"):
            sides = [[pair[side][f"{unit}_s"] for pair in entry["pairs"]] for side in ("plain", "check")]
            plain, ours = (1000 * statistics.median(side) / entry["count"] for side in sides)
            ratios = [after / before for before, after in zip(*sides, strict=True)]
            spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
            lines.append(f"| {name} | {unit.replace('cpu', 'CPU')} | {plain:.2f} | {ours:.2f} | {spread} |")
    lines += ["", f"Command: `{results['command']}`; {results['machine']}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3_000)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        places = [(Path(folder) / f"{size[0]}", size) for size in SIZES]
        measured = [measure(place, asked.count, size, asked.pairs) for place, size in places]
    options = f"--count {asked.count} --pairs {asked.pairs}"
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    results = {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/small_images/run.py {options}",
        "machine": f"{machine}, Pillow {version('pillow')}",
        "measured": measured,
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(readme(results), encoding="utf-8")
    print(readme(results))


if __name__ == "__main__":
    main()
