"""Infers what the columns of a dataset contain from its first rows."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmtune import videos
from vlmtune.boxes import are_boxes, is_box
from vlmtune.data import IMAGE_ENDINGS, PAGED, PATH_KEYS, REMOTE, is_base64, python_list, structured
from vlmtune.videos import FILE_ENDINGS

Kind = Literal[
    "image",
    "images",
    "video",
    "videos",
    "text",
    "texts",
    "answers",
    "conversation",
    "box",
    "object",
    "number",
    "other",
    "empty",
]
"""`texts` are lists of texts, `answers` lists of numbers or of objects with an answer."""

MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"P5", b"P6")
HEIF = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
"""First bytes of image files; and of others, bytes 4 to 12."""

ANSWER_KEYS = ("answer", "text", "value")
"""Keys of a list's objects that hold the answer itself."""

_TRAILING_NUMBER = re.compile(r"[_-]?\d+$")
_FILE_NAME = re.compile(r"[^\n]*?(\.[A-Za-z][A-Za-z0-9]{1,4})")


@dataclass(frozen=True)
class Column:
    """A column. `values` are its non-null values in the first rows, parsed where text holds JSON."""

    name: str
    kind: Kind
    values: Sequence[Any]

    @property
    def base(self) -> str:
        """The name in lower case without a number at its end: "Caption_0" -> "caption"."""
        return _TRAILING_NUMBER.sub("", self.name.lower())

    @property
    def texts(self) -> list[str]:
        """All texts, including those in lists."""
        return [item for value in self.values for item in (value if isinstance(value, list) else [value])]

    @property
    def is_integer(self) -> bool:
        """Whether all values are integers, which can be answers."""
        return all(isinstance(value, int) and not isinstance(value, bool) for value in self.values)

    @property
    def words(self) -> int:
        """Median number of words of a text; 0 without texts."""
        counts = sorted(len(str(text).split()) for text in self.texts)
        return counts[len(counts) // 2] if counts else 0

    @property
    def asks(self) -> bool:
        """Whether most texts are questions."""
        marks = [str(text).rstrip().endswith(("?", "？")) for text in self.texts] if self.kind == "text" else []
        return bool(marks) and sum(marks) >= 0.8 * len(marks)

    @property
    def distinct(self) -> int:
        """Number of different values."""
        return len({str(value) for value in self.values})

    @property
    def endings(self) -> list[str]:
        """Endings of the values, if all of them look like names of files; empty otherwise."""
        matches = [_FILE_NAME.fullmatch(value) if isinstance(value, str) else None for value in self.values]
        return sorted({match[1].lower() for match in matches if match}) if matches and all(matches) else []

    @property
    def preview(self) -> str:
        """The first value, short enough for a comment."""
        text = json.dumps(self.values[0], ensure_ascii=False, default=lambda value: f"<{type(value).__name__}>")
        return text if len(text) <= 50 else text[:49] + "…"


def infer_columns(records: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of some records, in the order in which they first occur."""
    names = dict.fromkeys(name for record in records for name in record)
    return [_column(name, [record[name] for record in records if record.get(name) is not None]) for name in names]


def _column(name: str, values: list[Any]) -> Column:
    values = [value for value in values if value not in ("", [])]
    if all(isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) for value in values):
        values = [value[0] for value in values]
    parsed = [listed(value) for value in values]
    if not values:
        return Column(name, "empty", [])
    tests: list[tuple[Kind, Any, list[Any]]] = [
        ("conversation", _is_conversation, parsed),
        ("box", lambda value: is_box(value) or are_boxes(value), parsed),
        ("video", _is_video, values),
        ("videos", lambda value: isinstance(value, list) and all(map(_is_video, value)), parsed),
        ("image", _is_image, values),
        ("images", lambda value: isinstance(value, list) and all(map(_is_image, value)), parsed),
        ("object", lambda value: isinstance(value, dict), parsed),
        ("texts", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value), parsed),
        ("answers", _are_answers, parsed),
        ("text", lambda value: isinstance(value, str), values),
        ("number", lambda value: isinstance(value, int | float), values),
    ]
    for kind, test, candidates in tests:
        if candidates and all(map(test, candidates)):
            return Column(name, kind, candidates)
    return Column(name, "other", values)


def listed(value: Any) -> Any:
    """A list or object, parsed where text holds it as JSON, or a list as Python prints it; anything else unchanged."""
    return python_list(structured(value))


def _are_answers(value: Any) -> bool:
    """Whether a value is a list of numbers or of objects that hold an answer."""
    return isinstance(value, list) and all(
        isinstance(item, str | int | float) or (isinstance(item, dict) and any(key in item for key in ANSWER_KEYS))
        for item in value
    )


def _is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages, with role and content (OpenAI) or from and value (ShareGPT)."""
    messages = value if isinstance(value, list) else []
    return bool(messages) and all(
        isinstance(message, dict) and ({"role", "content"} <= set(message) or {"from", "value"} <= set(message))
        for message in messages
    )


def _is_video(value: Any) -> bool:
    """Whether a value is a video file or names one; a list of frames looks like one of images."""
    if isinstance(value, bytes):
        return value[4:12] not in HEIF and videos.format_of(value) not in (None, "gif")  # a GIF may also be an image
    if isinstance(value, dict):
        held = [value[key] for key in ("bytes", *PATH_KEYS) if value.get(key)]
        return bool(held) and _is_video(held[0])
    return isinstance(value, str) and value.lower().endswith(FILE_ENDINGS) and "\n" not in value


def _is_image(value: Any) -> bool:
    if isinstance(value, bytes):
        return value.startswith(MAGIC) or value[4:12] in HEIF
    if isinstance(value, dict):
        held = [value[key] for key in ("bytes", *PATH_KEYS) if value.get(key)]
        return set(value) == {"bytes", "path"} or (bool(held) and _is_image(held[0]))
    if not isinstance(value, str):
        return False
    ending = Path(value.partition("?")[0] if value.startswith(REMOTE) else value.partition("#page=")[0]).suffix.lower()
    is_path = ending in (*IMAGE_ENDINGS, *PAGED) and "\n" not in value
    return value.startswith("data:image/") or is_base64(value) or is_path
