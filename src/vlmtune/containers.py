"""Limits of containers of rows, whoever wrote them: how much a compressed one may expand, and names of columns."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from vlmtune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_EXPANSION, ALWAYS_ALLOWED = 200, 256 * 1024 * 1024
"""How many times its own size the content of a compressed file may have; bytes that it may have in any case."""

BROKEN_EXCEL = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, ParseError, OSError, EOFError, NotImplementedError),
    *(KeyError, IndexError, ValueError, TypeError, AttributeError, OverflowError),
)
"""What openpyxl raises about a damaged file."""


def most_bytes(size: int) -> int:
    """The largest content that is read from a compressed file of a size, in bytes."""
    return max(ALWAYS_ALLOWED, MOST_EXPANSION * size)


def too_large(where: str, size: int) -> DataError:
    """The error for a file of a size whose content is larger."""
    return DataError(
        f"{where}: the file has {size:,} bytes, its content more than {most_bytes(size):,}; if that is right, write it "
        "without compression"
    )


def bounded(batches: "Iterator[pa.RecordBatch]", size: int, where: str) -> "Iterator[pa.RecordBatch]":
    """The batches of a compressed file of a size.

    Raises:
        DataError: while iterating, they are more than `most_bytes` together.
    """
    taken = 0
    for batch in batches:
        taken += batch.nbytes + sum(map(_behind_indices, batch.columns))
        if taken > most_bytes(size):
            raise too_large(where, size)
        yield batch


def _behind_indices(column: "pa.Array") -> int:
    """Bytes of the texts to which a dictionary-encoded column points; each counts as often as it occurs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return 0
    kind = column.type.value_type
    if not any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)):
        return 0
    return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)


def first_repeated(names: Sequence[str]) -> str | None:
    """The first name that occurs twice; None if all differ."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
