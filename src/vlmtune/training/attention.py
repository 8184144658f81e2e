"""Attention inside segments: each sees its parent and then itself, causally; nothing else of the row.

Registered with transformers under a name of its own and given to the language model alone. The row's segments travel as
a keyword argument from the model's forward to every layer, so nothing is kept between calls. On a GPU in half precision
one call of a variable-length attention, torch's or flash-attn's, does a whole row; elsewhere one call per segment.
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

SEGMENTS = "vlmtune_segments"


Kernel = Literal["varlen", "flash", "loop"]
MODULES = {"varlen": "torch.nn.attention.varlen", "flash": "flash_attn"}
"""Where the kernels for a GPU in half precision stand, the one to take first in front."""


def pick_kernel(asked: str, device: str, dtype: "torch.dtype") -> Kernel:
    """What computes attention here: the one asked for, or by `auto` the first that runs.

    Raises:
        EnvironmentProblem: the one asked for cannot run here.
    """
    import torch

    fast = device.startswith("cuda") and dtype in (torch.float16, torch.bfloat16)
    if asked == "loop" or (asked == "auto" and not fast):
        return "loop"
    if not fast:
        raise EnvironmentProblem(
            f"training.attention={asked} needs a GPU and half precision (here: {device}, {str(dtype).split('.')[-1]}); "
            "use --set training.attention=auto"
        )
    there = [name for name, module in MODULES.items() if asked in ("auto", name) and _runs(module)]
    if not there and asked == "flash":
        raise EnvironmentProblem(
            "training.attention=flash needs the package flash-attn, built for this torch: pip install flash-attn "
            "--no-build-isolation; or use --set training.attention=auto"
        )
    if not there and asked == "varlen":
        raise EnvironmentProblem(
            f"training.attention=varlen needs torch 2.10 or newer (here: {torch.__version__}): pip install -U torch; "
            "or use --set training.attention=auto"
        )
    return there[0] if there else "loop"  # type: ignore[return-value]  # the names of MODULES


def use_segments(model: "nn.Module", family: Family, asked: str = "auto") -> Kernel:
    """Let the language model of a loaded model attend inside segments; returns what computes that.

    Every forward then needs `segments`: the row's own, in order, covering it.

    Raises:
        EnvironmentProblem: the kernel asked for cannot run here.
    """
    from transformers import AttentionInterface

    language: Any = model.get_submodule(family.language)
    kernel = pick_kernel(asked, language.device.type, language.dtype)
    AttentionInterface.register(SEGMENTS, partial(attend_in_segments, kernel=kernel))
    language.config._attn_implementation = SEGMENTS  # noqa: SLF001 - the public setter knows transformers' own names only
    return kernel


def _runs(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:  # not there, or built for another torch
        return False
    return True


@contextmanager
def unsegmented(model: "nn.Module", family: Family) -> Iterator[None]:
    """Let the language model attend as it was loaded, for answering; segments again afterwards."""
    language: Any = model.get_submodule(family.language)
    language.config._attn_implementation = "sdpa"  # noqa: SLF001 - as above
    try:
        yield
    finally:
        language.config._attn_implementation = SEGMENTS  # noqa: SLF001 - as above


def attend_in_segments(  # noqa: PLR0913 - the signature is what transformers calls
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
    """Attention of one packed row.

    Args:
        module: the attention layer; not used.
        query: [1, heads, S, head_dim].
        key: [1, key-value heads, S, head_dim].
        value: as `key`.
        attention_mask: none; who sees whom is said by the segments.
        segments: of the row, in order.
        scaling: of the scores.
        kernel: what computes it.

    Returns:
        [1, S, heads, head_dim], and no weights.
    """
    if kernel == "loop":
        return _one_by_one(query, key, value, segments, scaling), None
    index, bounds, longest = _gathering(tuple(segments), query.device)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    # Keys and values are gathered per segment, so that autograd adds up what is shared.
    gathered = (queries, keys[index], values[index])
    at_once = _flash if kernel == "flash" else _varlen
    return at_once(gathered, bounds, longest, scaling)[None], None


def _one_by_one(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    segments: Sequence[Segment],
    scaling: float | None,
) -> "torch.Tensor":
    import torch

    attend = torch.nn.functional.scaled_dot_product_attention
    grouped = key.shape[1] != query.shape[1]
    done = []
    for segment in segments:
        own, seen = slice(segment.start, segment.end), slice(segment.parent_start, segment.parent_end)
        queries, keys, values = query[:, :, own], key[:, :, own], value[:, :, own]
        parent = segment.parent_end - segment.parent_start
        if not parent:
            done.append(attend(queries, keys, values, is_causal=True, scale=scaling, enable_gqa=grouped))
            continue
        length = segment.end - segment.start
        mask = torch.ones(length, parent + length, dtype=torch.bool, device=query.device).tril(parent)
        keys, values = torch.cat([key[:, :, seen], keys], 2), torch.cat([value[:, :, seen], values], 2)
        done.append(attend(queries, keys, values, attn_mask=mask, scale=scaling, enable_gqa=grouped))
    return torch.cat(done, 2).transpose(1, 2)


def _varlen(gathered: "Tensors", bounds: "Bounds", longest: tuple[int, int], scaling: float | None) -> "torch.Tensor":
    """By torch, whose call has other arguments in each version.

    Queries and keys of a segment end together, which is how the causal window is aligned; so, too, in `_flash`.
    """
    from torch.nn.attention.varlen import varlen_attn

    queries, keys, values = gathered
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "scale" in known:
        options["scale"] = scaling
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    else:
        repeats = queries.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(repeats, dim=1) for x in (keys, values))
    call: Any = varlen_attn
    out: torch.Tensor = call(queries, keys, values, *bounds, *longest, **options)
    return out


def _flash(gathered: "Tensors", bounds: "Bounds", longest: tuple[int, int], scaling: float | None) -> "torch.Tensor":
    """By flash-attn (2.1 or newer), which repeats the key-value heads itself."""
    call: Any = import_module("flash_attn").flash_attn_varlen_func
    out: torch.Tensor = call(*gathered, *bounds, *longest, softmax_scale=scaling, causal=True)
    return out


@lru_cache(maxsize=4)
def _gathering(segments: tuple[Segment, ...], device: "torch.device") -> "tuple[torch.Tensor, Bounds, tuple[int, int]]":
    """Which keys each segment sees, bounds of queries and keys, longest of both: the same for every layer of a row."""
    import torch

    seen = [[*range(s.parent_start, s.parent_end), *range(s.start, s.end)] for s in segments]
    index = torch.tensor([place for places in seen for place in places], device=device)
    lengths = [s.end - s.start for s in segments], [len(places) for places in seen]
    queries, keys = (torch.tensor([0, *some]).cumsum(0).int().to(device) for some in lengths)
    return index, (queries, keys), (max(lengths[0]), max(lengths[1]))
