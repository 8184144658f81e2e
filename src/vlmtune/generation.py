"""Generating answers with a loaded model, batch by batch, and teacher-forcing answers of another engine.

`decode` is written out rather than left to `generate`: finished answers leave the batch, so that one long answer does
not hold all of it, the log-probability of every token is kept, and no state of an earlier batch stays in the model.

`teacher_force` runs prompt and answer in one forward pass and takes the likeliest token at every position of the
answer. Up to the first one that differs from the given token this is greedy decoding; there the gap tells a near-tie
from a real disagreement.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmtune.processing.chat_template import Rendered
from vlmtune.processing.encoder import Encoded, Encoder, collate
from vlmtune.types import Conversation

if TYPE_CHECKING:
    import torch

COMPACT_AT = 0.25
"""Share of a batch's answers that must have finished before they are removed: copying the cache has a price."""


@dataclass(slots=True)
class GeneratedTokens:
    """Token ids of an answer and the log-probability of each, the stop token included."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def add(self, token: int, logprob: float, stops: Set[int]) -> bool:
        """Add the next token; whether it ends the answer."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        return token in stops


Choose = Callable[["torch.Tensor"], "torch.Tensor"]
"""Log-probabilities [B, vocabulary] to the next tokens [B]."""


def decode(  # noqa: PLR0913, PLR0917 - a batch, a model and its parts
    model: Any,
    batch: Sequence[Encoded],
    encoder: Encoder,
    device: str,
    max_new_tokens: int,
    choose: Choose,
    copies: int = 1,
) -> list[GeneratedTokens]:
    """Answers to a batch of prompts, each ending with its first stop token or after `max_new_tokens`.

    Args:
        model: an image-text model without its PEFT wrapper; adapters are in its layers.
        batch: B prompts.
        encoder: what encoded them.
        device: of the model.
        max_new_tokens: per answer.
        choose: picks the next tokens. Log-probabilities are reported without the penalties of a `Penalised` one.
        copies: answers to each prompt, one after the other, behind one pass over it.
    """
    import torch
    from transformers import DynamicCache

    tensors = collate(batch, encoder, "left", device, model.dtype)
    tensors["position_ids"], next_position = _positions(batch, encoder, tensors["input_ids"].shape[1], device)
    mask, stops = tensors["attention_mask"].bool(), set(encoder.stop_ids)
    padded, body, rotary_axes = not bool(mask.all()), model.base_model, tensors["position_ids"][1:].shape[:-2]
    cache_name = "cache" if "cache" in inspect.signature(body.forward).parameters else "past_key_values"
    cache: Any = DynamicCache(config=model.config)  # the layers differ in what they keep
    answers, finished = [GeneratedTokens() for _ in range(copies * len(batch))], set[int]()
    active = list(range(len(answers)))  # row of the cache -> index in the batch
    seen = _Seen(choose, tensors["input_ids"], mask, copies) if isinstance(choose, Penalised) else None
    for step in range(max_new_tokens):
        hidden = body(**tensors, **{cache_name: cache}, use_cache=True).last_hidden_state[:, -1]
        if step == 0 and copies > 1:
            hidden, mask, next_position = _repeated(copies, cache, hidden, mask, next_position)
        logprobs = (logits := model.get_output_embeddings()(hidden).float()).log_softmax(-1)
        tokens = choose(logprobs if seen is None else seen.penalised(logits))
        chosen = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        for index, token, logprob in zip(active, tokens.tolist(), chosen, strict=True):
            if index not in finished and answers[index].add(token, logprob, stops):
                finished.add(index)
        unfinished = [row for row, index in enumerate(active) if index not in finished]
        if step == max_new_tokens - 1 or not unfinished:
            break
        if len(active) - len(unfinished) >= COMPACT_AT * len(active):
            kept = torch.tensor(unfinished, device=device)
            cache.reorder_cache(kept)  # unlike batch_select_indices, layers of every kind have it
            active = [active[row] for row in unfinished]
            tokens, mask, next_position = tokens[kept], mask[kept], next_position[kept]
            if seen is not None:
                seen.select(kept)
        if seen is not None:
            seen.add(tokens)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        tensors = {"input_ids": tokens[:, None], "position_ids": next_position[:, None].expand(*rotary_axes, -1, -1)}
        if padded:  # attention is faster without a mask; a four-dimensional mask is used unchanged
            tensors["attention_mask"] = mask[:, None, None, :]
        next_position = next_position + 1
    return answers


def _repeated(copies: int, cache: Any, *tensors: "torch.Tensor") -> "Iterator[torch.Tensor]":
    """Each row of a cache and of tensors so many times, one after the other."""
    import torch

    rows = torch.arange(len(tensors[0]), device=tensors[0].device).repeat_interleave(copies)
    cache.reorder_cache(rows)
    return (tensor[rows] for tensor in tensors)


def _positions(
    batch: Sequence[Encoded], encoder: Encoder, length: int, device: str
) -> "tuple[torch.Tensor, torch.Tensor]":
    """The model's positions of the left-padded prompts, and the next position of each [B].

    [B, length] for a model with one rotary axis; otherwise [4, B, length]: the index of a token in its prompt, which is
    used for masks only, and three rotary positions.
    """
    import torch

    family, tokens, merge = encoder.checkpoint.family, encoder.renderer.vision_ids, encoder.image_processor.limits.merge
    positions = np.zeros((4, len(batch), length), dtype=np.int64)
    for row, item in enumerate(batch):
        positions[0, row, length - len(item) :] = np.arange(len(item))
        positions[1:, row, length - len(item) :] = family.positions(item.rendered.ids, tokens, item.blocks, merge)
    following = torch.from_numpy(positions[1:].max((0, 2)) + 1)
    return torch.from_numpy(positions[0] if family.rotary_axes == 1 else positions).to(device), following.to(device)


def greedy(logprobs: "torch.Tensor") -> "torch.Tensor":
    """The likeliest token."""
    return logprobs.argmax(-1)


@dataclass(frozen=True, slots=True)
class Penalised:
    """Picks tokens after changing the logits of those that were there before, as transformers and vLLM define it.

    `repetition` divides positive logits and multiplies negative ones, of tokens of prompt and answer; `presence` is
    subtracted from those of the answer.
    """

    choose: Choose
    repetition: float = 1.0
    presence: float = 0.0

    def __call__(self, logits: "torch.Tensor") -> "torch.Tensor":
        """The next tokens [B] for changed logits [B, vocabulary]."""
        return self.choose(logits)


class _Seen:
    """Which tokens prompts and answers of a batch contain."""

    def __init__(self, penalties: Penalised, ids: "torch.Tensor", mask: "torch.Tensor", copies: int = 1) -> None:
        self._penalties = penalties
        self._ids, self._mask = (tensor.repeat_interleave(copies, 0) for tensor in (ids, mask))
        self._answers = self._ids[:, :0]

    def penalised(self, logits: "torch.Tensor") -> "torch.Tensor":
        """The logits [B, vocabulary] with the penalties."""
        import torch

        given = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, self._answers, value=True)
        changed = torch.where(given, logits - self._penalties.presence, logits)
        counts = torch.zeros_like(logits).scatter_add_(1, self._ids, self._mask.to(logits.dtype))
        repeated = torch.where(changed < 0, changed * self._penalties.repetition, changed / self._penalties.repetition)
        return torch.where(given | (counts > 0), repeated, changed)

    def add(self, tokens: "torch.Tensor") -> None:
        """Count the next tokens [B] of the answers."""
        import torch

        self._answers = torch.cat([self._answers, tokens[:, None]], 1)

    def select(self, kept: "torch.Tensor") -> None:
        """Keep only these rows of the batch."""
        self._ids, self._mask, self._answers = self._ids[kept], self._mask[kept], self._answers[kept]


def sampling(temperature: float, top_p: float, seed: int, top_k: int = 0, min_p: float = 0.0) -> Choose:
    """Sampling at a temperature, from the likeliest tokens only.

    In this order, as in transformers: the `top_k` likeliest (0 takes all), of them those whose probabilities reach
    `top_p`, of them those with at least `min_p` of the highest probability.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def choose(logprobs: torch.Tensor) -> torch.Tensor:
        probabilities, order = (logprobs / temperature).softmax(-1).sort(-1, descending=True)
        if top_k:
            probabilities[:, top_k:] = 0
            probabilities /= probabilities.sum(-1, keepdim=True)
        probabilities[probabilities < min_p * probabilities[:, :1]] = 0
        probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
        drawn = torch.multinomial(probabilities.cpu(), 1, generator=generator)
        return order.gather(1, drawn.to(order.device))[:, 0]

    return choose


def without(banned: "torch.Tensor", choose: Choose) -> Choose:
    """`choose` among all but the banned tokens [banned]."""
    return lambda logprobs: choose(logprobs.index_fill(1, banned, float("-inf")))


@dataclass(frozen=True, slots=True)
class TeacherForced:
    """For each token of an answer: the likeliest token there, and its lead in log-probability over the given one.

    `image_tokens` counts the tokens of each image of the prompt: its size as the model reads it.
    """

    ids: tuple[int, ...]
    leads: tuple[float, ...]
    image_tokens: tuple[int, ...]


def teacher_force(model: Any, encoder: Encoder, conversation: Conversation, ids: Sequence[int]) -> TeacherForced:
    """Teacher-force an answer.

    Args:
        model: from `loading.load_model` or `loading.attach_adapter`.
        encoder: of its checkpoint.
        conversation: the prompt.
        ids: the answer's tokens, the end-of-turn token included if there was one.

    Raises:
        DataError: the conversation cannot be encoded, or is too long.
    """
    import torch

    prompt = encoder.prompt(conversation)
    merge = encoder.image_processor.limits.merge
    image_tokens = tuple(block.tokens(merge) for block in prompt.blocks)
    if not ids:
        return TeacherForced((), (), image_tokens)
    rendered = Rendered(prompt.rendered.ids + tuple(ids), prompt.rendered.loss_mask + (True,) * len(ids))
    tensors = collate([Encoded(rendered, prompt.images)], encoder, "left", str(model.device), model.dtype)
    with torch.inference_mode():
        logits = model(**tensors, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1].float()
    logprobs = logits.log_softmax(-1)
    best = logprobs.max(-1)
    given = logprobs.gather(-1, torch.tensor(ids, device=logprobs.device)[:, None])[:, 0]
    return TeacherForced(tuple(best.indices.tolist()), tuple((best.values - given).tolist()), image_tokens)
