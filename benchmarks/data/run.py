"""Planted faults that `vlmtune data check` finds, and its time per image compared with plain decoding.

    OMP_NUM_THREADS=1 python benchmarks/data/run.py                 # writes results.json and README.md
    OMP_NUM_THREADS=1 python benchmarks/data/run.py --count 2000 --rounds 2

Images are noise of 320x240 in JPEG and PNG files; one row in 250 has each of the faults of `planting.py`. Plain
decoding is the lower bound: PIL opens and loads every file, in as many threads as there are cores. Both alternate on
the same files in one process, the check without its image index.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import alike
import numpy as np
import planting
from PIL import Image, UnidentifiedImageError

from vlmtune import registry, run_layout
from vlmtune.config import Config, load
from vlmtune.dataset_check import image_index, near_duplicates, runner
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.types import ImageRef

HERE = Path(__file__).parent
ALIKE = 500
"""Different images of each kind in the sets of images that are alike."""

CONFIG = """\
schema_version: 1
model: {{name: tiny}}
task: {task}
dataset:
  source: jsonl
  path: {folder}
  id: id
  splits: {{train: train.jsonl, validation: validation.jsonl, test: test.jsonl}}
{columns}
training: {{max_tokens: 1000}}
output: {{dir: {folder}/out}}
"""
CAPTIONS = ("{name: captioning}", "  references: [caption]")
LABELS_AND_BOXES = {
    "labels": ("{name: classification, labels: [day, night]}", "  references: [label]"),
    "boxes": ("{name: grounding}", "  question: phrase\n  boxes: box"),
}


def config_of(folder: Path, task: str, columns: str) -> Config:
    """A config for the planted rows."""
    file = folder / "check.yaml"
    file.write_text(CONFIG.format(task=task, folder=folder, columns=columns), encoding="utf-8")
    return load(str(file)).config


def check(config: Config) -> dict[str, Any]:
    """The result of `vlmtune data check`."""
    folder = Path(config.output.dir)
    task, checkpoint = registry.load("tasks", config.task.name).TASK, find_checkpoint(config.model)
    index = folder / ".vlmtune" / run_layout.IMAGE_INDEX
    return runner.DatasetCheck(config, task, checkpoint, index, Progress(Silent()), StopRequest()).write(folder)


def decode(file: Path) -> None:
    """Plain decoding; broken files are skipped."""
    try:
        with Image.open(file) as image:
            image.load()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return


def decode_all(files: Sequence[Path]) -> None:
    """Decode all files on all cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(decode, files))


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """(CPU seconds of all threads, wall seconds, result)."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def rows_by_kind(result: dict[str, Any]) -> dict[str, set[tuple[str, int]]]:
    """Rows by kind of finding."""
    rows: dict[str, set[tuple[str, int]]] = {}
    for kind, where in planting.finding_rows(result):
        rows.setdefault(kind, set()).add(where)
    return rows


def compared(planted: planting.Planted, result: dict[str, Any], ignored: Sequence[str] = ()) -> list[dict[str, Any]]:
    """For each kind of finding: planted, found among these, and found elsewhere."""
    rows = rows_by_kind(result)
    kinds = [kind for kind in dict.fromkeys([*planted.findings, *rows]) if kind not in ignored]
    return [
        {
            "kind": kind,
            "planted": len(planted.findings.get(kind, set())),
            "found": len(planted.findings.get(kind, set()) & rows.get(kind, set())),
            "else": len(rows.get(kind, set()) - planted.findings.get(kind, set())),
        }
        for kind in kinds
    ]


def measure(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """All measurements."""
    planted = planting.plant(folder / "captions", count)
    config = config_of(folder / "captions", *CAPTIONS)
    files, pairs, found = planted.files, [], {}
    for number in range(rounds):
        shutil.rmtree(config.output.dir, ignore_errors=True)
        turns = [("plain", lambda: decode_all(files)), ("check", lambda: check(config))]
        pair: dict[str, Any] = {}
        for name, work in turns if number % 2 == 0 else turns[::-1]:
            pair[f"{name}_cpu_s"], pair[f"{name}_wall_s"], output = timed(work)
            found = output if name == "check" else found
        pairs.append(pair)
    again_cpu, again_wall, _ = timed(lambda: check(config))
    kinds = compared(planted, found)
    labels, boxes = planting.plant_labels_and_boxes(folder / "truths", 70)
    ignored = ("duplicate", "contradiction", "leak", "validation-overlap")  # all of these rows have the same image
    for name, expected in (("labels", labels), ("boxes", boxes)):
        result = check(config_of(folder / "truths", *LABELS_AND_BOXES[name]))
        kinds += compared(expected, result, ignored)
    return {
        "count": count,
        "alike": [quality(images) for images in alike.alike_sets(ALIKE)],
        "files": len(files),
        "cores": len(os.sched_getaffinity(0)),
        "kinds": kinds,
        "pairs": pairs,
        "again_cpu_s": again_cpu,
        "again_wall_s": again_wall,
    }


def quality(images: alike.AlikeSet) -> dict[str, Any]:
    """Precision and recall of the pairs in a set of images, by the hash alone and after the comparison."""
    facts = [image_index.describe(ImageRef(f"{n}", lambda data=data: data), b"") for n, data in enumerate(images.files)]
    thumbnails = np.stack([np.frombuffer(one.thumbnail, np.uint8) for one in facts])
    areas = np.array([one.width * one.height for one in facts])
    hashes = np.array([one.dhash for one in facts], np.uint64)
    these = near_duplicates.ImageHashes(hashes, np.arange(len(facts)), areas, lambda some: thumbnails[some])
    close = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= near_duplicates.MAX_BITS
    by_hash = np.array([next(iter(np.flatnonzero(row[:n])), -1) for n, row in enumerate(close)])
    found = near_duplicates.find_matches(these, these)
    shows = np.array([n if original is None else original for n, original in enumerate(images.originals)])
    copies = np.array([original is not None for original in images.originals])

    def right(partner: Any) -> Any:
        return (partner >= 0) & (shows[partner] == shows)

    return {
        "name": images.name,
        "images": len(facts),
        "copies": int(copies.sum()),
        "hash_precision": right(by_hash).sum() / max(1, (by_hash >= 0).sum()),
        "hash_recall": right(by_hash)[copies].mean(),
        "precision": right(found.partner).sum() / max(1, (found.partner >= 0).sum()),
        "recall": right(found.partner)[copies].mean(),
        "skipped": found.skipped,
    }


def ratio(pairs: Sequence[dict[str, float]], unit: str) -> tuple[float, float, float]:
    """Geometric mean of the ratios check / plain, the smallest and the largest."""
    each = [pair[f"check_{unit}_s"] / pair[f"plain_{unit}_s"] for pair in pairs]
    return math.exp(statistics.fmean(map(math.log, each))), min(each), max(each)


def page(results: dict[str, Any]) -> str:
    """README.md."""
    files, pairs = results["files"], results["pairs"]
    table = "\n".join(
        f"| {each['kind']} | {each['planted']} | {each['found']} | {each['else']} |" for each in results["kinds"]
    )
    alike_table = "\n".join(
        f"| {each['name']} | {each['images']:,} | {each['copies']} | {each['hash_precision']:.3f} | "
        f"{each['hash_recall']:.3f} | {each['precision']:.3f} | {each['recall']:.3f} |"
        for each in results["alike"]
    )
    rows = []
    for unit, name in (("cpu", "CPU ms per image"), ("wall", "wall ms per image")):
        plain, ours = (
            1000 * statistics.median(pair[f"{side}_{unit}_s"] for pair in pairs) / files for side in ("plain", "check")
        )
        mean, low, high = ratio(pairs, unit)
        rows.append(f"| {name} | {plain:.2f} | {ours:.2f} | {mean:.2f} ({low:.2f} to {high:.2f}) |")
    return f"""# Does `data check` find what is wrong, and what does it cost?

<!-- Written by run.py. -->

{results["count"]:,} rows and {files:,} image files with planted faults in files, images, texts, ids, labels and boxes,
duplicates (the same file, and the same pixels in another file format) and near-duplicates (scaled, strongly compressed,
brightened).

| finding | planted | found | found elsewhere |
|---|---|---|---|
{table}

Compared with plain decoding of the same files with PIL on {results["cores"]} cores, alternating, {len(pairs)} pairs.
The check's time includes texts, tokens, duplicates and the page. Medians, and the geometric mean of the ratios with the
smallest and largest.

| | plain decoding | `data check` | ratio |
|---|---|---|---|
{chr(10).join(rows)}

A second check without changes takes {results["again_wall_s"]:.1f} s ({results["again_cpu_s"]:.1f} CPU seconds). As some
images are broken, it reads all rows again in case they were repaired, but decodes no image that it decoded before.

## Copies among images that are alike

Sets of images in which every image shows something else, followed by copies of one in {alike.COPIED} (scaled, strongly
compressed, brightened). A pair is right if one image is a copy of the other or both are of a third. The hash alone
takes any earlier image within {near_duplicates.MAX_BITS} bits; `data check` also compares the pixels.

| images | number | copies | precision, hash alone | recall | precision | recall |
|---|---|---|---|---|---|---|
{alike_table}

Command: `OMP_NUM_THREADS=1 python benchmarks/data/run.py --count {results["count"]} --rounds {len(pairs)}`;
{results["machine"]}.
"""


def main() -> None:
    """Measure, and write results.json and README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), args.count, args.rounds)
    results["machine"] = f"{platform.machine()}, Python {platform.python_version()}, Pillow {version('pillow')}"
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(page(results), encoding="utf-8")
    print(page(results))


if __name__ == "__main__":
    main()
