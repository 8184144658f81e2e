"""What is kept of millions of rows: bytes and strings in buffers that continue on disk, and which of them repeat."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, overload

import numpy as np
from numpy.typing import NDArray

from vlmtune.data._download import disk_errors_named
from vlmtune.hub import cache_file

SPILL_BYTES = 1 << 20
"""Bytes that a buffer holds in memory; the rest lies in a temporary file of the cache."""

DIGEST_BYTES, KEY_BYTES = 32, 8


class SpilledBytes:
    """Bytes that are appended and read; all but the last `SPILL_BYTES` lie on disk.

    Reading is safe from several threads once nothing more is appended.
    """

    def __init__(self) -> None:
        self._tail = bytearray()
        self._file: IO[bytes] | None = None
        self._stored = 0

    def __len__(self) -> int:
        return self._stored + len(self._tail)

    def append(self, data: bytes) -> None:
        """Add bytes at the end.

        Raises:
            EnvironmentProblem: the disk of the cache is full.
        """
        self._tail += data
        if len(self._tail) >= SPILL_BYTES:
            self._spill()

    def _spill(self) -> None:
        folder = cache_file("rows", "", "").parent
        with disk_errors_named(folder):
            if self._file is None:
                folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this is
            self._file.write(self._tail)
            self._file.flush()
        self._stored += len(self._tail)
        self._tail.clear()

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end)."""
        data = b""
        if self._file is not None and start < self._stored:
            data = os.pread(self._file.fileno(), min(end, self._stored) - start, start)
        return data + self._tail[max(0, start - self._stored) : max(0, end - self._stored)]


class StringArray(Sequence[str]):
    """Many short strings: each takes its UTF-8 bytes and eight more, mostly on disk."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes, self._ends = SpilledBytes(), SpilledBytes()
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a string at the end."""
        self._bytes.append(text.encode("utf-8", "surrogatepass"))
        self._ends.append(len(self._bytes).to_bytes(8, "little"))

    def __len__(self) -> int:
        return len(self._ends) // 8

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        ends = self._ends.read(8 * max(0, number - 1), 8 * number + 8)
        start = int.from_bytes(ends[:8], "little") if number else 0
        return self._bytes.read(start, int.from_bytes(ends[-8:], "little")).decode("utf-8", "surrogatepass")


class ContentIndex:
    """For every row the hash of its content, the image files it names, and its value of the id column."""

    def __init__(self) -> None:
        self._digests, self._files, self.ids = SpilledBytes(), StringArray(), StringArray()
        self._folders: list[str] = []
        self._folder_numbers: dict[str, int] = {}

    def add(self, digest: str, files: Sequence[str], row_id: str | None) -> None:
        """Add the next row; `digest` is a SHA-256 in hex, "" for a row that cannot be read."""
        self._digests.append(bytes.fromhex(digest) if digest else bytes(DIGEST_BYTES))
        self._files.append("\0".join(map(self._shorten, files)))  # no file name contains a NUL
        self.ids.append(row_id or "")

    def digest(self, index: int) -> str:
        """The content hash of a row in hex, "" for a row that cannot be read."""
        digest = self._digests.read(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)
        return digest.hex() if any(digest) else ""

    def numbers(self) -> dict[int, int]:
        """Which of the rows with the same first 16 digits of their content hash a row is, for those that are not the
        first.
        """
        digests = range(0, len(self._digests), DIGEST_BYTES)
        keys = (self._digests.read(at, at + KEY_BYTES) for at in digests)
        return {index: number for index, (_, number) in _repeated_keys(keys).items() if self.digest(index)}

    def files(self, index: int) -> list[str]:
        """The image files that a row names."""
        paths = self._files[index]
        split = (short.partition("/") for short in paths.split("\0")) if paths else ()
        return [self._folders[int(number)] + name for number, _, name in split]

    def _shorten(self, file: str) -> str:
        """The path with its folder replaced by a number: "/data/images/7.jpg" -> "0/7.jpg"."""
        start = file.rfind("/") + 1
        number = self._folder_numbers.setdefault(file[:start], len(self._folders))
        if number == len(self._folders):
            self._folders.append(file[:start])
        return f"{number}/{file[start:]}"


def repeated(texts: Iterable[str]) -> dict[int, int]:
    """For every text that equals an earlier one, by index: the index of the first. Texts are compared by hashes."""
    keys = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest() for text in texts)
    return {index: first for index, (first, _) in _repeated_keys(keys).items()}


def _repeated_keys(keys: Iterable[bytes]) -> dict[int, tuple[int, int]]:
    """For every key that equals an earlier one, by index in order: the index of the first, and which one it is, from 1.

    Keys are sorted in parts that have their last bits in common, so that only the repeated ones take memory.
    """
    stored = SpilledBytes()
    for key in keys:
        stored.append(key)
    parts = 1 + len(stored) // SPILL_BYTES
    found: dict[int, tuple[int, int]] = {}
    for part in range(parts):
        chosen, indices = [], []
        for at in range(0, len(stored), SPILL_BYTES):
            block = np.frombuffer(stored.read(at, min(at + SPILL_BYTES, len(stored))), np.uint64)
            places = np.flatnonzero(block % np.uint64(parts) == part)
            chosen.append(block[places])
            indices.append(places + at // KEY_BYTES)
        if chosen:
            found |= _repeated_in(np.concatenate(chosen), np.concatenate(indices))
    return dict(sorted(found.items()))


def _repeated_in(keys: NDArray[np.uint64], indices: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """As `_repeated_keys`, for keys at ascending indices, both [n]."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], keys[order][1:] != keys[order][:-1])))
    group = np.repeat(starts, np.diff(np.append(starts, len(keys))))
    numbers = np.arange(len(keys)) - group + 1
    again = np.flatnonzero(numbers > 1)
    columns = (indices[order[again]], indices[order[group[again]]], numbers[again])
    return {
        index: (first, number) for index, first, number in zip(*(column.tolist() for column in columns), strict=True)
    }
