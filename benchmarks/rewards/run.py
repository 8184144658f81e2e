"""The demo trained on its targets, then on rewards: what a second stage wins and what it costs, over three seeds.

    OMP_NUM_THREADS=1 python benchmarks/rewards/run.py FOLDER        # writes results.json and README.md

FOLDER receives the runs; what is finished there is not run again. CPU-seconds are those of all processes, on this
machine; those of the first stage are not among them.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
SEEDS = (1, 2, 3)
REWARDS = ("keyword_recall", "sacrebleu", "cider_d")


def vlmtune(*words: str) -> dict[str, Any]:
    """The JSON of a command."""
    command = [sys.executable, "-m", "vlmtune", *words, "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def cpu_seconds() -> float:
    """Of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def answers(config: str, adapter: Path, *sets: str) -> str:
    """The file of the adapter's answers to the test rows."""
    vlmtune("predict", config, "--adapter", str(adapter), *sets)
    return str(adapter.parent / f"{adapter.name}_predictions.jsonl")


def measure(folder: Path) -> dict[str, Any]:
    """Train both stages, and compare the answers of the second with those of the first on the same rows."""
    sets = ["--set", f"output.dir={folder}/demo"]
    vlmtune("train", str(CONFIGS / "demo.yaml"), *sets)
    first = answers(str(CONFIGS / "demo.yaml"), folder / "demo/lora", *sets)
    before, seconds, files = cpu_seconds(), {"train": 0.0, "predict": 0.0}, []
    for seed in SEEDS:
        sets = ["--set", f"output.dir={folder}/reward{seed}", "--set", f"training.continue_from={folder}/demo/lora"]
        sets += ["--set", f"training.seed={seed}"]
        vlmtune("train", str(CONFIGS / "demo_reward.yaml"), *sets)
        seconds["train"], before = seconds["train"] + cpu_seconds() - before, cpu_seconds()
        files.append(answers(str(CONFIGS / "demo_reward.yaml"), folder / f"reward{seed}/lora", *sets))
        seconds["predict"], before = seconds["predict"] + cpu_seconds() - before, cpu_seconds()
    compared = [vlmtune("compare", first, second) for second in (",".join(files), *files)]
    keys = ("name", "a", "b", "delta", "ci", "p", "p_adjusted")
    tables = [[{key: metric[key] for key in keys} for metric in one["metrics"]] for one in compared]
    lengths = compared[0]["lengths"]
    return {
        "seeds": list(SEEDS),
        "cpu_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "words": {side: lengths[side]["mean"] for side in ("a", "b")},
        "all": tables[0],
        "by_seed": tables[1:],
    }


def page(result: dict[str, Any]) -> str:
    """README.md."""
    rows = []
    for n, metric in enumerate(result["all"]):
        each = ", ".join(f"{table[n]['delta']:+.3f}" for table in result["by_seed"])
        low, high = metric["ci"]
        name = f"**{metric['name']}**" if metric["name"] in REWARDS else metric["name"]
        change = f"{metric['delta']:+.3f} [{low:+.3f}, {high:+.3f}]"
        rows.append(f"| {name} | {metric['a']:.3f} | {metric['b']:.3f} | {change} | {each} |")
    seconds = result["cpu_seconds"]
    return "\n".join(
        [
            "# A second stage on rewards",
            "",
            "<!-- Written by run.py. -->",
            "",
            "`configs/demo.yaml`, then `configs/demo_reward.yaml` from its adapter: GRPO with three metrics as rewards",
            f"(bold), {len(result['seeds'])} seeds. 300 test rows, none of which was trained on; A is the first stage,",
            "B the second, paired by row. Intervals of 95 % hold over rows and seeds. The settings were chosen among",
            "several on these very rows, so the figures are optimistic.",
            "",
            "| metric | A | B | change | by seed |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Mean words of an answer: {result['words']['a']:.1f} before, {result['words']['b']:.1f} after.",
            f"CPU-seconds of all seeds: {seconds['train']:.0f} of training, {seconds['predict']:.0f} of answering.",
            "",
            "Command: `OMP_NUM_THREADS=1 python benchmarks/rewards/run.py FOLDER`.",
            "",
        ]
    )


def main() -> None:
    """Measure and write the results."""
    result = measure(Path(sys.argv[1]).resolve())
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
