"""CPU seconds of COCO's metrics against pycocoevalcap on the same tokens, and of 10,000 paired bootstrap resamples.

    OMP_NUM_THREADS=1 python benchmarks/metrics/run.py                        # writes results.json and README.md
    OMP_NUM_THREADS=1 python benchmarks/metrics/run.py --captions FILE        # Flickr8k.token.txt instead of made texts

Every measurement is a process of its own, so that nothing is cached; ours and theirs take turns, so that a busy
machine is busy for both. What counts is the CPU time of the calls (user and system, all threads), not imports.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROWS, REFERENCES, RESAMPLES = 5_000, 5, 10_000
COCO = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider_d", "rouge_l")
KINDS = ("ours", "pycocoevalcap")


def made(seed: int, rows: int = ROWS) -> tuple[list[str], list[list[str]]]:
    """Captions of Flickr8k's size: 11 words, words and phrases drawn as unevenly as people do (Zipf)."""
    rng = random.Random(seed)
    syllables = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in "bdgklmnprst"]
    words = [rng.choice(syllables) + rng.choice(["", *syllables]) for _ in range(7000)]
    uneven = list(itertools.accumulate(1 / (n + 3) for n in range(7000)))
    phrases = [" ".join(rng.choices(words, cum_weights=uneven, k=rng.randint(1, 4))) for _ in range(20_000)]
    uneven = list(itertools.accumulate(1 / (n + 30) for n in range(20_000)))

    def caption(topic: list[str]) -> str:
        chosen = [*rng.sample(topic, 2), *rng.choices(phrases, cum_weights=uneven, k=rng.randint(1, 4))]
        rng.shuffle(chosen)
        return " ".join(chosen).capitalize() + " ."

    topics = [rng.choices(phrases, cum_weights=uneven, k=4) for _ in range(rows)]
    return [caption(topic) for topic in topics], [[caption(topic) for _ in range(REFERENCES)] for topic in topics]


def flickr(file: Path) -> tuple[list[str], list[list[str]]]:
    """The first 5,000 images of Flickr8k.token.txt; an answer mixes the words of its own and of the next."""
    texts = [line.split("\t", 1)[1] for line in file.read_text(encoding="utf-8").split("\n") if "\t" in line]
    references = [texts[n : n + REFERENCES] for n in range(0, ROWS * REFERENCES, REFERENCES)]
    rng = random.Random(0)
    answers = []
    for row, own in enumerate(references):
        mixed = zip(own[0].split(), references[(row + 1) % ROWS][1].split(), strict=False)
        answers.append(" ".join(rng.choice(pair) for pair in mixed))
    return answers, references


def corpus(captions: str | None) -> tuple[list[str], list[list[str]]]:
    """Answers, and references of each."""
    return flickr(Path(captions)) if captions else made(0)


def scored(kind: str, captions: str | None) -> dict[str, Any]:
    """One scoring of the corpus: CPU seconds and the six scores."""
    from vlmtune import metrics

    answers, references = corpus(captions)
    if kind == "pycocoevalcap":
        return theirs(answers, references)
    found = [getattr(metrics, name) for name in COCO]
    found[-1].measure(["a"], [["a"]])  # loads rapidfuzz
    begin = time.process_time()
    scores = [float(m.summarise(m.measure(answers, references).sum(axis=0))) for m in found]
    return {"cpu_s": time.process_time() - begin, "scores": scores}


def theirs(answers: list[str], references: list[list[str]]) -> dict[str, Any]:
    """The same of pycocoevalcap, on our tokens."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    from vlmtune.metrics._tokenization import words

    said = {n: [" ".join(words(text))] for n, text in enumerate(answers)}
    true = {n: [" ".join(words(text)) for text in texts] for n, texts in enumerate(references)}
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        scores = [*Bleu(4).compute_score(true, said)[0], Cider().compute_score(true, said)[0]]
        scores.append(Rouge().compute_score(true, said)[0])
    return {"cpu_s": time.process_time() - begin, "scores": [float(score) for score in scores]}


def resampled(kind: str, captions: str | None) -> dict[str, Any]:
    """10,000 paired resamples of two metrics: CPU seconds, and the most memory they take beyond what scoring left."""
    import numpy as np

    from vlmtune.metrics import bleu, cider_d
    from vlmtune.scoring.statistics import Resamples

    answers, references = corpus(captions)
    other = [text.replace(" a ", " the ", 1) if captions else text.split(" ", 1)[-1] for text in answers]
    sides = [metric.measure(texts, references) for texts in (answers, other) for metric in (bleu, cider_d)]
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak
    before = memory("VmRSS")
    begin = time.process_time()
    drawn = Resamples(ROWS, RESAMPLES, seed=0).bootstrap(sides)
    spread = [m.summarise(drawn[2 + n]) - m.summarise(drawn[n]) for n, m in enumerate((bleu, cider_d))]
    intervals = [np.quantile(values, [0.025, 0.975]).tolist() for values in spread]
    cpu = time.process_time() - begin
    return {
        "cpu_s": cpu,
        "memory_mb": memory("VmHWM") - before,
        "scores": [value for pair in intervals for value in pair],
    }


def memory(field: str) -> float:
    """Megabytes of this process, from the kernel (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000


def child(kind: str, captions: str | None) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--child", kind, *(["--captions", captions] if captions else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def measure(pairs: int, captions: str | None) -> dict[str, Any]:
    """Everything about one corpus."""
    runs: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "bootstrap")}
    scores: dict[str, list[float]] = {}
    peaks = []
    for _ in range(pairs):
        for kind, seconds in runs.items():
            result = child(kind, captions)
            seconds.append(round(result["cpu_s"], 4))
            scores[kind] = result["scores"]
            peaks += [round(result["memory_mb"], 1)] if "memory_mb" in result else []
    apart = max(abs(a - b) for a, b in zip(scores["ours"], scores["pycocoevalcap"], strict=True))
    ratios = {
        kind: [round(b / a, 2) for a, b in zip(runs[kind], runs["pycocoevalcap"], strict=True)] for kind in KINDS[:1]
    }
    return {
        "corpus": "Flickr8k" if captions else "made",
        "cpu_s": runs,
        "times_faster": ratios,
        "scores": dict(zip(COCO, scores["ours"], strict=True)),
        "largest_difference_of_scores": apart,
        "bootstrap_memory_mb": peaks,
    }


def readme(results: dict[str, Any]) -> str:
    """The results as Markdown."""

    def middle(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

    rows = []
    for entry in results["measured"]:
        cpu, faster = entry["cpu_s"], entry["times_faster"]
        rows += [
            f"| {entry['corpus']} | {kind} | {middle(cpu[kind])} | {middle(faster[kind]) if kind in faster else ''} |"
            for kind in KINDS
        ]
    boots = [
        f"| {entry['corpus']} | {middle(entry['cpu_s']['bootstrap'])} | {max(entry['bootstrap_memory_mb']):.0f} MB |"
        for entry in results["measured"]
    ]
    pairs = results["pairs"]
    apart = max(entry["largest_difference_of_scores"] for entry in results["measured"])
    return "\n".join(
        [
            "# Speed of COCO's metrics and of the bootstrap",
            "",
            "<!-- Written by run.py. -->",
            "",
            f"BLEU-1..4, CIDEr-D and ROUGE-L together, {ROWS:,} rows with {REFERENCES} references each. pycocoevalcap",
            'gets our tokens, so that its Java tokenizer is not counted; "ours" splits the texts into words as well.',
            f"CPU seconds, median (minimum-maximum) of {pairs} interleaved runs, each in a fresh process. Largest",
            f"difference of any score: {apart:.1e}.",
            "",
            "| captions | what | CPU s | times faster |",
            "|---|---|---|---|",
            *rows,
            "",
            f"{RESAMPLES:,} paired bootstrap resamples of BLEU and CIDEr-D over {ROWS:,} rows, intervals included:",
            "",
            "| captions | CPU s | memory beyond scoring, at most |",
            "|---|---|---|",
            *boots,
            "",
            f"Command: `{results['command']}`; {results['machine']}; {results['versions']}.",
            '"made" captions are generated by run.py; those of Flickr8k (`--captions`) are not in this repository.',
            "",
        ]
    )


def main() -> None:
    """Measure and write, or be one measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--captions", help="Flickr8k.token.txt: measured as well")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        work: Callable[[str, str | None], dict[str, Any]] = resampled if arguments.child == "bootstrap" else scored
        print(json.dumps(work(arguments.child, arguments.captions)))
        return
    sources = [None, *([arguments.captions] if arguments.captions else [])]
    results = {
        "command": f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')} python benchmarks/metrics/run.py"
        + (" --captions Flickr8k.token.txt" if arguments.captions else ""),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("numpy", "rapidfuzz", "pycocoevalcap")),
        "pairs": arguments.pairs,
        "measured": [measure(arguments.pairs, source) for source in sources],
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(readme(results), encoding="utf-8")
    print((HERE / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
