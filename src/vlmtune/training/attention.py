"""Attention for packed sequences: every segment sees its prefix and then itself, causally; nothing else.

Registered with transformers under its own name, and enabled for the language model only. The segments of a sequence are
passed as a keyword argument through the model's forward to every layer, so there is no state between calls. On a GPU in
half precision, a single call of a variable-length kernel, torch's or flash-attn's, computes a whole sequence; otherwise
there is one call per segment.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from vlmtune.errors import EnvironmentProblem
from vlmtune.families import Family
from vlmtune.training.packing import Segment

if TYPE_CHECKING:
    import torch
    from torch import nn

    Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    Bounds = tuple[torch.Tensor, torch.Tensor]

PACKED_ATTENTION = "vlmtune_packed"
"""The name under which transformers knows this attention."""

Kernel = Literal["varlen", "flash", "loop"]
MODULES = {"varlen": "torch.nn.attention.varlen", "flash": "flash_attn"}
"""Modules of the kernels for a GPU in half precision, in order of preference."""


def pick_kernel(requested: str, device: str, dtype: "torch.dtype") -> Kernel:
    """The kernel to use: the requested one, or with `auto` the first that runs here.

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
    usable = [name for name, module in MODULES.items() if requested in ("auto", name) and _can_import(module)]
    if not usable and requested == "flash":
        raise EnvironmentProblem(
            "training.attention=flash needs the package flash-attn, built for this torch: pip install flash-attn "
            "--no-build-isolation; or use --set training.attention=auto"
        )
    if not usable and requested == "varlen":
        raise EnvironmentProblem(
            f"training.attention=varlen needs torch 2.10 or newer (here: {torch.__version__}): pip install -U torch; "
            "or use --set training.attention=auto"
        )
    return usable[0] if usable else "loop"  # type: ignore[return-value]  # the keys of MODULES


def enable_packed_attention(model: "nn.Module", family: Family, requested: str = "auto") -> Kernel:
    """Switch the language model of a loaded model to packed attention; returns the kernel in use.

    From then on, every forward needs the keyword `segments`: those of its packed sequence, in order and without gaps.

    Raises:
        EnvironmentProblem: the requested kernel cannot run here.
    """
    from transformers import AttentionInterface

    language: Any = model.get_submodule(family.language_model)
    kernel = pick_kernel(requested, language.device.type, language.dtype)
    AttentionInterface.register(PACKED_ATTENTION, partial(packed_attention, kernel=kernel))
    language.config._attn_implementation = PACKED_ATTENTION  # noqa: SLF001 - the public setter rejects unknown names
    return kernel


def _can_import(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:  # not installed, or built for another torch
        return False
    return True


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
    # A shared prefix is gathered once per branch; autograd adds the gradients of the copies up.
    gathered = (queries, keys[index], values[index])
    attend = _flash if kernel == "flash" else _varlen
    return attend(gathered, bounds, longest, scaling)[None], None


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


def _varlen(gathered: "Tensors", bounds: "Bounds", longest: tuple[int, int], scaling: float | None) -> "torch.Tensor":
    """Torch's variable-length attention, whose arguments differ between versions.

    A segment with a prefix has fewer queries than keys. Both kernels align the causal mask at the end: the last query
    sees the last key.
    """
    from torch.nn.attention.varlen import varlen_attn

    queries, keys, values = gathered
    parameters = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in parameters else {"is_causal": True}
    if "scale" in parameters:
        options["scale"] = scaling
    if "enable_gqa" in parameters:
        options["enable_gqa"] = True
    else:
        repeats = queries.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(repeats, dim=1) for x in (keys, values))
    call: Any = varlen_attn
    out: torch.Tensor = call(queries, keys, values, *bounds, *longest, **options)
    return out


def _flash(gathered: "Tensors", bounds: "Bounds", longest: tuple[int, int], scaling: float | None) -> "torch.Tensor":
    """flash-attn (2.1 or newer), which repeats the key-value heads itself."""
    call: Any = import_module("flash_attn").flash_attn_varlen_func
    out: torch.Tensor = call(*gathered, *bounds, *longest, softmax_scale=scaling, causal=True)
    return out


@lru_cache(maxsize=4)
def _varlen_layout(
    segments: tuple[Segment, ...], device: "torch.device"
) -> "tuple[torch.Tensor, Bounds, tuple[int, int]]":
    """Indices of the keys that each segment sees, bounds of queries and of keys, and the longest of each.

    Cached, because all layers of a sequence need the same. For the prefix P1 P2 P3 and its branches A1 A2 and B1 B2:

        segments       P1 P2 P3 | A1 A2          | B1 B2
        index           0  1  2 | 0  1  2  3  4  | 0  1  2  5  6
        query bounds   [0, 3, 5, 7]       longest 3
        key bounds     [0, 3, 8, 13]      longest 5
    """
    import torch

    seen = [[*range(s.prefix_start, s.prefix_end), *range(s.start, s.end)] for s in segments]
    index = torch.tensor([key for keys in seen for key in keys], device=device)
    lengths = [s.end - s.start for s in segments], [len(keys) for keys in seen]
    queries, keys = (torch.tensor([0, *each]).cumsum(0).int().to(device) for each in lengths)
    return index, (queries, keys), (max(lengths[0]), max(lengths[1]))
