"""Tables as random-access rows: Arrow files are memory-mapped, other formats are first converted to Arrow in the cache.

Every row then costs the same to read wherever it lies, and none stays in memory. CSV and Excel become columns of text.
The first rows of a dataset that is too large to download are streamed into an Arrow file of the cache.
"""

import functools
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.containers import bounded, first_repeated
from vlmtune.data import _download
from vlmtune.data._arrow import arrow_errors_named
from vlmtune.data._csv import SEPARATORS, read_csv
from vlmtune.data._download import errors_named
from vlmtune.data._excel import read_excel
from vlmtune.data._image_refs import file_fingerprint, open_readable
from vlmtune.data._labels import ClassLabels
from vlmtune.data._records import ReadRecord, Record
from vlmtune.data._text import ending
from vlmtune.errors import DataError
from vlmtune.hub import cache_file

if TYPE_CHECKING:
    import pyarrow as pa

ARROW = (".arrow", ".feather")
EXCEL = ".xlsx"
ENDINGS = (*SEPARATORS, ".parquet", *ARROW, EXCEL)
BATCH_ROWS = 64
JOINED_BYTES = 1 << 20


class ArrowRows:
    """Rows of record batches, by index over all batches; `read(index)` reads one with all its columns."""

    def __init__(self, batches: "list[pa.RecordBatch]", schema: "pa.Schema", where: str) -> None:
        check_unique(schema.names, where)
        self._batches, self._where, self.columns = batches, where, schema.names
        self._ends = list(accumulate(batch.num_rows for batch in batches))
        self.labels = ClassLabels(_features(schema), where)
        self.read = self.labels.named(functools.partial(self._read, batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def select(self, columns: list[str]) -> ReadRecord:
        """A cheaper reader of some columns; columns that do not exist are left out."""
        selected = [batch.select([c for c in columns if c in batch.schema.names]) for batch in self._batches]
        return self.labels.named(functools.partial(self._read, selected))

    def _read(self, batches: "list[pa.RecordBatch]", index: int) -> Record:
        number = bisect_right(self._ends, index)
        batch = batches[number]
        row = index - self._ends[number] + batch.num_rows
        try:
            record: dict[str, Any] = batch.slice(row, 1).to_pylist()[0]
        except (ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"{self._where}, row {index}: cannot be read: {error}") from None
        return record


def check_unique(names: list[str], where: str) -> None:
    """Check that no two columns have the same name.

    Raises:
        DataError: two do.
    """
    twice = first_repeated(names)
    if twice is not None:
        raise DataError(f"{where}: two columns are called {twice!r}; rename one")


def _features(schema: "pa.Schema") -> Mapping[str, Any]:
    """What `datasets` stored about each column, by name; empty in files of other programs."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(metadata)["info"]["features"] if metadata else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def map_arrow(file: Path, where: str, limit: int | None = None, trusted: bool = False) -> ArrowRows | None:
    """The rows of an Arrow file, memory-mapped without a copy; None if it is compressed and must be converted.

    Args:
        file: an Arrow IPC file or stream.
        where: names it in messages.
        limit: how many rows are used.
        trusted: whether vlmtune wrote the file; offsets in other files are validated, so that no row can read outside
            of its file.

    Raises:
        DataError: it is not an Arrow file, or a broken one.
    """
    import pyarrow as pa

    with arrow_errors_named(where):
        source = pa.memory_map(str(file))
        allocated = pa.total_allocated_bytes()
        kept, remaining = [], limit
        schema, batches = _read_batches(source)
        for batch in batches:
            if not trusted:
                batch.validate(full=True)
            used = batch if remaining is None else batch.slice(0, remaining)
            if used.num_rows:
                kept.append(used)
            # A mapped batch allocates next to nothing; decompression shows in the allocator.
            if pa.total_allocated_bytes() - allocated > max(1 << 16, batch.nbytes // 2):
                return None
            remaining = None if remaining is None else remaining - used.num_rows
            if remaining == 0:
                break
        return ArrowRows(kept, schema, where)


def _read_batches(source: Any) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Schema and batches of an IPC file or an IPC stream; only files start with a magic number."""
    import pyarrow as pa

    magic = source.read(6)
    source.seek(0)
    if magic != b"ARROW1":
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    reader = pa.ipc.open_file(source)
    return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))


def write_arrow(file: Path, schema: "pa.Schema", batches: "Iterable[pa.RecordBatch]") -> None:
    """Write an Arrow file that `map_arrow` can map.

    Raises:
        OSError: the disk refuses it. Errors of `batches` pass through.
    """
    import pyarrow as pa

    with file.open("wb") as stream, pa.ipc.new_file(stream, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _joined(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
    """The batches, small ones joined up to `JOINED_BYTES`: each costs memory as long as the rows are used."""
    import pyarrow as pa

    pending, size = [], 0
    for batch in batches:
        pending.append(batch)
        size += batch.nbytes
        if size >= JOINED_BYTES:
            yield pa.concat_batches(pending)
            pending, size = [], 0
    if pending:
        yield pa.concat_batches(pending)


def decode_dictionaries(
    schema: "pa.Schema", batches: "Iterator[pa.RecordBatch]", where: str
) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Schema and batches with dictionary-encoded columns decoded.

    The batches of a file may have different dictionaries, while files that `write` makes have one per column.
    """
    import pyarrow as pa

    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in schema
    ]
    target = pa.schema(fields, schema.metadata)

    def cast() -> "Iterator[pa.RecordBatch]":
        for batch in batches:
            with arrow_errors_named(where):
                converted = batch.cast(target)
            yield converted

    return target, batches if target == schema else cast()


def validate_batches(batches: "Iterator[pa.RecordBatch]", where: str) -> "Iterator[pa.RecordBatch]":
    """The batches, each validated before it is used.

    Raises:
        DataError: while iterating, one is broken.
    """
    while True:
        with arrow_errors_named(where):
            batch = next(batches, None)
            if batch is None:
                return
            batch.validate(full=True)
        yield batch


def open_table(
    file: Path, separator: str | None = None, limit: int | None = None, sheet: str | None = None
) -> ArrowRows:
    """The first `limit` rows of a table.

    Args:
        file: a file with one of `ENDINGS`, CSV also gzipped.
        separator: separator of CSV values; None for that of the file's ending.
        limit: how many rows are used; None for all.
        sheet: the only sheet of an Excel file that is read; None for all.

    Raises:
        DataError: the file cannot be parsed; names row and line in CSV.
        EnvironmentProblem: it cannot be opened, or the cache's disk is full.
    """
    where = str(file)
    with open_readable(file):
        pass  # otherwise the cache or pyarrow would report the problem in its own words
    if file.suffix.lower() in ARROW:
        rows = map_arrow(file, where, limit)
        if rows is not None:
            return rows
    key = [str(file.resolve()), file_fingerprint(where), file.stat().st_mtime_ns, separator]
    cached = cache_file("rows", key if sheet is None else [*key, sheet], ".arrow")
    build = functools.partial(_convert, file, separator, sheet)
    rows = map_arrow(_download.build_once(cached, build), where, limit, trusted=True)
    assert rows is not None, "our own files are not compressed"
    return rows


def _convert(file: Path, separator: str | None, sheet: str | None, building: Path) -> None:
    """Write the table in `file` as an uncompressed Arrow file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    suffix, where = ending(file), str(file)
    if suffix in SEPARATORS:
        schema, batches = read_csv(file, separator, SEPARATORS[suffix])
    elif suffix == EXCEL:
        schema, batches = read_excel(file, sheet)
    else:
        with arrow_errors_named(where):
            if suffix in ARROW:
                schema, batches = _read_batches(pa.memory_map(where))
            else:
                reader: Any = pq.ParquetFile(file)
                schema, batches = reader.schema_arrow, _joined(reader.iter_batches(BATCH_ROWS))
            schema, batches = decode_dictionaries(schema, validate_batches(batches, where), where)
            batches = bounded(batches, file.stat().st_size, where)
    check_unique(schema.names, where)
    write_arrow(building, schema, batches)


def stream_table(path: str, name: str | None, revision: str | None, split: str, limit: int | None) -> ArrowRows:
    """The first `limit` rows of a split, streamed once into the cache.

    The cache key consists of the arguments and, for a local folder, the sizes and times of its files. An interrupted
    download starts again.

    Raises:
        EnvironmentProblem, DataError: as `errors_named`; the split has no rows.
    """
    where = f"{path} [{split}]"
    key = ["stream", path, name, revision, split, limit, _folder_state(path)]
    fetch = functools.partial(_fetch, path, name, revision, split, limit)
    cached = _download.build_once(cache_file("rows", key, ".arrow"), fetch)
    rows = map_arrow(cached, where, trusted=True)
    assert rows is not None, "our own files are not compressed"
    return rows


def _folder_state(path: str) -> list[Any]:
    """Path, size and time of every file of a local folder; empty for a name on the Hub."""
    files = (Path(inside, name) for inside, _, names in os.walk(path) for name in names)
    return sorted(
        [str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()
    )


def _fetch(path: str, name: str | None, revision: str | None, split: str, limit: int | None, building: Path) -> None:
    import datasets

    # When `datasets` decodes images itself, a single bad one ends the stream; in Arrow format nothing is decoded.
    with errors_named(path, name, revision):
        stream = datasets.load_dataset(path, name, split=split, revision=revision, streaming=True)
        stream = stream if limit is None else stream.take(limit)
        tables = stream.with_format("arrow").iter(batch_size=BATCH_ROWS)
        first = next(tables, None)
    if first is None:
        raise DataError(f"{path} [{split}]: no rows; check dataset.splits and dataset.limit")
    write_arrow(building, first.schema, _streamed_batches(first, tables, (path, name, revision)))


def _streamed_batches(
    first: "pa.Table", others: Any, dataset: tuple[str, str | None, str | None]
) -> "Iterator[pa.RecordBatch]":
    table = first
    while table is not None:
        with errors_named(*dataset):
            batches = table.cast(first.schema).combine_chunks().to_batches()
        yield from batches
        with errors_named(*dataset):
            table = next(others, None)
