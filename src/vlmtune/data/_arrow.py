"""Errors of pyarrow about the content of a file."""

from collections.abc import Iterator
from contextlib import contextmanager

from vlmtune.errors import DataError


@contextmanager
def arrow_errors_named(where: str) -> Iterator[None]:
    """Turn exceptions of pyarrow about the content of a file into one error.

    Raises:
        DataError: names the file and the problem.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{where}: cannot be read: {reason:.300}; write the file again") from None
