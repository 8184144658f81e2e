"""Rows of a JSON file, one per line or in one array: located without being parsed, read on access.

Rows inside one object are first written one per line, into the cache; so is text that is not UTF-8.
"""

import json
import mmap
import re
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vlmtune.data._image_refs import open_readable
from vlmtune.data._json_objects import as_lines, column_names, named
from vlmtune.data._text import as_utf8, not_text
from vlmtune.errors import DataError
from vlmtune.json_values import MAX_DEPTH, is_deep

ENDINGS = (".jsonl", ".json", ".ndjson")

BOM = b"\xef\xbb\xbf"
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
"""A string, complete or cut off at the end of the file, so that brackets in it do not count; or a bracket."""

_LINES_OF_ARRAYS = re.compile(rb"\s*\[[^\[\]{}\n]+\][ \t]*\r?\n\s*\[")
"""An array without others in it, and one on the next line: each is a row."""


class _Span(NamedTuple):
    """Byte range of a row, and the line on which it starts, counted from 1."""

    start: int
    size: int
    line: int


class JsonRows:
    """Random access to the rows of a file; memory holds their byte ranges only."""

    def __init__(self, file: Path, limit: int | None = None) -> None:
        self._file, self._text = file, as_lines(file, as_utf8(file))
        self._starts, self._sizes, self._lines = array("q"), array("q"), array("q")
        self._names: list[str] | None = None
        spans = _spans(self._text, file)
        first = next(spans, None)
        if first is not None:
            self._add(first)
            value = self._value(0, self._bytes(0))
            if isinstance(value, list):
                self._names, has_header = column_names(value)
                if has_header:
                    self._starts, self._sizes, self._lines = array("q"), array("q"), array("q")
        for span in islice(spans, None if limit is None else limit - len(self)):
            self._add(span)

    def __len__(self) -> int:
        return len(self._starts)

    def _add(self, span: _Span) -> None:
        self._starts.append(span.start)
        self._sizes.append(span.size)
        self._lines.append(span.line)

    def line(self, index: int) -> int:
        """The line on which a row starts, counted from 1."""
        return self._lines[index]

    def read(self, index: int) -> dict[str, Any]:
        """One row.

        Raises:
            DataError: it is not a JSON object, or an array where the first row is one; names file and line.
        """
        at, text = f"{self._file}:{self._lines[index]}", self._bytes(index)
        record = self._value(index, text)
        if isinstance(record, list) and self._names is not None:
            return named(record, self._names)
        if isinstance(record, dict):
            return record
        if not isinstance(record, ValueError | RecursionError):
            raise DataError(f"{at}: a row must be a JSON object (got {type(record).__name__})")
        if isinstance(record, UnicodeDecodeError):
            raise not_text(self._file, self._lines[index])
        if index == 0 and text.startswith((b"{", BOM + b"{")) and text.rstrip().endswith((b"{", b"[", b",")):
            raise DataError(
                f"{at}: not JSON: one object over several lines instead of rows; write one object per line, or an "
                "array of objects"
            )
        raise DataError(f"{at}: not JSON: {record}")

    def _bytes(self, index: int) -> bytes:
        with open_readable(self._text) as stream:
            stream.seek(self._starts[index])
            return stream.read(self._sizes[index])

    def _value(self, index: int, text: bytes) -> Any:
        """A row as it is written, or why it is not JSON."""
        try:
            value = json.loads(text.decode("utf-8-sig" if self._starts[index] == 0 else "utf-8"))
            return RecursionError(f"nested deeper than {MAX_DEPTH} lists and objects") if is_deep(value) else value
        except (ValueError, RecursionError) as error:
            return error


def _spans(text: Path, file: Path) -> Iterator[_Span]:
    """The rows of a file: array entries if it starts with "[", otherwise lines that are not blank.

    Raises:
        DataError: the array is cut off, or contains something other than objects or arrays.
    """
    with open_readable(text) as stream:
        head = stream.read(4096)
        stream.seek(0)
        if not head.removeprefix(BOM).lstrip().startswith(b"[") or _LINES_OF_ARRAYS.match(head.removeprefix(BOM)):
            yield from _lines(stream)
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from _entries(data, file)


def _lines(stream: Iterator[bytes]) -> Iterator[_Span]:
    offset = 0
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield _Span(offset, len(line), number)
        offset += len(line)


def _entries(data: mmap.mmap, file: Path) -> Iterator[_Span]:
    """The objects or arrays in the outermost array. What is invalid inside of them is only found when it is read."""
    line, counted, depth, start, end = 1, 0, 0, 0, data.find(b"[") + 1

    def line_of(offset: int) -> int:
        nonlocal line, counted
        line, counted = line + data[counted:offset].count(b"\n"), offset
        return line

    first = True
    for match in _TOKEN.finditer(data, end):
        token = match[0]
        if depth == 0:
            between = data[end : match.start()].strip()
            if token == b"]" and not between:
                if data[match.end() :].strip():
                    raise DataError(f"{file}:{line_of(match.end())}: text after the end of the array")
                return
            if token not in (b"{", b"[") or between != (b"" if first else b","):
                raise DataError(
                    f"{file}:{line_of(end)}: an array of rows may contain only JSON objects separated by commas"
                )
            start, first = match.start(), False
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(token, 0)
        if depth == 0:
            end = match.end()
            yield _Span(start, end - start, line_of(start))
    raise DataError(f"{file}:{line_of(len(data))}: the array of rows is not closed; the file is cut off")
