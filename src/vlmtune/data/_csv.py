"""CSV as Arrow batches of texts; a row that does not fit, or is not UTF-8, is named with its line."""

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.data._arrow import arrow_errors_named
from vlmtune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 32 * 1024 * 1024
"""Bytes that are parsed at once; a single row must fit, with its images in base64."""


def csv_batches(file: Path, separator: str) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Schema and batches of a file whose first line names the columns. Every cell is a text; an empty one is "".

    Raises:
        DataError: it has no such line, is not UTF-8, or one of its rows has more or fewer cells than the first line.
    """
    import pyarrow as pa

    _refuse_other_encodings(file)
    bad: list[Any] = []
    with _errors_named(file, separator, bad):
        names: list[str] = _reader(file, separator, [], bad).schema.names
        reader = _reader(file, separator, names, bad)
    return pa.schema([(name, pa.string()) for name in names]), _whole(reader, file, separator, bad)


def _reader(file: Path, separator: str, names: list[str], bad: list[Any]) -> Any:
    """Reads batches; a row that it cannot read is put into `bad`, and an error follows."""
    from pyarrow import csv

    def note(row: Any) -> str:
        bad.append(row)
        return "error"

    return csv.open_csv(
        file,
        read_options=csv.ReadOptions(block_size=BLOCK, use_threads=False),
        parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=note),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, "string")),
    )


@contextmanager
def _errors_named(file: Path, separator: str, bad: list[Any]) -> Iterator[None]:
    try:
        with arrow_errors_named(str(file)):
            yield
    except DataError:
        for row in bad:
            line = _line_of(row.text, file, separator)
            raise DataError(
                f"{file}:{line}: row {row.number - 2} has {row.actual_columns} cells where the "
                f"first line names {row.expected_columns} columns; quote cells that hold {separator!r} or line ends, "
                "or set dataset.separator"
            ) from None
        raise


def _whole(reader: Any, file: Path, separator: str, bad: list[Any]) -> "Iterator[pa.RecordBatch]":
    last = None
    while True:
        with _errors_named(file, separator, bad):
            batch = next(reader, None)
        if batch is None:
            break
        if batch.num_rows:
            last = batch.slice(batch.num_rows - 1).to_pylist()[0]
        yield batch
    if last:
        _refuse_open_quote(list(last.values())[-1], file, separator)


def _refuse_open_quote(cell: str, file: Path, separator: str) -> None:
    """A quote that nobody closes takes all lines behind it into one cell: the last one then begins with that quote.

    A cell that is closed may look so, too: `""`, or one that ends in a quote. Which it is only its beginning tells.
    """
    end = ('"' + cell.replace('"', '""')).encode()
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - len(end)))
        if stream.read() != end:
            return
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for found in _quoted(separator).finditer(data):
            if not found[2]:
                line = data[: found.start(1)].count(b"\n") + 1
                raise DataError(
                    f"{file}:{line}: a quote opens here and is not closed; the file is cut off, or close it"
                )


def _quoted(separator: str) -> "re.Pattern[bytes]":
    """What finds quoted cells (1) and the quotes that close them (2).

    A quote opens a cell at its beginning only, and two inside of it are one of its characters.
    """
    return re.compile(rb'(?:\A(?:\xef\xbb\xbf)?|[\r\n%s])("(?:[^"]++|"")*+("|\Z))' % re.escape(separator.encode()))


def _refuse_other_encodings(file: Path) -> None:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                raise DataError(f"{file}:{number}: not UTF-8; save the file as UTF-8") from None


def _line_of(text: str, file: Path, separator: str) -> int:
    """The line on which a row begins; the same text inside of a quoted cell is none."""
    data = file.read_bytes()
    cells = _quoted(separator).finditer(data)
    cell = next(cells, None)
    for found in re.finditer(rb"(?:^|(?<=\r))%s\r?$" % re.escape(text.encode()), data, re.MULTILINE):
        while cell is not None and cell.end(1) <= found.start():
            cell = next(cells, None)
        if cell is None or found.start() <= cell.start(1):
            return data.count(b"\n", 0, found.start()) + 1
    return 1
