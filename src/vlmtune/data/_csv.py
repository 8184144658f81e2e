"""CSV as Arrow batches of texts; a row that does not fit, or is not UTF-8, is named with its line."""

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
            raise DataError(
                f"{file}:{_line_of(row.text, file)}: row {row.number - 2} has {row.actual_columns} cells where the "
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
        _refuse_open_quote(list(last.values())[-1], file)


def _refuse_open_quote(cell: str, file: Path) -> None:
    """A quote that nobody closes takes all lines behind it into one cell."""
    end = ('"' + cell.replace('"', '""')).encode()
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - len(end)))
        if stream.read() == end:
            line = _line_of(end.decode(), file)
            raise DataError(f"{file}:{line}: a quote opens here and is not closed; the file is cut off, or close it")


def _refuse_other_encodings(file: Path) -> None:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                raise DataError(f"{file}:{number}: not UTF-8; save the file as UTF-8") from None


def _line_of(text: str, file: Path) -> int:
    """The first line where a text stands."""
    data = file.read_bytes()
    return data.count(b"\n", 0, max(0, data.find(text.encode()))) + 1
