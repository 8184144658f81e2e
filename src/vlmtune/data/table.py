"""CSV, TSV, Parquet, Arrow and Feather files: one per split, in a folder.

Images are paths beside the file, base64, or what `datasets` writes: bytes, or a struct of bytes and path. A cell of CSV
is text, whatever it looks like: "007" stays "007".
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vlmtune.data import DatasetConfig, Splits
from vlmtune.data._pictures import Pictures
from vlmtune.data._remote import Remote
from vlmtune.data._rows import MappedRows, Records
from vlmtune.data._tables import ENDINGS, open_table
from vlmtune.errors import DataError


class Config(DatasetConfig):
    """Tables in a folder."""

    source: str = "table"
    """The source."""

    path: str
    """Folder with one file per split; image paths are relative to it and may not leave it."""

    splits: Splits = Splits(train="train.csv", select="validation.csv", test="test.csv")
    """File name of each role's rows; its ending says the format: .csv, .tsv, .parquet, .arrow or .feather."""

    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What stands between the cells of a CSV file; null takes a comma for .csv and a tab for .tsv."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open one file.

    Raises:
        DataError: the file is missing or cannot be read; names file and, in CSV, row and line.
        EnvironmentProblem: there is no room for it in the cache.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The file's records, before their columns have roles."""
    folder = Path(config.path)
    file = folder / split
    if not file.is_file():
        there = ", ".join(sorted(p.name for p in folder.glob("*") if p.suffix in ENDINGS)) or "no tables"
        raise DataError(f"{file}: no such file; {folder} has {there}. Set dataset.path and dataset.splits")
    if file.suffix not in ENDINGS:
        raise DataError(f"{file}: a table's name ends in {', '.join(ENDINGS)}; set dataset.splits")
    rows = open_table(file, config.separator, limit)
    pictures = Pictures(
        [config.path], f"{folder}; image paths must stay inside the dataset's folder", Remote(config.remote_images)
    )
    return Records(str(file), len(rows), rows.read, pictures.open, pictures.file, rows.narrow, rows.labels.names)
