"""A split in one file, or in several (shards) whose names match a pattern, concatenated in the order of their names."""

import glob
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from vlmtune.data._records import ReadRecord, Record, names_text
from vlmtune.errors import DataError


class FileRows(Protocol):
    """The rows of one file."""

    def __len__(self) -> int: ...

    def read(self, index: int, /) -> Record:
        """One row."""


def find_files(folder: Path, split: str, candidates: Sequence[str]) -> list[Path]:
    """The file that a split names, or those that match it as a pattern, sorted by name.

    Args:
        folder: where the files are.
        split: path of a file in the folder, or a pattern with `*`, `?` or `[…]`; a file of exactly that name wins.
        candidates: files that could be meant, for the error message.

    Raises:
        DataError: there is no such file.
    """
    file = folder / split
    if file.is_file():
        return [file]
    names = sorted(glob.glob(split, root_dir=folder))  # noqa: PTH207 - Path.glob matches hidden files as well
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        problem = "no file matches this pattern" if glob.has_magic(split) else "no such file"
        listed = names_text(sorted(candidates)) if candidates else "no files with rows"
        raise DataError(f"{file}: {problem}; {folder} has {listed}. Set dataset.path and dataset.splits")
    return files


R = TypeVar("R", bound=FileRows)


class FileShards(Generic[R]):
    """The first rows of several files, as one sequence.

    Args:
        files: in the order of their rows.
        open_file: opens a file with at most the given number of rows.
        limit: number of rows used, None for all. Files after the last used row are not opened.
    """

    def __init__(self, files: Sequence[Path], open_file: Callable[[Path, int | None], R], limit: int | None) -> None:
        self.files, self.shards = files, list[tuple[Path, R]]()
        remaining = limit
        for file in files:
            rows = open_file(file, remaining)
            self.shards.append((file, rows))
            remaining = None if remaining is None else remaining - len(rows)
            if remaining == 0:
                break
        self._ends = list(accumulate(len(rows) for _, rows in self.shards))

    def __len__(self) -> int:
        return self._ends[-1]

    def names(self, pattern: Path) -> tuple[str, Callable[[int], str] | None]:
        """The split's name in messages and, for several files, a function that names the file of a row."""
        return (str(self.files[0]), None) if len(self.files) == 1 else (str(pattern), self._locate)

    def read(self, index: int) -> Record:
        """One row."""
        shard, row = self._find(index)
        return self.shards[shard][1].read(row)

    def join(self, reads: Sequence[ReadRecord]) -> ReadRecord:
        """One reader for all rows from one reader per file."""

        def read(index: int) -> Record:
            shard, row = self._find(index)
            return reads[shard](row)

        return read

    def check_columns(self, columns: Sequence[Mapping[str, object]]) -> None:
        """Check that all files have the same columns with the same classes.

        Args:
            columns: of every file, {column: classes}.

        Raises:
            DataError: names the first file that differs, and the columns.
        """
        (first, _), expected = self.shards[0], columns[0]
        for (file, _), found in zip(self.shards, columns, strict=True):
            if found != expected:
                names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
                raise DataError(
                    f"{file}: its columns differ from those of {first}: {names_text(names)}. All files of a split need "
                    "the same columns and classes; repair them, or set dataset.splits to a narrower pattern"
                )

    def find(self, index: int) -> tuple[Path, R, int]:
        """The file of a row, its rows, and the index of the row among them."""
        shard, row = self._find(index)
        return *self.shards[shard], row

    def _locate(self, index: int) -> str:
        file, _, row = self.find(index)
        return f"{file}, row {row}"

    def _find(self, index: int) -> tuple[int, int]:
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)
