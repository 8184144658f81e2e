"""Where thoughts begin and end in a text, in the spellings of many models."""

import re

from vlmtune.types import Unparsed

_THINK = r"(?:\w+:)?(?:think|thinking|thought|reasoning|思考)"
_THINK_OPENS = re.compile(
    rf"<{_THINK}>|\[think\]|◁think▷|<\|begin_of_thought\|>|<unused94>|<\|channel\|>analysis<\|message\|>", re.IGNORECASE
)
_THINK_CLOSES = re.compile(
    rf"</{_THINK}>|\[/think\]|◁/think▷|<\|end_of_thought\|>|<unused95>|<\|channel\|>final<\|message\|>", re.IGNORECASE
)

UNFINISHED_THOUGHT = "the thinking was cut off"
"""Why an answer cannot be read whose thought does not end."""


def without_thinking(text: str) -> str | Unparsed:
    """What a model writes after its thinking, or before it if nothing follows."""
    closing = last_match(_THINK_CLOSES, text)
    if closing is None:
        return Unparsed(UNFINISHED_THOUGHT) if _THINK_OPENS.match(text.lstrip()) else text
    after = text[closing.end() :]
    if _THINK_OPENS.match(after.lstrip()):
        return Unparsed(UNFINISHED_THOUGHT)
    opening = _THINK_OPENS.search(text)
    before = text[: opening.start()] if opening and opening.start() < closing.start() else ""
    answer = after if after.strip() else before
    return answer if answer.strip() else Unparsed("no answer after the thinking")


def is_thought_mark(text: str) -> bool:
    """Whether a text is a mark at the start or end of a thought."""
    return bool(_THINK_OPENS.fullmatch(text) or _THINK_CLOSES.fullmatch(text))


def open_thought(text: str) -> str:
    """The end of a text from the mark of a thought that is not closed in it; empty without one."""
    opening = last_match(_THINK_OPENS, text)
    return "" if opening is None or _THINK_CLOSES.search(text, opening.end()) else text[opening.start() :]


def empty_thought(text: str) -> int:
    """Length of an empty thought that a text begins with, and of the white space around it; 0 without one.

    The opening mark may be missing, as where the prompt holds it.
    """
    opening, closing = _THINK_OPENS.match(text.lstrip()), _THINK_CLOSES.search(text)
    if closing is None:
        return 0
    start = len(text) - len(text.lstrip()) + opening.end() if opening else 0
    rest = text[closing.end() :]
    return 0 if text[start : closing.start()].strip() else len(text) - len(rest.lstrip())


def split_thought(text: str) -> tuple[str | None, str]:
    """The thought that a text begins with, None without one, and what follows it.

    The opening mark may be missing. A mark further behind is part of the text.
    """
    closing, opening = _THINK_CLOSES.search(text), _THINK_OPENS.search(text)
    if closing is None or (
        opening is not None and (opening.start() > closing.start() or text[: opening.start()].strip())
    ):
        return None, text
    start = opening.end() if opening else 0
    return text[start : closing.start()].strip("\n"), text[closing.end() :].lstrip("\n")


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match of a pattern in a text."""
    found = None
    for found in pattern.finditer(text):  # noqa: B007 - only the last one is wanted
        pass
    return found
