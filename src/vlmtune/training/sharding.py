"""Dividing a model among several processes with torch's FSDP2, for models that do not fit onto one GPU.

The weights of the language model are divided; those of one layer are gathered whenever it is computed, and dropped
behind it. Adapters, the merger and the vision tower stay whole in every process: they are small, and a process whose
examples have no image need not run the tower. Their gradients are summed once per step, as without sharding. Of
weights that are divided and learn, each process keeps its rows: gradients arrive summed, and the optimizer updates
plain tensors, of which a checkpoint gathers whole ones. It therefore fits any number of processes, also a single one.

All processes must compute the same layers in the same order, or they wait for each other forever: they compute
equally many sequences (`ForwardBackward.in_step`), and have a backward pass through the same layers.
"""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from vlmtune.distributed import ProcessGroup
from vlmtune.errors import ConfigError, EnvironmentProblem
from vlmtune.families import Family

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

T = TypeVar("T")
AS_ROOT = "run_gathered"
"""Name of the method of a sharded model inside which its layers and its head are computed."""


def shard(model: "PeftModel", family: Family, device: str, processes: ProcessGroup) -> None:
    """Divide a model on the CPU among all processes, and move it to their devices, a layer at a time.

    Args:
        model: with its adapter. Parameters that are divided are replaced: no reference may be kept.
        family: locates the language model in it.
        device: of this process: cpu or cuda.
        processes: all of them.

    Raises:
        ConfigError: weights are quantized.
        EnvironmentProblem: this version of torch lacks what is needed.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        import torch

        raise EnvironmentProblem(
            f"training.sharding: fsdp needs torch 2.11 or newer (here: {torch.__version__}): pip install -U torch"
        )
    base: Any = model.base_model.model
    language, embeddings, head = _language(base, family)
    names = {id(weight): name for name, weight in base.named_parameters()}
    weights = {weight for part in (language, head) for weight in part.parameters()}
    divided = {weight for weight in weights if ".lora_" not in names[id(weight)]}
    if any(not weight.is_floating_point() for weight in divided):
        raise ConfigError(
            "training.sharding: fsdp does not divide quantized weights; use the 16-bit checkpoint, or "
            "training.sharding=none"
        )
    whole = {weight for weight in base.parameters() if weight not in divided}
    for weight in base.parameters():
        weight.data = weight.data.contiguous() if weight in divided else weight.data.to(device)
    learns_outside = any(weight.requires_grad for weight in whole if not names[id(weight)].startswith(_prefix(family)))
    mesh, summed = init_device_mesh(device, (processes.world_size,)), MixedPrecisionPolicy(reduce_dtype=_fp32())
    setattr(base, AS_ROOT, MethodType(_run, base))
    own = [] if embeddings.weight is head.weight else [embeddings, head]
    for module in [*language.layers, *own, base]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=summed, ignored_params=whole)
    register_fsdp_forward_method(base, AS_ROOT)
    for module in base.modules():
        if isinstance(module, FSDPModule):  # sums, where FSDP would average; gloo knows nothing else
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    if learns_outside:  # or processes without images would have no backward pass through the layers
        embeddings.register_forward_hook(lambda module, args, output: output.requires_grad_())


def _language(base: Any, family: Family) -> tuple[Any, Any, Any]:
    """The language model, its embeddings and its head."""
    return base.get_submodule(family.language_model), base.get_input_embeddings(), base.get_output_embeddings()


def _prefix(family: Family) -> str:
    return f"{family.language_model}."


def _fp32() -> "torch.dtype":
    import torch

    return torch.float32


def _run(base: Any, compute: Callable[[], T]) -> T:
    return compute()


def run_gathered(model: Any, compute: Callable[[], T]) -> T:
    """Compute something of a model inside the PEFT wrapper, sharded or not, with what belongs to no layer gathered."""
    method: Callable[[Callable[[], T]], T] | None = getattr(model, AS_ROOT, None)
    return compute() if method is None else method(compute)


def is_divided(weight: "torch.Tensor") -> bool:
    """Whether this process has only some rows of a weight."""
    return hasattr(weight, "full_tensor")


def is_rows(learning: "torch.Tensor") -> bool:
    """Whether what the optimizer updates are the rows that this process has of a weight."""
    return hasattr(learning, "rows_of")


def own_rows(weight: "torch.Tensor") -> "torch.Tensor":
    """The rows of a weight that this process has, in the same memory; all of them if it is not divided."""
    local: torch.Tensor = weight.detach().to_local() if is_divided(weight) else weight.detach()  # type: ignore[attr-defined]
    return local


def shape_of(learning: "torch.Tensor") -> "torch.Size":
    """Shape of the whole weight of what the optimizer updates."""
    shape: torch.Size = getattr(learning, "rows_of", learning).shape
    return shape


def gathered(value: "torch.Tensor", learning: "torch.Tensor") -> "torch.Tensor":
    """A whole tensor from the rows of all processes; all of them must call it.

    Args:
        value: with the rows of `learning`, or all.
        learning: what the optimizer updates.
    """
    from torch.distributed.tensor import DTensor

    weight: Any = getattr(learning, "rows_of", None)
    if weight is None:
        return value
    mesh, placements, shape = weight.device_mesh, weight.placements, weight.shape
    rows = DTensor.from_local(value.detach(), mesh, placements, shape=shape, stride=weight.stride())
    whole: torch.Tensor = rows.full_tensor()
    return whole


def rows_of(value: "torch.Tensor", learning: "torch.Tensor") -> "torch.Tensor":
    """The rows of a whole tensor that belong to what the optimizer updates in this process."""
    weight: Any = getattr(learning, "rows_of", None)
    if weight is None:
        return value
    rank, size = weight.device_mesh.get_local_rank(), weight.device_mesh.size()
    parts = value.chunk(size)  # fewer than processes if there are fewer rows
    return parts[rank] if rank < len(parts) else value[:0]


def clip_gradients(weights: "Sequence[torch.nn.Parameter]", largest: float, processes: ProcessGroup) -> "torch.Tensor":
    """Scale gradients down to a norm over the weights of all processes; returns the norm before."""
    import torch

    divided = [weight for weight in weights if is_rows(weight)]
    if not divided:
        return torch.nn.utils.clip_grad_norm_(weights, largest)
    whole = [weight for weight in weights if not is_rows(weight)]
    squares = [_norm(part).double() ** 2 for part in (divided, whole)]
    processes.all_reduce(squares[:1])
    norm = (squares[0] + squares[1]).sqrt().float()
    torch.nn.utils.clip_grads_with_norm_(weights, largest, norm)
    return norm


def _norm(weights: "Sequence[torch.nn.Parameter]") -> "torch.Tensor":
    import torch

    return torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
