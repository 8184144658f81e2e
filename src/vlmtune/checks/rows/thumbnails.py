"""Small pictures of what a check found, for its page."""

from collections.abc import Mapping
from typing import Any

from vlmtune.data import Rows
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb, thumbnail

SIDE = 200
PICTURED = 12
"""Findings of one kind with their pictures."""

OF_TEXT = ("row", "image", "lesson", "long", "text")
"""Kinds whose pictures say nothing about them, or cannot be seen."""

Key = tuple[str, int, int]
"""(role, row, which of its pictures)."""


def pictured(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Findings that are shown with pictures: the first of every kind that is about a row whose pictures can be seen."""
    shown: dict[str, list[Mapping[str, Any]]] = {}
    for each in found["findings"]:
        if each["row"] is not None and each["kind"] not in OF_TEXT:
            some = shown.setdefault(each["kind"], [])
            if len(some) < PICTURED:
                some.append(each)
    return [each for some in shown.values() for each in some]


def thumbnails(found: Mapping[str, Any], rows: Mapping[str, Rows]) -> dict[Key, bytes]:
    """WebP thumbnails of the pictures of these findings, and of the other one of each pair."""
    wanted: dict[Key, None] = {}
    for each in pictured(found):
        wanted[each["role"], each["row"], each["image"]] = None
        if each["other"] is not None:
            other = each["other"]
            wanted[other["role"], other["row"], other["image"]] = None
    made: dict[Key, bytes] = {}
    for key in wanted:
        role, row, image = key
        try:
            refs = rows[role][row].images
            if image < len(refs):
                made[key] = thumbnail(decode_rgb(refs[image]), SIDE)
        except DataError:  # the row cannot be read, or has another picture that cannot be decoded
            continue
    return made
