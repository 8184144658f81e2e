"""JSON files: a row per line, or one array of rows; rows with columns, or chat rows with turns and images.

Images are paths beside the file, or base64 (a `data:` URL or bare). Every split names a file in the folder `path`, or
several as a pattern.
Only byte offsets are kept in memory: a row is read when it is asked for.
"""

from pathlib import Path

from vlmtune.data import DatasetConfig, Splits
from vlmtune.data._download import Remote
from vlmtune.data._file_shards import Joined, files_of
from vlmtune.data._image_refs import Pictures
from vlmtune.data._json import JsonRows
from vlmtune.data._rows import MappedRows, Records

ENDINGS = (".jsonl", ".json")


class Config(DatasetConfig):
    """JSONL or JSON files in a folder."""

    source: str = "jsonl"
    """The source."""

    path: str
    """Folder with the files; image paths are relative to it and may not leave it."""

    splits: Splits = Splits(train="train.jsonl", validation="validation.jsonl", test="test.jsonl")
    """File name of each role's rows: a JSON object per line, or one JSON array of objects. A pattern (`train-*.jsonl`)
    takes all files that fit, in the order of their names."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open the rows of one split.

    Raises:
        DataError: a file is missing, or a row is not a JSON object; names file and line.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The split's records, before their columns have roles."""
    folder = Path(config.path).expanduser()
    there = [file.name for file in folder.glob("*") if file.suffix.lower() in ENDINGS]
    rows = Joined(files_of(folder, split, there), JsonRows, limit)
    pictures = Pictures(
        [str(folder)], f"{folder}; image paths must stay inside the dataset's folder", Remote(config.remote_images)
    )
    where, at = rows.named(folder / split)
    return Records(where, len(rows), rows.read, pictures.open, pictures.file, at=at)
