"""Image files that rows name: only below the folders they may come from, and known by a look into them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vlmtune.errors import EnvironmentProblem

BLOCK, BLOCKS = 4096, 16
"""A file of more bytes than these blocks hold is known by so many of them, evenly spaced from its first to its last."""


def resolved(path: str, roots: Sequence[str]) -> str | None:
    """The real path of a file, symlinks followed; None where it lies below none of the folders `roots`.

    A relative path starts at the first of them.
    """
    try:
        nameable = bool(roots) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half a surrogate pair: no file can be called so
        nameable = False
    if not nameable:
        return None
    found = Path(os.path.realpath(Path(roots[0], path)))
    return str(found) if any(found.is_relative_to(os.path.realpath(root)) for root in roots) else None


@contextmanager
def readable(file: Path) -> Iterator[BinaryIO]:
    """A dataset's file, opened to be read.

    Raises:
        EnvironmentProblem: it may not be read, or is not there any more.
    """
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise EnvironmentProblem(
            f"{file}: {error.strerror or error}; allow vlmtune to read it, or look for it"
        ) from None


def stamp(file: str) -> str:
    """What tells two contents of a file apart without reading more than 64 KiB of it: its size, and a hash of all of it
    or of blocks over its whole length. A large uncompressed picture may change between the blocks unseen.

    "missing" where there is no such file or it cannot be read; never raises for that.
    """
    try:
        if not Path(file).is_file():
            return "missing"
        with Path(file).open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size <= BLOCK * BLOCKS:
                seen = stream.read(BLOCK * BLOCKS)
            else:
                starts = (n * (size - BLOCK) // (BLOCKS - 1) for n in range(BLOCKS))
                seen = b"".join(os.pread(stream.fileno(), BLOCK, start) for start in starts)
    except OSError:
        return "missing"
    return f"{size}:{hashlib.sha256(seen).hexdigest()}"
