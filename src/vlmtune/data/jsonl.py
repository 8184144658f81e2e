"""JSON files: one row per line, an array of rows, or an object that holds rows; with columns, or chat rows.

Images are paths relative to `path`, or base64 (a `data:` URL or bare). Every split names a file in the folder `path`,
or several by a pattern. Memory holds byte offsets only: a row is read on access. Files may be gzipped or in UTF-16.
"""

from vlmtune.data import DatasetConfig, Splits
from vlmtune.data._file_shards import FileShards
from vlmtune.data._image_refs import folder_images
from vlmtune.data._json import ENDINGS, JsonRows
from vlmtune.data._records import Records
from vlmtune.data._remote_files import Folder
from vlmtune.data._rows import MappedRows


class Config(DatasetConfig):
    """JSONL or JSON files in a folder."""

    source: str = "jsonl"
    """The source."""

    path: str
    """Folder of the files; image paths are relative to it and must stay inside it. May be a folder of an object store
    (`s3://bucket/folder`, `gs://`, `hf://`), whose rows then hold their images."""

    splits: Splits = Splits(train="train.jsonl", validation="validation.jsonl", test="test.jsonl")
    """File with the rows of each role: one JSON object per line, one array of objects or arrays, or one object that
    holds rows; also gzipped. A pattern (`train-*.jsonl`) takes all matching files, sorted by name."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open the rows of one split.

    Raises:
        DataError: a file is missing, or a row is not a JSON object; names file and line.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The records of a split, before columns are mapped to roles."""
    folder = Folder(config.path)
    files = folder.find(split, ENDINGS)
    rows = FileShards(files, lambda file, remaining: JsonRows(folder.fetch(file), remaining), limit)
    images = folder_images(config, folder.local)
    where, locate = rows.names(folder.local / split)

    def place(index: int) -> str:
        file, shard, row = rows.find(index)
        return f"{file}:{shard.line(row)}"

    return images.records(where, len(rows), rows.read, locate=locate, place=place)
