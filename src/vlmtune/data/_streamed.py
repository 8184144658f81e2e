"""The first rows of a dataset that is too large to download, fetched once into an Arrow file of the cache."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.data import _cache
from vlmtune.data._arrow import ArrowRows, mapped, write
from vlmtune.data._hub_errors import errors_named
from vlmtune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 64


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
    rows = mapped(_cache.kept(_cache.place("rows", key, ".arrow"), fetch), where, trusted=True)
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
    write(building, first.schema, _batches(first, tables, (path, name, revision)))


def _batches(first: "pa.Table", others: Any, named: tuple[str, str | None, str | None]) -> "Iterator[pa.RecordBatch]":
    table = first
    while table is not None:
        with errors_named(*named):
            batches = table.cast(first.schema).combine_chunks().to_batches()
        yield from batches
        with errors_named(*named):
            table = next(others, None)
