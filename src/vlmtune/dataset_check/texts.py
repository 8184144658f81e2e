"""What is wrong with the texts of a row: a wrong encoding, placeholders that nobody filled, lists as targets."""

import ast
import re
from collections.abc import Iterable, Iterator

from vlmtune.data import structured
from vlmtune.types import Conversation, Example

CONTEXT = 20
"""Characters shown on both sides of a problem in a text."""

_MARK = re.compile(r"<(image|video|audio|bbox|ref-object)>(?!.*</\1>)", re.DOTALL)
"""What other programs replace by an image or a value of a further column."""

_FIELDS = (
    "answer|answers|bbox|caption|captions|category|class|description|expected|ground_truth|image|input|instruction|label|"
    "labels|output|phrase|prompt|query|question|reference|response|target|text|title|transcription"
)
_FIELD = re.compile(rf"(?<![\w\\}}^])(?:\{{({_FIELDS})\}}|\{{\{{ ?({_FIELDS}) ?\}}\}}|\$\{{({_FIELDS})\}})")
r"""A field of a template: `{caption}`, `{{ caption }}`, `${caption}`; not an argument in TeX, as in `\mbox{text}`."""


def texts_of(example: Example) -> list[str]:
    """All texts of a row, each once."""
    texts = [*example.truth["references"], *([example.question] if example.question else [])]
    texts += [part for message in example.messages or () for part in message.content if isinstance(part, str)]
    return list(dict.fromkeys([*texts, *([example.target] if example.target is not None else [])]))


def prompt_texts(conversation: Conversation) -> list[str]:
    """The texts of a conversation."""
    return [part for message in conversation for part in message.content if isinstance(part, str)]


def placeholder(texts: Iterable[str]) -> str | None:
    """The first placeholder in the texts that nothing replaced, and that a model would read or learn as it is."""
    for text in texts:
        if (found := _MARK.search(text) or _FIELD.search(text)) is not None:
            return found[0]
    return None


def collection(text: str) -> str | None:
    """What a text holds that JSON or Python would read as a `list` or an `object`; None for any other text."""
    if not text.strip().startswith(("[", "{")):
        return None
    value = structured(text)
    if isinstance(value, str):
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return "object" if isinstance(value, dict) else "list"


def encoding_problems(texts: Iterable[str]) -> Iterator[str]:
    """Texts with replacement characters, or whose UTF-8 was decoded as Windows-1252."""
    for text in texts:
        if "\ufffd" in text:
            start = text.index("\ufffd")
            yield f"a character was lost: {text[max(0, start - CONTEXT) : start + CONTEXT]!r}"
        elif not text.isascii() and (correct := _repaired(text)) is not None:
            start = next(n for n, (wrong, right) in enumerate(zip(text, correct, strict=False)) if wrong != right)
            near = slice(max(0, start - CONTEXT), start + CONTEXT)
            yield f"{text[near]!r} was read in a wrong encoding; it should be {correct[near]!r}"


def _repaired(text: str) -> str | None:
    """The text whose UTF-8 was decoded as Windows-1252 ("cafÃ©" -> "café"); None if it was not."""
    try:
        correct = text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None
    return correct if correct != text else None
