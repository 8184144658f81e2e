"""Rows and pictures as the page's script reads them: safe inside a script element, and never too large to open."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmtune.report import rows
from vlmtune.report.rows import Column, Example

_PICTURES = 12_000_000
_ROWS = 10_000_000
"""Most bytes of pictures and of rows: together with the rest, a page stays under 25 MB."""

_LIMITS = (100_000, 20_000, 5_000, 2_000, 1_000, 500, 200)
"""Longest text that is carried whole: the first of these with which all rows fit."""

_CARD = 5_000
"""Longest text on the cards that stand on the page without its script."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What the script reads. Where not everything fits: the longest whole text, and how many rows are left out."""

    data: str
    limit: int | None
    left_out: int


def encoded(wanted: Sequence[str], pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Pictures as base64, in order of importance until the page would get too large."""
    found: dict[str, str] = {}
    room = _PICTURES
    for image in wanted:
        if image in pictures:
            text = base64.b64encode(pictures[image]).decode()
            room -= len(text)
            if room < 0:
                break
            found[image] = text
    return found


def carried(examples: Sequence[Example], columns: Sequence[Column], images: Mapping[str, str]) -> Carried:
    """All rows, with shortened texts if need be; where even that is too much, without those that changed least."""
    places = {image: n for n, image in enumerate(images)}
    slim = [_row(n, example, columns, places) for n, example in enumerate(examples)]
    packed, limit, kept = [_json(row) for row in slim], None, list(range(len(slim)))
    for shorter in _LIMITS:
        if _size(packed) <= _ROWS:
            break
        limit = shorter
        packed = [_json(_shortened(row, limit)) for row in slim]
    if _size(packed) > _ROWS:
        room, chosen = _ROWS, set()
        for n in rows.in_order(examples, columns[0] if columns else None):
            room -= len(packed[n].encode()) + 1
            if room < 0:
                break
            chosen.add(n)
        kept = sorted(chosen)
    metrics = [{"name": c.name, "sign": 1 if c.higher_is_better else -1, "digits": c.digits} for c in columns]
    parts = {
        "metrics": _json(metrics),
        "rows": f"[{','.join(packed[n] for n in kept)}]",
        "images": _json([*images.values()]),
    }
    data = "{" + ",".join(f'"{key}":{value}' for key, value in parts.items()) + "}"
    return Carried(data, limit, len(slim) - len(kept))


def card(example: Example) -> dict[str, Any]:
    """A row for the cards that need no script, its texts shortened where they are very long."""
    return {**example, **_shortened({key: example[key] for key in ("a", "b", "references")}, _CARD)}


def _row(number: int, example: Example, columns: Sequence[Column], places: Mapping[str, int]) -> dict[str, Any]:
    """A row in few letters; what is not there is left out.

    i id, a and b answers, r what was expected, s scores of A and B per metric, d changes per metric, f flags, h image,
    e failures, x boxes, m remarks, q question.
    """
    row: dict[str, Any] = {"i": rows.name(example, number), "a": example["a"], "b": example["b"]}
    row["r"] = rows.expected(example)
    if example["scores"] is not None:
        row["s"] = [[example["scores"][side][column.name] for column in columns] for side in ("a", "b")]
        row["d"] = [example["deltas"][column.name] for column in columns]
    optional = {
        "f": [example["flags"]["a"], example["flags"]["b"]] if any(example["flags"].values()) else None,
        "h": places.get(example["image"]),
        "e": rows.failures(example),
        "x": example.get("boxes"),
        "m": rows.meta(example),
        "q": rows.question(example),
    }
    return row | {key: value for key, value in optional.items() if value is not None and value != []}


def _shortened(row: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """A row whose texts have at most `limit` characters, and say how many are missing. Ids stay whole."""

    def cut(value: Any) -> Any:
        if isinstance(value, list):
            return [cut(item) for item in value]
        if not isinstance(value, str) or len(value) <= limit:
            return value
        return f"{value[:limit]}… [{len(value) - limit:,} more characters in the JSON]"

    return {key: cut(value) if key in ("a", "b", "r", "m", "q", "references") else value for key, value in row.items()}


def _size(packed: Sequence[str]) -> int:
    return sum(len(text.encode()) + 1 for text in packed)


def _json(value: Any) -> str:
    """JSON without what could end a script element or a line of an old script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
