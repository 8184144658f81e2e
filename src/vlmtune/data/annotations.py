"""Annotations as public datasets and labelling tools write them, without conversion: COCO, VQA, YOLO and others.

Every format gives rows with the same columns: id, image, question, references, boxes, labels, split, group and kind,
as far as it has them. Rows of one image are already joined. They are converted once, into the cache.
"""

import functools
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlmtune.data import DatasetConfig, _download
from vlmtune.data._annotations import FOLDERS, READERS, Folder, Format, Row
from vlmtune.data._file_shards import find_files
from vlmtune.data._image_refs import folder_images
from vlmtune.data._records import ReadRecord, Record, Records
from vlmtune.data._rows import MappedRows
from vlmtune.data._tables import ArrowRows, map_arrow, write_arrow
from vlmtune.errors import DataError
from vlmtune.hub import cache_file

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 3
"""Of the rows in the cache; raise it when a reader changes."""

BATCH_ROWS = 1024


class Config(DatasetConfig):
    """Annotations of other tools."""

    source: str = "annotations"
    """The source."""

    path: str
    """Folder of the dataset: annotations and images lie below it."""

    format: Format
    """Format of the annotations: `coco` (captions or boxes), `vqa` (pairs of questions and annotations), `karpathy`
    (`dataset_flickr8k.json`), `captions` (an image and a text per line: Kaggle's `captions.txt`, Flickr30k's
    `results.csv`, `Flickr8k.token.txt`, `labels.txt`), `label_studio` (JSON or JSON-MIN), `cvat` (for images 1.1); with
    a file per image, so that a split is a folder and `.` the whole dataset: `yolo`, `voc`, `sidecar` (a text or JSON
    file beside an image or in another folder)."""

    sidecars: str | None = None
    """Pattern of the files with texts for `sidecar`, where several fit an image: `key/*.json`."""

    rows_per: Literal["image", "label"] = "image"
    """What a row of boxes is: an image with all its `boxes` and their `labels`, or each label of an image as a
    `question` with its boxes, as the task grounding asks."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open the rows of one split: a file, a pattern or, where every image has a file of its own, a folder.

    Raises:
        DataError: a file is missing or not in the format; names file, line or entry.
        EnvironmentProblem: a file cannot be read, or the cache's disk is full.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The records of a split, before columns are mapped to roles."""
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set dataset.path")
    roots = [str(Path(each).expanduser()) for each in config.image_roots]
    folder = Folder(root, roots, find_images=config.image_path is None, sidecars=config.sidecars)
    rows = _open_rows(config, _parts(config, root, split), folder, limit)
    images = folder_images(config, root)
    locations = rows.select(["where"])

    def select(columns: list[str]) -> ReadRecord:
        return _usable(rows.select([*columns, "problem"]))

    where = f"{root / split}" if split != "." else str(root)
    return images.records(
        where, len(rows), _usable(rows.read), select=select, locate=lambda index: f"{root}/{locations(index)['where']}"
    )


def _parts(config: Config, root: Path, split: str) -> list[Path]:
    """The files of a split, or its folder."""
    if config.format not in FOLDERS:
        candidates = [file.name for file in root.glob("*") if file.is_file() and not file.name.startswith(".")]
        return find_files(root, split, candidates[:20])
    if not (root / split).is_dir():
        present = ", ".join(sorted(each.name for each in root.glob("*") if each.is_dir())) or "no folders"
        raise DataError(f"{root / split}: no such folder; {root} has {present}. Set dataset.path and dataset.splits")
    return [root / split]


def _usable(read: ReadRecord) -> ReadRecord:
    """The records without the columns they lack; one that cannot be used raises."""

    def read_usable(index: int) -> Record:
        record = read(index)
        if record.get("problem") is not None:
            raise DataError(record["problem"])
        return {key: value for key, value in record.items() if value is not None and key != "where"}

    return read_usable


def _open_rows(config: Config, parts: list[Path], folder: Folder, limit: int | None) -> ArrowRows:
    settings = [VERSION, config.format, config.rows_per, folder.find_images, folder.sidecars]
    key = [*settings, str(folder.root.resolve()), [folder.name(part) for part in parts], _state(folder)]
    build = functools.partial(_convert, config, parts, folder)
    cached = _download.build_once(cache_file("rows", key, ".arrow"), build)
    rows = map_arrow(cached, str(folder.root), limit, trusted=True)
    assert rows is not None, "our own files are not compressed"
    return rows


def _state(folder: Folder) -> list[Any]:
    """Every file of the dataset; size and time of those that are no images, which only their names tell apart."""
    images = set(folder.images)
    stats = {path: (folder.root / path).stat() for path in folder.files if path not in images}
    annotations = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()]
    return [annotations, folder.images]


def _schema() -> "pa.Schema":
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    kinds = {"references": texts, "labels": texts, "boxes": pa.list_(pa.list_(pa.float64()))}
    return pa.schema([(name, kinds.get(name, text)) for name in Row.__annotations__])


def _convert(config: Config, parts: list[Path], folder: Folder, building: Path) -> None:
    """Write the rows as an Arrow file."""
    import pyarrow as pa

    schema = _schema()
    rows = chain.from_iterable(READERS[config.format](part, folder) for part in parts)
    if config.rows_per == "label":
        rows = chain.from_iterable(map(_by_label, rows))
    storable = map(_storable, rows)
    batches = iter(lambda: list(islice(storable, BATCH_ROWS)), [])
    write_arrow(building, schema, (pa.RecordBatch.from_pylist(batch, schema) for batch in batches))


def _storable(row: Row) -> Row:
    """The row, or why its text is none: half a surrogate pair."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        where = row["where"].encode(errors="backslashreplace").decode()
        return Row(where=where, problem=f"{where}: contains half a surrogate pair, not a character; repair the row")
    return row


def _by_label(row: Row) -> Iterator[Row]:
    """A row for every label of an image, in the order of their first boxes."""
    if "problem" in row:
        yield row
        return
    of_label: dict[str, list[list[float]]] = {}
    for label, box in zip(row.get("labels", []), row.get("boxes", []), strict=False):
        of_label.setdefault(label, []).append(box)
    for label, boxes in of_label.items():
        only = Row(**{**row, "question": label, "boxes": boxes, "labels": [label] * len(boxes)})
        yield Row(**{**only, "id": f"{row['id']}/{label}"}) if "id" in row else only
