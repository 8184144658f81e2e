"""The decoding loop of one batch: prompts read together, a token a step, answers that ended leave.

Written out rather than left to `generate`, so that one long answer does not hold the whole batch, every token's
log-probability is kept, and no state of the batch before stays in the model.

What the local model would have said, had it been given another engine's words one by one.

One forward over prompt and answer gives the likeliest token at every place of the answer. Up to the first place where
it is not the given one, that is greedy decoding; there it shows by how little or how much the two differ.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmtune.processing.encoder import Encoded, Inputs, collate

if TYPE_CHECKING:
    import torch
from typing import TYPE_CHECKING

from vlmtune.processing.chat_template import Rendered
from vlmtune.types import Conversation

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAVING = 0.25
"""Share of a batch's answers that must have ended before it is made smaller: copying the cache has a price."""


@dataclass(slots=True)
class Answer:
    """Generated token ids and the log-probability of each, the one that ended it included."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


Choose = Callable[["torch.Tensor"], "torch.Tensor"]
"""Log-probabilities [B, vocabulary] to the next tokens [B]."""


def decode(
    model: Any,
    batch: Sequence[Encoded],
    inputs: Inputs,
    device: str,
    most: int,
    choose: Choose,
) -> list[Answer]:
    """Answers of at most `most` tokens to a batch of prompts; each ends behind its first stop token.

    Args:
        model: for image and text, outside of any PEFT wrapper; adapters sit in its layers.
        batch: B prompts.
        inputs: what encoded them.
        device: where the model is.
        most: tokens per answer.
        choose: picks the next tokens.
    """
    import torch
    from transformers import DynamicCache

    tensors = collate(batch, inputs, "left", device, model.dtype)
    places, due = _positions(batch, inputs, tensors["input_ids"].shape[1], device)
    mask, stops = tensors["attention_mask"].bool(), set(inputs.stop_ids)
    padded = not bool(mask.all())
    body = model.base_model
    named = "cache" if "cache" in inspect.signature(body.forward).parameters else "past_key_values"
    cache: Any = DynamicCache()
    answers = [Answer() for _ in batch]
    inside = list(range(len(batch)))  # numbers in the batch of the rows that are left in the cache
    ended: set[int] = set()
    tensors["position_ids"] = torch.cat([(mask.cumsum(1) - 1).clamp(min=0)[None], places])
    for step in range(most):
        hidden = body(**tensors, **{named: cache}, use_cache=True).last_hidden_state[:, -1]
        logprobs = model.get_output_embeddings()(hidden).float().log_softmax(-1)
        tokens = choose(logprobs)
        told = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        for number, token, value in zip(inside, tokens.tolist(), told, strict=True):
            if number not in ended:
                answers[number].ids.append(token)
                answers[number].logprobs.append(value)
                if token in stops:
                    ended.add(number)
        going = [place for place, number in enumerate(inside) if number not in ended]
        if step == most - 1 or not going:
            break
        if len(inside) - len(going) >= LEAVING * len(inside):
            left = torch.tensor(going, device=device)
            cache.batch_select_indices(left)
            inside = [inside[place] for place in going]
            tokens, mask, due = tokens[left], mask[left], due[left]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        tensors = {"input_ids": tokens[:, None], "position_ids": due[None, :, None].expand(3, -1, -1)}
        if padded:  # attention is faster without a mask; and one of four axes is taken as it is
            tensors["attention_mask"] = mask[:, None, None, :]
        due = due + 1
    return answers


def _positions(
    batch: Sequence[Encoded], inputs: Inputs, length: int, device: str
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Rotary positions of the padded prompts [3, B, length], and the one that is due next in each [B]."""
    import torch

    family, token, merge = inputs.checkpoint.family, inputs.renderer.image_id, inputs.patcher.limits.merge
    places = np.zeros((3, len(batch), length), dtype=np.int64)
    for row, item in enumerate(batch):
        grids = [picture.grid for picture in item.pictures]
        places[:, row, length - len(item) :] = family.positions(item.rendered.ids, token, grids, merge)
    return torch.from_numpy(places).to(device), torch.from_numpy(places.max((0, 2)) + 1).to(device)


def greedy(logprobs: "torch.Tensor") -> "torch.Tensor":
    """The likeliest token."""
    return logprobs.argmax(-1)


def sampling(temperature: float, top_p: float, seed: int) -> Choose:
    """Draws from the distribution at a temperature, from the likeliest tokens whose shares reach `top_p`."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def choose(logprobs: torch.Tensor) -> torch.Tensor:
        shares, order = (logprobs / temperature).softmax(-1).sort(-1, descending=True)
        shares[shares.cumsum(-1) - shares >= top_p] = 0
        drawn = torch.multinomial(shares.cpu(), 1, generator=generator)
        return order.gather(1, drawn.to(order.device))[:, 0]

    return choose


@dataclass(frozen=True, slots=True)
class Forced:
    """For each token of an answer: the likeliest one there, and the log-probability by which it leads the given one.

    `image_tokens` counts the tokens of each picture of the prompt: its size as the model reads it.
    """

    ids: tuple[int, ...]
    leads: tuple[float, ...]
    image_tokens: tuple[int, ...]


def force(model: Any, inputs: Inputs, conversation: Conversation, ids: "Sequence[int]") -> Forced:
    """Put an answer into a model's mouth.

    Args:
        model: as `models.load_model` or `models.attach_adapter` gives it.
        inputs: of its checkpoint.
        conversation: what was asked.
        ids: the answer's tokens, the end-of-turn token included where there was one.

    Raises:
        DataError: the conversation cannot be read, or is too long.
    """
    import torch

    prompt = inputs.prompt(conversation)
    counts = tuple(inputs.patcher.tokens(picture.grid) for picture in prompt.pictures)
    if not ids:
        return Forced((), (), counts)
    rendered = Rendered(prompt.rendered.ids + tuple(ids), prompt.rendered.trained + (True,) * len(ids))
    tensors = collate([Encoded(rendered, prompt.pictures)], inputs, "left", str(model.device), model.dtype)
    with torch.inference_mode():
        logits = model(**tensors, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1].float()
    likely = logits.log_softmax(-1)
    best = likely.max(-1)
    given = likely.gather(-1, torch.tensor(ids, device=likely.device)[:, None])[:, 0]
    return Forced(tuple(best.indices.tolist()), tuple((best.values - given).tolist()), counts)
