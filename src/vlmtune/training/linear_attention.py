"""Gated DeltaNet layers on packed sequences: a segment continues from its prefix, or starts from nothing.

In place of keys and values, such a layer keeps a state that every token updates (the delta rule), behind a causal
convolution over the last few inputs. Both run along the whole sequence and know nothing of masks, so that an example
packed behind another one would continue from it: losses and gradients are then wrong by orders of magnitude.

The layer in transformers calls two functions of its module by their names and passes its keyword arguments on, so the
segments arrive here as they do in `attention`. Only those two functions are replaced; without segments, they call the
original ones, so generating text is untouched.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vlmtune.errors import EnvironmentProblem
from vlmtune.families import DELTA_CHUNK, Family
from vlmtune.training.packing import Segment

if TYPE_CHECKING:
    import torch
    from torch import nn

CONVOLUTION, DELTA_RULE = "causal_conv1d_fn", "torch_chunk_gated_delta_rule"
"""The two functions that a Gated DeltaNet of transformers calls in training."""


def enable_packed_linear_attention(model: "nn.Module", family: Family) -> None:
    """Make the family's Gated DeltaNet layers, if it has any, keep the segments of packed sequences apart.

    Raises:
        EnvironmentProblem: this version of transformers computes them in another way.
    """
    if family.linear_attention is None:
        return
    layers: Any = model.get_submodule(family.language_model).layers
    mixers = [mixer for layer in layers if (mixer := getattr(layer, family.linear_attention, None)) is not None]
    for module in {sys.modules[type(mixer).__module__] for mixer in mixers}:
        for name, packed in ((CONVOLUTION, packed_convolution), (DELTA_RULE, packed_delta_rule)):
            original = getattr(module, name, None)
            if original is None:
                import transformers

                raise EnvironmentProblem(
                    f"transformers {transformers.__version__} has no {name} in {module.__name__}, so examples cannot "
                    "be packed; vlmtune was tested with 5.17 to 5.24: pip install 'transformers>=5.17,<=5.24'"
                )
            if getattr(original, "func", None) is not packed:
                setattr(module, name, partial(packed, original))


def packed_convolution(
    original: Any,
    hidden: "torch.Tensor",
    weight: "torch.Tensor",
    bias: "torch.Tensor | None" = None,
    activation: str | None = None,
    segments: Sequence[Segment] | None = None,
    **others: Any,
) -> "torch.Tensor":
    """Causal convolution in which a segment sees the last inputs of its prefix, or zeros.

    Args:
        original: the function that is replaced.
        hidden: [1, channels, S].
        weight: [channels, width].
        bias: [channels].
        activation: applied to the result.
        segments: of the packed sequence, in order; None if it is not packed.
        others: what transformers passes in addition; without meaning for a packed sequence.

    Returns:
        [1, channels, S].
    """
    import torch

    if segments is None:
        result: torch.Tensor = original(hidden, weight, bias, activation=activation, **others)
        return result
    read, keep = _convolution_layout(tuple(segments), weight.shape[-1], hidden.device)
    # One zero in front; every segment is copied behind the inputs that it continues from, which are cut off again.
    copied = torch.nn.functional.pad(hidden, (1, 0)).index_select(2, read)
    convolved: torch.Tensor = original(copied, weight, bias, activation=activation)
    return convolved.index_select(2, keep)


@lru_cache(maxsize=4)
def _convolution_layout(
    segments: tuple[Segment, ...], width: int, device: "torch.device"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Which inputs to read (0 is the zero in front, t + 1 is token t), and which results to keep.

    With a width of 3, for the prefix P1 P2 P3 and its branches A1 A2 and B1 B2, 0 being the zero:

        read   0 0 P1 P2 P3 | P2 P3 A1 A2 | P2 P3 B1 B2
        keep       P1 P2 P3 |       A1 A2 |       B1 B2
    """
    import torch

    read: list[int] = []
    keep: list[int] = []
    for segment in segments:
        before = range(max(segment.prefix_start, segment.prefix_end - width + 1), segment.prefix_end)
        read += [0] * (width - 1 - len(before)) + [token + 1 for token in before]
        keep += range(len(read), len(read) + segment.end - segment.start)
        read += range(segment.start + 1, segment.end + 1)
    return torch.tensor(read, device=device), torch.tensor(keep, device=device)


def packed_delta_rule(  # noqa: PLR0913, PLR0917 - after the original, the signature is what transformers calls
    original: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    g: "torch.Tensor",
    beta: "torch.Tensor",
    segments: Sequence[Segment] | None = None,
    **others: Any,
) -> "tuple[torch.Tensor, torch.Tensor | None]":
    """The delta rule in which a segment starts from the last state of its prefix, or from zeros.

    Segments without a prefix are computed first, in calls of segments with equally many chunks, the shorter ones padded
    by tokens that leave a state as it is (key, beta and g of 0). With the kernels of flash-linear-attention, one call
    computes all segments without a prefix, and a second one all others.

    Args:
        original: the function that is replaced.
        query: [1, S, heads, key].
        key: as `query`.
        value: [1, S, value heads, value].
        g: logarithm of the decay, [1, S, value heads].
        beta: as `g`.
        segments: of the packed sequence, in order; None if it is not packed.
        others: further arguments of the original.

    Returns:
        [1, S, value heads, value], and the last state, which is None for a packed sequence.
    """
    import torch

    if segments is None:
        result: tuple[torch.Tensor, torch.Tensor | None] = original(query, key, value, g=g, beta=beta, **others)
        return result
    joined = query.is_cuda and find_spec("fla") is not None
    calls, back = _delta_layout(tuple(segments), joined, query.device)
    padded = [
        torch.nn.functional.pad(x[0], (0, 0) * (x.ndim - 2) + (0, 1)) for x in (query, key, value, g, beta)
    ]  # a zero behind the last token
    states: dict[int, torch.Tensor] = {}
    outputs = []
    for call in calls:
        q, k, v, decay, rate = (x[call.tokens] for x in padded)
        start = torch.stack([states[n] for n in call.prefixes]) if call.prefixes else None
        more = {} if call.bounds is None else {"cu_seqlens": call.bounds}
        normalised = others.get("use_qk_l2norm_in_kernel", False)
        out, last = original(
            q, k, v, g=decay, beta=rate, initial_state=start, output_final_state=call.is_continued,
            use_qk_l2norm_in_kernel=normalised, **more,
        )  # fmt: skip
        if call.is_continued:
            states |= dict(zip(call.members, last, strict=True))
        outputs.append(out.flatten(0, 1))
    return torch.cat(outputs).index_select(0, back)[None], None


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the delta rule: `members` are numbers of segments, `tokens` [N, L] indices, S where padded.

    If `bounds` is given, the members stand behind each other in one row. `prefixes` are the segments that the members
    continue from, and `is_continued` says whether other segments continue from a member.
    """

    members: tuple[int, ...]
    tokens: "torch.Tensor"
    bounds: "torch.Tensor | None"
    prefixes: tuple[int, ...]
    is_continued: bool


@lru_cache(maxsize=4)
def _delta_layout(
    segments: tuple[Segment, ...], joined: bool, device: "torch.device"
) -> "tuple[list[_Call], torch.Tensor]":
    """The calls, in order, and where each token's result is in their flattened and joined outputs, [S]."""
    import torch

    size = segments[-1].end
    numbers = {(s.start, s.end): n for n, s in enumerate(segments)}
    prefixes = [
        numbers.get((s.prefix_start, s.prefix_end)) if s.prefix_end > s.prefix_start else None for s in segments
    ]
    groups: dict[tuple[bool, int], list[int]] = {}
    for n, segment in enumerate(segments):
        chunks = 0 if joined else -(-(segment.end - segment.start) // DELTA_CHUNK)
        groups.setdefault((prefixes[n] is not None, chunks), []).append(n)
    calls = []
    back, row = torch.empty(size, dtype=torch.long), 0
    for (is_branch, _), members in sorted(groups.items()):
        own = [torch.arange(segments[n].start, segments[n].end) for n in members]
        tokens = torch.cat(own)[None] if joined else torch.nn.utils.rnn.pad_sequence(own, True, size)
        real = tokens.flatten() < size
        back[tokens.flatten()[real]] = torch.arange(row, row + tokens.numel())[real]
        row += tokens.numel()
        bounds = torch.tensor([0, *map(len, own)]).cumsum(0).to(device) if joined else None
        given = tuple(one for m in members if (one := prefixes[m]) is not None) if is_branch else ()
        calls.append(_Call(tuple(members), tokens.to(device), bounds, given, any(n in members for n in prefixes)))
    return calls, back.to(device)
