"""What quantizing the deployed model costs, on the demo's test rows: base and tuned, each scheme against 16 bits.

    python benchmarks/quantization/run.py --compressor PYTHON [--adapter FOLDER]

Trains the demo (or takes its adapter), merges it, quantizes base and tuned model with llm-compressor, answers the test
rows with the real vLLM, and compares with what the same server says with the unquantized weights. NF4 is answered by
transformers, against the unquantized model there. vLLM computes in bf16. Writes results.json and README.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMES = ("int8", "gptq")
ROWS = 100
DEMO = HERE.parents[1] / "configs" / "demo.yaml"
ENGINE = "  engine: hf\n  batch_size: 64\n"
SMALL = ["evaluation.image_control_rows=0", f"dataset.limit.test={ROWS}"]
VLLM = "  engine: vllm\n  precision: bf16\n  cache_gb: 0.25\n  arguments: [--enforce-eager]\n  python: "


def vlmtune(folder: Path, *words: str, sets: list[str] | None = None) -> str:
    """Run a command in a folder; its standard output."""
    options = [part for each in sets or () for part in ("--set", each)]
    command = [sys.executable, "-m", "vlmtune", *words, *options]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {ended.stderr[-2000:]}")
    return ended.stdout


def answered(folder: Path, config: str, name: str, sets: list[str], adapter: Path | None = None) -> Path:
    """The test rows' answers, in a run folder of that name."""
    words = ["predict", config, *(["--adapter", str(adapter)] if adapter else [])]
    vlmtune(folder, *words, sets=[*sets, f"output.dir=answers/{name}", *SMALL])
    (file,) = (folder / "answers" / name).glob("*_predictions.jsonl")
    return file


def cost(folder: Path, before: Path, after: Path) -> dict[str, Any]:
    """The change from 16 bits to fewer, in the primary metric."""
    result = json.loads(vlmtune(folder, "compare", str(before), str(after), "--json"))
    primary = result["metrics"][0]
    return {key: primary[key] for key in ("name", "a", "b", "delta", "ci")} | {"status": result["status"]}


def measure(folder: Path, python: Path, adapter: Path) -> list[dict[str, Any]]:
    """One result per model and scheme."""
    results = []
    engine = f"{VLLM}{Path('.venv-vllm/bin/python').absolute()}\n"
    (folder / "vllm.yaml").write_text(DEMO.read_text().replace(ENGINE, engine))
    vlmtune(folder, "export", "demo.yaml", "--adapter", str(adapter), "-o", "merged")
    tuned = ("tuned", str(folder / "merged"), ["--adapter", str(adapter)])
    for side, model, merge in (("base", "tiny", ["--no-merge"]), tuned):
        before = answered(folder, "vllm.yaml", side, [f"model.name={model}"])
        for scheme in SCHEMES:
            name = f"{side}-{scheme}"
            words = ["export", "demo.yaml", *merge, "-o", name, "--quantize", scheme]
            vlmtune(folder, *words, "--compressor", str(python))
            after = answered(folder, "vllm.yaml", name, [f"model.name={folder / name}"])
            size = (folder / name / "model.safetensors").stat().st_size
            same = json.loads((folder / name / "vlmtune.json").read_text())["same_tokens"]
            found = {**cost(folder, before, after), "bytes": size, "same": same}
            results.append({"model": side, "scheme": scheme, **found})
        own = adapter if side == "tuned" else None
        plain = answered(folder, "demo.yaml", f"{side}-hf", [], own)
        nf4 = answered(folder, "demo.yaml", f"{side}-nf4", ["model.quantization=nf4"], own)
        results.append({"model": side, "scheme": "nf4", **cost(folder, plain, nf4), "bytes": None, "same": None})
    return results


def page(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    metric = results[0]["name"]
    lines = [
        "# What quantizing costs",
        "",
        "<!-- Written by run.py. -->",
        "",
        *(__doc__ or "").split("\n\n", 2)[2].strip().splitlines(),
        "",
        f"The tiny model, {ROWS} drawn scenes. A model of this size says little about one "
        "of 8B, which the same commands measure on its own rows.",
        "",
        f"| model | scheme | {metric} before | after | change, 95 % interval | same most likely token | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        interval = "[{:+.4f}, {:+.4f}]".format(*one["ci"]) if one["ci"] else "no interval: hardly a row changed"
        same = f"{one['same']:.1%}" if one["same"] is not None else ""
        size = f"{one['bytes'] / 1e6:.1f}" if one["bytes"] else ""
        change = f"{one['delta']:+.4f} {interval}"
        cells = [one["model"], one["scheme"], f"{one['a']:.4f}", f"{one['b']:.4f}", change, same, size]
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    lines += ["", f"Command: `python benchmarks/quantization/run.py --compressor PYTHON`; 2 CPUs; {versions}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--compressor", type=Path, required=True, help="Python of llm-compressor's environment")
    parser.add_argument("--adapter", type=Path, help="of the demo; trained here by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if given.adapter is None:
            vlmtune(folder, "run", "demo.yaml")
        adapter = (given.adapter or folder / "outputs/demo/lora").absolute()
        results = measure(folder, given.compressor.absolute(), adapter)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "README.md").write_text(page(results))


if __name__ == "__main__":
    main()
