"""JSONL files: rows with columns, or chat rows with `messages` and `images`.

Images are paths beside the file, or base64 (a `data:` URL or bare). Every split names a file in the folder `path`.
Only byte offsets are kept in memory: a row is read when it is asked for.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from vlmtune.data import DatasetConfig, Splits
from vlmtune.data._files import resolved
from vlmtune.data._rows import MappedRows, Records
from vlmtune.errors import DataError
from vlmtune.types import ImageRef

BASE64_FROM = 256
"""A bare string at least this long, with base64's alphabet only, is an image and not a path."""


class Config(DatasetConfig):
    """JSONL files in a folder."""

    source: str = "jsonl"
    """The source."""

    path: str
    """Folder with one file per split; image paths are relative to it and may not leave it."""

    splits: Splits = Splits(train="train.jsonl", select="validation.jsonl", test="test.jsonl")
    """File name of each role's rows."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open one file.

    Raises:
        DataError: the file is missing, or a line is not a JSON object; names file and line.
    """
    folder = Path(config.path)
    file = folder / split
    if not file.is_file():
        there = ", ".join(sorted(p.name for p in folder.glob("*.jsonl"))) or "no .jsonl files"
        raise DataError(f"{file}: no such file; {folder} has {there}. Set dataset.path and dataset.splits")
    lines = _Lines(file, limit)
    return MappedRows(
        config,
        Records(
            str(file),
            len(lines),
            lines.read,
            lambda value, where: _image(value, where, folder),
            lambda value: _file(value, folder),
        ),
    )


class _Lines:
    """Lines of a file by number; blank ones do not count."""

    def __init__(self, file: Path, limit: int | None) -> None:
        self._file = file
        self._starts: list[tuple[int, int]] = []
        with file.open("rb") as stream:
            offset = 0
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    self._starts.append((offset, number))
                offset += len(line)
                if limit is not None and len(self._starts) == limit:
                    break

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, index: int) -> dict[str, Any]:
        offset, number = self._starts[index]
        with self._file.open("rb") as stream:
            stream.seek(offset)
            line = stream.readline()
        try:
            record = json.loads(line.decode("utf-8-sig" if offset == 0 else "utf-8"))
        except UnicodeDecodeError:
            raise DataError(f"{self._file}:{number}: not UTF-8; save the file as UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self._file}:{number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{self._file}:{number}: a row must be a JSON object (got {type(record).__name__})")
        return record


def _image(value: Any, where: str, folder: Path) -> ImageRef:
    if not isinstance(value, str) or not value or "\0" in value:
        raise DataError(f"{where}: an image must be a path or base64 text (got {value!r:.60})")
    if value.startswith("data:"):
        return ImageRef(where, lambda: _from_base64(value.partition(",")[2]))
    if value.startswith(("http://", "https://")):
        raise DataError(f"{where}: remote images are not read; download them beside the file first ({value:.80})")
    if _is_base64(value):
        return ImageRef(where, lambda: _from_base64(value))
    path = resolved(value, [str(folder)])
    if path is None:
        raise DataError(f"{where}: {value} lies outside {folder}; image paths must stay inside the dataset's folder")
    return ImageRef(f"{where} ({value})", lambda: Path(path).read_bytes())


def _file(value: Any, folder: Path) -> str | None:
    """The image file a value names; None where it holds the image itself, or is one that `_image` refuses."""
    if not isinstance(value, str) or not value or _is_base64(value):
        return None
    return None if value.startswith(("data:", "http://", "https://")) else resolved(value, [str(folder)])


def _is_base64(text: str) -> bool:
    return len(text) >= BASE64_FROM and not set(text) - _BASE64


_BASE64 = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n")


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
