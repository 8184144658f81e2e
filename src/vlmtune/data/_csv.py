"""CSV files as Arrow batches of text. Rows with too few or too many values are reported with their line."""

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.data._arrow import arrow_errors_named
from vlmtune.data._text import as_utf8, head, not_text
from vlmtune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

SEPARATORS = {".csv": ",", ".tsv": "\t"}

BLOCK = 32 * 1024 * 1024
"""Bytes parsed at once; a single row must fit, including images in base64."""

_HINT = re.compile(r'"?sep=(?P<mark>.)"?\n')
"""A first line with which Excel names the separator."""


def separator_hint(text: str) -> str | None:
    """The separator that a first line `sep=;` names."""
    found = _HINT.match(text)
    return found["mark"] if found else None


@dataclass(frozen=True)
class _CsvFile:
    """A file with a header line.

    Attributes:
        name: the file in messages.
        text: where its text is in UTF-8.
        separator: of the values.
        skipped: lines before the header.
    """

    name: Path
    text: Path
    separator: str
    skipped: int


def read_csv(name: Path, separator: str | None, default: str) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Schema and batches of a CSV file with a header line. Every value is text; an empty one is "".

    Args:
        name: the file.
        separator: of the values; None for the one that its first line names as `sep=;`, else the default.
        default: separator where nothing names one.

    Raises:
        DataError: it has no header, is not UTF-8, or a row has another number of values than the header.
    """
    import pyarrow as pa

    hint = separator_hint(head(name, 32))
    file = _CsvFile(name, as_utf8(name), separator or hint or default, int(hint is not None))
    _check_utf8(file)
    bad: list[Any] = []
    with _errors_named(file, bad):
        names: list[str] = _reader(file, [], bad).schema.names
        reader = _reader(file, names, bad)
    return pa.schema([(name, pa.string()) for name in names]), _batches(reader, file, bad)


def _reader(file: _CsvFile, names: list[str], bad: list[Any]) -> Any:
    """A reader of batches; a row it cannot read is appended to `bad` before it raises."""
    from pyarrow import csv

    def on_bad_row(row: Any) -> str:
        bad.append(row)
        return "error"

    return csv.open_csv(
        file.text,
        read_options=csv.ReadOptions(block_size=BLOCK, use_threads=False, skip_rows=file.skipped),
        parse_options=csv.ParseOptions(
            delimiter=file.separator, newlines_in_values=True, invalid_row_handler=on_bad_row
        ),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, "string")),
    )


@contextmanager
def _errors_named(file: _CsvFile, bad: list[Any]) -> Iterator[None]:
    try:
        with arrow_errors_named(str(file.name)):
            yield
    except DataError:
        for row in bad:
            raise DataError(
                f"{file.name}:{_line_of(row.text, file)}: row {row.number - 2 - file.skipped} has {row.actual_columns} "
                f"values, but the header names {row.expected_columns} columns; quote values that contain "
                f"{file.separator!r} or line breaks, or set dataset.separator"
            ) from None
        raise


def _batches(reader: Any, file: _CsvFile, bad: list[Any]) -> "Iterator[pa.RecordBatch]":
    last = None
    while True:
        with _errors_named(file, bad):
            batch = next(reader, None)
        if batch is None:
            break
        if batch.num_rows:
            last = batch.slice(batch.num_rows - 1).to_pylist()[0]
        yield batch
    if last:
        _check_quotes_closed(list(last.values())[-1], file)


def _check_quotes_closed(value: str, file: _CsvFile) -> None:
    """Refuse a file whose last value opens a quote and never closes it: all lines after it became part of that value.

    pyarrow accepts such a file. If the file ends with the last value preceded by a quote, as in

        a,b
        1,"two
        3,four

    it may be unclosed, but a closed value can look the same (`""`, or one that ends in a quote), so the quotes are
    matched from the start of the file.
    """
    end = ('"' + value.replace('"', '""')).encode()
    with file.text.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - len(end)))
        if stream.read() != end:
            return
    with file.text.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in _quoted_value(file.separator).finditer(data):
            if not match[2]:
                line = data[: match.start(1)].count(b"\n") + 1
                raise DataError(
                    f"{file.name}:{line}: this quote is never closed; close it, or restore the cut-off file"
                )


def _quoted_value(separator: str) -> "re.Pattern[bytes]":
    """Matches quoted values (group 1) and their closing quotes (group 2, empty at the end of an unclosed one).

    A quote opens a value only at its beginning, and two quotes inside a value stand for one.
    """
    return re.compile(rb'(?:\A(?:\xef\xbb\xbf)?|[\r\n%s])("(?:[^"]++|"")*+("|\Z))' % re.escape(separator.encode()))


def _check_utf8(file: _CsvFile) -> None:
    with file.text.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                raise not_text(file.name, number) from None


def _line_of(text: str, file: _CsvFile) -> int:
    """The line on which a row starts; the same text inside a quoted value does not count."""
    data = file.text.read_bytes()
    values = _quoted_value(file.separator).finditer(data)
    value = next(values, None)
    for match in re.finditer(rb"(?:^|(?<=\r))%s\r?$" % re.escape(text.encode()), data, re.MULTILINE):
        while value is not None and value.end(1) <= match.start():
            value = next(values, None)
        if value is None or match.start() <= value.start(1):
            return data.count(b"\n", 0, match.start()) + 1
    return 1
