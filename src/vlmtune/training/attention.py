"""Attention for packed sequences: every segment sees its prefix and then itself, causally; nothing else.

Registered with transformers under its own name, and enabled for the language model only. The segments of a sequence are
passed as a keyword argument through the model's forward to every layer, so there is no state between calls. On a GPU in
half precision, a single call of a variable-length kernel, torch's or flash-attn's, computes a whole sequence; otherwise
there is one call per segment.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

from vlmtune.errors import EnvironmentProblem
from vlmtune.families import Family
from vlmtune.modeling import varlen
from vlmtune.modeling.varlen import VarlenKernel
from vlmtune.modeling.vision_tower import uses_varlen
from vlmtune.processing.encoder import to_device
from vlmtune.training.linear_attention import enable_packed_linear_attention
from vlmtune.training.packing import Segment

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vlmtune.modeling.varlen import Bounds

PACKED_ATTENTION = "vlmtune_packed"
"""The name under which transformers knows this attention."""

Kernel = VarlenKernel | Literal["loop"]
REMEDIES: dict[VarlenKernel, str] = {
    "varlen": "it needs torch 2.10 or newer: pip install -U torch",
    "flash": "it needs the package flash-attn, built for this torch: pip install flash-attn --no-build-isolation",
}


def pick_kernel(requested: str, device: str, dtype: "torch.dtype", head_size: int) -> Kernel:
    """The kernel to use: the requested one, or with `auto` the first that works here for heads of this size.

    Raises:
        EnvironmentProblem: the requested kernel cannot run here.
    """
    import torch

    fast = device.startswith("cuda") and dtype in (torch.float16, torch.bfloat16)
    if requested == "loop" or (requested == "auto" and not fast):
        return "loop"
    if not fast:
        raise EnvironmentProblem(
            f"training.attention={requested} needs a GPU and half precision (here: {device}, "
            f"{str(dtype).split('.')[-1]}); use --set training.attention=auto"
        )
    for kernel in varlen.MODULES:
        if requested not in ("auto", kernel):
            continue
        problem = varlen.problem(kernel, head_size, dtype, torch.device(device), causal=True)
        if problem is None:
            return kernel
        if requested == kernel:
            raise EnvironmentProblem(
                f"training.attention={kernel} does not work here ({problem}); {REMEDIES[kernel]}; or use --set "
                "training.attention=auto"
            )
    return "loop"


def enable_packed_attention(model: "nn.Module", family: Family, requested: str = "auto") -> Kernel:
    """Switch the language model of a loaded model to packed attention; returns the kernel in use.

    From then on, every forward needs the keyword `segments`: those of its packed sequence, in order and without gaps.

    Raises:
        EnvironmentProblem: the requested kernel cannot run here, or linear attention layers cannot be packed.
    """
    from transformers import AttentionInterface

    language: Any = model.get_submodule(family.language_model)
    kernel = pick_kernel(requested, language.device.type, language.dtype, head_size(language.config))
    AttentionInterface.register(PACKED_ATTENTION, partial(packed_attention, kernel=kernel))
    language.config._attn_implementation = PACKED_ATTENTION  # noqa: SLF001 - the public setter rejects unknown names
    enable_packed_linear_attention(model, family)
    return kernel


def kernel_facts(model: "nn.Module", family: Family, kernel: Kernel) -> dict[str, Any]:
    """Which kernels compute attention, and why preferred ones do not; for the manifest."""
    import torch

    language: Any = model.get_submodule(family.language_model)
    tower: Any = model.get_submodule(family.vision_tower)
    size, device, dtype = head_size(language.config), language.device, language.dtype
    vision = "sdpa"  # of tiles, which transformers computes at once
    if hasattr(tower, "blocks"):
        vision = "varlen" if uses_varlen(device, dtype, tower.blocks[0].attn.head_dim) else "grouped"
    refused: dict[str, str] = {}
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        for other in itertools.takewhile(lambda each: each != kernel, varlen.MODULES):
            refused[other] = (
                varlen.problem(other, size, dtype, torch.device(device.type), causal=True) or "not requested"
            )
    return {"attention": kernel, "vision_attention": vision, "refused_kernels": refused}


def head_size(config: Any) -> int:
    """Width of an attention head, from the language model's config."""
    given: int | None = getattr(config, "head_dim", None)
    return given or config.hidden_size // config.num_attention_heads


@contextmanager
def plain_attention(model: "nn.Module", family: Family) -> Iterator[None]:
    """Restore the language model's original attention inside this block, to generate text."""
    language: Any = model.get_submodule(family.language_model)
    language.config._attn_implementation = "sdpa"  # noqa: SLF001 - as above
    try:
        yield
    finally:
        language.config._attn_implementation = PACKED_ATTENTION  # noqa: SLF001 - as above


def packed_attention(  # noqa: PLR0913 - the signature is what transformers calls
    module: "nn.Module",
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: None,
    *,
    segments: Sequence[Segment],
    scaling: float | None = None,
    kernel: Kernel = "loop",
    **_: Any,
) -> "tuple[torch.Tensor, None]":
    """Attention over one packed sequence.

    Args:
        module: the attention layer; unused.
        query: [1, heads, S, head_dim].
        key: [1, key-value heads, S, head_dim].
        value: as `key`.
        attention_mask: unused; `segments` determines which token attends to which.
        segments: of the packed sequence, in order.
        scaling: factor of the scores; None is 1 / sqrt(head_dim).
        kernel: which implementation to use.

    Returns:
        [1, S, heads, head_dim], and no attention weights.
    """
    if kernel == "loop":
        return _loop(query, key, value, segments, scaling), None
    index, bounds, longest = _varlen_layout(tuple(segments), query.device)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    if index is not None:
        # A shared prefix is gathered once per branch; autograd adds the gradients of the copies up.
        keys, values = keys[index], values[index]
    return varlen.attend(kernel, (queries, keys, values), bounds, longest, scaling, causal=True)[None], None


def _loop(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    segments: Sequence[Segment],
    scaling: float | None,
) -> "torch.Tensor":
    """One call of scaled_dot_product_attention per segment; [1, S, heads, head_dim]."""
    import torch

    attend = torch.nn.functional.scaled_dot_product_attention
    gqa = key.shape[1] != query.shape[1]
    outputs = []
    for segment in segments:
        span, prefix = slice(segment.start, segment.end), slice(segment.prefix_start, segment.prefix_end)
        queries, keys, values = query[:, :, span], key[:, :, span], value[:, :, span]
        prefix_length = segment.prefix_end - segment.prefix_start
        if not prefix_length:
            outputs.append(attend(queries, keys, values, is_causal=True, scale=scaling, enable_gqa=gqa))
            continue
        length = segment.end - segment.start
        # Rows are queries, columns the prefix and then the segment: for 2 tokens after 3,  1 1 1 | 1 0
        #                                                                                   1 1 1 | 1 1
        mask = torch.ones(length, prefix_length + length, dtype=torch.bool, device=query.device).tril(prefix_length)
        keys, values = torch.cat([key[:, :, prefix], keys], 2), torch.cat([value[:, :, prefix], values], 2)
        outputs.append(attend(queries, keys, values, attn_mask=mask, scale=scaling, enable_gqa=gqa))
    return torch.cat(outputs, 2).transpose(1, 2)


@lru_cache(maxsize=4)
def _varlen_layout(
    segments: tuple[Segment, ...], device: "torch.device"
) -> "tuple[torch.Tensor | None, Bounds, tuple[int, int]]":
    """Indices of the keys that each segment sees, bounds of queries and of keys, and the longest of each.

    Without prefixes, the keys are those of the queries: nothing is gathered, and both have the same bounds, one tensor
    (some kernels need to know that). Cached, because all layers of a sequence need the same. For the prefix P1 P2 P3
    and its branches A1 A2 and B1 B2:

        segments       P1 P2 P3 | A1 A2          | B1 B2
        index           0  1  2 | 0  1  2  3  4  | 0  1  2  5  6
        query bounds   [0, 3, 5, 7]       longest 3
        key bounds     [0, 3, 8, 13]      longest 5
    """
    import torch

    lengths = [s.end - s.start for s in segments]
    queries = to_device(torch.tensor([0, *lengths]).cumsum(0).int(), device)
    if not any(s.prefix_end > s.prefix_start for s in segments):
        return None, (queries, queries), (max(lengths), max(lengths))
    seen = [[*range(s.prefix_start, s.prefix_end), *range(s.start, s.end)] for s in segments]
    index = to_device(torch.tensor([key for keys in seen for key in keys]), device)
    keys = to_device(torch.tensor([0, *map(len, seen)]).cumsum(0).int(), device)
    return index, (queries, keys), (max(lengths), max(map(len, seen)))
