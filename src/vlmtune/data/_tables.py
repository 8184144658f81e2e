"""Tables as rows of Arrow files. Arrow is mapped into memory as it is; other formats are written as Arrow once, into
the cache, so that a row costs the same wherever it stands and none stays in memory.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.data import _cache
from vlmtune.data._arrow import ArrowRows, arrow_errors_named, batches_of, checked, mapped, plain, refuse_twins, write
from vlmtune.data._csv import csv_batches
from vlmtune.data._files import readable, stamp

if TYPE_CHECKING:
    import pyarrow as pa

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
    copy = _cache.kept(_cache.place("rows", key, ".arrow"), functools.partial(_convert, file, separator))
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
