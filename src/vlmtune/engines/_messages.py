"""Converts conversations to chat messages, and a server's reply to an answer.

Images are sent as PNG in `data:` URLs, encoded from the pixels of `images.decode_rgb`, because servers disagree about
orientation and transparency. Remote URLs are never passed on.
"""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.images import decode_rgb
from vlmtune.types import Conversation, ImageRef, Message, VideoRef

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmtune.processing.encoder import Encoded, EncodedImage, Encoder
    from vlmtune.processing.image_processor import ImageProcessor


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server generated.

    `tokens` counts the generated tokens, the end of turn included. `ids`, `prompt_ids` (image tokens expanded) and
    `logprobs` [tokens] are None if the server does not provide them. `likeliest` maps the text of the likeliest first
    tokens to their log-probabilities. `reasoning` is the thought before it, where the server keeps it apart.
    """

    text: str
    finish_reason: str
    tokens: int
    ids: tuple[int, ...] | None
    prompt_ids: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None
    likeliest: Mapping[str, float]
    reasoning: str | None = None


LogProb = Annotated[float, Field(allow_inf_nan=False, le=1e-3)]
"""Of a probability of at most 1, up to rounding."""


_TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class _Likely(BaseModel):
    token: str
    logprob: LogProb


class _Token(_Likely):
    top_logprobs: list[_Likely] = []


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[_TokenId] | None = None


class _Usage(BaseModel):
    completion_tokens: Annotated[int, Field(ge=0, lt=2**31)]


class _Completion(BaseModel):
    """The fields of a chat completion that are read; others are ignored."""

    model: str
    choices: list[_Choice]
    usage: _Usage
    prompt_token_ids: list[_TokenId] | None = None


def messages(conversation: Conversation, encoded: "Encoded | None", encoder: "Encoder | None") -> list[dict[str, Any]]:
    """The conversation as chat messages.

    Args:
        conversation: ends with a user message.
        encoded: the same, encoded; if given, images are sent at the size at which the model reads them.
        encoder: the one that encoded it.

    Raises:
        ImageError: an image cannot be decoded.
        ConfigError: there is a video.
    """
    resized = iter(encoded.images if encoded is not None else ())

    def part(content: str | ImageRef) -> dict[str, Any]:
        if isinstance(content, str):
            return {"type": "text", "text": content}
        if isinstance(content, VideoRef):
            raise ConfigError(
                f"{content.where}: a server cannot be given the frames and times of a video that the model is trained "
                "with; use --set inference.engine=hf"
            )
        if encoded is None or encoder is None:
            image = decode_rgb(content)
        else:
            image = _reassembled(next(resized), encoder.image_processor)
        return {"type": "image_url", "image_url": {"url": _data_url(image)}}

    return [
        {"role": turn.role, "content": [part(content) for content in turn.content], **_more(turn)}
        for turn in conversation
    ]


def _more(turn: Message) -> dict[str, Any]:
    """A turn's thought and the keys about tools, with arguments as text, as OpenAI spells them."""
    more = {key: value for key, value in turn.more.items() if key not in ("tools", "tool_calls")}
    if turn.reasoning is not None:
        more["reasoning_content"] = turn.reasoning
    if calls := turn.more.get("tool_calls"):
        functions = [{**call["function"], "arguments": json.dumps(call["function"]["arguments"])} for call in calls]
        more["tool_calls"] = [
            {"id": f"call_{n}", **call, "function": function}
            for n, (call, function) in enumerate(zip(calls, functions, strict=True))
        ]
    return more


def read_answer(body: bytes, name: str, model_key: str) -> Answer | str:
    """The answer in a reply with status 200; if there is none, a message that says why.

    Args:
        body: of the reply.
        name: the requested model.
        model_key: the config's key of that name, for messages.

    Raises:
        IntegrityError: another model answered.
    """
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        without = "; --set inference.logprobs=false does without log-probabilities" if "logprob" in field else ""
        return f"the reply is not a chat completion: {field + ': ' if field else ''}{first['msg']}{without}"
    if completion.model != name:
        answered = completion.model[:200]
        raise IntegrityError(
            f"requested model {name!r}, but the server answered as {answered!r}. If that is the full name of "
            f"the same model, set {model_key}: {answered}"
            + (" (for an adapter: served_adapter)" if model_key.endswith("served_model") else "")
        )
    if not completion.choices:
        return "the server sent no answer (no choices)"
    choice = completion.choices[0]
    reasoning = choice.message.reasoning_content or choice.message.reasoning
    if choice.message.content is None and not reasoning:
        return f"the server sent no text (finish_reason {choice.finish_reason!s:.100})"
    tokens = (choice.logprobs.content if choice.logprobs else None) or []
    return Answer(
        text=choice.message.content or "",
        reasoning=reasoning or None,
        finish_reason=choice.finish_reason or "not given",
        tokens=completion.usage.completion_tokens,
        ids=None if choice.token_ids is None else tuple(choice.token_ids),
        prompt_ids=None if completion.prompt_token_ids is None else tuple(completion.prompt_token_ids),
        logprobs=tuple(token.logprob for token in tokens) if tokens else None,
        likeliest={likely.token: likely.logprob for likely in (tokens[0].top_logprobs or tokens[:1])} if tokens else {},
    )


def _reassembled(image: "EncodedImage", image_processor: "ImageProcessor") -> "Image":
    """The resized image of patches [rows * columns, 3, patch, patch]; the inverse of `ImageProcessor.patches`."""
    from PIL import Image

    assert image.patches is not None, "the encoder decodes images"
    _, rows, columns = image.grid
    size, merge = image_processor.limits.patch, image_processor.limits.merge
    blocks = image.patches.reshape(rows // merge, columns // merge, merge, merge, 3, size, size)
    pixels = blocks.permute(0, 2, 5, 1, 3, 6, 4).reshape(rows * size, columns * size, 3)
    return Image.fromarray(pixels.contiguous().numpy())


def _data_url(image: "Image") -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
