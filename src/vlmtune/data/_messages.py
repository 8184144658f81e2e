"""Chat rows: messages with role and content, and the images that fill their placeholders in order.

A message is {role, content}, as in OpenAI's format, or {from, value}, as in ShareGPT's and LLaVA's. A placeholder is an
image part of the content, or `<image>` in its text, as in LLaVA and LLaMA-Factory.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from vlmtune.data import _values
from vlmtune.errors import DataError
from vlmtune.types import Conversation, ImageRef, Message, Role

ROLES = ("system", "user", "assistant")
SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
"""Roles by their names under `from`."""

PLACEHOLDER = "<image>"
_PLACEHOLDERS = re.compile(r"\s*<image>\s*")
"""A placeholder with the white space around it, which belongs to the format and not to the text."""

IMAGE_KINDS = ("image", "image_url", "input_image")
"""Types of content parts that are an image: of Hugging Face's and Qwen's messages, and of OpenAI's two interfaces."""

TEXT_KINDS = ("text", "input_text", "output_text")
IMAGE_KEYS = ("image", "image_url", "url", "path", "base64", "value")
"""Keys of an image part that may hold the image itself."""

_OUTER = re.compile(r"\A(?:\s*<image>\s*)+|(?:\s*<image>\s*)+\Z")
"""Placeholders before and after a text."""

VIDEO_KEYS = ("video", "videos", "video_url")
"""Keys under which rows, messages and content parts hold a video."""


def read_messages(value: Any, images: Sequence[ImageRef], at: str) -> tuple[Conversation, str | None]:
    """Read one conversation.

    Content is a string, or a list of {"type": "text", "text": …} and {"type": "image"} parts. Without placeholders the
    images go before the text of the first user message.

    Returns:
        The messages up to the last user message, and the assistant's answer to it (None without one).

    Raises:
        DataError: an unknown role or content part, roles in an invalid order, different numbers of images and
            placeholders, an image in an assistant message (the models answer in text), or a video anywhere.
    """
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{at}: messages must be a list of messages, each with role and content, or from and value")
    unused = iter(images)
    messages = [_message(raw, unused, f"{at}, message {number}") for number, raw in enumerate(value)]
    left = tuple(unused)
    if left and len(left) == len(images):
        first = next((n for n, message in enumerate(messages) if message.role == "user"), None)
        if first is not None:
            messages[first] = Message("user", (*left, *messages[first].content))
            left = ()
    if left:
        raise DataError(f"{at}: {len(images)} images, but only {len(images) - len(left)} placeholders in messages")
    _check_order(messages, at)
    if messages[-1].role == "user":
        return tuple(messages), None
    answer = "".join(part for part in messages[-1].content if isinstance(part, str))
    if not answer.strip():
        raise DataError(f"{at}: the last assistant message is empty; repair or remove the row")
    return tuple(messages[:-1]), answer


def refuse_videos(holder: Mapping[str, Any], at: str) -> None:
    """Refuse a row, message or content part with a video: if it were ignored, the answer would lack its input.

    Raises:
        DataError: there is one.
    """
    kind = holder.get("type")
    if any(holder.get(key) for key in VIDEO_KEYS) or (isinstance(kind, str) and "video" in kind):
        raise DataError(f"{at}: videos are not supported yet; use some of its frames as images, or remove the row")


def _message(raw: Any, unused: Iterator[ImageRef], at: str) -> Message:
    role, content = _role_and_content(raw, at)
    refuse_videos(raw, at)
    if not isinstance(content, str | list | tuple):
        raise DataError(f"{at}: content must be text or a list of parts (got {type(content).__name__})")

    def next_image(placeholder: str) -> ImageRef:
        if role == "assistant":
            raise DataError(f"{at}: an assistant message cannot hold an image; move {placeholder} to a user message")
        image = next(unused, None)
        if image is None:
            raise DataError(f"{at}: {placeholder} stands for an image, but the row has no further images")
        return image

    parts: list[str | ImageRef] = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if isinstance(part, dict):
            refuse_videos(part, at)
        kind = part.get("type") if isinstance(part, dict) else None
        if (text := _part_text(part)) is not None:
            first, *others = _PLACEHOLDERS.split(text) if PLACEHOLDER in text else [text]
            parts += [first] if first or not others else []
            for other in others:
                parts += [next_image(PLACEHOLDER), *([other] if other else [])]
        elif kind in IMAGE_KINDS:
            parts.append(next_image("an image part"))
        else:
            raise DataError(f"{at}: a part must be {{type: text, text: …}} or {{type: image}} (got {part!r:.80})")
    return Message(role, tuple(parts))


def _role_and_content(raw: Any, at: str) -> tuple[Role, Any]:
    """Role and content of a message in either format; tables fill the keys of the other format with null."""
    keys = raw if isinstance(raw, dict) else {}
    openai_roles = {role: role for role in ROLES}
    for role_key, content_key, roles in (("role", "content", openai_roles), ("from", "value", SHAREGPT_ROLES)):
        role = keys.get(role_key)
        if isinstance(role, str) and role in roles and content_key in keys:
            return cast("Role", roles[role]), keys[content_key]
    raise DataError(
        f"{at}: needs role ({', '.join(ROLES)}) and content, or from ({', '.join(SHAREGPT_ROLES)}) and value"
    )


def _check_order(messages: Sequence[Message], at: str) -> None:
    roles = [message.role for message in messages if message.role != "system"]
    if any(message.role == "system" for message in messages[1:]):
        raise DataError(f"{at}: only the first message may be a system message")
    if not roles or any(role != ("user", "assistant")[n % 2] for n, role in enumerate(roles)):
        raise DataError(f"{at}: user and assistant must alternate, user first (got {', '.join(roles) or 'none'})")


def image_values(messages: Any, others: Sequence[Any]) -> list[Any]:
    """The images of a conversation in the order of its placeholders, then those without one.

    Args:
        messages: as a row holds them; what is wrong with them is found later.
        others: the row's own images. They fill the placeholders that hold no image themselves; one that a part holds as
            well counts once.
    """
    left, values = list(others), []
    for part in _placeholders(messages):
        own = _own_image(part)
        if own is None or (left and left[0] == own):
            own = left.pop(0) if left else None
        if own is not None:
            values.append(own)
    return values + left


def _placeholders(messages: Any) -> Iterator[Any]:
    """The image parts of all messages, and None for a placeholder in a text."""
    for message in messages if isinstance(messages, list | tuple) else []:
        content = (message.get("content") or message.get("value")) if isinstance(message, dict) else None
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts if isinstance(parts, list | tuple) else []:
            if isinstance(part, dict) and part.get("type") in IMAGE_KINDS:
                yield part
            elif (text := _part_text(part)) is not None:
                yield from [None] * text.count(PLACEHOLDER)


def _part_text(part: Any) -> str | None:
    """The text of a text part, None for any other part."""
    if not isinstance(part, dict) or part.get("type") not in TEXT_KINDS:
        return None
    text = part.get("text", part.get("value"))
    return text if isinstance(text, str) else None


def _own_image(part: Any) -> Any:
    """The image that a part itself holds or names, None if it is a mere placeholder."""
    value = next((part[key] for key in IMAGE_KEYS if part.get(key)), None) if isinstance(part, dict) else None
    value = value.get("url") if isinstance(value, dict) and "url" in value else value
    return value.removeprefix("file://") if isinstance(value, str) else value


def read_question(value: Any, column: str, at: str, images: int) -> str:
    """The question of a row without the placeholders before and after it, since images go before the question.

    Raises:
        DataError: the value is not text, has a placeholder between words, or not one for each of the images.
    """
    question = _values.text(value, column, at)
    if PLACEHOLDER not in question:
        return question
    count = question.count(PLACEHOLDER)
    if count != images:
        raise DataError(f"{at}: column {column!r} has {count} placeholders {PLACEHOLDER}, but the row {images} images")
    text = _OUTER.sub("", question)
    if PLACEHOLDER in text:
        raise DataError(
            f"{at}: column {column!r} has {PLACEHOLDER} between words, but images are placed before the question; "
            "write the row as messages (dataset.messages)"
        )
    return _values.text(text, column, at)
