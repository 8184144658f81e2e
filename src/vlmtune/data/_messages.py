"""Chat rows: messages with role and content, and the images that fill their placeholders in order.

A message is {role, content}, as in OpenAI's format, or {from, value}, as in ShareGPT's and LLaVA's (`_turns`). A
placeholder is an image or video part of the content, or `<image>` or `<video>` in its text, as in LLaVA and
LLaMA-Factory; the white space around it belongs to the text.
"""

import itertools
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from vlmtune.data import _turns, _values
from vlmtune.errors import DataError
from vlmtune.types import Conversation, ImageRef, Message, Role, VideoRef

PLACEHOLDER, VIDEO_PLACEHOLDER = "<image>", "<video>"

_OUTER = re.compile(r"\A(?:\s*<image>\s*)+|(?:\s*<image>\s*)+\Z")
"""Placeholders before and after a text."""

ALLOWED_BEFORE = {"user": None, "assistant": ("user", "tool"), "tool": ("assistant", "tool")}
"""Roles that the message before one of a role must have; users may speak several times in a row."""


@dataclass(frozen=True, slots=True)
class RowContext:
    """What a row says about its conversation outside of the messages.

    `system` is its system prompt, `tools` are the definitions of those that the model may call, `ignored` are keys of
    turns and parts that are left out (`dataset.ignored_keys`).
    """

    system: str | None = None
    tools: Sequence[Any] = ()
    ignored: Set[str] = field(default_factory=frozenset)


def row_context(
    record: Mapping[str, Any], ignored: Sequence[str], columns: Mapping[str, str | None], at: str
) -> RowContext:
    """The context of a row: its `system` and `tools`, as far as it has them.

    Args:
        record: the row.
        ignored: `dataset.ignored_keys`.
        columns: the columns of `system`, `tools` and `videos`, None where they are not read.
        at: where the row is.

    Raises:
        DataError: one of them is of another kind.
    """
    _turns.refuse_videos(record, at, columns.get("videos"))
    _turns.refuse_unread(record, _turns.UNREAD_OF_ROWS, frozenset(ignored), at)
    values = {key: _values.structured(record.get(column)) if column else None for key, column in columns.items()}
    system, tools = values["system"], values["tools"] or ()
    if system is not None and not isinstance(system, str):
        raise DataError(f"{at}: column {columns['system']!r} must hold the system prompt (got {type(system).__name__})")
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{at}: column {columns['tools']!r} must hold a list of tools (got {type(tools).__name__})")
    return RowContext(system or None, tools, frozenset(ignored))


def read_messages(
    value: Any, images: Sequence[ImageRef], at: str, context: RowContext | None = None
) -> tuple[Conversation, Message | None]:
    """Read one conversation.

    Content is a string, or a list of {"type": "text", "text": …} and {"type": "image"} or {"type": "video"} parts.
    Without placeholders the images and videos go before the text of the first user message. What follows the last
    answer that is trained on has no effect on it, and is left out.

    Returns:
        The messages up to the last user or tool message, and the assistant's answer to it (None without one).

    Raises:
        DataError: an unknown role, key or content part, roles in an invalid order, different numbers of images and
            placeholders, or an image or video in an assistant message (the models answer in text).
    """
    context = context or RowContext()
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{at}: messages must be a list of messages, each with role and content, or from and value")
    unused = _Unused(images)
    messages: list[Message] = []
    for number, raw in enumerate(value):
        name, message = _message(raw, unused, context.ignored, f"{at}, message {number}")
        calls = message.more.get("tool_calls")
        if name in _turns.CALLS and messages and messages[-1].role == "assistant":  # ms-swift: what it says, then calls
            last = messages[-1]
            if last.trained != message.trained:
                raise DataError(
                    f"{at}, message {number}: the call and what the assistant says before it are one turn, which is "
                    "trained on or not; give both the same loss"
                )
            messages[-1] = replace(last, more={"tool_calls": [*last.more.get("tool_calls", []), *(calls or [])]})
        else:
            messages.append(message)
    _check_order(messages, at)
    first = next((n for n, message in enumerate(messages) if message.role == "user"), None)
    for kind in ("videos", "images"):  # images come first, where neither have placeholders
        left, count = unused.left(kind)
        if left and len(left) == count and first is not None:
            messages[first] = replace(messages[first], content=(*left, *messages[first].content))
        elif left:
            raise DataError(f"{at}: {count} {kind}, but only {count - len(left)} placeholders in messages")
    return _split_answer(_with_context(messages, context, at), at)


def turns(value: Any) -> list[Mapping[str, Any]]:
    """The turns that a value of a row consists of; none if it is anything else."""
    found = [value] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
    are_turns = all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in found)
    return list(found) if are_turns else []


def with_completion(prompt: Any, completion: Sequence[Mapping[str, Any]], at: str) -> Any:
    """The messages of a prompt, none of which is trained on then, and those of its completion, as TRL has them.

    Raises:
        DataError: a message of the prompt says that it is trained on.
    """
    if not completion or not isinstance(prompt, list | tuple):
        return prompt  # `read_messages` names what is wrong with it
    return [*(_untrained(turn, f"{at}, message {number}") for number, turn in enumerate(prompt)), *completion]


def _untrained(turn: Any, at: str) -> Any:
    if not isinstance(turn, Mapping):
        return turn
    for key in _turns.WEIGHTS:
        if turn.get(key) not in (None, 0):
            raise DataError(
                f"{at}: {key} is {turn[key]!r:.80}, but where a row has a completion, only that is trained on; "
                "remove the key, or write the row as messages without a completion"
            )
    return {**{key: value for key, value in turn.items() if key not in _turns.WEIGHTS}, "weight": 0}


class _Unused:
    """The images and videos of a row that no placeholder stood for yet."""

    def __init__(self, images: Sequence[ImageRef]) -> None:
        self._all: dict[str, list[ImageRef]] = {
            "images": [image for image in images if not isinstance(image, VideoRef)],
            "videos": [image for image in images if isinstance(image, VideoRef)],
        }
        self._taken = {"images": 0, "videos": 0}

    def left(self, kind: str) -> tuple[list[ImageRef], int]:
        """Those without a placeholder, and the number of all of them."""
        return self._all[kind][self._taken[kind] :], len(self._all[kind])

    def next(self, placeholder: str, index: int | None, role: Role, at: str) -> ImageRef:
        """The one that a placeholder in a message stands for.

        Raises:
            DataError: there is none left, its index is another, or the message is an assistant's.
        """
        kind = "videos" if placeholder in (VIDEO_PLACEHOLDER, _turns.VIDEO_PART) else "images"
        one = "a video" if kind == "videos" else "an image"
        if role == "assistant":
            raise DataError(f"{at}: an assistant message cannot hold {one}; move {placeholder} to a user message")
        number = self._taken[kind]
        if number == len(self._all[kind]):
            raise DataError(f"{at}: {placeholder} stands for {one}, but the row has no further {kind}")
        if index not in (None, number):
            raise DataError(
                f"{at}: index {index} of {placeholder} is not that of the next {kind[:-1]}, {number}; sort them"
            )
        self._taken[kind] += 1
        return self._all[kind][number]

    def marks(self, role: Role, text: str) -> list[str]:
        """The placeholders that a text may have. In a row without videos, `<video>` may be a word, as in HTML."""
        is_word = not self._all["videos"] and (role == "assistant" or "</video>" in text)
        return [PLACEHOLDER] if is_word else [PLACEHOLDER, VIDEO_PLACEHOLDER]


def _message(raw: Any, unused: _Unused, ignored: Set[str], at: str) -> tuple[str, Message]:
    """A message, and the name of its speaker."""
    name, role, content = _turns.role_and_content(raw, ignored, at)

    def next_image(placeholder: str, index: int | None = None) -> ImageRef:
        return unused.next(placeholder, index, role, at)

    more = _turns.tool_keys(raw, role, at)
    if name in _turns.CALLS:
        content, more = None, {"tool_calls": _turns.calls_in_text(content, at)}
    reasoning = _turns.thought(raw, role, at)
    if content is None and not more and reasoning is None:
        raise DataError(f"{at}: content must be text or a list of parts (got NoneType)")
    parts: list[str | ImageRef] = []
    for part in _turns.read_parts(content, ignored, at, next_image):
        if not isinstance(part, str):
            parts.append(part)
            continue
        marks = unused.marks(role, part)
        read = [next_image(piece) if piece in marks else piece for piece in re.split(f"({'|'.join(marks)})", part)]
        parts += [piece for piece in read if piece] if len(read) > 1 else read
    trained = _turns.is_trained(raw, role, at)
    return name, Message(role, tuple(parts), trained, reasoning, more)


def _with_context(messages: Sequence[Message], context: RowContext, at: str) -> list[Message]:
    """The messages after the row's system prompt, with its tools in the first one."""
    found = list(messages)
    if context.system is not None:
        if found[0].role != "system":
            found.insert(0, Message("system", (context.system,)))
        elif "".join(map(str, found[0].content)) != context.system:
            raise DataError(f"{at}: the row's system prompt is not that of its first message; keep one of them")
    if context.tools:
        found[0] = replace(found[0], more={**found[0].more, "tools": list(context.tools)})
    return found


def _check_order(messages: Sequence[Message], at: str) -> None:
    roles = [message.role for message in messages if message.role != "system"]
    if any(message.role == "system" for message in messages[1:]):
        raise DataError(f"{at}: only the first message may be a system message")
    if not roles or roles[0] != "user":
        raise DataError(f"{at}: the first to speak must be the user (got {', '.join(roles) or 'nobody'})")
    for before, role in itertools.pairwise(roles):
        allowed = ALLOWED_BEFORE[role]
        if allowed is not None and before not in allowed:
            raise DataError(
                f"{at}: {role} must follow {' or '.join(allowed)} (got {', '.join(roles)}); users may speak several "
                "times in a row, assistants answer once"
            )


def _split_answer(messages: list[Message], at: str) -> tuple[Conversation, Message | None]:
    if messages[-1].role != "assistant":
        return tuple(messages), None
    last = max((n for n, message in enumerate(messages) if message.role == "assistant" and message.trained), default=-1)
    if last < 0:
        raise DataError(f"{at}: every assistant message has weight 0, so there is nothing to learn; remove the row")
    answer = messages[last]
    if "tool_calls" in answer.more:
        raise DataError(
            f"{at}: tool_calls in the last answer; answers are compared as text: end the row with an answer in "
            "words, or give the calls weight 0"
        )
    if not "".join(map(str, answer.content)).strip():
        raise DataError(f"{at}: the last assistant message is empty; repair or remove the row")
    return tuple(messages[:last]), answer


def image_values(messages: Any, others: Sequence[Any], videos: bool = False) -> list[Any]:
    """The images or videos of a conversation in the order of its placeholders, then those without one.

    Args:
        messages: as a row holds them; what is wrong with them is found later.
        others: the row's own images. They fill the placeholders that hold no image themselves; one that a part holds as
            well counts once.
        videos: whether its videos are meant.
    """
    left, values = list(others), []
    mark, is_meant = (VIDEO_PLACEHOLDER, _turns.is_video) if videos else (PLACEHOLDER, _turns.is_image)
    for part in _turns.placeholders(messages, mark, is_meant):
        own = _turns.own_image(part)
        if own is None or (left and left[0] == own):
            own = left.pop(0) if left else None
        if own is not None:
            values.append(own)
    return values + left


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
