"""Rows in an Arrow file, mapped into memory: what stands on the disk is read when it is asked for, and only that.

Files of other formats are written as one first, into the cache.
"""

import functools
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.data._labels import Labels
from vlmtune.data._rows import ReadRecord, Record
from vlmtune.errors import DataError

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
