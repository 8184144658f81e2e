"""Putting a LoRA adapter into a model, and writing it so that plain PEFT loads it."""

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.families import Family
from vlmtune.files import os_errors_named, read_json, write_bytes
from vlmtune.plugs import closest
from vlmtune.training.settings import LoraConfig

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def add_adapter(model: "PreTrainedModel", settings: LoraConfig, family: Family, seed: int) -> "PeftModel":
    """A fresh adapter on the language model's layers, in fp32; the model itself stays frozen.

    Raises:
        ConfigError: a name in `target_modules` matches no linear layer of the language model.
    """
    import peft
    import torch

    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings, family),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is on its way out
        adapted = peft.get_peft_model(model, config)
    for parameter in trainable(adapted).values():
        parameter.data = parameter.data.float()
    return adapted


def trainable(model: "torch.nn.Module") -> "dict[str, torch.nn.Parameter]":
    """The adapter's weights by name, sorted."""
    return {name: p for name, p in sorted(model.named_parameters()) if p.requires_grad}


def _targets(model: "PreTrainedModel", settings: LoraConfig, family: Family) -> list[str] | str:
    """Plain names where they mean language layers only, else a pattern that keeps other parts' layers out."""
    import torch

    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    language = {name.rpartition(".")[2] for name in linear if name.startswith(family.language + ".")}
    for name in settings.target_modules:
        if name not in language:
            nearest = closest(name, sorted(language))
            raise ConfigError(
                f"training.lora.target_modules: {name!r} matches no linear layer of the language model"
                + (f"; did you mean {nearest!r}?" if nearest else "")
                + f" There are: {', '.join(sorted(language))}"
            )
    elsewhere = {name.rpartition(".")[2] for name in linear if not name.startswith(family.language + ".")}
    if not elsewhere & set(settings.target_modules):
        return sorted(settings.target_modules)
    return rf"{re.escape(family.language)}\..*\.({'|'.join(sorted(settings.target_modules))})"


def check_first_gradients(model: "PeftModel") -> None:
    """Every B must have felt the first loss (A's gradient is zero while B is); one that has not is not connected.

    Raises:
        IntegrityError: names the layers.
    """
    dead = [
        name
        for name, parameter in trainable(model).items()
        if "lora_B" in name and (parameter.grad is None or not parameter.grad.any())
    ]
    if dead:
        raise IntegrityError(
            f"{len(dead)} adapter layers got no gradient at the first step, first {dead[0]}: they would never learn. "
            "Choose other training.lora.target_modules"
        )


def save_adapter(model: "PeftModel", folder: Path, base: str, revision: str | None) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`: the same bytes for the same weights.

    PEFT writes `target_modules` in the order of a set and the base by the path it happened to lie at; both are put
    right.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save as to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    # Embeddings are never trained; asked to find that out by itself, PEFT would look the base up on the Hub.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_bytes(folder / "adapter_model.safetensors", to_bytes(weights, metadata={"format": "pt"}))
    config = model.peft_config["default"]
    config.inference_mode = True
    with os_errors_named(folder):
        config.save_pretrained(str(folder))
    file = folder / "adapter_config.json"
    written: dict[str, Any] = read_json(file)
    written |= {"base_model_name_or_path": base, "revision": revision}
    if isinstance(written["target_modules"], list):
        written["target_modules"] = sorted(written["target_modules"])
    write_bytes(file, (json.dumps(written, indent=2, sort_keys=True) + "\n").encode())
