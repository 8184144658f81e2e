r"""Everything that is measured on a GPU, in stages that cannot spoil each other, within eight minutes.

    python benchmarks/training/stages.py --output gpu_stages.jsonl
    python benchmarks/training/stages.py --wheels .wheels --output gpu_stages.jsonl   # where packages are missing
    python benchmarks/training/stages.py --tiny --only tiny --output stages.jsonl   # on a CPU, as a smoke test

Each stage is a process of its own (`gpu.py`) with a time limit of its own, and appends one JSON line when it ends: what
it measured, or how it failed. `gpu_wheels.txt` lists the packages that machine images with torch, transformers and peft
lack, and how to download them; `--wheels` installs them from such a folder, without a network.

The versions of such an image can be tried on a CPU, in an environment of their own:

    uv venv .gpu-versions
    uv pip install --python .gpu-versions/bin/python "torch==2.11.*" "torchvision==0.26.*" "transformers==5.17.*" \
        "peft==0.18.*" -r benchmarks/training/gpu_wheels.txt
    PYTHONPATH=src .gpu-versions/bin/python benchmarks/training/stages.py --tiny --output stages.jsonl
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WHOLE_S = 480.0
"""Seconds for everything."""
PATIENCE = 10
"""How many times longer everything may take with the tiny model: a CPU that does other things, too."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One process: arguments of `gpu.py`, and its limit in seconds."""

    name: str
    limit_s: float
    words: str


STAGES = (
    Stage("probe", 45, "--what probe"),
    Stage("tiny", 60, "--model tiny --samples 16 --batch 8"),
    Stage("8b batch 8", 90, "--model 8b --samples 80 --batch 8"),
    Stage("8b batch 32", 120, "--model 8b --samples 256 --batch 32 --profile"),
    Stage("8b bf16 in 22.5 GB", 75, "--model 8b --samples 48 --batch 8 --cap-gb 22.5"),
    Stage("8b nf4 in 12 GB", 75, "--model 8b --samples 48 --batch 8 --cap-gb 12 --quantization nf4"),
    Stage("8b decoding", 75, "--what decode --model 8b --batch 64"),
)


def run(stage: Stage, left_s: float, tiny: bool) -> dict[str, Any]:
    """The line of a stage."""
    words = stage.words.replace("--model 8b", "--model tiny") if tiny else stage.words
    began = time.monotonic()
    limit_s = stage.limit_s * (PATIENCE if tiny else 1)
    line: dict[str, Any] = {"stage": stage.name, "limit_s": min(limit_s, left_s)}
    command = [sys.executable, str(HERE / "gpu.py"), *words.split()]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=line["limit_s"], check=False)
        line |= result(ended.stdout) if ended.returncode == 0 else {"failed": ended.stderr[-2000:]}
    except subprocess.TimeoutExpired as late:
        said = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else late.stderr or ""
        line["failed"] = f"not finished within its limit; it said: {said[-2000:]}"
    return {**line, "stage_s": round(time.monotonic() - began, 1)}


def result(output: str) -> dict[str, Any]:
    """The JSON object in the last line of an output."""
    try:
        return {"result": json.loads(output.splitlines()[-1])}
    except (IndexError, ValueError):
        return {"failed": f"no result in: {output[-2000:]}"}


def install(wheels: Path) -> None:
    """Install what is listed in `gpu_wheels.txt` from a folder."""
    listed = str(HERE / "gpu_wheels.txt")
    words = ["--no-index", "--no-deps", "--find-links", str(wheels), "-r", listed]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], check=True)


def measure(stages: Sequence[Stage], output: Path, tiny: bool) -> int:
    """Run stages, append their lines, and return how many failed."""
    deadline, failed = time.monotonic() + WHOLE_S * (PATIENCE if tiny else 1), 0
    for stage in stages:
        left = deadline - time.monotonic()
        line = run(stage, left, tiny) if left > 1 else {"stage": stage.name, "failed": "no time was left"}
        failed += "failed" in line
        with output.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{stage.name}: {'failed' if 'failed' in line else 'done'}", flush=True)
    return failed


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the file to which lines are appended")
    parser.add_argument("--only", action="append", choices=[stage.name for stage in STAGES], help="repeatable")
    parser.add_argument("--tiny", action="store_true", help="the tiny model in the place of the 8B")
    parser.add_argument("--wheels", type=Path, help="install the packages of gpu_wheels.txt from this folder first")
    given = parser.parse_args()
    if given.wheels is not None:
        install(given.wheels)
    chosen = [stage for stage in STAGES if given.only is None or stage.name in given.only]
    sys.exit(1 if measure(chosen, given.output, given.tiny) else 0)


if __name__ == "__main__":
    main()
