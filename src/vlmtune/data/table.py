"""CSV, TSV, Excel, Parquet, Arrow and Feather files in a folder: one per split, or several that match a pattern.

Images are paths relative to `path`, base64, or what `datasets` writes: bytes, or a struct of bytes and path. CSV values
are always text: "007" stays "007". CSV may be gzipped.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from vlmtune.data import DatasetConfig, Splits
from vlmtune.data._file_shards import FileShards
from vlmtune.data._image_refs import folder_images
from vlmtune.data._records import ReadRecord, Records
from vlmtune.data._remote_files import Folder
from vlmtune.data._rows import MappedRows
from vlmtune.data._tables import ENDINGS, ArrowRows, open_table
from vlmtune.data._text import ending
from vlmtune.errors import DataError


def _one_character(text: str) -> str:
    if len(text) != 1:
        raise PydanticCustomError("separator", "must be one character, such as ; (got {got})", {"got": repr(text[:20])})
    return text


Separator = Annotated[str, AfterValidator(_one_character)]


class Config(DatasetConfig):
    """Tables in a folder."""

    source: str = "table"
    """The source."""

    path: str
    """Folder of the files; image paths are relative to it and must stay inside it. May be a folder of an object store
    (`s3://bucket/folder`, `gs://`, `hf://`), whose rows then hold their images."""

    splits: Splits = Splits(train="train.csv", validation="validation.csv", test="test.csv")
    """File with the rows of each role, in the format of its ending: .csv, .tsv (also .csv.gz), .xlsx, .parquet, .arrow
    or .feather. A pattern (`train-*.parquet`) takes all matching files, sorted by name."""

    separator: Separator | None = None
    """Separator of the values in a CSV file; null means the one of a first line `sep=;`, else a comma for .csv and a
    tab for .tsv."""

    sheet: str | None = None
    """The sheet of an Excel file; null reads all that have rows, and a column `sheet` names them."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open the rows of one split.

    Raises:
        DataError: a file is missing or cannot be read; names file and, in CSV, row and line. The files of the split
            have different columns.
        EnvironmentProblem: the cache's disk is full.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The records of a split, before columns are mapped to roles."""
    folder = Folder(config.path)
    files = folder.find(split, ENDINGS)
    for file in files:
        if ending(file) not in ENDINGS:
            raise DataError(f"{file}: a table must end in {', '.join(ENDINGS)}; set dataset.splits")

    def opened(file: Path, remaining: int | None) -> ArrowRows:
        return open_table(folder.fetch(file), config.separator, remaining, config.sheet)

    rows = FileShards(files, opened, limit)
    shards = [shard for _, shard in rows.shards]
    classes = shards[0].labels.names
    rows.check_columns([{name: shard.labels.names.get(name, []) for name in shard.columns} for shard in shards])
    images = folder_images(config, folder.local)

    def select(columns: list[str]) -> ReadRecord:
        return rows.join([shard.select(columns) for shard in shards])

    where, locate = rows.names(folder.local / split)
    return images.records(where, len(rows), rows.read, select=select, class_names=classes, locate=locate)
