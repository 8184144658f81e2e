"""A split of one file, or of several whose names fit a pattern: rows one file after the other, files by their names."""

import glob
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from vlmtune.data._rows import ReadRecord, Record
from vlmtune.errors import DataError


class FileRows(Protocol):
    """Rows of one file."""

    def __len__(self) -> int: ...

    def read(self, index: int, /) -> Record:
        """One row."""


def files_of(folder: Path, split: str, there: Sequence[str]) -> list[Path]:
    """The file that a split names, or those that fit it as a pattern, in the order of their names.

    Args:
        folder: where the files lie.
        split: a file's path in it, or one with `*`, `?` or `[…]`; a file of just that name comes first.
        there: what to name where nothing is found: the files that could be meant.

    Raises:
        DataError: no such file.
    """
    file = folder / split
    if file.is_file():
        return [file]
    names = sorted(glob.glob(split, root_dir=folder))  # noqa: PTH207 - Path.glob takes hidden files, too
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        said = "no file fits this pattern" if glob.has_magic(split) else "no such file"
        listed = ", ".join(sorted(there)) or "no files of rows"
        raise DataError(f"{file}: {said}; {folder} has {listed}. Set dataset.path and dataset.splits")
    return found


R = TypeVar("R", bound=FileRows)


class Joined(Generic[R]):
    """The first rows of several files.

    Args:
        files: in the order of their rows.
        open_file: reads at most as many rows of one as it is told.
        limit: how many rows are used; None uses all. Files behind the last of them are not opened.
    """

    def __init__(self, files: Sequence[Path], open_file: Callable[[Path, int | None], R], limit: int | None) -> None:
        self.files, self.parts = files, list[tuple[Path, R]]()
        left = limit
        for file in files:
            rows = open_file(file, left)
            self.parts.append((file, rows))
            left = None if left is None else left - len(rows)
            if left == 0:
                break
        self._ends = list(accumulate(len(rows) for _, rows in self.parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def named(self, pattern: Path) -> tuple[str, Callable[[int], str] | None]:
        """What messages call the split, and, where it has several files, what says in which one a row stands."""
        return (str(self.files[0]), None) if len(self.files) == 1 else (str(pattern), self._at)

    def read(self, index: int) -> Record:
        """One row."""
        part, number = self._find(index)
        return self.parts[part][1].read(number)

    def over(self, reads: Sequence[ReadRecord]) -> ReadRecord:
        """What reads any row, of what reads those of each file."""

        def read(index: int) -> Record:
            part, number = self._find(index)
            return reads[part](number)

        return read

    def refuse_other_columns(self, columns: Sequence[Mapping[str, object]]) -> None:
        """That all files have the columns of the first one, each with the same classes.

        Raises:
            DataError: names the first file that differs, and in what.
        """
        (first, _), mine = self.parts[0], columns[0]
        for (file, _), others in zip(self.parts, columns, strict=True):
            if others != mine:
                names = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
                raise DataError(
                    f"{file}: its columns differ from those of {first}: {', '.join(names)}. All files of a "
                    "split have the same columns and classes; repair them, or set dataset.splits to a narrower pattern"
                )

    def _at(self, index: int) -> str:
        part, number = self._find(index)
        return f"{self.parts[part][0]}, row {number}"

    def _find(self, index: int) -> tuple[int, int]:
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)
