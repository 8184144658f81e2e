"""The least time of a training step on an H200, counted without one: each kernel's products and memory traffic.

    python benchmarks/training/simulated.py                       # writes simulated.json and simulated.md
    python benchmarks/training/simulated.py --models 2b --print   # one of them, written nowhere

One batch of the classic job, eight photos of 500 x 375 pixels with five captions each, goes through the forward and the
backward pass at full size on `tests/fake_gpu.py`. Every kernel takes the longer of its FLOPs and the bytes that it must
read and write, at rates that were measured on an H200: 790 TFLOP/s of matrix products in bf16, and 4.3 TB/s. Launches,
the optimizer and waiting for data are not in it, so a real step takes longer. **Nothing here is a measurement.**
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests")]

from fake_gpu import FakeGpu  # noqa: E402
from fake_training import photos, prepared, working_kernels  # noqa: E402
from gpu import checkpoint  # noqa: E402

from vlmtune.modeling.loading import ModelConfig, find_checkpoint  # noqa: E402
from vlmtune.processing.encoder import Encoder  # noqa: E402
from vlmtune.training.config import TrainingConfig  # noqa: E402

FLOPS_PER_S, BYTES_PER_S = 790e12, 4.3e12
PHOTOS, CAPTIONS, EPOCH = 8, 5, 6_000
"""Photos of a batch, captions of each, and photos of an epoch of Flickr8k."""
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "convolution", "convolution_backward"}
ATTENTION = {"_varlen_attn", "_varlen_attn_backward"}
SHOWN = 8
"""Elementwise operators that are named."""


def simulate(name: str, folder: Path) -> dict[str, Any]:
    """The counts of one batch's forward and backward pass."""
    model = ModelConfig(name=str(checkpoint(name, folder / name)))
    encoder, settings = Encoder(find_checkpoint(model), model), TrainingConfig()
    examples = photos(encoder, PHOTOS, CAPTIONS)
    supervised = sum(example.rendered.supervised for example in examples)
    with working_kernels(), FakeGpu(flops_per_s=FLOPS_PER_S, bytes_per_s=BYTES_PER_S) as gpu:
        step, _, loaded = prepared(encoder, gpu, folder, settings)
        tokens = sum(len(row.ids) for row in step.pack(examples))
        gpu.reset()
        step.accumulate(examples, supervised, 1)
        whole = sum(gpu.seconds.values())
        shares = {
            operator: {"seconds": seconds, "launches": gpu.launches[operator], "bytes": gpu.traffic[operator]}
            for operator, seconds in sorted(gpu.seconds.items(), key=lambda each: -each[1])
        }
        return {
            "model": name,
            "tokens": tokens,
            "seconds": whole,
            "tokens_per_s": tokens / whole,
            "epoch_s": whole * EPOCH / PHOTOS,
            "flops": gpu.flops,
            "peak_over_model_bytes": gpu.peak - loaded,
            "model_bytes": loaded,
            "launches": gpu.launches.total(),
            "waits": gpu.waits.total(),
            "operators": shares,
        }


def page(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# Training, simulated",
        "",
        "<!-- Written by simulated.py. -->",
        "",
        *(__doc__ or "").split("\n\n", 2)[2].strip().splitlines(),
        "",
        f"| model | ms per batch of {PHOTOS * CAPTIONS} answers | products | attention | everything else | "
        f"s per epoch of {EPOCH:,} photos | launches | waits | GB over the model |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        parts = [_seconds(one, PRODUCTS), _seconds(one, ATTENTION)]
        parts.append(one["seconds"] - sum(parts))
        cells = [one["model"], f"{one['seconds'] * 1e3:.1f}", *(f"{part * 1e3:.1f}" for part in parts)]
        cells += [f"{one['epoch_s']:.0f}", f"{one['launches']:,}", str(one["waits"])]
        lines.append(f"| {' | '.join(cells)} | {one['peak_over_model_bytes'] / 1e9:.2f} |")
    largest = results[-1]
    lines += ["", f"The operators of {largest['model']} that take longest beside products and attention:", ""]
    lines += ["| operator | ms | share | launches | GB |", "|---|---|---|---|---|"]
    others = [(name, each) for name, each in largest["operators"].items() if name not in PRODUCTS | ATTENTION]
    for name, each in others[:SHOWN]:
        share = each["seconds"] / largest["seconds"]
        cells = [name, f"{each['seconds'] * 1e3:.1f}", f"{share:.1%}", f"{each['launches']:,}"]
        lines.append(f"| {' | '.join(cells)} | {each['bytes'] / 1e9:.1f} |")
    return "\n".join(lines) + "\n"


def _seconds(result: dict[str, Any], operators: set[str]) -> float:
    return float(sum(each["seconds"] for name, each in result["operators"].items() if name in operators))


def main() -> None:
    """Simulate the models, and write or print what was counted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["2b", "4b", "8b"])
    parser.add_argument("--print", action="store_true", help="write no files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [simulate(name, Path(folder)) for name in given.models]
    if given.print:
        print(page(results))
        return
    (HERE / "simulated.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "simulated.md").write_text(page(results))


if __name__ == "__main__":
    main()
