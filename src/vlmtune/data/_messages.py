"""Chat rows: turns with their speakers and contents, and the images that fill their placeholders in order.

A turn is {role, content}, as OpenAI and most others write it, or {from, value}, as ShareGPT and LLaVA do. A placeholder
is an image part of the content, or the mark `<image>` in its text, as LLaVA and LLaMA-Factory write it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from vlmtune.data import _values
from vlmtune.errors import DataError
from vlmtune.types import Conversation, ImageRef, Role, Turn

ROLES = ("system", "user", "assistant")
SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
"""Roles by the names that stand under `from`."""

MARK = "<image>"
_MARKS = re.compile(r"\s*<image>\s*")
"""A mark with the white space around it: the format's, not the text's."""

VIDEO_KEYS = ("video", "videos", "video_url")
"""Where rows, turns and parts hold a video."""


def read_turns(messages: Any, images: Sequence[ImageRef], at: str) -> tuple[Conversation, str | None]:
    """Read one conversation.

    Content is a string, or a list of {"type": "text", "text": …} and {"type": "image"} parts. Where nothing asks for an
    image, the images stand before the text of the first user turn.

    Returns:
        The turns up to the last user turn, and the text of the assistant's turn behind it (None where there is none).

    Raises:
        DataError: a role or part that is unknown, roles in an impossible order, more or fewer images than placeholders,
            an image in an assistant turn: models here answer in text. A video anywhere.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(f"{at}: messages must be a list of turns, each with role and content, or from and value")
    left = iter(images)
    turns = [_turn(message, left, f"{at}, message {number}") for number, message in enumerate(messages)]
    unused = tuple(left)
    if unused and len(unused) == len(images):
        first = next((n for n, turn in enumerate(turns) if turn.role == "user"), None)
        if first is not None:
            turns[first] = Turn("user", (*unused, *turns[first].content))
            unused = ()
    if unused:
        raise DataError(f"{at}: {len(images)} images, but only {len(images) - len(unused)} placeholders in messages")
    _check_order(turns, at)
    if turns[-1].role == "user":
        return tuple(turns), None
    answer = "".join(part for part in turns[-1].content if isinstance(part, str))
    if not answer.strip():
        raise DataError(f"{at}: the last assistant turn is empty; repair or remove the row")
    return tuple(turns[:-1]), answer


def refuse_videos(holder: Mapping[str, Any], at: str) -> None:
    """That a row, a turn or a part holds no video: left out in silence, its answer would be learnt from nothing.

    Raises:
        DataError: it does.
    """
    kind = holder.get("type")
    if any(holder.get(key) for key in VIDEO_KEYS) or (isinstance(kind, str) and "video" in kind):
        raise DataError(f"{at}: videos are not supported yet; use pictures of it as images, or remove the row")


def _turn(message: Any, left: Iterator[ImageRef], at: str) -> Turn:
    role, content = _said(message, at)
    refuse_videos(message, at)
    if not isinstance(content, str | list | tuple):
        raise DataError(f"{at}: content must be text or a list of parts (got {type(content).__name__})")

    def image(asking: str) -> ImageRef:
        if role == "assistant":
            raise DataError(f"{at}: an assistant turn cannot hold an image; put {asking} into a user turn")
        found = next(left, None)
        if found is None:
            raise DataError(f"{at}: {asking} asks for an image, but none is left in the row's images")
        return found

    parts: list[str | ImageRef] = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if isinstance(part, dict):
            refuse_videos(part, at)
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            first, *others = _MARKS.split(part["text"]) if MARK in part["text"] else [part["text"]]
            parts += [first] if first or not others else []
            for text in others:
                parts += [image(MARK), *([text] if text else [])]
        elif kind == "image":
            parts.append(image("an image part"))
        else:
            raise DataError(f"{at}: a part must be {{type: text, text: …}} or {{type: image}} (got {part!r:.80})")
    return Turn(role, tuple(parts))


def _said(message: Any, at: str) -> tuple[Role, Any]:
    """Who speaks, and what. Tables fill every key that some row has, with null."""
    given = message if isinstance(message, dict) else {}
    for speaker, words, roles in (("role", "content", {role: role for role in ROLES}), ("from", "value", SPEAKERS)):
        said = given.get(speaker)
        if isinstance(said, str) and said in roles and words in given:
            return cast("Role", roles[said]), given[words]
    raise DataError(f"{at}: needs a role ({', '.join(ROLES)}) and a content, or from ({', '.join(SPEAKERS)}) and value")


def _check_order(turns: Sequence[Turn], at: str) -> None:
    talk = [turn.role for turn in turns if turn.role != "system"]
    if any(turn.role == "system" for turn in turns[1:]):
        raise DataError(f"{at}: a system turn may only stand first")
    if not talk or any(role != ("user", "assistant")[n % 2] for n, role in enumerate(talk)):
        raise DataError(f"{at}: user and assistant turns must alternate, user first (got {', '.join(talk) or 'none'})")


def read_question(value: Any, column: str, at: str) -> str:
    """A question as it is asked; the images stand before it, so that a mark for one would be asked as text.

    Raises:
        DataError: no text, or one that holds the mark.
    """
    said = _values.text(value, column, at)
    if MARK in said:
        raise DataError(
            f"{at}: column {column!r} holds the mark {MARK}; take it out, the images stand before a question"
        )
    return said
