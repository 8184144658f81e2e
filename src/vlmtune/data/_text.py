"""Text files as UTF-8 with line feeds; those that are gzipped, in UTF-16 or from an old Mac are converted once."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from vlmtune.data import _download
from vlmtune.data._image_refs import file_fingerprint, open_readable
from vlmtune.errors import DataError
from vlmtune.hub import cache_file

GZIP = b"\x1f\x8b"
PEEKED = 1 << 16
"""Bytes from which the encoding and the line ends are known."""

CHUNK = 1 << 20
LARGEST, EXPANSION = 1 << 30, 200
"""A gzipped file may hold more characters than the first only up to this multiple of its own size."""


def ending(file: str | Path) -> str:
    """The ending of a file's name in lower case, not counting that of gzip: `.csv` of `rows.CSV.gz`."""
    return Path(str(file).lower().removesuffix(".gz")).suffix


def head(file: Path, size: int = PEEKED) -> str:
    """The first characters of a text file; what is no text becomes a mark.

    Raises:
        DataError: it is a damaged gzip file.
        EnvironmentProblem: it cannot be read.
    """
    with _unzipped(file) as stream, _damage_named(file):
        data = stream.read(size)
    return data.decode(_encoding(data), "replace").replace("\r\n", "\n").replace("\r", "\n")


def as_utf8(file: Path) -> Path:
    """The file, or its copy in the cache as UTF-8 without a mark and with line feeds, if it is something else.

    Bytes that are not UTF-8 are left to the reader of a file that claims no other encoding.

    Raises:
        DataError: it is in no known encoding, or a damaged gzip file.
        EnvironmentProblem: it cannot be read, or the cache's disk is full.
    """
    with open_readable(file) as stream:
        data = stream.read(PEEKED)
    is_plain = not data.startswith(GZIP) and _encoding(data) == "utf-8-sig"
    if is_plain and not (b"\r" in data and b"\n" not in data):
        return file
    return _cached("text", file, _convert)


def read_text(file: Path) -> str:
    """The whole text of a file, with line feeds.

    Raises:
        DataError, EnvironmentProblem: as `as_utf8`; the text is not UTF-8.
    """
    with open_readable(as_utf8(file)) as stream:
        data = stream.read()
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise not_text(file, data.count(b"\n", 0, error.start) + 1) from None


def not_text(file: Path, line: int, encoding: str = "UTF-8") -> DataError:
    """That a line is in another encoding."""
    return DataError(f"{file}:{line}: not {encoding}; save the file as UTF-8")


def _encoding(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in data[:2] and len(data) > 1:  # the first character of JSON and CSV is ASCII
        return "utf-16-be" if data[0] == 0 else "utf-16-le"
    return "utf-8-sig"


@contextmanager
def _unzipped(file: Path) -> Iterator[BinaryIO]:
    with open_readable(file) as stream:
        magic = stream.read(len(GZIP))
        stream.seek(0)
        yield cast("BinaryIO", gzip.GzipFile(fileobj=stream)) if magic == GZIP else stream


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: the gzip file is damaged or cut off ({error}); copy it again") from None


def unzipped(file: Path) -> Path:
    """The file, or its unpacked copy in the cache if it is gzipped.

    Raises:
        DataError: it is a damaged gzip file.
        EnvironmentProblem: it cannot be read, or the cache's disk is full.
    """
    with open_readable(file) as stream:
        if stream.read(len(GZIP)) != GZIP:
            return file
    return _cached("unzipped", file, _unzip)


def _cached(kind: str, file: Path, build: Callable[[Path, Path], None]) -> Path:
    key = [kind, str(file.resolve()), file_fingerprint(str(file)), file.stat().st_mtime_ns]
    return _download.build_once(cache_file("rows", key, ".txt"), lambda building: build(file, building))


def _unzip(file: Path, building: Path) -> None:
    with _unzipped(file) as stream, building.open("wb") as out, _damage_named(file):
        while chunk := stream.read(CHUNK):
            out.write(chunk)
            _refuse_bomb(file, out.tell())


def _refuse_bomb(file: Path, size: int) -> None:
    if size > max(LARGEST, EXPANSION * file.stat().st_size):
        raise DataError(f"{file}: expands to more than {EXPANSION} times its size; unpack it if you trust it")


def _convert(file: Path, building: Path) -> None:
    with _unzipped(file) as stream, _damage_named(file):
        encoding = _encoding(stream.read(PEEKED))
    written, lines = 0, 1
    with _unzipped(file) as stream, building.open("w", encoding="utf-8", newline="\n") as out, _damage_named(file):
        text = io.TextIOWrapper(stream, encoding, newline=None)
        try:
            while chunk := text.read(CHUNK):
                out.write(chunk)
                written, lines = written + len(chunk), lines + chunk.count("\n")
                _refuse_bomb(file, written)
        except UnicodeDecodeError:
            raise not_text(file, lines, encoding[:6].replace("-sig", "").rstrip("-").upper()) from None
        finally:
            text.detach()
