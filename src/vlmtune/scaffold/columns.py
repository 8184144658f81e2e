"""What the columns of a dataset hold, from their first rows."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmtune.boxes import are_boxes, is_box
from vlmtune.data import IMAGE_ENDINGS, REMOTE, is_base64, structured

Kind = Literal["image", "images", "text", "texts", "talk", "box", "record", "number", "other", "nothing"]
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"P5", b"P6")
_DIGITS = re.compile(r"[_-]?\d+$")


@dataclass(frozen=True)
class Column:
    """One column; `values` are those of the first rows that are not null, structured where they hold JSON."""

    name: str
    kind: Kind
    values: Sequence[Any]

    @property
    def base(self) -> str:
        """The name in small letters, without a number at its end."""
        return _DIGITS.sub("", self.name.lower())

    @property
    def texts(self) -> list[str]:
        """All texts, those in lists, too."""
        return [item for value in self.values for item in (value if isinstance(value, list) else [value])]

    @property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers, which answers may be."""
        return all(isinstance(value, int) and not isinstance(value, bool) for value in self.values)

    @property
    def words(self) -> float:
        """Words of a text in the middle of all; 0 without any."""
        counts = sorted(len(str(text).split()) for text in self.texts)
        return counts[len(counts) // 2] if counts else 0

    @property
    def shown(self) -> str:
        """A value, short enough for a comment."""
        text = json.dumps(self.values[0], ensure_ascii=False, default=lambda value: f"<{type(value).__name__}>")
        return text if len(text) <= 50 else text[:49] + "…"


def look(records: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of some records, in the order in which they occur."""
    names = dict.fromkeys(name for record in records for name in record)
    return [_column(name, [record[name] for record in records if record.get(name) is not None]) for name in names]


def _column(name: str, values: list[Any]) -> Column:
    values = [value for value in values if value not in ("", [])]
    plain = [structured(value) for value in values]
    if not values:
        return Column(name, "nothing", [])
    tests: list[tuple[Kind, Any, list[Any]]] = [
        ("talk", _is_talk, plain),
        ("box", lambda value: is_box(value) or are_boxes(value), plain),
        ("image", _is_image, values),
        ("images", lambda value: isinstance(value, list) and all(map(_is_image, value)), plain),
        ("record", lambda value: isinstance(value, dict), plain if isinstance(values[0], str) else []),
        ("text", lambda value: isinstance(value, str), values),
        ("texts", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value), values),
        ("number", lambda value: isinstance(value, int | float), values),
    ]
    for kind, test, those in tests:
        if those and all(map(test, those)):
            return Column(name, kind, those)
    return Column(name, "other", values)


def _is_talk(value: Any) -> bool:
    """A list of turns, of either form."""
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(
        isinstance(turn, dict) and ({"role", "content"} <= set(turn) or {"from", "value"} <= set(turn))
        for turn in turns
    )


def _is_image(value: Any) -> bool:
    if isinstance(value, bytes):
        return value.startswith(MAGIC)
    if isinstance(value, dict):
        return set(value) == {"bytes", "path"}
    if not isinstance(value, str):
        return False
    ending = Path(value.partition("?")[0]).suffix.lower() if value.startswith(REMOTE) else Path(value).suffix.lower()
    return value.startswith("data:image/") or is_base64(value) or (ending in IMAGE_ENDINGS and "\n" not in value)
