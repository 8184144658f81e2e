"""Atomic writes, append-only files, JSON files and file locks.

After a crash a file has its old content or its new one, never a mixture. An OSError becomes an error of vlmtune that
names the path. A lock is released when its process ends, for whatever reason.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from vlmtune import fault_injection
from vlmtune.errors import ConfigError, EnvironmentProblem, IntegrityError
from vlmtune.json_values import mismatch, parse_json

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PATH_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
"""Errors of the path itself, which neither free space nor permissions would fix."""


@contextmanager
def translate_os_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turn an OSError into an error that names the path and says what to do.

    Args:
        path: what is read or written, for the message; the error's own path is added if it differs.
        size: bytes that would have been written.

    Raises:
        EnvironmentProblem: the disk is full or read-only, permission is missing, the disk fails.
        ConfigError: the path is impossible: a parent is a file, or a name is too long.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise EnvironmentProblem(
                f"no space left for {path} ({size:,} bytes); the old content is untouched. "
                "Free some space, or choose another disk with --set output.dir=…, and run the same command again"
            ) from None
        other_path = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
        # mkdir(exist_ok=True) reports a file in the place of a parent folder as "exists".
        number = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno
        message = f"{path}: {os.strerror(number) if number else error}{other_path}"
        if error.errno in PATH_ERRORS:
            raise ConfigError(f"{message}. Choose another path, for results of a run with --set output.dir=…") from None
        raise EnvironmentProblem(
            f"{message}. Allow vlmtune to use it, or choose another path, for results of a run with --set output.dir=…"
        ) from None


def building_path(path: Path) -> Path:
    """The temporary path of a file or folder that is being written; renamed to `path` when it is complete."""
    return path.with_name(f".{path.name}.building")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write to a temporary file, flush it to disk, and rename it over the target. Text is written as UTF-8.

    Raises:
        EnvironmentProblem, ConfigError: as in `translate_os_errors`; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    with replace_file(path, len(data)) as stream:
        stream.write(data)


@contextmanager
def replace_file(path: Path, size: int = 0) -> Iterator[BinaryIO]:
    """A stream into a temporary file, which is flushed to disk and renamed over the target when the block ends.

    Args:
        path: the target.
        size: bytes to be written, for messages.

    Raises:
        EnvironmentProblem, ConfigError: as in `translate_os_errors`; the old file is untouched.
    """
    with translate_os_errors(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        building = building_path(path)
        try:
            with _flushed(building) as stream:
                yield stream
            fault_injection.hit("file.written")
            building.replace(path)
        except OSError:  # a partial file would only fill the disk further
            building.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """An empty temporary folder that takes the place of `target` when the block ends without an exception.

    After a crash or an exception the temporary folder is left, and `target` is as it was before.
    """
    building = building_path(target)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    yield building
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
    fsync_folder(target.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes and flush them to disk; for files in a folder that is itself renamed when it is complete.

    Raises:
        EnvironmentProblem, ConfigError: as in `translate_os_errors`.
    """
    with translate_os_errors(path, len(data)), _flushed(path) as stream:
        stream.write(data)


@contextmanager
def _flushed(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file that ends with a newline, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, shape: Any = dict) -> Any:
    """The value in a JSON file: an object, or of another type, such as a TypedDict that documents its fields.

    Raises:
        IntegrityError: not JSON, or of another type.
        EnvironmentProblem, ConfigError: it cannot be read, as in `translate_os_errors`.
    """
    advice = "restore it, or move it away together with what it describes, and run the same command again"
    with translate_os_errors(path):
        data = path.read_bytes()
    try:
        value = parse_json(data)
    except ValueError as error:
        raise IntegrityError(f"{path}: not JSON ({error}); {advice}") from None
    if (wrong := mismatch(value, shape)) is not None:
        raise IntegrityError(f"{path}: {wrong}; {advice}")
    return value


def fsync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_lines(path: Path, lines: list[str]) -> None:
    """Append whole lines and flush them to disk.

    Raises:
        EnvironmentProblem, ConfigError: as in `translate_os_errors`.
    """
    text = "".join(line + "\n" for line in lines)
    with translate_os_errors(path, len(text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fault_injection.hit("file.appended")


def whole_lines(path: Path) -> list[bytes]:
    """Lines of an append-only file without a torn last one; none if there is no such file. Nothing is changed.

    The file may be one that another process appends to, or publishes and deletes, at this moment.
    """
    with translate_os_errors(path):
        try:
            return path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []


def cut_torn_line(path: Path) -> None:
    """Remove a torn last line from an append-only file, so that the next append starts a new line."""
    if not path.is_file():
        return
    with translate_os_errors(path):
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as stream:
                stream.truncate(whole)


LOCK_TRIES, LOCK_PAUSE_S = 10, 0.02
"""`is_locked` holds a lock for microseconds, so an attempt that meets it is repeated."""


def try_lock(stream: IO[Any] | int, shared: bool = False) -> bool:
    """Try to lock an open file, until it is closed, exclusively or `shared`; returns whether the lock was free."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False


@contextmanager
def lock_file(file: Path, shared: bool = False) -> Iterator[bool]:
    """Try to lock a file until the block ends; yields whether the lock was free. A missing file is created.

    Raises:
        EnvironmentProblem, ConfigError: the file cannot be created or opened.
    """
    with translate_os_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("ab")
    with stream:
        with translate_os_errors(file):
            free = try_lock(stream, shared)
        yield free


@contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """As `lock_file`, for a folder; the lock stays with the folder when it is renamed."""
    with translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        yield try_lock(handle)
    finally:
        os.close(handle)


def is_locked(file: Path, shared: bool = False) -> bool:
    """Whether a process holds the lock of a file exclusively or, with `shared`, in any way. A missing file is free."""
    try:
        with file.open("r+b" if shared else "rb") as stream:
            fcntl.flock(stream, (fcntl.LOCK_EX if shared else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
