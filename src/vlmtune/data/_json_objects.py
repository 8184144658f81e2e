"""Rows inside a JSON file that is one object. It is parsed once and kept as lines, in the cache.

    {"data": [{…}, …], "version": "1.0"}                    a list of rows among what describes them: DocVQA, TextVQA
    {"train": [{…}, …], "test": [{…}, …]}                   lists by split, which becomes the column `split`
    {"17": {…}, "18": {…}}, {"17": [1, 2], "18": [3, 4]}    rows by key, which becomes the column `key`: GQA, ScienceQA
    {"1.jpg": "A dog.", "2.jpg": ["A cat.", "…"]}           texts by image
    {"image": ["1.jpg", …], "text": ["A dog.", …]}          columns, also as pandas writes them

An array of values is a row too: its first one may be the names of the columns, else they are `column_0`, `column_1`, ….
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune.data import _download
from vlmtune.data._image_refs import ENDINGS, IMAGE_COLUMNS, file_fingerprint, is_base64, open_readable
from vlmtune.data._text import head
from vlmtune.errors import DataError
from vlmtune.hub import cache_file

LARGEST = 1 << 30
"""Bytes of the largest object that is parsed."""

KEY, SPLIT, IMAGE, TEXT = "key", "split", "image", "text"
_SPLIT_NAME = re.compile(r"(?:train|val|valid|validation|dev|test|eval)(?:ing)?(?:[_-]?\w*)?", re.IGNORECASE)
_HEADER = re.compile(r"[^\W\d][\w -]{0,40}")
_ROW_KEYS = {*IMAGE_COLUMNS, "images", "id", "question", "query", "caption", "text", "answer", "label", "messages"}
"""Keys by which an object with a list is a row itself."""

_MESSAGE_KEYS = ({"role", "content"}, {"from", "value"})


def as_lines(file: Path, text: Path) -> Path:
    """`text`, or where its rows are one per line if it is one object that holds rows.

    The only line of a .jsonl file is a row.

    Args:
        file: for messages.
        text: its text in UTF-8.

    Raises:
        DataError: the object is too large to be parsed.
        EnvironmentProblem: the cache's disk is full.
    """
    is_lines = bool({".jsonl", ".ndjson"} & {ending.lower() for ending in file.suffixes})
    if is_lines or not _may_be_one_object(text):
        return text
    key = ["object", str(text.resolve()), file_fingerprint(str(text)), text.stat().st_mtime_ns]
    cached = cache_file("rows", key, ".jsonl")
    if cached.is_file():
        return cached
    if text.stat().st_size > LARGEST:
        raise DataError(
            f"{file}: one JSON object of more than {LARGEST >> 30} GB; write its rows one per line, or as an array"
        )
    try:
        rows = object_rows(json.loads(text.read_bytes()))
    except (ValueError, RecursionError):  # reported when the row is read
        return text
    if rows is None:
        return text
    return _download.build_once(cached, lambda building: _write(building, rows))


def _may_be_one_object(text: Path) -> bool:
    """Whether a text begins as an object does, and does not have one on its first line and more behind it."""
    if head(text).lstrip()[:1] not in ("{", ""):  # an array on one line is not read to see that
        return False
    with open_readable(text) as stream:
        line = stream.readline(LARGEST).strip()
        while not line and (more := stream.readline(LARGEST)):
            line = more.strip()
        several = line.endswith(b"}") and any(other.strip() for other in stream)
    return line.removeprefix(b"\xef\xbb\xbf").startswith(b"{") and not several


def _write(building: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with building.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def object_rows(value: Any) -> list[dict[str, Any]] | None:
    """The rows that an object holds; None if it is none, or a row itself."""
    if not isinstance(value, dict) or not value:
        return None
    for rule in (_columns, _lists_by_split, _list_among_others, _by_key, _object_among_others):
        if (rows := rule(value)) is not None:
            return rows
    return None


def column_names(first: Sequence[Any]) -> tuple[list[str], bool]:
    """Names for the values of rows that are arrays, and whether the first row is a header."""
    texts = [item for item in first if isinstance(item, str) and _HEADER.fullmatch(item)]
    names = [item.lower() for item in texts]
    if len(set(names)) == len(first) > 1 and IMAGE_COLUMNS & set(names):
        return texts, True
    return [f"column_{number}" for number in range(len(first))], False


def named(row: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """The values of a row by name; those beyond the names get further numbers."""
    more = (f"column_{number}" for number in range(len(names), len(row)))
    return dict(zip([*names, *more], row, strict=False))


def _rows_of(items: Sequence[Any]) -> list[dict[str, Any]] | None:
    """The items of a list as rows; None if they are neither objects nor arrays, or are messages."""
    if items and all(isinstance(item, dict) for item in items):
        return None if any(keys <= set(items[0]) for keys in _MESSAGE_KEYS) else list(items)
    if items and all(isinstance(item, list) for item in items):
        names, has_header = column_names(items[0])
        return [named(item, names) for item in items[has_header:]]
    return None


def _columns(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """{"columns": […], "data": [[…]]}, {"image": {"0": …}} and {"image": […]}."""
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [named(row, [str(name) for name in names]) for row in data]
    columns = list(value.values())
    if len(value) < 2 or not IMAGE_COLUMNS & {key.lower() for key in value}:
        return None
    if all(isinstance(column, dict) and column and set(column) == set(columns[0]) for column in columns):
        return [{key: column[row] for key, column in value.items()} for row in columns[0]]
    if all(isinstance(column, list) and len(column) == len(columns[0]) > 1 for column in columns):
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return None


def _lists_by_split(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    parts = {
        key: _rows_of(each) for key, each in value.items() if isinstance(each, list) and _SPLIT_NAME.fullmatch(key)
    }
    if not parts or len(parts) < len(value):
        return None
    return [{SPLIT: key, **row} for key, rows in parts.items() for row in rows or []]


def _list_among_others(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    lists = {key: each for key, each in value.items() if isinstance(each, list) and each and isinstance(each[0], dict)}
    if len(lists) != 1 or _is_row(value):
        return None
    return _rows_of(next(iter(lists.values())))


def _is_row(value: Mapping[str, Any]) -> bool:
    """Whether an object has something of a row beside its lists."""
    others = {key: each for key, each in value.items() if not isinstance(each, list)}
    return bool(_ROW_KEYS & {key.lower() for key in (*others, *value)}) or any(map(_is_image, others.values()))


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and (value.lower().endswith(ENDINGS) or value.startswith("data:") or is_base64(value))


def _by_key(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    if len(value) < 2:
        return None
    items, of_images = list(value.values()), all(map(_is_image, value))
    if all(isinstance(item, dict) and item for item in items):
        common = set.intersection(*map(set, items[:20]))
        return [{KEY: key, **item} for key, item in value.items()] if common or of_images else None
    if all(isinstance(item, str) or _are_texts(item) for item in items) and of_images:
        return [{IMAGE: key, TEXT: item} for key, item in value.items()]
    if all(isinstance(item, list) and item for item in items) and not _is_row(value) and _are_alike(items):
        rows = _rows_of(items) or []
        return [{KEY: key, **row} for key, row in zip(value, rows, strict=True)] if len(rows) == len(value) else None
    return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _are_alike(items: Sequence[list[Any]]) -> bool:
    """Whether arrays have equal lengths, and no objects in them."""
    return len(set(map(len, items))) == 1 and not any(isinstance(each, dict) for item in items for each in item)


def _object_among_others(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Rows by key under one key, as {"version": 1, "annotations": {"17": {…}}}."""
    objects = [each for each in value.values() if isinstance(each, dict) and len(each) > 1]
    is_alone = len(objects) == 1 and not any(isinstance(each, list) and each for each in value.values())
    return _by_key(objects[0]) if is_alone and not _is_row(value) else None
