"""Reading what models wrap their answers in: code fences, talk around JSON, quotes, a full stop."""

import json
import re
from typing import Any

from vlmtune.types import Unparsed

_FENCE = re.compile(r"```[a-zA-Z]*\n?(.*?)(?:```|$)", re.DOTALL)


def short_answer(text: str) -> str:
    """The text without white space, quotes and one full stop around it."""
    text = text.strip()
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1]
    return text.strip().strip("\"'`“”‘’").strip()


def json_value(text: str) -> Any | Unparsed:
    """The first JSON object or array in a text, inside a code fence or not.

    An array cut off at the longest length allowed is read up to its last whole object.
    """
    fenced = _FENCE.search(text)
    inside = fenced[1] if fenced else text
    decoder = json.JSONDecoder()
    for found in re.finditer(r"[\[{]", inside):
        try:
            return decoder.raw_decode(inside, found.start())[0]
        except (ValueError, RecursionError):
            whole = inside[found.start() : inside.rfind("}") + 1]
            if found[0] == "[" and whole:
                try:
                    return json.loads(whole + "]")
                except (ValueError, RecursionError):
                    continue
    return Unparsed("no JSON in the answer")
