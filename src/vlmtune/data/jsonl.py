"""JSON files: a row per line, or one array of rows; rows with columns, or chat rows with turns and images.

Images are paths beside the file, or base64 (a `data:` URL or bare). Every split names a file in the folder `path`.
Only byte offsets are kept in memory: a row is read when it is asked for.
"""

from pathlib import Path

from vlmtune.data import DatasetConfig, Splits
from vlmtune.data._json import JsonRows
from vlmtune.data._pictures import Pictures
from vlmtune.data._remote import Remote
from vlmtune.data._rows import MappedRows, Records
from vlmtune.errors import DataError


class Config(DatasetConfig):
    """JSONL or JSON files in a folder."""

    source: str = "jsonl"
    """The source."""

    path: str
    """Folder with one file per split; image paths are relative to it and may not leave it."""

    splits: Splits = Splits(train="train.jsonl", select="validation.jsonl", test="test.jsonl")
    """File name of each role's rows: a JSON object per line, or one JSON array of objects."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open one file.

    Raises:
        DataError: the file is missing, or a row is not a JSON object; names file and line.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The file's records, before their columns have roles."""
    folder = Path(config.path)
    file = folder / split
    if not file.is_file():
        there = ", ".join(sorted(p.name for p in folder.glob("*.json*"))) or "no .jsonl files"
        raise DataError(f"{file}: no such file; {folder} has {there}. Set dataset.path and dataset.splits")
    rows = JsonRows(file, limit)
    pictures = Pictures(
        [config.path], f"{folder}; image paths must stay inside the dataset's folder", Remote(config.remote_images)
    )
    return Records(str(file), len(rows), rows.read, pictures.open, pictures.file)
