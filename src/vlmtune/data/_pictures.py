"""What a value of an image column means: a file below the dataset's folder, base64, bytes, or an https address."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.data._files import resolved
from vlmtune.data._remote import Remote
from vlmtune.errors import DataError
from vlmtune.types import ImageRef

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
