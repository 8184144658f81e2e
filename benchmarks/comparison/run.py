"""CPU seconds and memory of a whole `vlmtune compare`, beside sacrebleu's scores of the same two files.

    OMP_NUM_THREADS=1 python benchmarks/comparison/run.py                    # writes results.json and README.md
    OMP_NUM_THREADS=1 python benchmarks/comparison/run.py --before SRC       # also another version's src folder

Captions with five references, made from a seed; nine metrics, 10,000 resamples, with a page. sacrebleu computes BLEU
and chrF of both files, a score and nothing else. Every measurement is a process of its own, imports included, and the
sides take turns; up to `REPEATED` rows `--pairs` times, beyond that once, and the others up to `OTHERS` rows.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from runpy import run_path
from typing import Any

HERE = Path(__file__).parent
SIZES = (2_000, 5_000, 20_000, 100_000)
REPEATED, OTHERS = 5_000, 20_000
OURS = "import sys; from vlmtune.cli.app import main; sys.argv[0] = 'vlmtune'; main()"
SACREBLEU = """
import json, sys
from sacrebleu.metrics import BLEU, CHRF
for file in sys.argv[1:]:
    rows = [json.loads(line) for line in open(file, encoding="utf-8")]
    answers, references = [row["prediction"] for row in rows], zip(*(row["references"] for row in rows))
    references = [list(column) for column in references]
    for metric in (BLEU(), CHRF()):
        metric.corpus_score(answers, references)
"""


def write(folder: Path, rows: int) -> list[Path]:
    """Two prediction files: the first reference of each row, with a share of its words exchanged."""
    _, references = run_path(str(HERE.parent / "metrics" / "run.py"))["made"](0, rows)
    rng, files = random.Random(1), []
    for name, noise in (("base", 0.6), ("tuned", 0.3)):
        files.append(folder / f"{name}-{rows}.jsonl")
        with files[-1].open("w", encoding="utf-8") as file:
            for n, texts in enumerate(references):
                words = texts[0].split()
                said = " ".join(word if rng.random() > noise else rng.choice(words) for word in words)
                file.write(json.dumps({"id": f"row-{n}", "prediction": said, "references": texts}) + "\n")
    return files


def spent(program: str, arguments: list[str], source: Path | None) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a process."""
    environment = {**os.environ, **({"PYTHONPATH": str(source)} if source else {})}
    child = subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{arguments[0]} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def measure(rows: int, pairs: int, folder: Path, before: Path | None) -> dict[str, Any]:
    """All sides at one size, in turn."""
    files = [str(file) for file in write(folder, rows)]
    compare = ["compare", *files, "--task", "captioning", "-o", str(folder / "page.html")]
    sides: dict[str, tuple[str, list[str], Path | None]] = {
        "vlmtune compare": (OURS, compare, None),
        "sacrebleu, BLEU and chrF": (SACREBLEU, files, None),
        **({"vlmtune compare, before": (OURS, compare, before)} if before else {}),
    }
    sides = sides if rows <= OTHERS else dict([*sides.items()][:1])
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(pairs if rows <= REPEATED else 1):
        for name, side in sides.items():
            found[name].append(spent(*side))
            print(rows, name, found[name][-1], file=sys.stderr)
    return {
        "rows": rows,
        "cpu_s": {name: [round(cpu, 2) for cpu, _ in runs] for name, runs in found.items()},
        "memory_mb": {name: round(max(memory for _, memory in runs)) for name, runs in found.items()},
    }


def readme(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# A whole comparison beside sacrebleu's scores",
        "",
        "<!-- Written by run.py. -->",
        "",
        "`vlmtune compare A B -o page.html` on captions with five references: nine metrics, intervals, tests, the",
        "self-check, and a page. sacrebleu: BLEU and chrF of both files, nothing else. CPU seconds are the median of",
        "runs in turn, imports included; the ratio is that of each pair, to vlmtune. The machine was shared with other",
        "work, which makes CPU seconds vary by half and more from run to run: only ratios of a pair say something.",
        "",
        "| rows | what | runs | CPU s | ratio | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for entry in results["measured"]:
        ours = entry["cpu_s"]["vlmtune compare"]
        for name, runs in entry["cpu_s"].items():
            ratio = statistics.median(theirs / own for theirs, own in zip(runs, ours, strict=True))
            cpu = statistics.median(runs)
            numbers = f"{len(runs)} | {cpu:.1f} | {ratio:.2f} | {entry['memory_mb'][name]}"
            lines.append(f"| {entry['rows']:,} | {name} | {numbers} |")
    lines += ["", f"Command: `{results['command']}`; {results['machine']}; {results['versions']}."]
    lines += ["", f"Before: {results['before']}.", ""] if results["before"] else [""]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--before", type=Path, help="src folder of another version")
    parser.add_argument("--before-is", default="", help="says which version that is")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = [measure(rows, asked.pairs, Path(folder), asked.before) for rows in asked.sizes]
    results = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/comparison/run.py" + (" --before SRC" if asked.before else ""),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("numpy", "rapidfuzz", "sacrebleu")),
        "before": asked.before_is,
        "measured": measured,
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(readme(results), encoding="utf-8")
    print((HERE / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
