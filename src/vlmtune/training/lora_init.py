"""Initial weights of adapters that are computed from those of the base model (PiSSA, OLoRA, LoftQ).

PiSSA and OLoRA begin with a part of each matrix, W = W' + s B0 A0, and train on the rest W'. What is published is an
adapter of the original model with twice the rank, s [B, -B0] [A; A0], as PEFT's conversion makes it
(`path_initial_model_for_weight_conversion`): it needs no other base.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.errors import ConfigError
from vlmtune.files import write_bytes
from vlmtune.modeling.adapter_names import PEFT_PREFIX

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

INITIAL = "initial_adapter.safetensors"
"""In the work folder: the weights that the adapter began with, where the base model depends on them."""


def changes_base(init: str | None) -> bool:
    """Whether an initialization takes a part of the base model's weights into the adapter."""
    return init is not None and init.startswith(("pissa", "olora"))


def adapter_state(model: "PeftModel") -> "dict[str, torch.Tensor]":
    """Copies of an adapter's weights on the CPU, by PEFT's names; empty without one."""
    from peft import get_peft_model_state_dict

    # Embeddings never have adapters; without the option, PEFT would query the Hub for the base model to find out.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def keep_initial(model: "PeftModel", work: Path, is_main: bool) -> "dict[str, torch.Tensor]":
    """The weights that the run's adapter began with, [A and B by name]; written down in its first process.

    A process that resumes the run computes them anew. Where they differ, on another GPU, the base model is corrected:
    the checkpoint's weights belong to those that the run began with.
    """
    from safetensors.torch import load_file
    from safetensors.torch import save as to_bytes

    computed = adapter_state(model)
    file = work / INITIAL
    if is_main and not file.is_file():
        write_bytes(file, to_bytes(computed))
    if not file.is_file():
        return computed
    initial: dict[str, torch.Tensor] = load_file(file)
    for name, layer in _layers(model).items():
        a, b = (f"{name}.lora_{letter}.weight" for letter in "AB")
        if not (initial[a].equal(computed[a]) and initial[b].equal(computed[b])):
            weight = layer.get_base_layer().weight
            change = computed[b] @ computed[a] - initial[b] @ initial[a]
            moved = weight.float() + layer.scaling["default"] * change.to(weight.device)
            weight.data = moved.to(weight.dtype)
    return initial


def of_original_base(
    weights: "Mapping[str, torch.Tensor]", initial: "Mapping[str, torch.Tensor]"
) -> "dict[str, torch.Tensor]":
    """An adapter of the model without its initial part as one of the original model, with twice the rank."""
    import torch

    return {
        name: torch.cat([value, initial[name]]) if ".lora_A." in name else torch.cat([value, -initial[name]], dim=1)
        for name, value in weights.items()
    }


def double_rank(config: Any) -> dict[str, Any]:
    """Fields of an adapter's config (of PEFT) that keep the factor of B A at twice the rank."""
    factor = math.sqrt(2) if config.use_rslora else 2
    return {"r": 2 * config.r, "lora_alpha": config.lora_alpha * factor}


def check_sizes(model: "PeftModel", init: str) -> None:
    """Check that every adapted matrix has as many rows and columns as the adapter has ranks.

    Raises:
        ConfigError: names a smaller one.
    """
    for name, layer in _layers(model).items():
        rank, small = layer.r["default"], min(layer.get_base_layer().weight.shape)
        if rank > small:
            raise ConfigError(
                f"training.lora.init_lora_weights: {init} takes {rank} directions of every matrix, but {name} has only "
                f"{small}; set training.lora.rank to at most {small}"
            )


def begin_with_rounding_errors(model: "PeftModel", original: "torch.nn.Module") -> None:
    """Initialize an adapter on a base in 4 bits with what quantization took from its matrices, as LoftQ does.

    Args:
        model: on the quantized base.
        original: the base as it was, on any device; a matrix at a time is moved.
    """
    import torch
    from peft.utils.integrations import dequantize_module_weight

    for name, layer in _layers(model).items():
        base = layer.get_base_layer()
        # Modules lie below the wrapper's own names.
        exact = original.get_parameter(f"{name.removeprefix(PEFT_PREFIX)}.weight")
        lost = exact.to(base.weight.device, torch.float32) - dequantize_module_weight(base).float()
        left, sizes, right = torch.linalg.svd(lost / layer.scaling["default"], full_matrices=False)
        rank = layer.r["default"]
        roots = sizes[:rank].sqrt()
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(roots[:, None] * right[:rank])
            layer.lora_B["default"].weight.copy_(left[:, :rank] * roots)


def _layers(model: "PeftModel") -> dict[str, Any]:
    """Adapted layers by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
