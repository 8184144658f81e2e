"""Writing files so that a crash leaves the old content or the new, never half of either."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmtune import faults
from vlmtune.errors import EnvironmentProblem


def write_atomic(path: Path, text: str) -> None:
    """Write beside the target, flush to disk, rename over it.

    Raises:
        EnvironmentProblem: the disk is full; the old file is untouched.
    """
    with disk_full_named(path, len(text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_name(f".{path.name}.building")
        with building.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        faults.hit("file.written")
        building.replace(path)
        fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """A whole file of bytes, flushed to disk; for files in a folder that is renamed or published last.

    Raises:
        EnvironmentProblem: the disk is full.
    """
    with disk_full_named(path, len(data)), path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, value: Any) -> None:
    """A JSON file, indented, with a newline at its end."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def fsync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_full_named(path: Path, size: int) -> Iterator[None]:
    """Turn "no space left" into an error that says where and how much."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise EnvironmentProblem(
            f"no space left for {path} ({size:,} bytes); what was there before is untouched. "
            "Free some space, or choose another disk with --set output.dir=…, and run the same command again"
        ) from None


def append_lines(path: Path, lines: list[str]) -> None:
    """Append whole lines and flush them to disk."""
    text = "".join(line + "\n" for line in lines)
    with disk_full_named(path, len(text)):
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
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as stream:
            stream.truncate(whole)
    return data[:whole].decode("utf-8").splitlines()
