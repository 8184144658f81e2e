"""The rows of a file in any container: JSON lines, JSON, CSV, TSV, Parquet, Arrow, Excel; gzipped or not.

The content decides which container it is, not the name of the file. Text is UTF-8 or UTF-16, with or without a byte
order mark. A JSON document may be

    [{"id": 1, "prediction": "a"}, ...]                          a list of rows
    {"model": "m", "results": [{"id": 1, ...}, ...]}             an object with one list of rows
    {"predictions": ["a", ...], "references": ["b", ...]}        columns
    {"17": {"prediction": "a", ...}, ...}, {"17": "a", ...}      rows or answers by id
"""

import csv
import gzip
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from vlmtune.containers import BROKEN_EXCEL, bounded, first_repeated, most_bytes, too_large
from vlmtune.errors import DataError, EnvironmentProblem
from vlmtune.json_values import MAX_DEPTH, is_deep
from vlmtune.predictions.names import is_answer, is_row

CELL_BYTES = 1 << 30
"""Largest value of a CSV file."""

BATCH_ROWS = 64
"""Rows of Parquet that are expanded at once."""

SEPARATORS = (",", "\t", ";", "|")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it is ("file:line" or "file, row N"), and its values by key."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file. In a `flat` one (CSV, Excel) a value is a cell: no list, and null is an empty text."""

    file: Path
    rows: list[Row]
    flat: bool = False

    @property
    def keys(self) -> list[str]:
        """The keys that any row has, in the order in which they first occur."""
        return list(dict.fromkeys(key for row in self.rows for key in row.values))


def read_table(file: Path) -> Table:
    """All rows of a file.

    Raises:
        DataError: the file is missing, not of a known kind, or broken; names the line or row.
        EnvironmentProblem: an Excel file without the extra `excel`.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such prediction file")
    data = file.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = _unzipped(data, file)
    for magic, reader in _BINARY.items():
        if data.startswith(magic):
            return reader(data, file)
    text = _decoded(data, file)
    del data  # a large file would be in memory twice
    if text.lstrip()[:1] in ("{", "["):
        return Table(file, list(_json_rows(text, file)))
    if not text.strip():
        raise DataError(f"{file}: the file is empty")
    if not file.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".txt", ".tab")):
        raise DataError(f"{file}:1: not JSON, and its name does not end in .csv or .tsv: {text.lstrip()[:60]!r}")
    return Table(file, list(_csv_rows(text, file)), flat=True)


def _unzipped(data: bytes, file: Path) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            content = stream.read(most_bytes(len(data)) + 1)
        if len(content) > most_bytes(len(data)):
            raise too_large(str(file), len(data))
        return content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: the gzip file is damaged or cut off ({error}); copy it again") from None


def _decoded(data: bytes, file: Path) -> str:
    """The text, without its byte order mark."""
    encoding = "utf-8-sig"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in data[:2]:  # the first character of JSON and CSV is ASCII
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}:{line}: not UTF-8; save the file as UTF-8") from None


def _json_rows(text: str, file: Path) -> Iterator[Row]:
    lines = _lines(text)
    (first_number, first), second = next(lines), next(lines, None)
    if second is not None and _is_whole(first):
        for number, line in chain([(first_number, first), second], lines):
            yield _json_row(_parsed(line, f"{file}:{number}"), f"{file}:{number}")
        return
    several = _concatenated(text) if first.lstrip().startswith("{") else []
    if len(several) > 1:
        yield from (_json_row(record, f"{file}, row {number}") for number, record in enumerate(several, start=1))
        return
    document = _parsed(text, f"{file}:{first_number}")
    for where, record in _document_rows(document, file, first_number):
        yield _json_row(record, where)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, one at a time, with their numbers from 1."""
    # Not splitlines(): a caption may contain U+2028, which does not end a line of JSON.
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if (line := text[start:end]).strip():
            yield number, line
        start, number = end + 1, number + 1


def _is_whole(line: str) -> bool:
    """Whether a line is an object, or a list of one as pipelines of transformers return them."""
    line = line.strip()
    return (line.startswith("{") and line.endswith("}")) or (line.startswith("[{") and line.endswith("}]"))


def _concatenated(text: str) -> list[Any]:
    """Objects written one after another on several lines each, as jq does; none if there is anything else."""
    decoder, records, position = json.JSONDecoder(), [], 0
    while position < len(text):
        try:
            record, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return []
        records.append(record)
        position += len(text[position:]) - len(text[position:].lstrip())
    return records


def _parsed(text: str, at: str) -> Any:
    try:
        value = json.loads(text)
        if is_deep(value):
            raise RecursionError(f"nested deeper than {MAX_DEPTH} lists and objects")
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{at}: half a surrogate pair, which is no character; write the file again as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at}: not JSON: {error}") from None
    return value


def _json_row(record: Any, at: str) -> Row:
    if isinstance(record, list) and len(record) == 1:  # as transformers pipelines return them
        record = record[0]
    if not isinstance(record, dict):
        raise DataError(f"{at}: a prediction line is a JSON object, not {type(record).__name__}")
    for key, value in record.items():
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            record[key] = [*map(sys.intern, value)]  # references: the other file's rows have the same ones
    return Row(at, record)


def _document_rows(document: Any, file: Path, line: int) -> Iterator[tuple[str, Any]]:
    """The rows of a JSON document, see the top of this file."""
    if isinstance(document, list):
        yield from ((f"{file}, row {number}", record) for number, record in enumerate(document, start=1))
        return
    columns = {key: value for key, value in document.items() if isinstance(value, list)}
    answers = [key for key in document if is_answer(key)]
    if any(key in columns and (key.lower().endswith("s") or len(columns) == len(document)) for key in answers):
        yield from _of_columns(columns, file)
    elif answers and all(isinstance(value, dict) for value in document.values()):
        yield from _of_columns({key: list(value.values()) for key, value in document.items()}, file)
    elif answers:
        yield f"{file}:{line}", document
    else:
        yield from _document_without_answers(document, file, line)


def _document_without_answers(document: Mapping[str, Any], file: Path, line: int) -> Iterator[tuple[str, Any]]:
    """Rows inside an object that is no row itself."""
    lists = {key: value for key, value in document.items() if isinstance(value, list) and _are_objects(value)}
    if len(lists) > 1:
        raise DataError(f"{file}: several lists of rows: {', '.join(lists)}; save the one to read as a file of its own")
    if lists:
        yield from _document_rows(next(iter(lists.values())), file, line)
    elif len(document) > 1 and _are_objects(list(document.values())):
        yield from ((f"{file}, {key!r}", {"id": key, **value}) for key, value in document.items())
    elif len(document) > 1 and all(isinstance(value, str) for value in document.values()) and not is_row(document):
        yield from ((f"{file}, {key!r}", {"id": key, "prediction": value}) for key, value in document.items())
    else:
        yield f"{file}:{line}", document


def _of_columns(columns: Mapping[str, list[Any]], file: Path) -> Iterator[tuple[str, Any]]:
    columns = _aligned(columns)
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        counts = ", ".join(f"{key!r} has {len(column)}" for key, column in columns.items())
        raise DataError(f"{file}: the columns differ in length: {counts} values")
    for number in range(lengths.pop() if lengths else 0):
        yield f"{file}, row {number + 1}", {key: column[number] for key, column in columns.items()}


def _aligned(columns: Mapping[str, list[Any]]) -> Mapping[str, list[Any]]:
    """Columns of objects with ids in the order of the first, as SQuAD's metric pairs predictions and references."""
    ids = {
        key: [item["id"] for item in column if isinstance(item, dict) and "id" in item]
        for key, column in columns.items()
    }
    known = [key for key, column in columns.items() if column and len(set(map(str, ids[key]))) == len(column)]
    if len(known) < 2 or len({frozenset(map(str, ids[key])) for key in known}) > 1:
        return columns
    order = {str(name): number for number, name in enumerate(ids[known[0]])}
    sorted_columns = {key: sorted(columns[key], key=lambda item: order[str(item["id"])]) for key in known}
    return {**columns, **sorted_columns}


def _are_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _csv_rows(text: str, file: Path) -> Iterator[Row]:
    """Rows of CSV with a header line; every value is text.

    Raises:
        DataError: a row has another number of values than the header, or a quote is never closed; names its line.
    """
    csv.field_size_limit(CELL_BYTES)
    header = text.lstrip().split("\n", 1)[0]
    separator = max(SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = next(reader)
        twice = first_repeated(names)
        if twice is not None:
            raise DataError(f"{file}:1: two columns are called {twice!r}; rename one")
        line = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(names):
                raise DataError(
                    f"{file}:{line}: the row has {len(values)} values, but the header names {len(names)} columns; "
                    f"quote values that contain {separator!r} or line breaks"
                )
            if values:
                yield Row(f"{file}:{line}", dict(zip(names, values, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: not CSV: {error}") from None


def _parquet(data: bytes, file: Path) -> Table:
    import pyarrow.parquet as pq

    return _arrow_table(lambda: pq.ParquetFile(io.BytesIO(data)).iter_batches(BATCH_ROWS), len(data), file)


def _arrow(data: bytes, file: Path) -> Table:
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        reader = pa.ipc.open_file(io.BytesIO(data))
        return (reader.get_batch(number) for number in range(reader.num_record_batches))

    return _arrow_table(batches, len(data), file)


def _arrow_table(batches: Callable[[], Iterator[Any]], size: int, file: Path) -> Table:
    import pyarrow as pa

    try:
        records = [record for batch in bounded(batches(), size, str(file)) for record in batch.to_pylist()]
    except (RecursionError, pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: cannot be read: {error!s:.300}; write the file again") from None
    return Table(file, [Row(f"{file}, row {number}", record) for number, record in enumerate(records, start=1)])


def _excel(data: bytes, file: Path) -> Table:
    """The first sheet of an Excel file, with a header row."""
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ModuleNotFoundError:
        raise EnvironmentProblem(
            f"{file}: an Excel file needs the extra: pip install 'vlmtune[excel]'; or save the file as .csv"
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            expanded = sum(part.file_size for part in archive.infolist())
        if expanded > most_bytes(len(data)):
            raise too_large(str(file), len(data))
        sheet = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True).worksheets[0]
        cells = [list(row) for row in sheet.iter_rows(values_only=True)]
    except (InvalidFileException, *BROKEN_EXCEL) as error:
        raise DataError(f"{file}: not a readable Excel file ({error}); save it again, or as .csv") from None
    header = next(iter(cells), [])
    names = {number: str(name) for number, name in enumerate(header) if name is not None}
    twice = first_repeated(list(names.values()))
    if twice is not None:
        raise DataError(f"{file}: two columns are called {twice!r}; rename one")
    rows = [
        Row(
            f"{file}, row {number}",
            {name: row[column] if column < len(row) else None for column, name in names.items()},
        )
        for number, row in enumerate(cells[1:], start=2)
        if any(cell is not None for cell in row)
    ]
    return Table(file, rows, flat=True)


def _pickle(data: bytes, file: Path) -> Table:
    raise DataError(f"{file}: a pickle file can run code when it is opened; save the table as .tsv or .jsonl instead")


def _old_excel(data: bytes, file: Path) -> Table:
    raise DataError(f"{file}: an Excel file of the old format; save it as .xlsx or .csv")


_BINARY: dict[bytes, Callable[[bytes, Path], Table]] = {
    b"PAR1": _parquet,
    b"ARROW1": _arrow,
    b"PK\x03\x04": _excel,
    b"\xd0\xcf\x11\xe0": _old_excel,
    b"\x80\x03": _pickle,
    b"\x80\x04": _pickle,
    b"\x80\x05": _pickle,
}
"""Containers by their first bytes."""
