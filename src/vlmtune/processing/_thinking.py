"""What a chat template does with thoughts, found out by rendering a few messages."""

from dataclasses import dataclass
from typing import Any

from vlmtune.errors import DataError
from vlmtune.processing._templates import ChatTemplate
from vlmtune.thoughts import empty_thought, open_thought

_ASKED: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "Q"}]}
_ANSWERED: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": "ANSWER"}]}
_THOUGHT = "a thought that no template holds"


@dataclass(frozen=True, slots=True)
class ThinkingStyle:
    r"""How a template writes thoughts.

    `switch`: prompts change with `enable_thinking`. `opening` is a thought that prompts begin, as `<think>\n`, and
    `closing` what ends it in an answer without thoughts. `by_key`: thoughts are read from `reasoning_content`;
    elsewhere they belong into the text. `thinks`: any of the first two, or answers without thoughts get an empty one.
    """

    switch: bool
    opening: str
    closing: str
    by_key: bool
    thinks: bool


def thinking_style(template: ChatTemplate) -> ThinkingStyle:
    """The style of a template; one that refuses a plain question does not think.

    Raises:
        IntegrityError: the template is broken.
    """
    try:
        on, off = (template.render([_ASKED], True, enable_thinking=switch) for switch in (True, False))
        plain = template.render([_ASKED, _ANSWERED], False, enable_thinking=True)
        thought = template.render([_ASKED, {**_ANSWERED, "reasoning_content": _THOUGHT}], False, enable_thinking=True)
    except DataError:
        return ThinkingStyle(False, "", "", False, False)
    opening = open_thought(on)
    before = plain.partition(_ANSWERED["content"][0]["text"])[0]
    closing = before[len(on) :] if before.startswith(on) else ""
    writes_empty = any(empty_thought(before[at:]) for at in range(len(before)) if before[at] == "<")
    return ThinkingStyle(on != off, opening, closing, _THOUGHT in thought, on != off or bool(opening) or writes_empty)
