"""Tables as rows of Arrow files. Arrow is mapped into memory as it is; other formats are written as Arrow once, into
the cache, so that a row costs the same wherever it stands and none stays in memory.

Rows in an Arrow file, mapped into memory: what stands on the disk is read when it is asked for, and only that.

Files of other formats are written as one first, into the cache.

The first rows of a dataset that is too large to download, fetched once into an Arrow file of the cache.

CSV as Arrow batches of texts; a row that does not fit, or is not UTF-8, is named with its line.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.data import _download
from vlmtune.data._image_refs import readable, stamp

if TYPE_CHECKING:
    import pyarrow as pa
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING

from vlmtune.data._labels import Labels
from vlmtune.data._rows import ReadRecord, Record
from vlmtune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
import os
from typing import TYPE_CHECKING

from vlmtune.data._download import errors_named

if TYPE_CHECKING:
    import pyarrow as pa
import mmap
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


class ArrowRows:
    """Records by number, over all batches; `read(index)` reads one with all its columns."""

    def __init__(self, batches: "list[pa.RecordBatch]", schema: "pa.Schema", where: str) -> None:
        refuse_twins(schema.names, where)
        self._batches, self._where, self.columns = batches, where, schema.names
        self._ends = list(accumulate(batch.num_rows for batch in batches))
        labels = Labels(_features(schema), where)
        self.read = labels.of(functools.partial(self._read, batches))
        self.labels = labels

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def narrow(self, columns: list[str]) -> ReadRecord:
        """A cheaper read of some columns; those that are not there are left out."""
        picked = [batch.select([c for c in columns if c in batch.schema.names]) for batch in self._batches]
        return self.labels.of(functools.partial(self._read, picked))

    def _read(self, batches: "list[pa.RecordBatch]", index: int) -> Record:
        number = bisect_right(self._ends, index)
        batch = batches[number]
        at = index - self._ends[number] + batch.num_rows
        try:
            record: dict[str, Any] = batch.slice(at, 1).to_pylist()[0]
        except (ValueError, OverflowError) as error:
            raise DataError(f"{self._where}, row {index}: cannot be read: {error}") from None
        return record


def refuse_twins(names: list[str], where: str) -> None:
    """That no two columns have one name.

    Raises:
        DataError: they do.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: column {twice!r} stands there twice; rename one")


def _features(schema: "pa.Schema") -> Mapping[str, Any]:
    """What `datasets` noted about each column, by name; empty in files of other programs."""
    noted = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(noted)["info"]["features"] if noted else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def mapped(file: Path, where: str, limit: int | None = None, trusted: bool = False) -> ArrowRows | None:
    """An Arrow file (either form) without a copy in memory; None where it is compressed, and has to be written anew.

    Args:
        file: an Arrow IPC file or stream.
        where: names it in messages.
        limit: how many rows are used.
        trusted: whether this program wrote it; others' offsets are checked, so that no row reaches out of the file.

    Raises:
        DataError: it is no Arrow file, or a broken one.
    """
    import pyarrow as pa

    with arrow_errors_named(where):
        source = pa.memory_map(str(file))
        before = pa.total_allocated_bytes()
        batches, left = [], limit
        schema, found = _batches(source)
        for batch in found:
            if not trusted:
                batch.validate(full=True)
            used = batch if left is None else batch.slice(0, left)
            if used.num_rows:
                batches.append(used)
            if pa.total_allocated_bytes() - before > max(1 << 16, batch.nbytes // 2):
                return None
            left = None if left is None else left - used.num_rows
            if left == 0:
                break
        return ArrowRows(batches, schema, where)


def _batches(source: Any) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Schema and batches of either form: files end with what they begin with, streams have no end mark."""
    import pyarrow as pa

    magic = source.read(6)
    source.seek(0)
    if magic != b"ARROW1":
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    reader = pa.ipc.open_file(source)
    return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))


def write(file: Path, schema: "pa.Schema", batches: "Iterable[pa.RecordBatch]") -> None:
    """An Arrow file that `mapped` reads.

    Raises:
        OSError: the disk refuses it.
        DataError: nothing; what `batches` raises passes through.
    """
    import pyarrow as pa

    with file.open("wb") as stream, pa.ipc.new_file(stream, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def batches_of(file: Path, where: str) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Schema and checked batches of a file that is not mapped.

    Raises:
        DataError: it is no Arrow file, or a broken one.
    """
    import pyarrow as pa

    with arrow_errors_named(where):
        schema, found = _batches(pa.memory_map(str(file)))
        return plain(schema, checked(found, where), where)


def plain(
    schema: "pa.Schema", batches: "Iterator[pa.RecordBatch]", where: str
) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Schema and batches with dictionary columns as the values they stand for.

    Parts of a file may have dictionaries of their own, and the files that `write` makes have one for each column.
    """
    import pyarrow as pa

    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in schema
    ]
    wanted = pa.schema(fields, schema.metadata)

    def cast() -> "Iterator[pa.RecordBatch]":
        for batch in batches:
            with arrow_errors_named(where):
                made = batch.cast(wanted)
            yield made

    return wanted, batches if wanted == schema else cast()


def checked(batches: "Iterator[pa.RecordBatch]", where: str) -> "Iterator[pa.RecordBatch]":
    """The batches, each looked through before it is used; what the reader raises becomes one error."""
    while True:
        with arrow_errors_named(where):
            batch = next(batches, None)
            if batch is None:
                return
            batch.validate(full=True)
        yield batch


@contextmanager
def arrow_errors_named(where: str) -> Iterator[None]:
    """Turn what pyarrow raises about a file's content into one error.

    Raises:
        DataError: says which file and what is wrong with it.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{where}: cannot be read: {said:.300}; write the file again") from None


SEPARATORS = {".csv": ",", ".tsv": "\t"}
ARROW = (".arrow", ".feather")
ENDINGS = (*SEPARATORS, ".parquet", *ARROW)
BATCH_ROWS = 64


def open_table(file: Path, separator: str | None = None, limit: int | None = None) -> ArrowRows:
    """The first `limit` rows of a table.

    Args:
        file: its ending is one of `ENDINGS`.
        separator: what stands between the cells of CSV; None takes what its ending says.
        limit: how many rows are used; None uses all.

    Raises:
        DataError: the file cannot be read; in CSV with row and line.
        EnvironmentProblem: it may not be read; there is no room for it in the cache.
    """
    where = str(file)
    with readable(file):
        pass  # said here, before the cache or a format's reader would say it of itself
    if file.suffix.lower() in ARROW:
        rows = mapped(file, where, limit)
        if rows is not None:
            return rows
    key = [str(file.resolve()), stamp(where), file.stat().st_mtime_ns, separator]
    copy = _download.kept(_download.place("rows", key, ".arrow"), functools.partial(_convert, file, separator))
    rows = mapped(copy, where, limit, trusted=True)
    assert rows is not None, "our own files are not compressed"
    return rows


def _convert(file: Path, separator: str | None, building: Path) -> None:
    suffix = file.suffix.lower()
    if suffix in SEPARATORS:
        schema, batches = csv_batches(file, separator or SEPARATORS[suffix])
    elif suffix in ARROW:
        schema, batches = batches_of(file, str(file))
    else:
        schema, batches = _parquet(file)
    refuse_twins(schema.names, str(file))
    write(building, schema, batches)


def _parquet(file: Path) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    import pyarrow.parquet as pq

    with arrow_errors_named(str(file)):
        reader: Any = pq.ParquetFile(file)
        return plain(reader.schema_arrow, checked(reader.iter_batches(BATCH_ROWS), str(file)), str(file))


def streamed(path: str, name: str | None, revision: str | None, split: str, limit: int | None) -> ArrowRows:
    """The first `limit` rows of a split.

    They are kept under the arguments; of a local folder, also under its files' sizes and times. A fetch that was
    interrupted starts anew.

    Raises:
        EnvironmentProblem, DataError: as `errors_named`; there are no rows.
    """
    where = f"{path} [{split}]"
    key = ["stream", path, name, revision, split, limit, _state(path)]
    fetch = functools.partial(_fetch, path, name, revision, split, limit)
    rows = mapped(_download.kept(_download.place("rows", key, ".arrow"), fetch), where, trusted=True)
    assert rows is not None, "our own files are not compressed"
    return rows


def _state(path: str) -> list[Any]:
    """What tells two states of a local folder apart; nothing for a name on the Hub."""
    files = (Path(inside, name) for inside, _, names in os.walk(path) for name in names)
    return sorted(
        [str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()
    )


def _fetch(path: str, name: str | None, revision: str | None, split: str, limit: int | None, building: Path) -> None:
    import datasets

    # What `datasets` decodes by itself ends a stream at one bad image; as Arrow nothing is decoded.
    with errors_named(path, name, revision):
        stream = datasets.load_dataset(path, name, split=split, revision=revision, streaming=True)
        stream = stream if limit is None else stream.take(limit)
        tables = stream.with_format("arrow").iter(batch_size=BATCH_ROWS)
        first = next(tables, None)
    if first is None:
        raise DataError(f"{path} [{split}]: no rows; check dataset.splits and dataset.limit")
    write(building, first.schema, _streamed_batches(first, tables, (path, name, revision)))


def _streamed_batches(
    first: "pa.Table", others: Any, named: tuple[str, str | None, str | None]
) -> "Iterator[pa.RecordBatch]":
    table = first
    while table is not None:
        with errors_named(*named):
            batches = table.cast(first.schema).combine_chunks().to_batches()
        yield from batches
        with errors_named(*named):
            table = next(others, None)


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
