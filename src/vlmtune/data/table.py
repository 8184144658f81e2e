"""CSV, TSV, Parquet, Arrow and Feather files in a folder: one per split, or several that fit a pattern.

Images are paths beside the file, base64, or what `datasets` writes: bytes, or a struct of bytes and path. A cell of CSV
is text, whatever it looks like: "007" stays "007".
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vlmtune.data import DatasetConfig, Splits
from vlmtune.data._download import Remote
from vlmtune.data._file_shards import Joined, files_of
from vlmtune.data._image_refs import Pictures
from vlmtune.data._rows import MappedRows, ReadRecord, Records
from vlmtune.data._tables import ENDINGS, open_table
from vlmtune.errors import DataError


class Config(DatasetConfig):
    """Tables in a folder."""

    source: str = "table"
    """The source."""

    path: str
    """Folder with the files; image paths are relative to it and may not leave it."""

    splits: Splits = Splits(train="train.csv", validation="validation.csv", test="test.csv")
    """File name of each role's rows; its ending says the format: .csv, .tsv, .parquet, .arrow or .feather. A pattern
    (`train-*.parquet`) takes all files that fit, in the order of their names."""

    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What stands between the cells of a CSV file; null takes a comma for .csv and a tab for .tsv."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open the rows of one split.

    Raises:
        DataError: a file is missing or cannot be read; names file and, in CSV, row and line. The files of the split
            have different columns.
        EnvironmentProblem: there is no room for it in the cache.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The split's records, before their columns have roles."""
    folder = Path(config.path).expanduser()
    tables = [file.name for file in folder.glob("*") if file.suffix.lower() in ENDINGS]
    files = files_of(folder, split, tables)
    for file in files:
        if file.suffix.lower() not in ENDINGS:
            raise DataError(f"{file}: a table's name ends in {', '.join(ENDINGS)}; set dataset.splits")
    rows = Joined(files, lambda file, left: open_table(file, config.separator, left), limit)
    parts = [part for _, part in rows.parts]
    classes = parts[0].labels.names
    rows.refuse_other_columns([{name: part.labels.names.get(name, []) for name in part.columns} for part in parts])
    pictures = Pictures(
        [str(folder)], f"{folder}; image paths must stay inside the dataset's folder", Remote(config.remote_images)
    )

    def narrow(columns: list[str]) -> ReadRecord:
        return rows.over([part.narrow(columns) for part in parts])

    where, at = rows.named(folder / split)
    return Records(where, len(rows), rows.read, pictures.open, pictures.file, narrow, classes, at)
