"""Folders of pictures: `split/label/picture.jpg`, or pictures and a table `split/metadata.csv` or `.jsonl`.

With a table its lines are the rows, and `file_name` names each one's picture, relative to the table. Without one every
picture is a row with the columns image, label (the folder it lies in) and file_name, in an order drawn from the hash of
its name: so a limit takes of every label, and a new picture moves no other.
"""

import fnmatch
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vlmtune.data import DatasetConfig
from vlmtune.data._download import Remote
from vlmtune.data._image_refs import ENDINGS, Pictures
from vlmtune.data._json import JsonRows
from vlmtune.data._rows import MappedRows, Record, Records
from vlmtune.data._tables import ArrowRows, open_table
from vlmtune.errors import DataError, EnvironmentProblem

TABLES = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"


class Config(DatasetConfig):
    """A folder of pictures."""

    source: str = "imagefolder"
    """The source."""

    path: str
    """Folder with one folder per split."""

    ignore: list[str] = []
    """Files in a split's folder that are no rows, as patterns of their paths in it: `*.txt`, `old/*`."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open the folder of one split.

    Raises:
        DataError: there is no such folder; files in it are neither pictures nor ignored; its table cannot be read.
        EnvironmentProblem: a folder may not be read.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The folder's records, before their columns have roles."""
    root = Path(config.path).expanduser()
    folder = root / split
    if not folder.is_dir():
        there = ", ".join(sorted(p.name for p in root.glob("*") if p.is_dir())) or "no folders"
        raise DataError(f"{folder}: no such folder; {root} has {there}. Set dataset.path and dataset.splits")
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{folder}: has {' and '.join(TABLES)}; keep the one that holds its rows")
    where = f"{root} [{split}]"
    if tables:
        table = JsonRows(tables[0], limit) if tables[0].suffix == ".jsonl" else open_table(tables[0], None, limit)
        count, read = len(table), _Described(table, str(tables[0]), split).read
    else:
        pictures = _Pictures(_pictures(folder, config.ignore)[:limit], split)
        count, read = len(pictures.names), pictures.read
    values = Pictures([str(root)], f"{root}; pictures must stay inside the folder", Remote(config.remote_images))
    return Records(where, count, read, values.open, values.file)


class _Described:
    """Rows of a table that names pictures beside it."""

    def __init__(self, table: ArrowRows | JsonRows, where: str, split: str) -> None:
        self._table, self._where, self._split = table, where, split

    def read(self, index: int) -> Record:
        record = self._table.read(index)
        name = record.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            raise DataError(f"{self._where}, row {index}: {FILE_NAME} must name the row's picture (got {name!r:.60})")
        return {"image": str(PurePosixPath(self._split, name)), **record}


class _Pictures:
    """A row per picture."""

    def __init__(self, names: list[str], split: str) -> None:
        self.names, self._split = names, split

    def read(self, index: int) -> Record:
        name = PurePosixPath(self.names[index])
        label = name.parent.name or None
        return {"image": str(PurePosixPath(self._split, name)), "label": label, FILE_NAME: str(name)}


def _pictures(folder: Path, ignore: list[str]) -> list[str]:
    """Paths of all pictures, relative to the folder, in an order drawn from the hash of each.

    Raises:
        DataError: something else lies there; counts and names it.
    """
    names: list[str] = []
    others: list[str] = []
    for name, is_picture in _files(folder):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
            (names if is_picture else others).append(name)
    if others:
        shown = ", ".join(sorted(others)[:5]) + (", …" if len(others) > 5 else "")
        raise DataError(
            f"{folder}: {len(others)} of {len(others) + len(names)} files are no pictures: {shown}. "
            'Move them away, or name them in dataset.ignore, as ["*.txt"]'
        )
    return sorted(names, key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).digest())


def _files(folder: Path) -> Iterator[tuple[str, bool]]:
    """Path of every file that is not hidden, and whether it is a picture; a link to a folder is none."""

    def refuse(error: OSError) -> None:
        raise EnvironmentProblem(f"{error.filename}: {error.strerror}; allow vlmtune to read it")

    for inside, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(inside, name).is_symlink()]
        for name in [*links, *files]:
            if not name.startswith("."):
                path = Path(inside, name).relative_to(folder).as_posix()
                yield path, name not in links and name.lower().endswith(ENDINGS)
