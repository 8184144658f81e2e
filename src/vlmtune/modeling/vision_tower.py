"""Optimizations of the vision tower that change neither results nor the names of weights.

The patch embedding is a convolution whose windows do not overlap, so it is computed as one matrix product (fp32 on a
CPU: 74 instead of 521 ms for 3,072 patches). Attention runs once for all images of equal size, or windows of equal
length, instead of once for each; on a GPU in half precision, a single call computes all of them if its kernel works.
What depends on data, the bounds of the parts and the places of image tokens, is read once per forward pass, not in
every block: on a GPU, reading waits for it.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vlmtune.families import Family
from vlmtune.modeling import varlen

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    import torch
    from torch import nn

GROUPED_ATTENTION = "vlmtune_flash_grids"
"""Name of this attention. Only if it contains "flash" does transformers pass whole sequences with their bounds."""


def optimize_vision_tower(model: "nn.Module", family: Family) -> None:
    """Replace the patch embedding and the attention of a loaded model's vision tower, and where its features enter.

    A tower that reads tiles is left as it is: they are of equal size, so transformers computes them at once.
    """
    from types import MethodType

    from transformers import AttentionInterface

    tower: Any = model.get_submodule(family.vision_tower)
    if not hasattr(tower, "patch_embed"):
        return
    tower.patch_embed.forward = MethodType(_linear_patches, tower.patch_embed)
    AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
    tower.config._attn_implementation = GROUPED_ATTENTION  # noqa: SLF001 - the public setter knows transformers' own names only

    language: Any = model.get_submodule(family.language_model)
    if hasattr(language, "_deepstack_process"):
        language._deepstack_process = MethodType(_add_features, language)  # noqa: SLF001 - has no public name


def _add_features(
    language: Any, hidden_states: "torch.Tensor", visual_pos_masks: "torch.Tensor", visual_embeds: "torch.Tensor"
) -> "torch.Tensor":
    """Hidden states [B, S, hidden] plus features [image tokens, hidden] where the mask [B, S] is set.

    transformers selects and assigns by the mask, which waits for the GPU five times per layer, backward pass included.
    """
    places = _once(visual_pos_masks, lambda mask: mask.flatten().nonzero()[:, 0]).to(hidden_states.device)
    features = visual_embeds.to(hidden_states.device, hidden_states.dtype)
    added: torch.Tensor = hidden_states.flatten(0, 1).index_add(0, places, features)
    return added.view_as(hidden_states)


def _linear_patches(embed: Any, patches: "torch.Tensor") -> "torch.Tensor":
    """[n, values] -> [n, hidden]; values are in the order of the convolution's weight."""
    import torch

    weight = embed.proj.weight
    flat = patches.to(weight.dtype).reshape(-1, weight[0].numel())
    return torch.nn.functional.linear(flat, weight.reshape(len(weight), -1), embed.proj.bias)


def grouped_attention(  # noqa: PLR0913 - the signature is what transformers calls
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
    """Full attention inside each part of a sequence; parts of equal length are batched.

    Args:
        module: the attention layer; unused.
        query: [1, heads, S, head_dim].
        key: as `query`.
        value: as `query`.
        attention_mask: unused; the bounds define the parts.
        cu_seq_lens_q: bounds of the parts, [parts + 1], from 0 to S.
        scaling: factor of the scores; None is 1 / sqrt(head_dim).

    Returns:
        [1, S, heads, head_dim], and no attention weights.
    """
    import torch

    parts: _Parts = _once(cu_seq_lens_q, lambda bounds: _Parts(tuple(bounds.tolist())))
    if uses_varlen(query.device, query.dtype, query.shape[-1]):
        tensors = (query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1))
        bounds = (cu_seq_lens_q, cu_seq_lens_q)
        return varlen.attend("varlen", tensors, bounds, (parts.longest,) * 2, scaling, causal=False)[None], None
    attend = torch.nn.functional.scaled_dot_product_attention
    heads, width = query.shape[1], query.shape[3]
    out = torch.empty_like(query[0].transpose(0, 1))
    for length, index in parts.indices(query.device).items():
        # [heads, parts * length, width] -> [parts, heads, length, width]
        q, k, v = (x[0, :, index].reshape(heads, -1, length, width).transpose(0, 1) for x in (query, key, value))
        attended = attend(q, k, v, scale=scaling)
        out[index] = attended.permute(0, 2, 1, 3).reshape(-1, heads, width)
    return out[None], None


def uses_varlen(device: "torch.device", dtype: "torch.dtype", head_size: int) -> bool:
    """Whether a single call computes all parts."""
    import torch

    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    return varlen.problem("varlen", head_size, dtype, device, causal=False) is None


@dataclass(slots=True)
class _Parts:
    """Bounds of the parts of a sequence, from 0 to its length."""

    bounds: tuple[int, ...]
    _indices: "dict[int, torch.Tensor] | None" = None

    @property
    def longest(self) -> int:
        return max(end - start for start, end in pairwise(self.bounds))

    def indices(self, device: "torch.device") -> "dict[int, torch.Tensor]":
        """For each length, the indices of all parts of that length."""
        import torch

        if self._indices is None:
            starts: dict[int, list[int]] = {}
            for start, end in pairwise(self.bounds):
                starts.setdefault(end - start, []).append(start)
            self._indices = {
                length: (torch.tensor(firsts, device=device)[:, None] + torch.arange(length, device=device)).reshape(-1)
                for length, firsts in starts.items()
            }
        return self._indices


@lru_cache(maxsize=1)
def _known() -> "MutableMapping[torch.Tensor, Any]":
    """What `_once` computed of every tensor that is still in use."""
    from torch.utils.weak import WeakTensorKeyDictionary

    return WeakTensorKeyDictionary()


def _once(tensor: "torch.Tensor", compute: "Callable[[torch.Tensor], Any]") -> Any:
    """A value computed from a tensor, once: all blocks of a forward pass get the same tensor."""
    known = _known()
    if tensor not in known:
        known[tensor] = compute(tensor)
    return known[tensor]
