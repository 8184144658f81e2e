"""Tar files of WebDataset: members with one key are a row, as `000.jpg`, `000.txt` and `000.json`.

A member is the column of its ending: an image is `image`, a video `video`, `.txt` is `text`, `.cls` is `label`, and the
keys of an object in `.json` are columns of their own. Members stay in the tar; memory holds where they are.
"""

import json
import tarfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vlmtune.data import DatasetConfig, Splits
from vlmtune.data._file_shards import FileShards
from vlmtune.data._image_refs import ENDINGS, folder_images, open_readable
from vlmtune.data._records import ReadRecord, Record, Records
from vlmtune.data._remote_files import Folder
from vlmtune.data._rows import MappedRows
from vlmtune.data._spilled import StringArray
from vlmtune.data._text import unzipped
from vlmtune.errors import DataError
from vlmtune.json_values import MAX_DEPTH, is_deep
from vlmtune.videos import FILE_ENDINGS

KEY = "key"
COLUMNS = {"txt": "text", "cls": "label"}
TAR = ".tar"


class Config(DatasetConfig):
    """Tar files in a folder."""

    source: str = "webdataset"
    """The source."""

    path: str
    """Folder of the files; may be one of an object store (`s3://bucket/folder`, `gs://`, `hf://`)."""

    splits: Splits = Splits(train="train-*.tar", validation="validation-*.tar", test="test-*.tar")
    """Tar file with the rows of each role, or a pattern for several, sorted by name."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open the rows of one split.

    Raises:
        DataError: a file is missing, or no tar file; names it.
        EnvironmentProblem: a file cannot be read.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The records of a split, before columns are mapped to roles."""
    folder = Folder(config.path)
    files = folder.find(split, [TAR])
    rows = FileShards(files, lambda file, remaining: TarRows(folder.fetch(file), remaining), limit)
    images = folder_images(config, folder.local)

    def select(columns: list[str]) -> ReadRecord:
        return rows.join([shard.select(columns) for _, shard in rows.shards])

    where, locate = rows.names(folder.local / split)
    return images.records(where, len(rows), rows.read, select=select, locate=locate)


class TarRows:
    """The rows of one tar file: for each member its column, offset and size."""

    def __init__(self, file: Path, limit: int | None = None) -> None:
        self._file, self._tar = file, unzipped(file)
        self._keys, self._columns = StringArray(), dict[str, int]()
        self._ends, self._names = array("q"), array("q")
        self._starts, self._sizes = array("q"), array("q")
        for key, column, start, size in self._members():
            if not len(self._keys) or self._keys[-1] != key:
                if len(self._keys) == limit:
                    break
                self._keys.append(key)
                self._ends.append(self._ends[-1] if self._ends else 0)
            self._names.append(self._columns.setdefault(column, len(self._columns)))
            self._starts.append(start)
            self._sizes.append(size)
            self._ends[-1] += 1

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, index: int) -> Record:
        """One row."""
        return self._read(index, None)

    def select(self, columns: list[str]) -> ReadRecord:
        """A reader that reads no images except those in some columns."""
        return lambda index: self._read(index, set(columns))

    def _members(self) -> Iterator[tuple[str, str, int, int]]:
        """(key, column, offset, size) of every file that is not hidden, in the order of the tar."""
        try:
            with tarfile.open(self._tar, "r:") as archive:
                for member in archive:
                    path = PurePosixPath(member.name)
                    stem, dot, ending = path.name.partition(".")
                    if member.isreg() and not member.sparse and stem and dot and ending:
                        yield str(path.parent / stem), _column(ending.lower()), member.offset_data, member.size
        except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError, RecursionError) as error:
            raise DataError(
                f"{self._file}: not a readable tar file ({error!s:.100}); unpack gzip, or copy it again"
            ) from None

    def _read(self, index: int, columns: set[str] | None) -> Record:
        record: dict[str, Any] = {KEY: self._keys[index]}
        names, at = list(self._columns), f"{self._file}, row {index}"
        with open_readable(self._tar) as stream:
            for n in range(self._ends[index - 1] if index else 0, self._ends[index]):
                name = names[self._names[n]]
                is_image = not name.startswith(".")
                if is_image and columns is not None and name not in columns:
                    continue
                stream.seek(self._starts[n])
                data = stream.read(self._sizes[n])
                record |= {name: data} if is_image else _texts(name, data, at)
        return record


def _column(ending: str) -> str:
    """The column of an image or video, named as what is before its ending; "." and the ending of anything else."""
    before, _, last = ending.rpartition(".")
    kind = "image" if f".{last}" in ENDINGS else "video" if f".{last}" in FILE_ENDINGS else None
    return f".{ending}" if kind is None else before or kind


def _texts(name: str, data: bytes, at: str) -> Mapping[str, Any]:
    """The columns in a member that is no image: of a JSON object its keys, else one with the text."""
    column = name.removeprefix(".")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return {column: data}
    if not column.endswith("json"):
        return {COLUMNS.get(column, column): text.strip()}
    try:
        value = json.loads(text)
        if is_deep(value):
            raise RecursionError(f"nested deeper than {MAX_DEPTH} lists and objects")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at}, member {name}: not JSON: {error}") from None
    return value if isinstance(value, dict) else {column: value}
