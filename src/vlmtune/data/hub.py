"""Datasets on the Hugging Face Hub, or in a local folder that `datasets` understands. Images stay undecoded.

A row may name an image file instead of holding the image. Only files below the dataset's folder and the caches of
`datasets` and the Hub are read: rows are data, and must not point to other files of this machine. Class numbers become
class names.
"""

from pathlib import Path
from typing import Any

from vlmtune.data import DatasetConfig
from vlmtune.data._download import RemoteImages, errors_named
from vlmtune.data._image_refs import ImageValues
from vlmtune.data._labels import ClassLabels
from vlmtune.data._records import ReadRecord, Records
from vlmtune.data._rows import MappedRows
from vlmtune.data._tables import stream_table
from vlmtune.errors import DataError


class Config(DatasetConfig):
    """A dataset on the Hub."""

    source: str = "hub"
    """The source."""

    path: str
    """Name on the Hub (`org/name`), or a local folder of data files."""

    name: str | None = None
    """Configuration of the dataset, if it has several."""

    revision: str | None = None
    """Branch, tag or commit on the Hub."""

    stream: bool = False
    """Download only the rows that `limit` asks for instead of all files, for datasets that are too large. They are
    cached by dataset, revision, split and limit."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open one split; the first `limit` rows in dataset order.

    Raises:
        EnvironmentProblem: the Hub cannot be reached or requires a login, or the disk is full.
        DataError: no such dataset, folder, configuration, revision, split or column; files that cannot be read.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The records of a split, before columns are mapped to roles."""
    _check_path(config.path)
    where = f"{config.path} [{split}]"
    images = ImageValues(
        _roots(config),
        "the dataset's folder and the download caches; store the images in the dataset or below dataset.path",
        RemoteImages(config.remote_images),
        texts=False,
    )
    if config.stream:
        rows = stream_table(config.path, config.name, config.revision, split, limit)
        read, select, count, labels = rows.read, rows.select, len(rows), rows.labels
    else:
        table = _table(config, split, limit)
        labels = ClassLabels(table.features.to_dict(), where)
        read, count = labels.named(table.__getitem__), len(table)

        def select(columns: list[str]) -> ReadRecord:
            return labels.named(table.select_columns(columns).__getitem__)

    read = _with_relative_paths(read, config.path)
    return images.records(where, count, read, select=select, class_names=labels.names)


def _table(config: Config, split: str, limit: int | None) -> Any:
    """The split as `datasets` loads it, with undecoded images."""
    import datasets

    datasets.disable_progress_bars()
    with errors_named(config.path, config.name, config.revision):
        table = datasets.load_dataset(config.path, config.name, split=split, revision=config.revision)
    if limit is not None:
        table = table.select(range(min(limit, len(table))))
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image | datasets.Video):
            table = table.cast_column(column, type(feature)(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            table = table.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return table


def _check_path(path: str) -> None:
    folder = Path(path)
    if folder.is_file():
        raise DataError(f"dataset.path {path!r} is a file; name the folder that contains it, and set dataset.splits")
    # A path that looks like one, or has more parts than a name on the Hub, can only mean a folder.
    is_local = "://" not in path and (path.startswith((".", "~")) or folder.is_absolute() or path.count("/") > 1)
    if is_local and not folder.exists():
        raise DataError(f"dataset.path {path!r}: no such folder; a name on the Hub looks like org/name")


def _with_relative_paths(read: ReadRecord, path: str) -> ReadRecord:
    """Records with image paths relative to the dataset's folder, for images that lie in it."""
    if not Path(path).is_dir():
        return read
    root = Path(path).resolve()

    def relative(value: Any) -> Any:
        if isinstance(value, list):
            return [relative(item) for item in value]
        file = value.get("path") if isinstance(value, dict) and not value.get("bytes") else None
        if not isinstance(file, str) or not Path(file).is_absolute() or not Path(file).is_relative_to(root):
            return value
        return {**value, "path": Path(file).relative_to(root).as_posix()}

    return lambda index: {column: relative(value) for column, value in read(index).items()}


def _roots(config: Config) -> list[str]:
    """Folders below which a row may name a file: the dataset's own first, then the download caches."""
    import datasets
    import huggingface_hub.constants as hub

    paths = datasets.config
    caches = (paths.HF_DATASETS_CACHE, paths.DOWNLOADED_DATASETS_PATH, paths.EXTRACTED_DATASETS_PATH, hub.HF_HUB_CACHE)
    named = [str(Path(root).expanduser()) for root in config.image_roots]
    return [*([config.path] if Path(config.path).is_dir() else []), *map(str, caches), *named]
