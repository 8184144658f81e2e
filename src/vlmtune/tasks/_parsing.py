"""Extracts answers from what models wrap them in: code fences, text around JSON, quotes, a full stop."""

import json
import re
from typing import Any

from vlmtune.types import Unparsed

_FENCE = re.compile(r"```[a-zA-Z]*\n?(.*?)(?:```|$)", re.DOTALL)


def short_answer(text: str) -> str:
    """The text without surrounding white space, quotes and a single full stop."""
    text = text.strip()
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1]
    return text.strip().strip("\"'`“”‘’").strip()


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
