"""Quantized base models: those that are quantized on loading, and checkpoints that are stored so.

What a checkpoint is stored in is read from its config.json before any weight is loaded.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from vlmtune.errors import ConfigError, EnvironmentProblem
from vlmtune.families import NEVER_QUANTIZED, Family, PartName

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

Quantization = Literal["nf4"]

INSTALL = 'pip install "vlmtune[quant]" (or: pip install "bitsandbytes>=0.46.1")'


@dataclass(frozen=True, slots=True)
class StoredFormat:
    """A format of quantized checkpoints that adapters can be trained on: the packages it needs, and how to get them."""

    packages: tuple[str, ...] = ()
    install: str = ""


STORED_FORMATS: dict[str, StoredFormat] = {
    "bitsandbytes": StoredFormat(("bitsandbytes",), INSTALL),
    "awq": StoredFormat(("gptqmodel",), "pip install gptqmodel"),
    "gptq": StoredFormat(("gptqmodel", "optimum"), "pip install gptqmodel optimum"),
    "fp8": StoredFormat(("accelerate",), "pip install accelerate"),
}
"""By `quant_method` in config.json."""


UNKNOWN_FORMAT = "a format without a quant_method (as MLX's)"
MODELOPT = "ModelOpt's format"
"""Of checkpoints that have a file of its own for it, `hf_quant_config.json`."""


def stored_format(settings: Mapping[str, Any]) -> str | None:
    """The format of a quantized checkpoint by its config.json, None for one with plain weights."""
    parts = [part for part in (settings, settings.get("text_config")) if isinstance(part, dict)]
    keys = ("quantization_config", "compression_config", "quantization")  # the last one is MLX's
    stored = next((part[key] for part in parts for key in keys if part.get(key)), None)
    if not isinstance(stored, dict):
        return UNKNOWN_FORMAT if stored else None
    bits = "load_in_4bit" in stored or "load_in_8bit" in stored  # bitsandbytes left out the method once
    return str(stored.get("quant_method") or ("bitsandbytes" if bits else UNKNOWN_FORMAT))


def check_stored_format(name: str, stored: str | None, quantization: Quantization | None) -> None:
    """Check that a checkpoint can be loaded to train adapters on it.

    Raises:
        ConfigError: not in this format, or it is to be quantized once more.
        EnvironmentProblem: a package is missing; says how to install it.
    """
    if stored is None:
        return
    if stored not in STORED_FORMATS:
        raise ConfigError(
            f"model {name!r} is stored in {stored}, on which adapters cannot be trained here; use its 16-bit "
            "checkpoint (with model.quantization: nf4 it takes a quarter of the memory). Known are: "
            + ", ".join(STORED_FORMATS)
        )
    if quantization is not None:
        raise ConfigError(
            f"model {name!r} is stored in {stored} already; set model.quantization to null, or use its 16-bit "
            "checkpoint"
        )
    missing = [package for package in STORED_FORMATS[stored].packages if find_spec(package) is None]
    if missing:
        install = STORED_FORMATS[stored].install
        raise EnvironmentProblem(
            f"model {name!r} is stored in {stored}, which needs {' and '.join(missing)}: {install}. Its 16-bit "
            "checkpoint needs no package"
        )


def loading_options(
    stored: str | None, quantization: Quantization | None, family: Family, dtype: "torch.dtype"
) -> dict[str, Any]:
    """What transformers must be told to load a checkpoint; FP8 weights become those that they stand for.

    Raises:
        EnvironmentProblem: as `nf4`.
    """
    if quantization is not None:
        return {"quantization_config": nf4(family, dtype)}
    if stored != "fp8":
        return {}
    from transformers import FineGrainedFP8Config

    return {"quantization_config": FineGrainedFP8Config(dequantize=True)}


@contextmanager
def whole_fp8_blocks(stored: str | None) -> Iterator[None]:
    """While a checkpoint in FP8 is loaded, make transformers read blocks in the size that its config.json says.

    It derives their size from the number of scales, so that in a matrix of 160 rows two blocks of 128 become two of 80.
    """
    if stored != "fp8":
        yield
        return
    import torch
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    evenly = Fp8Dequantize._dequantize_one  # noqa: SLF001 - there is no public way

    def exact(self: Any, quantized: Any, scales: Any, output_dtype: Any = None) -> Any:
        blocks, sides = self.hf_quantizer.quantization_config.weight_block_size, quantized.shape[-2:]
        in_fp8 = quantized.dtype == torch.float8_e4m3fn and scales.ndim == 2 and scales.dtype.is_floating_point
        if not in_fp8 or blocks is None or not any(n % block for n, block in zip(sides, blocks, strict=True)):
            return evenly(self, quantized, scales, output_dtype)
        scales = scales.float()
        for axis, (side, block) in enumerate(zip(sides, blocks, strict=True)):
            scales = scales.repeat_interleave(block, axis).narrow(axis, 0, side)
        return (quantized.float() * scales).to(output_dtype or torch.bfloat16)

    Fp8Dequantize._dequantize_one = exact  # type: ignore[method-assign]  # noqa: SLF001
    try:
        yield
    finally:
        Fp8Dequantize._dequantize_one = evenly  # type: ignore[method-assign]  # noqa: SLF001


def keep_layout_on_cpu(model: "torch.nn.Module") -> None:
    """Keep the layers of bitsandbytes from rearranging their weights in place on CPUs with bf16 instructions.

    That fails for rows that are no multiple of a block, as in vision towers.
    """
    layers: Iterator[Any] = model.modules()
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def merging_note(stored: str | None) -> str | None:
    """What becomes of a base model's format when an adapter is merged; None if it stays."""
    if stored != "fp8":
        return None
    return (
        "the base model is stored in fp8: it is dequantized to training.precision, to train and to answer, and a "
        "merged model is written in that precision, twice as large"
    )


def merging_problem(stored: str | None, quantization: Quantization | None) -> str | None:
    """Why an adapter of a quantized model cannot be merged into it; None if it can."""
    if quantization is None and stored in (None, "fp8"):
        return None
    how = f"is stored in {stored}" if stored is not None else f"is quantized ({quantization})"
    return (
        f"the base model {how}: an adapter can be trained on it, but not merged into it without loss. To publish or "
        "serve a merged model, train on the 16-bit checkpoint with model.quantization: null"
    )


def full_training_problem(
    parts: Collection[PartName], stored: str | None, quantization: Quantization | None
) -> str | None:
    """Why parts of a quantized model cannot be trained in full; None if they can.

    NF4 leaves the vision tower as it is, and FP8 checkpoints are dequantized.
    """
    if "language_model" not in parts or (quantization is None and stored in (None, "fp8")):
        return None
    how = f"is quantized (model.quantization: {quantization})" if quantization is not None else f"is stored in {stored}"
    return (
        f"the language model {how}, and only weights of 16 or 32 bits can be trained in full; train an adapter on it "
        "(language_model: lora), or use the 16-bit checkpoint with model.quantization: null"
    )


def nf4(family: Family, dtype: "torch.dtype") -> "BitsAndBytesConfig":
    """The transformers config that loads a checkpoint of this family in NF4 and computes in `dtype`.

    Raises:
        EnvironmentProblem: bitsandbytes is not installed, or does not support this machine.
    """
    if find_spec("bitsandbytes") is None:
        raise EnvironmentProblem(f"model.quantization=nf4 needs the package bitsandbytes: {INSTALL}")
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import validate_bnb_backend_availability

    if not validate_bnb_backend_availability(raise_exception=False):
        raise EnvironmentProblem(
            "model.quantization=nf4: the installed bitsandbytes does not support this machine's GPU or CPU. "
            f"Install another version: {INSTALL}; or do not quantize: --set model.quantization=null"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[family.vision_tower, *family.mergers, "lm_head", *sorted(NEVER_QUANTIZED)],
    )
