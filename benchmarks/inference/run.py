"""CPU seconds for answers about images: plain transformers, one image at a time and in batches, our `hf` engine, vLLM.

    OMP_NUM_THREADS=1 python benchmarks/inference/run.py                  # writes results.json and README.md
    OMP_NUM_THREADS=1 python benchmarks/inference/run.py --pairs 3
    OMP_NUM_THREADS=1 python benchmarks/inference/run.py --only batches   # measures one part, keeps the others

Images are scenes in JPEG files, the model is the embedded tiny one in fp32, and answers have a fixed length, without
stop tokens. Every measurement runs in a process of its own, so that nothing is cached, and the processes alternate, so
that other load on the machine affects all alike. CPU time (user and system, all threads, including vLLM's server) is
counted from the first file read to the last answer; loading the model and starting the server are excluded unless
stated. vLLM is measured if `make vllm-env` was run.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sides import LENGTHS, VLLM, against_batches, classic, columns, make_adapter, ours, vllm, write_pictures

HERE = Path(__file__).parent
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def child(kind: str, folder: Path, *more: str) -> Any:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--child", kind, "--folder", str(folder), *more]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **QUIET})
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1])


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Geometric mean of paired ratios with its 95 % interval (Student's t on their logarithms)."""
    from vlmtune.scoring.statistics import student_quantile

    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(middle), math.nan, math.nan
    half = student_quantile(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


PARTS = ("one", "batches", "columns")
"""What is measured: one image at a time against the engines, batches against ours, base and tuned from one load."""


def measure(parts: list[str], pairs: int, images: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Some parts of what the page shows."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_pictures(folder, images)
        make_adapter(folder / "adapter")
        if "one" in parts:
            kinds = ["classic", "ours", *(["vllm"] if VLLM.exists() else [])]
            found["lengths"] = measure_kinds(kinds, pairs, folder, say)
        if "batches" in parts:
            rounds = child("batches", folder, "--pairs", str(pairs))
            lengths = {str(tokens): by_length(rounds, str(tokens), sorted(rounds[0])) for tokens in LENGTHS}
            found["batches"] = {"pairs": pairs, "images": images, "lengths": lengths}
        if "columns" in parts:
            found["columns"] = measure_columns(pairs, folder, say)
    return found


def measure_kinds(kinds: list[str], pairs: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Interleaved rounds of all kinds, by the length of the answers."""
    rounds: list[dict[str, Any]] = []
    for number in range(pairs):
        # Who begins changes with every round.
        order = kinds[number % len(kinds) :] + kinds[: number % len(kinds)]
        rounds.append({kind: child(kind, folder) for kind in order})
        for tokens in map(str, LENGTHS):
            spent = {kind: rounds[-1][kind][tokens]["cpu_s"] for kind in kinds}
            say(f"{tokens} tokens: " + ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in spent.items()))
    return {str(tokens): by_length(rounds, str(tokens), kinds) for tokens in LENGTHS}


def by_length(rounds: list[dict[str, Any]], tokens: str, kinds: list[str]) -> dict[str, Any]:
    """Seconds of every round at one length, plain transformers over each engine, and how many texts are the same."""
    seconds = {kind: [round(made[kind][tokens]["cpu_s"], 3) for made in rounds] for kind in kinds}
    texts = {kind: rounds[-1][kind][tokens]["texts"] for kind in kinds}
    engines = [kind for kind in kinds if kind in ("ours", "vllm")]
    pairs = [(plain, engine) for plain in kinds if plain not in engines for engine in engines]
    # With one plain side the keys are the engines, with one engine they are the plain sides.
    keys = [engine if "classic" in kinds else plain for plain, engine in pairs]
    return {
        "cpu_s": seconds,
        "times_faster": {
            key: interval([a / b for a, b in zip(seconds[plain], seconds[engine], strict=True)])
            for key, (plain, engine) in zip(keys, pairs, strict=True)
        },
        "same_texts": {
            key: sum(a == b for a, b in zip(texts[plain], texts[engine], strict=True))
            for key, (plain, engine) in zip(keys, pairs, strict=True)
        },
        "server_start_cpu_s": [round(made["vllm"][tokens]["start_cpu_s"], 1) for made in rounds if "vllm" in made],
    }


def measure_columns(pairs: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Base and tuned from one load against one after the other."""
    runs: dict[str, list[dict[str, Any]]] = {"base": [], "tuned": [], "both": []}
    for _ in range(pairs):
        for kind, seconds in runs.items():
            seconds.append(child(kind, folder))
    shares, decoding = [], []
    for base, tuned, both in zip(*runs.values(), strict=True):
        apart = base["with_load_s"] + tuned["with_load_s"]
        shares.append(both["with_load_s"] / apart)
        decoding.append(both["cpu_s"] / (base["cpu_s"] + 1.1 * tuned["cpu_s"]))
    say(f"together: {statistics.median(shares):.2f} of apart")
    return {
        "runs": runs,
        "together_over_apart": interval(shares),
        "together_over_base_and_1.1_tuned": interval(decoding),
        "decoded": {kind: [run["decoded"] for run in made] for kind, made in runs.items()},
    }


def batch_lines(batches: dict[str, Any], between: Callable[..., str]) -> list[str]:
    """The comparison with batches of plain `generate`, as Markdown."""
    lines = [
        "## Against batches",
        "",
        "Batching alone gives most of what the first factor below shows, so this is the fair comparison: plain",
        f"`generate` with left padding, in the order of the files; {batches['images']} images,",
        f"{batches['pairs']} rounds in one process. The `hf` engine sorts by length, chooses the batch by",
        "tokens, shares the work on the prompt's prefix, and computes image features in batches.",
        "",
        "| tokens per answer | batch of plain `generate` | its time | `hf` engine's time | times faster | same texts |",
        "|---|---|---|---|---|---|",
    ]
    for tokens, entry in batches["lengths"].items():
        cpu = {kind: statistics.median(values) for kind, values in entry["cpu_s"].items()}
        lines += [
            f"| {tokens} | {kind.partition('-')[2]} | {cpu[kind]:.2f} s | {cpu['ours']:.2f} s | "
            f"{between(entry['times_faster'][kind])} | {entry['same_texts'][kind]} of {batches['images']} |"
            for kind in sorted(entry["times_faster"], key=lambda name: int(name.partition("-")[2]))
        ]
    return [*lines, ""]


def readme(results: dict[str, Any]) -> str:
    """The results as Markdown."""

    def between(values: Any, digits: int = 2) -> str:
        middle, low, high = values
        return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    images, columns_ = results["images"], results["columns"]
    names = {"ours": "`hf` engine", "vllm": "`vllm` engine"}
    lines = [
        "# Inference speed",
        "",
        "<!-- Written by run.py. -->",
        "",
        f"{images} images, the tiny model in fp32, one thread, answers of a fixed length; CPU seconds, median of",
        f"{results['pairs']} interleaved rounds. Plain transformers: the processor and `generate`. Each factor is the",
        "geometric mean of plain transformers over the engine, with its 95 % interval.",
        "",
    ]
    lines += batch_lines(results["batches"], between) if "batches" in results else []
    lines += [
        "## Against one image at a time",
        "",
        "As most scripts are written. Much of the factor is batching; the table above has the rest.",
        "",
        "| tokens per answer | engine | one at a time | engine's time | times faster | same texts |",
        "|---|---|---|---|---|---|",
    ]
    for tokens, entry in results["lengths"].items():
        cpu = {kind: statistics.median(values) for kind, values in entry["cpu_s"].items()}
        lines += [
            f"| {tokens} | {names[kind]} | {cpu['classic']:.2f} s | {cpu[kind]:.2f} s | "
            f"{between(entry['times_faster'][kind])} | {entry['same_texts'][kind]} of {images} |"
            for kind in entry["times_faster"]
        ]
    starts = [seconds for entry in results["lengths"].values() for seconds in entry["server_start_cpu_s"]]
    if starts:
        lines += [
            "",
            "The `vllm` engine's time includes its server and its client, but not the start of the server and the",
            f"first answer, which take {statistics.median(starts):.0f} CPU seconds more. This is the CPU build with a",
            "model of 1.8 million parameters; large models on a GPU, for which vLLM is made, are not measured here.",
        ]
    lines += [
        "",
        "## Both sides from one load",
        "",
        f"Base and tuned answers from one loaded model, 16 tokens, take {between(columns_['together_over_apart'])}",
        "of the CPU time of two runs, loads included; without loads, "
        f"{between(columns_['together_over_base_and_1.1_tuned'])} of base + 1.1 x tuned. Images decoded: "
        f"{columns_['decoded']['both'][0]} when loaded once,",
        f"{columns_['decoded']['base'][0] + columns_['decoded']['tuned'][0]} in two runs.",
        "",
        f"Command: `{results['command']}`; {results['machine']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write; or be one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--only", choices=PARTS, help="measure one part, and keep the others of results.json")
    for internal in ("--child", "--folder"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        folder = Path(asked.folder)
        alone = {"classic": classic, "ours": ours, "vllm": vllm}
        if asked.child in alone:
            result: Any = alone[asked.child](folder)
        elif asked.child == "batches":
            result = against_batches(folder, asked.pairs)
        else:
            result = columns(folder, LENGTHS[0], folder / "adapter", asked.child)
        sys.stdout.write(json.dumps(result) + "\n")
        return
    say = lambda text: sys.stderr.write(text + "\n") and None  # noqa: E731
    file = HERE / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if asked.only else {}
    results |= measure([asked.only] if asked.only else list(PARTS), asked.pairs, asked.images, say)
    if not asked.only:
        results["images"] = asked.images
        results["pairs"] = asked.pairs
        results["command"] = "OMP_NUM_THREADS=1 python benchmarks/inference/run.py" + (
            f" --pairs {asked.pairs}" if asked.pairs != 7 else ""
        )
    results["machine"] = f"{platform.machine()}, Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "peft")
    )
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(readme(results), encoding="utf-8")


if __name__ == "__main__":
    main()
