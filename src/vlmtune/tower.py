"""The vision tower without its two slow spots; same results, same weights, same names.

The patch embedding is a convolution whose windows do not overlap, which is one matrix product (fp32 on a CPU: 521 -> 74
ms for 3,072 patches). And images of equal size, or windows of equal length, attend in one call instead of one each.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vlmtune.families import Family

if TYPE_CHECKING:
    import torch
    from torch import nn

GRIDS = "vlmtune_flash_grids"
"""Name of the tower's attention. transformers hands whole sequences with their bounds to names that hold "flash"."""


def quicken(model: "nn.Module", family: Family) -> None:
    """Swap the slow spots of a loaded model's tower."""
    from types import MethodType

    from transformers import AttentionInterface

    tower: Any = model.get_submodule(family.tower)
    tower.patch_embed.forward = MethodType(_linear_patches, tower.patch_embed)
    AttentionInterface.register(GRIDS, attend_in_groups)
    tower.config._attn_implementation = GRIDS  # noqa: SLF001 - the public setter knows transformers' own names only


def _linear_patches(embed: Any, patches: "torch.Tensor") -> "torch.Tensor":
    """[n, values] -> [n, hidden]; values in the order of the convolution's weight."""
    import torch

    weight = embed.proj.weight
    flat = patches.to(weight.dtype).reshape(-1, weight[0].numel())
    return torch.nn.functional.linear(flat, weight.reshape(len(weight), -1), embed.proj.bias)


def attend_in_groups(  # noqa: PLR0913 - the signature is what transformers calls
    module: "nn.Module",
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: None,
    *,
    cu_seq_lens_q: "torch.Tensor",
    scaling: float | None = None,
    **_: Any,
) -> "tuple[torch.Tensor, None]":
    """Full attention inside each part of a sequence, parts of equal length together.

    Args:
        module: the attention layer; not used.
        query: [1, heads, S, head_dim].
        key: as `query`.
        value: as `query`.
        attention_mask: none; parts are said by their bounds.
        cu_seq_lens_q: bounds of the parts, [parts + 1], from 0 to S.
        scaling: of the scores.

    Returns:
        [1, S, heads, head_dim], and no weights.
    """
    import torch

    bounds = cu_seq_lens_q.tolist()
    starts: dict[int, list[int]] = {}
    for start, end in pairwise(bounds):
        starts.setdefault(end - start, []).append(start)
    attend = torch.nn.functional.scaled_dot_product_attention
    heads, width = query.shape[1], query.shape[3]
    out = torch.empty_like(query[0].transpose(0, 1))
    for length, places in starts.items():
        first = torch.tensor(places, device=query.device)
        index = (first[:, None] + torch.arange(length, device=query.device)).reshape(-1)
        q, k, v = (x[0, :, index].reshape(heads, -1, length, width).transpose(0, 1) for x in (query, key, value))
        done = attend(q, k, v, scale=scaling)
        out[index] = done.permute(0, 2, 1, 3).reshape(-1, heads, width)
    return out[None], None
