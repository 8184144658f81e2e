"""Training parts of a model in full: their own weights, without an adapter.

Weights in half precision have fp32 copies, which the optimizer updates: a step of 1e-5 is lost in the 8 bits of a bf16
number. Their gradients are added up in fp32, and after a step the copies are rounded into the model once. Weights in
fp32 are trained in place. Of weights that are divided among processes (`sharding`), each updates its rows. The result
is stored as `modules_to_save` in PEFT's adapter format, which PEFT loads in place of the base model's modules, also
without any LoRA layer. In training there are no such wrappers: they would keep a second copy of the original weights.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vlmtune.errors import ConfigError
from vlmtune.families import Family, PartName
from vlmtune.modeling.adapter_names import PEFT_PREFIX
from vlmtune.training.sharding import is_divided, own_rows

if TYPE_CHECKING:
    import torch
    from torch import nn


def whole_modules(model: "nn.Module", family: Family, parts: Sequence[PartName]) -> "dict[str, nn.Module]":
    """The modules that make up parts of a model, by name; with the language model also the head.

    Lists of modules are replaced by their members, because PEFT does not wrap a list.
    """
    import torch

    starts = [start for part in parts for start in family.parts[part]]
    head: Any = model.get_output_embeddings() if "language_model" in parts else None  # type: ignore[operator]
    starts += [name for name, module in model.named_modules() if module is head]
    found: dict[str, nn.Module] = {}
    for start in starts:
        module = model.get_submodule(start)
        members = module.named_children() if isinstance(module, torch.nn.ModuleList) else None
        found |= {start: module} if members is None else {f"{start}.{name}": member for name, member in members}
    return found


def train_in_full(model: "nn.Module", family: Family, parts: Sequence[PartName]) -> list[str]:
    """Let the weights of parts learn.

    Args:
        model: the model itself, without the PEFT wrapper.
        family: maps parts to modules.
        parts: of the model.

    Returns:
        Names of the modules, sorted.

    Raises:
        ConfigError: a weight is quantized.
    """
    modules = whole_modules(model, family, parts)
    for name, module in modules.items():
        for weight in module.parameters():
            if not weight.is_floating_point():
                raise ConfigError(
                    f"training.method: {name} is quantized, and only weights of 16 or 32 bits can be trained in full; "
                    "train an adapter on that part (lora), or use the 16-bit checkpoint"
                )
            weight.requires_grad_()
    return sorted(modules)


def give_copies(model: "nn.Module") -> None:
    """Give trained weights in half precision an fp32 copy, and those that are divided a plain tensor of their rows.

    In fp32, such a tensor shares the memory of the weight.
    """
    import torch

    for weight in model.parameters():
        has_none = weight.requires_grad and learning(weight) is weight
        if has_none and (weight.dtype != torch.float32 or is_divided(weight)):
            _give_copy(weight)


def _give_copy(weight: Any) -> None:
    import torch

    weight.fp32_copy = torch.nn.Parameter(own_rows(weight).float())
    if is_divided(weight):
        weight.fp32_copy.rows_of = weight
    weight.register_post_accumulate_grad_hook(_move_gradient)


def _move_gradient(weight: Any) -> None:
    """Add the gradient of one backward pass to that of the fp32 copy, and free it."""
    copy, gradient = weight.fp32_copy, own_rows(weight.grad)
    if copy.grad is None:
        copy.grad = gradient.float()
    else:
        copy.grad += gradient
    weight.grad = None


def learning(weight: Any) -> "nn.Parameter":
    """What the optimizer updates in place of a weight: its fp32 copy if it has one."""
    copy: nn.Parameter = getattr(weight, "fp32_copy", weight)
    return copy


def round_into_model(model: "nn.Module") -> None:
    """Write the fp32 copies into the weights of a model; to be called whenever the copies have changed."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if (copy := learning(weight)) is not weight:
                own_rows(weight).copy_(copy)


def whole_state(model: "nn.Module", names: Sequence[str]) -> "Iterator[tuple[str, torch.Tensor]]":
    """The weights of modules under the names that PEFT stores them by; a tied head is stored as well.

    Those that are divided are gathered one after the other: all processes must take all of them.

    Args:
        model: the model itself, without the PEFT wrapper.
        names: of the modules.
    """
    for name in names:
        state: dict[str, Any] = model.get_submodule(name).state_dict()
        for key, value in state.items():
            yield f"{PEFT_PREFIX}{name}.{key}", value.full_tensor() if is_divided(value) else value


def load_whole_state(model: "nn.Module", weights: "dict[str, torch.Tensor]") -> None:
    """Replace weights of modules that are trained in full, and their fp32 copies.

    Args:
        model: the model itself, without the PEFT wrapper.
        weights: by the names of `whole_state`; others are left out.
    """
    import torch

    own = {f"{PEFT_PREFIX}{name}": weight for name, weight in model.named_parameters(remove_duplicate=False)}
    with torch.no_grad():
        for name in sorted(weights.keys() & own.keys()):
            learning(own[name]).copy_(weights[name])
            own[name].copy_(weights[name])
