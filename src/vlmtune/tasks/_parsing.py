r"""Extracts answers from what models wrap them in: thinking, answer tags, `\boxed{}`, code fences, text around JSON."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from vlmtune.thoughts import last_match, without_thinking
from vlmtune.types import Unparsed

_ANSWER_OPENS = re.compile(r"<(?:final_)?answer>|<\|begin_of_(?:box|solution)\|>", re.IGNORECASE)
_ANSWER_CLOSES = re.compile(r"</(?:final_)?answer>|<\|end_of_(?:box|solution)\|>", re.IGNORECASE)
_LAST_TAG = re.compile(
    r"<(conclusion|final|final_response|output|response|result|solution)>((?:(?!<\1>).)*)</\1>\s*\Z",
    re.DOTALL | re.IGNORECASE,
)
"""Tags that also occur in documents: they wrap an answer only where they end the text."""

_END_TOKENS = re.compile(
    r"(?:\s*(?:<\|(?:im_end|endoftext|eot_id|end|end_of_text|return|pad)\|>|</s>|<eos>|<end_of_turn>|<pad>))+\s*\Z"
)
"""Tokens that end a turn, which some programs leave in the text."""

_ANY_MARK = re.compile(r"[<\[◁`\\]")
"""What every mark begins with: most answers have none of these characters."""

_WHOLE_FENCE = re.compile(r"\s*```[a-zA-Z]*\n(.*?)\n?```\s*", re.DOTALL)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\\{}]|[{}]")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}")
FENCE = re.compile(r"```[a-zA-Z]*\n?(.*?)(?:```|$)", re.DOTALL)


def unwrap(text: str, prose: bool = False) -> str | Unparsed:
    r"""The answer without the marks that models put around it; a text without such marks is returned unchanged.

    In this order: tokens that end a turn, thinking (`<think>…</think>`, also where the prompt holds the opening tag,
    and the spellings of other models), answer tags (`<answer>…</answer>`, GLM's box), a code fence around the whole
    answer, and the last `\boxed{…}`. What was wrapped is stripped of white space. A mark without its counterpart counts
    only at the start of the text, so that a text which merely mentions one stays whole.

    Args:
        text: as generated.
        prose: whether `\boxed{…}` is part of the answer.
    """
    if not _ANY_MARK.search(text):
        return text
    found = without_thinking(_END_TOKENS.sub("", text) if "<" in text else text)
    if isinstance(found, Unparsed):
        return found
    for inner in (_in_answer_tags, _in_fence, (lambda _: None) if prose else _in_box):
        wrapped = inner(found)
        found = found if wrapped is None else wrapped
    return found if found is text else found.strip()


def _in_answer_tags(text: str) -> str | None:
    closing = last_match(_ANSWER_CLOSES, text)
    if closing is not None:
        opening = last_match(_ANSWER_OPENS, text[: closing.start()])
        return text[opening.end() : closing.start()] if opening else None
    begun = _ANSWER_OPENS.match(text.lstrip())
    if begun:
        return text.lstrip()[begun.end() :]
    last = _LAST_TAG.search(text) if "</" in text else None
    return last[2] if last else None


def _in_fence(text: str) -> str | None:
    whole = _WHOLE_FENCE.fullmatch(text) if text.lstrip().startswith("```") else None
    return whole[1] if whole and "```" not in whole[1] else None


def _in_box(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}`, braces balanced: `\boxed{\frac{1}{2}}` holds `\frac{1}{2}`."""
    open_braces: list[int | None] = []
    content = None
    for brace in _BRACES.finditer(text) if "box" in text else ():
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
    """The first JSON object or array in a text, in a code fence or not, and also in another spelling (`json_values`).

    Of a value that the length limit cut off, the complete objects and lists are kept: `[{"a": 1}, {"a": 2}, {"a` is
    read as `[{"a": 1}, {"a": 2}]`.
    """
    fenced = FENCE.search(text)
    body = fenced[1] if fenced else text
    try:
        found = next(json_values(body), None)
    except RecursionError:
        return Unparsed("nested too deeply")
    if found is not None:
        return found[0]
    quoted = _quoted(body)
    return Unparsed("no JSON in the answer") if quoted is None else json_value(quoted)


def _quoted(text: str) -> str | None:
    """The text in a JSON string, as models write that encode their object twice."""
    try:
        value = json.loads(text.strip()) if text.strip().startswith('"') else None
    except ValueError:
        return None
    return value if isinstance(value, str) else None


_MOST_ATTEMPTS = 50
"""Brackets at which reading JSON is tried, so that an answer of nothing but brackets is not read for minutes."""

_STRING_OR_SLIP = re.compile(
    r'"(?:[^"\\]|\\.)*"|(?://[^\n]*|/\*.*?\*/|(?<=[,{\[\s])\#[^\n]*)|,(?=\s*[\]}])|[：，｛｝［］]',
    re.DOTALL,
)
_NARROW = {"：": ":", "，": ",", "｛": "{", "｝": "}", "［": "[", "］": "]"}


def json_values(text: str) -> Iterator[tuple[Any, int]]:
    """JSON values in a text, and where they start.

    Also read are Python's spelling, comments, a comma behind the last item, full-width punctuation between the values,
    line breaks inside of strings, and of a value that was cut off what is complete.
    """
    position, attempts = 0, 0
    while (bracket := re.compile(r"[\[{｛［]").search(text, position)) and attempts < _MOST_ATTEMPTS:
        start = bracket.start()
        for read in (_plain_json, _python, _mended, _cut_off):
            try:
                value, position = read(text, start)
            except (ValueError, SyntaxError, TypeError, MemoryError):
                continue
            yield value, start
            break
        else:
            attempts, position = attempts + 1, start + 1


def _plain_json(text: str, start: int) -> tuple[Any, int]:
    return json.JSONDecoder(strict=False).raw_decode(text, start)


def _python(text: str, start: int) -> tuple[Any, int]:
    """Python's spelling: single quotes, tuples, True."""
    end = text.rfind("]" if text[start] == "[" else "}") + 1
    return ast.literal_eval(text[start:end]), end


def _mended(text: str, start: int) -> tuple[Any, int]:
    """JSON without what it does not allow, up to the last bracket of the text."""
    end = max(text.rfind(bracket) for bracket in "]}］｝") + 1
    part = text[start:end]
    if '"' not in part:
        part = part.translate({ord("“"): '"', ord("”"): '"'})
    for _ in range(2):  # a comment may stand between the last comma and the bracket
        part = _STRING_OR_SLIP.sub(_without_slip, part)
    return json.JSONDecoder(strict=False).decode(part), end


def _without_slip(slip: re.Match[str]) -> str:
    return slip[0] if slip[0].startswith('"') else _NARROW.get(slip[0], "")


def _cut_off(text: str, start: int) -> tuple[Any, int]:
    """A value that the length limit cut off, up to its last complete list or object, with the open brackets closed."""
    last, stack = start, [""]
    for part in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{\]}]', text[start:]):
        if part[0] in "[{":
            stack.append({"[": "]", "{": "}"}[part[0]])
        elif part[0] in "]}":
            if stack.pop() != part[0]:
                break
            last, still_open = start + part.end(), stack[1:]
    if last == start or len(still_open) > _MOST_ATTEMPTS:
        raise ValueError("nothing is complete")
    return json.loads(text[start:last] + "".join(reversed(still_open))), len(text)
