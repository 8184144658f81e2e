"""What people read, on a terminal or in a report: control characters escaped, secrets replaced by names of variables.

A row's id, an image's path or a server's message may hold codes that move the cursor, rewrite what was printed above,
reverse the direction of writing or fill the clipboard, and an exception of any library may quote a key. Everything
printed goes through `echo`, every text of a page, a card or a table through `safe`.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence

MIN_SECRET_LENGTH = 8
"""Shorter values are flags and placeholders such as EMPTY, which occur in ordinary words."""

_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
"""Names of environment variables that hold secrets."""

_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)
"""Control characters but tab and line ends, marks that reverse the direction of text, line separators, half pairs."""

_LONGEST = 5_000
"""Most characters in a line of a message."""

_BUT_STYLE = re.compile(rf"(?!\x1b\[[0-9;]{{0,9}}m)(?:{_CONTROL.pattern})")
"""The same without the codes that only choose a color or weight of letters."""


def echo(text: str, *, err: bool = False, end: str = "\n", styled: bool = False) -> None:
    """Print a text, as a message on stderr with shortened lines if `err`; one that is `styled` may choose colors."""
    if err:
        text = "\n".join(shortened(line, _LONGEST) for line in text.split("\n"))
    print(safe(text, styled), file=sys.stderr if err else sys.stdout, end=end, flush=err)


def safe(text: str, styled: bool = False) -> str:
    """The text without control characters and secrets, both of which are replaced by what can be read."""
    return redacted(printable(text, styled))


def cleaner() -> Callable[[str], str]:
    """`safe` for many texts: the environment is read once, which takes longer than all the rest."""
    secrets = _secrets()
    return lambda text: _without(secrets, printable(text))


def shortened(text: str, limit: int) -> str:
    """A text of at most `limit` characters, which says how many are missing."""
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text) - limit:,} more characters]"


def printable(text: str, styled: bool = False) -> str:
    r"""The text with control characters as in JSON: an escape character becomes \u001b.

    JSON stays JSON with the same value. A text that is `styled` keeps the codes of colors.
    """
    return (_BUT_STYLE if styled else _CONTROL).sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def redacted(text: str) -> str:
    """The text with every secret of the environment replaced by the name of its variable in brackets."""
    return _without(_secrets(), text)


def _secrets() -> list[tuple[str, str]]:
    """Secrets of the environment and the names of their variables, the longest first: one may be a part of another."""
    found = {v: name for name, v in os.environ.items() if _SECRET_NAME.search(name) and len(v) >= MIN_SECRET_LENGTH}
    return sorted(found.items(), key=lambda item: len(item[0]), reverse=True)


def _without(secrets: Sequence[tuple[str, str]], text: str) -> str:
    for value, name in secrets:
        text = hide(value, name, text)
    return text


def hide(secret: str, name: str, text: str) -> str:
    r"""The text with a secret replaced by a name in brackets, also where some of its characters are escaped as \u0073.

    >>> hide("sk-1", "KEY", r"Bearer sk-1 \u0073k-1")
    'Bearer [KEY] [KEY]'
    """
    if secret not in text and "\\" not in text:
        return text
    return _spellings(secret).sub(lambda _: f"[{name}]", text)


@functools.lru_cache(64)
def _spellings(secret: str) -> re.Pattern[str]:
    """A pattern of the secret with characters as in JSON, after any number of backslashes: JSON may stand in JSON."""
    return re.compile("".join(rf"(?:\\*{re.escape(char)}|\\+u(?i:{ord(char):04x}))" for char in secret))
