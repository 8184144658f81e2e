"""Quantizes a checkpoint with llm-compressor, whose environment has no vlmtune. Runs as a standalone script.

    python _llm_compressor.py JOB.json

The job names the source, the target, the scheme, the modules left alone, the precision, the samples (safetensors files
of the model's inputs, with `targets`: the token that follows each position, or -100) and how many of them are probes.
The last line of standard output is JSON: how many tokens of the probes there were, how often the quantized checkpoint,
loaded anew, has the same most likely token as the model before, and whether all of its logits are finite.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NO_TARGET = -100
EIGHT_BITS = {"fp8": "FP8_DYNAMIC", "int8": "INT8"}


def main(job: Mapping[str, Any]) -> None:
    """Quantize, save, load again and compare."""
    import torch
    from llmcompressor import oneshot

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[job["precision"]]
    probes = job["samples"][: job["probes"]]
    model = load(job["source"], job["revision"], dtype, job["device"])
    before, _ = likeliest(model, probes)
    options: dict[str, Any] = {}
    if job["calibrates"]:
        options = {"dataset": one_by_one(job["samples"], dtype), "num_calibration_samples": len(job["samples"])}
    oneshot(model=model, recipe=recipe(model, job["scheme"], job["ignore"]), **options)
    model.save_pretrained(job["target"], save_compressed=True)
    del model
    after, finite = likeliest(load(job["target"], None, dtype, job["device"]), probes)
    same = sum(int((one == other).sum()) for one, other in zip(before, after, strict=True))
    result = {"tokens": sum(len(one) for one in before), "same": same, "finite": finite}
    sys.stdout.write(json.dumps(result) + "\n")


def load(source: str, revision: str | None, dtype: "torch.dtype", device: str) -> Any:
    """A checkpoint in evaluation mode."""
    from transformers import AutoModelForImageTextToText

    from_pretrained: Any = AutoModelForImageTextToText.from_pretrained
    return from_pretrained(source, revision=revision, dtype=dtype, device_map={"": device}).eval()


def recipe(model: Any, scheme: str, ignored: Sequence[str]) -> Any:
    """The modifier of a scheme. Of 4 bits, groups are as large as every matrix allows: 128 columns, or fewer."""
    import torch
    from llmcompressor.modifiers.awq import AWQModifier
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    if scheme in EIGHT_BITS:
        return QuantizationModifier(ignore=list(ignored), targets=["Linear"], scheme=EIGHT_BITS[scheme])
    patterns = [each.removeprefix("re:") for each in ignored]
    widths = [
        module.in_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(re.match(pattern, name) for pattern in patterns)
    ]
    size = next(size for size in (128, 64, 32, 16, 8) if not any(width % size for width in widths))
    weights = {"num_bits": 4, "type": "int", "symmetric": scheme == "gptq", "strategy": "group", "group_size": size}
    modifier = AWQModifier if scheme == "awq" else GPTQModifier
    return modifier(ignore=list(ignored), config_groups={"group_0": {"targets": ["Linear"], "weights": weights}})


def one_by_one(files: Sequence[str], dtype: "torch.dtype") -> Any:
    """A loader of the samples, as the model's arguments."""
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader

    paths: Any = files
    return DataLoader(paths, batch_size=1, collate_fn=lambda each: arguments(load_file(each[0]), dtype))


def arguments(sample: "Mapping[str, torch.Tensor]", dtype: "torch.dtype") -> "dict[str, torch.Tensor]":
    """A sample without its targets, pixels in the model's precision."""
    kept = {name: value for name, value in sample.items() if name != "targets"}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in kept.items()}


def likeliest(model: Any, files: Sequence[str]) -> "tuple[list[torch.Tensor], bool]":
    """The most likely token at every position with a target, of each sample; and whether all logits are finite."""
    import torch
    from safetensors.torch import load_file

    found, finite = [], True
    for file in files:
        sample = load_file(file)
        given = {name: value.to(model.device) for name, value in arguments(sample, model.dtype).items()}
        with torch.no_grad():
            logits = model(**given).logits[0].float()
        finite = finite and bool(logits.isfinite().all())
        found.append(logits.argmax(-1).cpu()[sample["targets"][0] != NO_TARGET])
    return found, finite


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
