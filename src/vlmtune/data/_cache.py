"""Where a source keeps what it made once: beside what the Hub's client keeps, one file per content.

A file there is made under a lock, in full, and renamed into place; whoever finds it may believe it. Nothing is lost
when the folder is deleted.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmtune.errors import EnvironmentProblem
from vlmtune.files import fsync_folder


def place(kind: str, key: Any, suffix: str = "") -> Path:
    """The file of a kind ("rows", "images") for a key that JSON can hold; it need not be there."""
    import huggingface_hub.constants

    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return Path(huggingface_hub.constants.HF_HOME) / "vlmtune" / kind / f"{name}{suffix}"


def kept(file: Path, make: Callable[[Path], None]) -> Path:
    """`file`, made by `make(building)` where it is not there yet.

    Of several processes one makes it and the others wait; one that was killed leaves a half that the next one replaces.

    Raises:
        EnvironmentProblem: the disk is full, or the folder may not be written.
    """
    if file.is_file():
        return file
    with _disk_named(file), _locked(file):
        if not file.is_file():
            building = file.with_name(f".{file.name}.building")
            make(building)
            with building.open("rb") as stream:
                os.fsync(stream.fileno())
            building.replace(file)
            fsync_folder(file.parent)
    return file


def put(file: Path, data: bytes) -> None:
    """Keep `data`; several threads may do so at once.

    Raises:
        EnvironmentProblem: as `kept`.
    """
    with _disk_named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as building:
            building.write(data)
            building.flush()
            os.fsync(building.fileno())
        Path(building.name).replace(file)


@contextmanager
def _disk_named(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"{error.filename or file}: {error.strerror or error}; rows and images are kept there for the next time. "
            "Make room, or set HF_HOME to a folder that can be written"
        ) from None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
