"""Rows of a JSON file, one per line or in one array: located without being parsed, read on access."""

import json
import mmap
import re
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vlmtune.data._image_refs import open_readable
from vlmtune.errors import DataError

BOM = b"\xef\xbb\xbf"
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
"""A string, complete or cut off at the end of the file, so that brackets in it do not count; or a bracket."""


class _Span(NamedTuple):
    """Byte range of a row, and the line on which it starts, counted from 1."""

    start: int
    size: int
    line: int


class JsonRows:
    """Random access to the rows of a file; memory holds their byte ranges only."""

    def __init__(self, file: Path, limit: int | None = None) -> None:
        self._file = file
        self._starts, self._sizes, self._lines = array("q"), array("q"), array("q")
        for span in _spans(file, limit):
            self._starts.append(span.start)
            self._sizes.append(span.size)
            self._lines.append(span.line)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, index: int) -> dict[str, Any]:
        """One row.

        Raises:
            DataError: it is not a JSON object; names file and line.
        """
        span = _Span(self._starts[index], self._sizes[index], self._lines[index])
        with open_readable(self._file) as stream:
            stream.seek(span.start)
            text = stream.read(span.size)
        try:
            record = json.loads(text.decode("utf-8-sig" if span.start == 0 else "utf-8"))
        except UnicodeDecodeError:
            raise DataError(f"{self._file}:{span.line}: not UTF-8; save the file as UTF-8") from None
        except (ValueError, RecursionError) as error:
            if index == 0 and text.startswith((b"{", BOM + b"{")) and text.rstrip().endswith((b"{", b"[", b",")):
                raise DataError(
                    f"{self._file}:{span.line}: not JSON: one object over several lines instead of rows; write one "
                    "object per line, or an array of objects"
                ) from None
            raise DataError(f"{self._file}:{span.line}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{self._file}:{span.line}: a row must be a JSON object (got {type(record).__name__})")
        return record


def _spans(file: Path, limit: int | None) -> Iterator[_Span]:
    """The first `limit` rows of a file: array entries if it starts with "[", otherwise lines that are not blank.

    Raises:
        DataError: the array is cut off, or contains something other than objects.
    """
    with open_readable(file) as stream:
        head = stream.read(4096)
        stream.seek(0)
        if not head.removeprefix(BOM).lstrip().startswith(b"["):
            yield from islice(_lines(stream), limit)
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from islice(_entries(data, file), limit)


def _lines(stream: Iterator[bytes]) -> Iterator[_Span]:
    offset = 0
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield _Span(offset, len(line), number)
        offset += len(line)


def _entries(data: mmap.mmap, file: Path) -> Iterator[_Span]:
    """The objects of the outermost array. Invalid JSON inside an object is only found when it is read."""
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
            if token != b"{" or between != (b"" if first else b","):
                raise DataError(
                    f"{file}:{line_of(end)}: an array of rows may contain only JSON objects separated by commas"
                )
            start, first = match.start(), False
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(token, 0)
        if depth == 0:
            end = match.end()
            yield _Span(start, end - start, line_of(start))
    raise DataError(f"{file}:{line_of(len(data))}: the array of rows is not closed; the file is cut off")
