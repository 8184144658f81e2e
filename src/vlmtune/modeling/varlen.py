"""Attention over parts of a sequence in one call on a GPU: torch's kernel or flash-attn's, and whether they work here.

A kernel that can be imported may still refuse a head size or compute something else on this GPU. One is used only if it
gives what scaled_dot_product_attention gives, forward and backward, on small tensors with the head size in question.
"""

import inspect
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module, metadata
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    Bounds = tuple[torch.Tensor, torch.Tensor]

VarlenKernel = Literal["varlen", "flash"]
MODULES: dict[VarlenKernel, str] = {"varlen": "torch.nn.attention.varlen", "flash": "flash_attn"}
"""Kernels in order of preference, and the modules that contain them."""
HEAD_SIZES = {128: "language model", 72: "vision tower", 256: "language model of Qwen3.5"}
"""Head sizes of the known model families, in which `vlmtune doctor` tries the kernels."""
TOLERANCE = 0.03
"""Largest relative distance from scaled_dot_product_attention; half precision differs by about 0.004."""
GQA_SINCE = (2, 12)
"""First torch whose kernel takes fewer key-value heads than query heads; before, they are repeated in memory."""


def repeats_keys() -> bool:
    """Whether the installed torch repeats key-value heads in memory for its kernel; without importing it."""
    return tuple(int(part) for part in metadata.version("torch").split(".")[:2]) < GQA_SINCE


def attend(
    kernel: VarlenKernel,
    tensors: "Tensors",
    bounds: "Bounds",
    longest: tuple[int, int],
    scaling: float | None,
    causal: bool,
) -> "torch.Tensor":
    """Attention inside each part; a causal mask is aligned at the end: the last query sees the last key.

    Args:
        kernel: which one.
        tensors: queries [S, heads, head_dim], keys and values [T, key-value heads, head_dim].
        bounds: of the parts in S and in T, [parts + 1] each, int32.
        longest: lengths of the longest part in S and in T.
        scaling: factor of the scores; None is 1 / sqrt(head_dim).
        causal: whether a query sees no later key.

    Returns:
        [S, heads, head_dim].
    """
    call: Any
    out: torch.Tensor
    if kernel == "flash":  # 2.1 or newer; repeats the key-value heads itself
        call = import_module(MODULES["flash"]).flash_attn_varlen_func
        out = call(*tensors, *bounds, *longest, softmax_scale=scaling, causal=causal)
        return out
    call = import_module(MODULES["varlen"]).varlen_attn
    queries, keys, values = tensors
    parameters = inspect.signature(call).parameters  # they differ between versions
    options: dict[str, Any] = {}
    if causal:
        options = {"window_size": (-1, 0)} if "window_size" in parameters else {"is_causal": True}
    if "scale" in parameters:
        options["scale"] = scaling
    if (repeats := queries.shape[1] // keys.shape[1]) > 1:
        if "enable_gqa" in parameters:
            options["enable_gqa"] = True
        else:
            keys, values = (x.repeat_interleave(repeats, dim=1) for x in (keys, values))
    out = call(queries, keys, values, *bounds, *longest, **options)
    return out


@lru_cache
def problem(
    kernel: VarlenKernel, head_size: int, dtype: "torch.dtype", device: "torch.device", causal: bool
) -> str | None:
    """Why a kernel cannot be used for heads of this size; None if it can.

    Forward and backward pass are compared with scaled_dot_product_attention: parts of different lengths, fewer
    key-value heads than query heads, and, with a causal mask, also a part with more keys than queries.
    """
    import torch

    try:
        import_module(MODULES[kernel])
    except ImportError as error:  # not installed, or built for another torch
        return str(error)
    lengths = ([5, 40, 19], [5, 40, 19])
    cases = [lengths, ([5, 40, 19], [5, 64, 31])] if causal else [lengths]
    try:
        # A forward pass may ask first: without gradients, or in inference mode.
        with torch.inference_mode(mode=False), torch.enable_grad():
            worst = max(_distance(kernel, head_size, dtype, device, causal, case) for case in cases)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        first = next(iter(str(error).splitlines()), "no message")
        return f"{type(error).__name__}: {first.split('. ')[0]:.200}"
    if not worst <= TOLERANCE:
        return f"differs from scaled_dot_product_attention by {worst:.2g} at head size {head_size}"
    return None


def _distance(
    kernel: VarlenKernel,
    head_size: int,
    dtype: "torch.dtype",
    device: "torch.device",
    causal: bool,
    lengths: tuple[list[int], list[int]],
) -> float:
    """Largest relative distance of a result or a gradient from scaled_dot_product_attention in fp32."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = [(sum(lengths[0]), 4), (sum(lengths[1]), 2 if causal else 4), (sum(lengths[1]), 2 if causal else 4)]
    drawn = [torch.randn(*shape, head_size, generator=generator).to(device, dtype) for shape in shapes]
    weights = torch.randn(*shapes[0], head_size, generator=generator).to(device)
    offsets = [[sum(each[:n]) for n in range(len(each) + 1)] for each in lengths]
    scaling, longest = 0.8 / head_size**0.5, (max(lengths[0]), max(lengths[1]))
    queries = torch.tensor(offsets[0], dtype=torch.int32, device=device)
    keys = queries if offsets[0] == offsets[1] else torch.tensor(offsets[1], dtype=torch.int32, device=device)
    found: list[list[torch.Tensor]] = []
    for reference in (False, True):
        inputs = [(x.float() if reference else x).requires_grad_() for x in drawn]
        parts: Tensors = (inputs[0], inputs[1], inputs[2])
        out = (
            _reference(parts, offsets, scaling, causal)
            if reference
            else attend(kernel, parts, (queries, keys), longest, scaling, causal)
        )
        found.append([out.float(), *(x.float() for x in torch.autograd.grad((out * weights).sum(), inputs))])
    return max(float((ours - wanted).norm() / wanted.norm()) for ours, wanted in zip(*found, strict=True))


def _reference(tensors: "Tensors", offsets: Sequence[Sequence[int]], scaling: float, causal: bool) -> "torch.Tensor":
    import torch

    outputs = []
    for (start, end), (first, last) in zip(*(pairwise(each) for each in offsets), strict=True):
        queries, keys, values = (
            x[span].transpose(0, 1)[None]
            for x, span in zip(tensors, (slice(start, end), slice(first, last), slice(first, last)), strict=True)
        )
        mask = torch.ones(end - start, last - first, dtype=torch.bool, device=queries.device)
        out = torch.nn.functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask.tril(last - first - end + start) if causal else None,
            scale=scaling,
            enable_gqa=keys.shape[1] != queries.shape[1],
        )
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)
