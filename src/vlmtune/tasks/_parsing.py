r"""Extracts answers from what models wrap them in: thinking, answer tags, `\boxed{}`, code fences, text around JSON."""

import json
import re
from typing import Any

from vlmtune.types import Unparsed

_THINK = r"(?:\w+:)?(?:think|thinking|thought|reasoning)"
_THINK_OPENS = re.compile(rf"<{_THINK}>|\[think\]|◁think▷", re.IGNORECASE)
_THINK_CLOSES = re.compile(rf"</{_THINK}>|\[/think\]|◁/think▷", re.IGNORECASE)
_ANSWER_OPENS = re.compile(r"<(?:final_)?answer>|<\|begin_of_box\|>", re.IGNORECASE)
_ANSWER_CLOSES = re.compile(r"</(?:final_)?answer>|<\|end_of_box\|>", re.IGNORECASE)
_BRACES = re.compile(r"\\boxed\s*\{|\\[\\{}]|[{}]")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}")
_FENCE = re.compile(r"```[a-zA-Z]*\n?(.*?)(?:```|$)", re.DOTALL)


def unwrap(text: str, prose: bool = False) -> str | Unparsed:
    r"""The answer without the marks that models put around it; a text without such marks is returned unchanged.

    In this order: thinking (`<think>…</think>`, also where the prompt holds the opening tag, and the spellings of
    other models), answer tags (`<answer>…</answer>`, GLM's box), and the last `\boxed{…}`. What was wrapped is
    stripped of white space. A mark without its counterpart counts only at the start of the text, so that a text which
    merely mentions one stays whole.

    Args:
        text: as generated.
        prose: whether `\boxed{…}` is part of the answer.
    """
    plain = _without_thinking(text)
    if isinstance(plain, Unparsed):
        return plain
    tagged = _in_answer_tags(plain)
    boxed = None if prose else _in_box(plain if tagged is None else tagged)
    found = boxed if boxed is not None else tagged if tagged is not None else plain
    return found if found is text else found.strip()


def _without_thinking(text: str) -> str | Unparsed:
    closing = _last(_THINK_CLOSES, text)
    if closing is None:
        return Unparsed("the thinking was cut off") if _THINK_OPENS.match(text.lstrip()) else text
    after = text[closing.end() :]
    if _THINK_OPENS.match(after.lstrip()):
        return Unparsed("the thinking was cut off")
    opening = _THINK_OPENS.search(text)
    before = text[: opening.start()] if opening and opening.start() < closing.start() else ""
    answer = after if after.strip() else before
    return answer if answer.strip() else Unparsed("no answer after the thinking")


def _in_answer_tags(text: str) -> str | None:
    closing = _last(_ANSWER_CLOSES, text)
    if closing is not None:
        opening = _last(_ANSWER_OPENS, text[: closing.start()])
        return text[opening.end() : closing.start()] if opening else None
    begun = _ANSWER_OPENS.match(text.lstrip())
    return text.lstrip()[begun.end() :] if begun else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007 - only the last one is wanted
        pass
    return found


def _in_box(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}`, braces balanced: `\boxed{\frac{1}{2}}` holds `\frac{1}{2}`."""
    open_braces: list[int | None] = []
    content = None
    for brace in _BRACES.finditer(text) if "\\boxed" in text else ():
        if brace[0] == "}":
            start = open_braces.pop() if open_braces else None
            content = content if start is None else text[start : brace.start()]
        elif brace[0].endswith("{") and len(brace[0]) != 2:
            open_braces.append(brace.end() if len(brace[0]) > 2 else None)
    if content is None:
        return None
    as_text = _LATEX_TEXT.fullmatch(content.strip())
    return as_text[1] if as_text else content


def json_value(text: str) -> Any | Unparsed:
    """The first JSON object or array in a text, in a code fence or not.

    Of an array that the length limit cut off, the complete objects are kept: `[{"a": 1}, {"a": 2}, {"a` is read as
    `[{"a": 1}, {"a": 2}]`.
    """
    fenced = _FENCE.search(text)
    body = fenced[1] if fenced else text
    decoder = json.JSONDecoder()
    for bracket in re.finditer(r"[\[{]", body):
        try:
            return decoder.raw_decode(body, bracket.start())[0]
        except (ValueError, RecursionError):
            complete = body[bracket.start() : body.rfind("}") + 1]
            if bracket[0] == "[" and complete:
                try:
                    return json.loads(complete + "]")
                except (ValueError, RecursionError):
                    continue
    return Unparsed("no JSON in the answer")
