"""Attention inside segments: each sees its parent and then itself, causally; nothing else of the row.

Registered with transformers under a name of its own and given to the language model alone. The row's segments travel as
a keyword argument from the model's forward to every layer, so nothing is kept between calls. On a GPU in half precision
one call of torch's variable-length attention does a whole row; elsewhere one call per segment.
"""

import inspect
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vlmtune.families import Family
from vlmtune.training.segments import Segment

if TYPE_CHECKING:
    import torch
    from torch import nn

SEGMENTS = "vlmtune_segments"


def use_segments(model: "nn.Module", family: Family) -> None:
    """Let the language model of a loaded model attend inside segments.

    Every forward then needs `segments`: the row's own, in order, covering it.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(SEGMENTS, attend_in_segments)
    language: Any = model.get_submodule(family.language)
    language.config._attn_implementation = SEGMENTS  # noqa: SLF001 - the public setter knows transformers' own names only


def attend_in_segments(  # noqa: PLR0913 - the signature is what transformers calls
    module: "nn.Module",
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: None,
    *,
    segments: Sequence[Segment],
    scaling: float | None = None,
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

    Returns:
        [1, S, heads, head_dim], and no weights.
    """
    import torch

    halved = query.dtype in (torch.float16, torch.bfloat16)
    if query.is_cuda and halved and find_spec("torch.nn.attention.varlen") is not None:
        return _at_once(query, key, value, segments, scaling)[None], None
    return _one_by_one(query, key, value, segments, scaling), None


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


def _at_once(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    segments: Sequence[Segment],
    scaling: float | None,
) -> "torch.Tensor":
    """One call for the row: keys and values gathered per segment, so that autograd adds up what is shared.

    Queries and keys of a segment end together, which is how the call aligns its causal window.
    """
    from torch.nn.attention.varlen import varlen_attn

    index, bounds, longest = _gathering(tuple(segments), query.device)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    keys, values = keys[index], values[index]
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


@lru_cache(maxsize=4)
def _gathering(
    segments: tuple[Segment, ...], device: "torch.device"
) -> "tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], tuple[int, int]]":
    """Which keys each segment sees, bounds of queries and keys, longest of both: the same for every layer of a row."""
    import torch

    seen = [[*range(s.parent_start, s.parent_end), *range(s.start, s.end)] for s in segments]
    index = torch.tensor([place for places in seen for place in places], device=device)
    lengths = [s.end - s.start for s in segments], [len(places) for places in seen]
    queries, keys = (torch.tensor([0, *some]).cumsum(0).int().to(device) for some in lengths)
    return index, (queries, keys), (max(lengths[0]), max(lengths[1]))
