"""What a value of an image column means: a file below the dataset's folder, base64, bytes, or an https address.

Image files that rows name: only below the folders they may come from, and known by a look into them.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vlmtune.data._download import Remote
from vlmtune.errors import DataError, EnvironmentProblem
from vlmtune.types import ImageRef

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


BASE64_FROM = 256
"""A bare string at least this long, with base64's alphabet only, is an image and not a path."""

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
"""How files of the formats that `images` decodes are called, in small letters."""

REMOTE = ("http://", "https://")
_BASE64 = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n")


@dataclass(frozen=True)
class Pictures:
    """Image values of one dataset.

    `roots` are the folders below which a row may name a file; a relative path starts at the first. `outside` says in a
    message what they are. `texts` tells whether a text may be a path or base64, as in files that people write.
    """

    roots: Sequence[str]
    outside: str
    remote: Remote
    texts: bool = True

    def open(self, value: Any, where: str) -> ImageRef:
        """A reference to the image that a value is, or names.

        Raises:
            DataError: it is none, or one that may not be read.
        """
        if isinstance(value, bytes | bytearray | memoryview):
            return self._held(bytes(value), where)
        if isinstance(value, dict) and {"bytes", "path"} & set(value):
            if value.get("bytes"):
                return self._held(value["bytes"], where)
            if not value.get("path"):
                raise DataError(f"{where}: no image in this row; repair or remove it")
            return self._named(value["path"], where)
        if isinstance(value, str) and value.startswith(REMOTE):
            return self._named(value, where)
        if not self.texts:
            raise DataError(f"{where}: not an image column; set dataset.image to one (got {type(value).__name__})")
        if not isinstance(value, str) or not value or "\0" in value:
            raise DataError(f"{where}: an image must be a path or base64 text (got {value!r:.60})")
        if value.startswith("data:"):
            return ImageRef(where, lambda: _from_base64(value.partition(",")[2]))
        return ImageRef(where, lambda: _from_base64(value)) if is_base64(value) else self._named(value, where)

    def file(self, value: Any) -> str | None:
        """The file a value names; None where the value is the image, or is none that `open` reads from a file."""
        if isinstance(value, dict):
            value = None if value.get("bytes") else value.get("path")
        elif isinstance(value, str) and (not self.texts or value.startswith("data:") or is_base64(value)):
            return None
        if not isinstance(value, str) or not value or "://" in value or "::" in value:
            return None
        return resolved(value, self.roots)

    def _held(self, data: Any, where: str) -> ImageRef:
        if not isinstance(data, bytes) or not data:
            raise DataError(f"{where}: no image in this row; repair or remove it")
        return ImageRef(where, lambda: data)

    def _named(self, path: Any, where: str) -> ImageRef:
        if isinstance(path, str) and path.startswith(REMOTE):
            self.remote.check(path, where)
            return ImageRef(f"{where} ({path})", lambda: self.remote.read(path, where))
        file = self.file({"path": path})
        if file is None:
            said = str(path)[:200].encode(errors="backslashreplace").decode()
            raise DataError(f"{where}: {said} lies outside {self.outside}")
        named = f"{where} ({Path(path).name if Path(path).is_absolute() else path})"
        return ImageRef(named, lambda: self._read(file, path))

    def _read(self, file: str, path: str) -> bytes:
        try:
            return Path(file).read_bytes()
        except FileNotFoundError:
            other = path.replace("\\", "/")
            beside = resolved(other, self.roots) if other != path else None
            if beside is None or not Path(beside).is_file():
                raise
            raise FileNotFoundError(f"no such file, but {other} is there; write / between folders, not \\") from None


def is_base64(text: str) -> bool:
    """Whether a text is an image in base64, and no path."""
    return len(text) >= BASE64_FROM and not set(text) - _BASE64


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
