"""Locks on files. One dies with its process, however that ends, so none is ever left over."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vlmtune.files import os_errors_named

TRIES, PAUSE_S = 10, 0.02
"""A look by `is_held` lasts microseconds: whoever meets one tries again."""


def take(stream: IO[Any] | int, shared: bool = False) -> bool:
    """Whether the lock of an open file was free. It is ours then until the file is closed, or shared with others."""
    for _ in range(TRIES):
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            return True
    return False


@contextmanager
def locked(file: Path, shared: bool = False) -> Iterator[bool]:
    """Whether the lock of a file was free; it is made where it is not there, and held until the block ends.

    Raises:
        EnvironmentProblem, ConfigError: the file cannot be made or opened.
    """
    with os_errors_named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("ab")
    with stream:
        with os_errors_named(file):
            free = take(stream, shared)
        yield free


@contextmanager
def folder_locked(folder: Path) -> Iterator[bool]:
    """The same for a folder itself; the lock goes with it where it is renamed."""
    with os_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        yield take(handle)
    finally:
        os.close(handle)


def is_held(file: Path, shared: bool = False) -> bool:
    """Whether a live process holds a lock, for itself alone or, with `shared`, at all. A missing file is free."""
    try:
        with file.open("r+b" if shared else "rb") as stream:
            fcntl.flock(stream, (fcntl.LOCK_EX if shared else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
