"""What is kept of every row of a split: text and hashes in a few pieces of memory, not an object for each."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

DIGEST_BYTES = 32


class Texts(Sequence[str]):
    """Many short texts; each costs its bytes in UTF-8 and eight more."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """One more at the end."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        begin = self._ends[number - 1] if number else 0
        return self._bytes[begin : self._ends[number]].decode("utf-8", "surrogatepass")


class Contents:
    """Of every row the hash of what it holds, the image files it names, and its value of the id column."""

    def __init__(self) -> None:
        self._digests, self._files, self.ids = bytearray(), Texts(), Texts()
        self._folders: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, digest: str, files: Sequence[str], name: str | None) -> None:
        """One more row; `digest` is a sha256 in hex, "" for a row that cannot be read."""
        self._digests += bytes.fromhex(digest) if digest else bytes(DIGEST_BYTES)
        self._files.append("\0".join(map(self._short, files)))  # a NUL stands in no file's name
        self.ids.append(name or "")

    def digest(self, index: int) -> str:
        """The hash of a row."""
        found = self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        return found.hex() if any(found) else ""

    def files(self, index: int) -> list[str]:
        """The files that a row names."""
        joined = self._files[index]
        split = (short.partition("/") for short in joined.split("\0")) if joined else ()
        return [self._folders[int(number)] + name for number, _, name in split]

    def _short(self, file: str) -> str:
        """A file by the number of its folder: most rows have theirs in a few."""
        start = file.rfind("/") + 1
        number = self._numbers.setdefault(file[:start], len(self._folders))
        if number == len(self._folders):
            self._folders.append(file[:start])
        return f"{number}/{file[start:]}"
