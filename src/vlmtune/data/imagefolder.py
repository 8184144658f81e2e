"""Folders of images or videos: `split/label/image.jpg`, or with a table `split/metadata.csv` or `.jsonl`.

With a table its lines are the rows, and `file_name` is the path of each image relative to the table. Without one every
image is a row with the columns image, label (its folder) and file_name, sorted by the hash of its path: a limit then
takes some of every label, and a new image moves no other. Of a video, the column is video in place of image.
"""

import fnmatch
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vlmtune.data import DatasetConfig
from vlmtune.data._image_refs import DESCRIPTIONS, ENDINGS, folder_images
from vlmtune.data._json import JsonRows
from vlmtune.data._records import Record, Records
from vlmtune.data._rows import MappedRows
from vlmtune.data._tables import ArrowRows, open_table
from vlmtune.errors import DataError, EnvironmentProblem
from vlmtune.videos import FILE_ENDINGS

TABLES = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"


class Config(DatasetConfig):
    """A folder of images."""

    source: str = "imagefolder"
    """The source."""

    path: str
    """Folder with one subfolder per split."""

    ignore: list[str] = []
    """Files to ignore, as patterns of their paths in the folder of the split: `*.txt`, `old/*`. Those that describe a
    dataset (README, LICENSE, CHANGELOG, classes.txt) are no rows in any case."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open the folder of one split.

    Raises:
        DataError: no such folder, files that are neither images nor ignored, or a table that cannot be read.
        EnvironmentProblem: a folder cannot be read.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The records of a split, before columns are mapped to roles."""
    root = Path(config.path).expanduser()
    folder = root / split
    if not folder.is_dir():
        present = ", ".join(sorted(p.name for p in root.glob("*") if p.is_dir())) or "no folders"
        raise DataError(f"{folder}: no such folder; {root} has {present}. Set dataset.path and dataset.splits")
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{folder} has {' and '.join(TABLES)}; keep the one with its rows")
    where = f"{root} [{split}]"
    if tables:
        table = JsonRows(tables[0], limit) if tables[0].suffix == ".jsonl" else open_table(tables[0], None, limit)
        count, read = len(table), _TableRows(table, str(tables[0]), split).read
    else:
        rows = _ImageRows(_image_paths(folder, config.ignore)[:limit], split)
        count, read = len(rows.paths), rows.read
    images = folder_images(config, root)
    return images.records(where, count, read)


class _TableRows:
    """One row per line of the table."""

    def __init__(self, table: ArrowRows | JsonRows, where: str, split: str) -> None:
        self._table, self._where, self._split = table, where, split

    def read(self, index: int) -> Record:
        record = self._table.read(index)
        name = record.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            raise DataError(f"{self._where}, row {index}: {FILE_NAME} must name the row's image (got {name!r:.60})")
        return {_column(name): str(PurePosixPath(self._split, name)), **record}


class _ImageRows:
    """One row per image."""

    def __init__(self, paths: list[str], split: str) -> None:
        self.paths, self._split = paths, split

    def read(self, index: int) -> Record:
        path = PurePosixPath(self.paths[index])
        label = path.parent.name or None
        return {_column(path.name): str(PurePosixPath(self._split, path)), "label": label, FILE_NAME: str(path)}


def _column(name: str) -> str:
    return "video" if name.lower().endswith(FILE_ENDINGS) else "image"


def _image_paths(folder: Path, ignore: list[str]) -> list[str]:
    """Paths of all images relative to the folder, or of all videos if there are no images, sorted by their hashes.

    Raises:
        DataError: there are other files; counts them and names some.
    """
    files = [path for path in _files(folder) if not _is_ignored(path, ignore)]
    kinds = {"images": ENDINGS, "videos": FILE_ENDINGS}
    kind = next((kind for kind, endings in kinds.items() if any(_ends(path, endings) for path in files)), "images")
    paths = [path for path in files if _ends(path, kinds[kind])]
    described = (path for path in files if DESCRIPTIONS.fullmatch(PurePosixPath(path).name))
    others = sorted(set(files) - {*paths, *described})
    if others:
        shown = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        raise DataError(
            f"{folder}: {len(others)} of {len(others) + len(paths)} files are not {kind}: {shown}. "
            'Move them elsewhere, or list them in dataset.ignore, as ["*.txt"]'
        )
    return sorted(paths, key=lambda path: hashlib.sha256(path.encode(errors="surrogateescape")).digest())


def _is_ignored(path: str, ignore: list[str]) -> bool:
    """Whether a pattern matches a path, that of a link to a folder with or without the / at its end."""
    names = {path, path.removesuffix("/")}
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore for name in names)


def _ends(path: str, endings: tuple[str, ...]) -> bool:
    """Whether a path is a file with one of some endings; that of a link to a folder ends in /."""
    return path.lower().endswith(endings)


def _files(folder: Path) -> Iterator[str]:
    """The path of every file that is not hidden; links to folders are not followed, and end in /."""

    def refuse(error: OSError) -> None:
        raise EnvironmentProblem(f"{error.filename}: {error.strerror}; check that you may read it")

    for inside, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [f"{name}/" for name in folders if Path(inside, name).is_symlink()]
        at = Path(inside).relative_to(folder)
        yield from (f"{at / name}{'/' * name.endswith('/')}" for name in [*links, *files] if not name.startswith("."))
