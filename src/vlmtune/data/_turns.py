"""The keys of a turn and of its parts. Whatever may change what is learnt is read or refused, never left out.

Turns are read in the formats of OpenAI, ShareGPT, LLaVA, LLaMA-Factory and ms-swift.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from vlmtune.errors import DataError
from vlmtune.types import ImageRef, Role

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "tool_response": "tool",
    "tool_call": "assistant",
}
"""Roles by their names under `role`: of OpenAI's messages, and ms-swift's two for tools."""

SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
"""Roles by their names under `from`."""

CALLS = ("tool_call", "function_call")
"""Speakers whose content is a call of a tool, as a JSON object."""

WEIGHTS = ("weight", "loss", "train")
"""Keys that say whether an assistant's turn is trained on, as OpenAI, ms-swift and axolotl spell it."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of what an assistant thinks before it answers."""

IMAGE_KINDS = ("image", "image_url", "input_image")
"""Types of content parts that are an image: of Hugging Face's and Qwen's messages, and of OpenAI's two interfaces."""

TEXT_KINDS = ("text", "input_text", "output_text")
IMAGE_KEYS = ("image", "image_url", "url", "path", "base64", "value")
"""Keys of an image part that may hold the image itself."""

VIDEO_KINDS = ("video", "video_url", "input_video")
"""Types of content parts that are a video."""

VIDEO_KEYS = ("video", "video_url", "url", "path", "base64", "value")
"""Keys of a video part that may hold the video itself."""

_TURN_KEYS = {*WEIGHTS, *THOUGHTS, "tool_calls"}
_TOOL_KEYS = {"name", "tool_call_id"}
_IMAGE_DETAIL = "detail"
"""How much of an image OpenAI's servers look at; our models always see all of it."""


def refuse_videos(holder: Mapping[str, Any], at: str, read: str | None = None) -> None:
    """Refuse a row or turn with a video that is not read: if it were ignored, the answer would lack its input.

    Args:
        holder: the row or turn.
        at: where it is.
        read: the column whose videos are read.

    Raises:
        DataError: there is one.
    """
    key = next((key for key in ("video", "videos", "video_url") if key != read and holder.get(key)), None)
    if key is not None:
        raise DataError(
            f"{at}: the videos under {key!r} are not read; name a column of the rows in dataset.videos, write them as "
            "parts of the content, or remove them"
        )


UNREAD_OF_ROWS = ("audio", "audios", "functions", "chat_template_kwargs")
"""Columns beside messages that change what other trainers teach, and that nothing here reads."""


def unread_beside(question: str) -> tuple[str, ...]:
    """Columns that belong to a question in the formats of Alpaca and ms-swift 2, by the name of its column."""
    return ("input", "history", "system") if question in ("instruction", "query", "prompt") else ()


def refuse_unread(row: Mapping[str, Any], unread: Iterable[str], ignored: Set[str], at: str) -> None:
    """Refuse a row that has a column which would have to be read.

    Raises:
        DataError: names it.
    """
    refuse_unknown(row, row.keys() - set(unread), ignored, at)


def refuse_unknown(holder: Mapping[str, Any], known: Set[str], ignored: Set[str], at: str) -> None:
    """Refuse a key that nothing here reads; tables fill the keys that other rows have with nothing.

    Raises:
        DataError: names it.
    """
    for key, value in holder.items():
        if key not in known and key not in ignored and value not in (None, "", [], {}):
            raise DataError(
                f"{at}: the key {key!r} ({value!r:.60}) is not read, and may change what is learnt; remove it, or add "
                "it to dataset.ignored_keys"
            )


def role_and_content(raw: Any, ignored: Set[str], at: str) -> tuple[str, Role, Any]:
    """The speaker's name, role and content of a turn in either format.

    Raises:
        DataError: it has neither, or a key that is not read.
    """
    keys = raw if isinstance(raw, dict) else {}
    for role_key, content_key, roles in (("role", "content", ROLES), ("from", "value", SHAREGPT_ROLES)):
        name = keys.get(role_key)
        if isinstance(name, str) and name in roles and (content_key in keys or keys.get("tool_calls")):
            refuse_videos(raw, at)
            known = {role_key, content_key} | _TURN_KEYS | (_TOOL_KEYS if roles[name] == "tool" else set())
            refuse_unknown(raw, known, ignored, at)
            return name, roles[name], keys.get(content_key)
    raise DataError(
        f"{at}: needs role ({', '.join(ROLES)}) and content, or from ({', '.join(SHAREGPT_ROLES)}) and value"
    )


def is_trained(raw: Mapping[str, Any], role: Role, at: str) -> bool:
    """Whether a turn is trained on: an assistant's, unless its weight is 0.

    Raises:
        DataError: a weight between, or on a turn of another role.
    """
    weights = {key: raw[key] for key in WEIGHTS if raw.get(key) is not None}
    for key, value in weights.items():
        if value not in (0, 1):
            raise DataError(f"{at}: {key} must be 0 or 1 (got {value!r}): a turn is trained on, or it is not")
        if role != "assistant" and value:
            raise DataError(f"{at}: {key} is {value!r}, but only the assistant's turns can be trained on; remove it")
    _refuse_contradiction(weights, at)
    return bool(next(iter(weights.values()), True))


def _refuse_contradiction(given: Mapping[str, Any], at: str) -> None:
    """Check that keys which mean the same thing have the same value.

    Raises:
        DataError: only one of them could be read.
    """
    if any(value != next(iter(given.values())) for value in given.values()):
        raise DataError(f"{at}: the keys {' and '.join(map(repr, given))} mean the same, but differ; keep one of them")


def thought(raw: Mapping[str, Any], role: Role, at: str) -> str | None:
    """What an assistant thinks before it answers, None without it.

    Raises:
        DataError: it is no text, or another role's.
    """
    thoughts = {key: raw[key] for key in THOUGHTS if raw.get(key) not in (None, "")}
    for key, value in thoughts.items():
        if role != "assistant" or not isinstance(value, str):
            raise DataError(f"{at}: {key} must be text in an assistant's turn")
    _refuse_contradiction(thoughts, at)
    return next(iter(thoughts.values()), None)


def tool_keys(raw: Mapping[str, Any], role: Role, at: str) -> dict[str, Any]:
    """The keys about tools that a chat template reads, with the arguments of calls as objects.

    Raises:
        DataError: a call without a name or with arguments that are no object, or of another role.
    """
    calls = raw.get("tool_calls") or ()
    more = {key: raw[key] for key in ("tool_call_id", "name") if role == "tool" and raw.get(key)}
    if not calls:
        return more
    if role != "assistant" or not isinstance(calls, list | tuple):
        raise DataError(f"{at}: tool_calls must be a list of calls in an assistant's turn")
    return more | {"tool_calls": [_call(call, at) for call in calls]}


def calls_in_text(content: Any, at: str) -> list[dict[str, Any]]:
    """The calls in the content of a `function_call` or `tool_call` turn: one JSON object or a list of them.

    Raises:
        DataError: it is neither.
    """
    value = _json(content)
    return [_call(call, at) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any, at: str) -> dict[str, Any]:
    """A call as chat templates read it: arguments are an object, as vLLM passes them on."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        arguments = _json(function.get("arguments") or {})
        if isinstance(arguments, dict):
            own = {"id": call["id"]} if call.get("id") else {}
            return {**own, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
    raise DataError(f"{at}: a tool call must be {{name: …, arguments: {{…}}}} (got {call!r:.80})")


def _json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None


def read_parts(
    content: Any, ignored: Set[str], at: str, next_image: Callable[[str, int | None], ImageRef]
) -> Iterator[str | ImageRef]:
    """Texts, images and videos of a turn's content, in order; a text may still hold placeholders.

    Args:
        content: a text, or a list of parts.
        ignored: `dataset.ignored_keys`.
        at: where it is, for messages.
        next_image: gives the row's next image or video, of a part that may name its index.

    Raises:
        DataError: a part is neither, or has a key that is not read.
    """
    if content is None:
        return
    if not isinstance(content, str | list | tuple):
        raise DataError(f"{at}: content must be text or a list of parts (got {type(content).__name__})")
    for part in [content] if isinstance(content, str) else content:
        if isinstance(part, dict):
            refuse_unknown(part, _part_keys(part), ignored, f"{at}, a part")
            for key, known in (("image_url", {"url", "detail"}), ("video_url", {"url"})):
                if isinstance(part.get(key), dict):
                    refuse_unknown(part[key], known, ignored, f"{at}, {key}")
        if (text := part_text(part)) is not None:
            yield text
        elif isinstance(part, dict) and is_image(part):
            yield next_image("an image part", part.get("index"))
        elif isinstance(part, dict) and is_video(part):
            yield next_image(VIDEO_PART, part.get("index"))
        else:
            raise DataError(
                f"{at}: a part must be {{type: text, text: …}}, {{type: image}} or {{type: video}} (got {part!r:.80})"
            )


def _part_keys(part: Mapping[str, Any]) -> set[str]:
    """The keys that are read of a part: those of its kind, and of several that may hold its content the first."""
    contents: tuple[str, ...]
    if is_video(part):
        known, contents = {"type", "index"}, VIDEO_KEYS
    elif is_image(part):
        known, contents = {"type", "index", _IMAGE_DETAIL}, IMAGE_KEYS
    else:
        known, contents = {"type"}, ("text", "value")
    return known | set([key for key in contents if part.get(key) not in (None, "")][:1])


def part_text(part: Any) -> str | None:
    """The text of a text part, with or without its type; None for any other part."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or (part.get("type") or "text") not in TEXT_KINDS or is_image(part):
        return None
    text = part.get("text", part.get("value"))
    return text if isinstance(text, str) else None


def is_image(part: Any) -> bool:
    """Whether a part is an image; Qwen's lists of parts leave out the type."""
    if not isinstance(part, dict) or is_video(part):
        return False
    kind = part.get("type")
    return kind in IMAGE_KINDS or (not kind and not isinstance(part.get("text"), str) and own_image(part) is not None)


def is_video(part: Any) -> bool:
    """Whether a part is a video, with or without its type."""
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return kind in VIDEO_KINDS or (not kind and not isinstance(part.get("text"), str) and bool(part.get("video")))


VIDEO_PART = "a video part"
"""How a video part is called in messages."""


def own_image(part: Any) -> Any:
    """The image or video that a part itself holds or names, None if it is a mere placeholder."""
    keys = VIDEO_KEYS if is_video(part) else IMAGE_KEYS
    value = next((part[key] for key in keys if part.get(key)), None) if isinstance(part, dict) else None
    value = value.get("url") if isinstance(value, dict) and "url" in value else value
    return value.removeprefix("file://") if isinstance(value, str) else value


def placeholders(messages: Any, mark: str, is_meant: Callable[[Any], bool]) -> Iterator[Any]:
    """The image or video parts of all messages, and None for every mark in a text.

    What is wrong with them is found later.
    """
    for message in messages if isinstance(messages, Sequence) and not isinstance(messages, str) else []:
        content = (message.get("content") or message.get("value")) if isinstance(message, dict) else None
        for part in [content] if isinstance(content, str) else content if isinstance(content, list | tuple) else []:
            if is_meant(part):
                yield part
            elif (text := part_text(part)) is not None:
                yield from [None] * text.count(mark)
