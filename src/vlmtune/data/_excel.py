"""Excel files (.xlsx) as batches of text, as CSV would hold them. Needs the extra `excel`."""

import datetime
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.containers import BROKEN_EXCEL
from vlmtune.errors import DataError, EnvironmentProblem

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
SHEET = "sheet"
"""Column with the name of the sheet, where a file has several."""

LARGEST = 1 << 32
"""Bytes that a file may expand to."""


def read_excel(file: Path, sheet: str | None) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Schema and batches of a file; every value is text, an empty one is "".

    Args:
        file: its sheets have a header in their first row that is not empty.
        sheet: the only one that is read; None for all that are not empty, which need the same columns.

    Raises:
        DataError: the file is broken, has no such sheet or no header; sheets differ in their columns.
        EnvironmentProblem: openpyxl is not installed.
    """
    import pyarrow as pa

    with _errors_named(file):
        tables = {name: rows for name, rows in _tables(file).items() if sheet in (None, name)}
        heads = {name: head for name, rows in tables.items() if (head := next(rows, None)) is not None}
    if not heads:
        wanted = f"no rows in a sheet {sheet!r}" if sheet else "no sheet has rows"
        raise DataError(f"{file}: {wanted}; check dataset.sheet and dataset.splits")
    first, names = next(iter(heads.items()))
    other = next((name for name, head in heads.items() if head != names), None)
    if other is not None:
        raise DataError(
            f"{file}: the sheets {first!r} and {other!r} have different columns; choose one with dataset.sheet, as "
            f"--set 'dataset.sheet={first}'"
        )
    columns = [*names, SHEET] if len(heads) > 1 and SHEET not in names else names
    schema = pa.schema([(name, pa.string()) for name in columns])
    rows = chain.from_iterable(
        ([*row, name][: len(columns)] for row in _fitting(tables[name], len(names), f"{file}, sheet {name!r}"))
        for name in heads
    )
    return schema, _batches(rows, schema, file)


def _batches(rows: Iterator[list[str]], schema: "pa.Schema", file: Path) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    while True:
        with _errors_named(file):
            batch = list(islice(rows, BATCH_ROWS))
        if not batch:
            return
        yield pa.record_batch([pa.array(column, pa.string()) for column in zip(*batch, strict=True)], schema=schema)


def _tables(file: Path) -> dict[str, Iterator[list[str]]]:
    """The rows of every sheet that are not empty."""
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise EnvironmentProblem(
            f"{file}: an Excel file needs the extra: pip install 'vlmtune[excel]'; or save it as .csv"
        ) from None
    with zipfile.ZipFile(file) as archive:
        if sum(part.file_size for part in archive.infolist()) > LARGEST:
            raise DataError(f"{file}: expands to more than {LARGEST >> 30} GB; save it as .csv")
    book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    return {sheet.title: _rows(sheet) for sheet in book.worksheets}


def _rows(sheet: Any) -> Iterator[list[str]]:
    for row in sheet.iter_rows(values_only=True):
        cells = [_text(cell) for cell in row]
        if any(cells):
            while cells and not cells[-1]:
                cells.pop()
            yield cells


def _fitting(rows: Iterator[list[str]], width: int, where: str) -> Iterator[list[str]]:
    """The rows with as many cells as the header has names."""
    for number, row in enumerate(rows):
        if len(row) > width:
            raise DataError(f"{where}, row {number}: has {len(row)} values, but the header names {width} columns")
        yield [*row, *[""] * (width - len(row))]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value).strip()


@contextmanager
def _errors_named(file: Path) -> Iterator[None]:
    """Turn what openpyxl raises about a broken file into one error."""
    try:
        yield
    except BROKEN_EXCEL as error:
        raise DataError(f"{file}: not a readable Excel file ({error!s:.200}); save it again, or as .csv") from None
