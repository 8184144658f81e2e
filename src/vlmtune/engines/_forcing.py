"""What the local model would have said, had it been given another engine's words one by one.

One forward over prompt and answer gives the likeliest token at every place of the answer. Up to the first place where
it is not the given one, that is greedy decoding; there it shows by how little or how much the two differ.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmtune.chat import Rendered
from vlmtune.inputs import Encoded, Inputs, collate
from vlmtune.types import Conversation

if TYPE_CHECKING:
    from collections.abc import Sequence


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
