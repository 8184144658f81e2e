"""Writing files so that a crash leaves the old content or the new, never half of either; reading JSON back.

What the disk refuses becomes an error of ours that names the path.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmtune import faults
from vlmtune.errors import ConfigError, EnvironmentProblem, IntegrityError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ANOTHER_NAME = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
"""Errors of the path itself: no disk and no permission would help."""


@contextmanager
def os_errors_named(path: Path, size: int = 0) -> Iterator[None]:
    """Turn what the operating system refuses into an error that says where and what to do.

    Args:
        path: what is read or written, for messages; the error's own path is named where it has one.
        size: bytes that were to be written.

    Raises:
        EnvironmentProblem: the disk is full or read-only, permission is missing, the disk fails.
        ConfigError: nothing can have that name: a folder on the way is a file, or the name is too long.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise EnvironmentProblem(
                f"no space left for {path} ({size:,} bytes); what was there before is untouched. "
                "Free some space, or choose another disk with --set output.dir=…, and run the same command again"
            ) from None
        there = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
        # Making folders, Python finds that a file "exists" where one of them should be.
        number = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno
        said = f"{path}: {os.strerror(number) if number else error}{there}"
        if error.errno in ANOTHER_NAME:
            raise ConfigError(f"{said}. Choose another path, for results of a run with --set output.dir=…") from None
        raise EnvironmentProblem(
            f"{said}. Allow vlmtune to use it, or choose another path, for results of a run with --set output.dir=…"
        ) from None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write beside the target, flush to disk, rename over it. Text is written as UTF-8.

    Raises:
        EnvironmentProblem, ConfigError: as `os_errors_named`; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    with os_errors_named(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_name(f".{path.name}.building")
        try:
            _write(building, data)
            faults.hit("file.written")
            building.replace(path)
        except OSError:  # half a file would fill the disk further
            building.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """A whole file of bytes, flushed to disk; for files in a folder that is renamed or published last.

    Raises:
        EnvironmentProblem, ConfigError: as `os_errors_named`.
    """
    with os_errors_named(path, len(data)):
        _write(path, data)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, value: Any) -> None:
    """A JSON file, indented, with a newline at its end."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, shape: type = dict) -> Any:
    """The value in a JSON file: an object, or another `shape`.

    Raises:
        IntegrityError: not JSON, or of another shape.
        EnvironmentProblem, ConfigError: it cannot be read, as `os_errors_named`.
    """
    advice = "restore it, or move it away together with what it describes, and run the same command again"
    with os_errors_named(path):
        data = path.read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not JSON ({error}); {advice}") from None
    if not isinstance(value, shape):
        kinds = {dict: "an object", list: "a list", int: "a whole number"}
        raise IntegrityError(f"{path}: holds {type(value).__name__} where {kinds[shape]} belongs; {advice}")
    return value


def fsync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_lines(path: Path, lines: list[str]) -> None:
    """Append whole lines and flush them to disk.

    Raises:
        EnvironmentProblem, ConfigError: as `os_errors_named`.
    """
    text = "".join(line + "\n" for line in lines)
    with os_errors_named(path, len(text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        faults.hit("file.appended")


def read_whole_lines(path: Path) -> list[str]:
    """Lines of an append-only file; a torn last line is cut off the file first."""
    if not path.is_file():
        return []
    with os_errors_named(path):
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as stream:
                stream.truncate(whole)
    return data[:whole].decode("utf-8").split("\n")[:-1]
