"""Image files that rows name: only below the folders they may come from, and known by a glance into them."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

GLANCE = 4096
"""Bytes at each end of a file that stand for its content."""


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


def stamp(file: str) -> str:
    """What tells two contents of a file apart at the cost of two reads: size, and hash of the first and last 4 KiB.

    "missing" where there is no such file or it cannot be read; never raises for that.
    """
    try:
        if not Path(file).is_file():
            return "missing"
        with Path(file).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            ends = stream.read(GLANCE)
            stream.seek(max(0, size - GLANCE))
            ends += stream.read(GLANCE)
    except OSError:
        return "missing"
    return f"{size}:{hashlib.sha256(ends).hexdigest()}"
