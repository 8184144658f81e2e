"""Datasets on the Hugging Face Hub, or in a local folder that `datasets` understands. Images stay undecoded.

A row may name an image file instead of holding the image. Only files below the dataset's own folder and the caches of
`datasets` and the Hub are read: rows are data, and no row may point into the rest of this machine. Numbers of classes
become the classes' names.
"""

from pathlib import Path
from typing import Any

from vlmtune.data import DatasetConfig
from vlmtune.data._download import Remote, errors_named
from vlmtune.data._image_refs import Pictures
from vlmtune.data._labels import Labels
from vlmtune.data._rows import MappedRows, ReadRecord, Records
from vlmtune.data._tables import streamed
from vlmtune.errors import DataError


class Config(DatasetConfig):
    """A dataset on the Hub."""

    source: str = "hub"
    """The source."""

    path: str
    """Name on the Hub (`org/name`), or a local folder of data files."""

    name: str | None = None
    """Configuration of the dataset, where it has several."""

    revision: str | None = None
    """Branch, tag or commit on the Hub."""

    stream: bool = False
    """Downloads only the rows that are used, once, instead of all files of the dataset; with `limit`, for datasets that
    are too large. What was fetched is kept under the names of dataset, revision, split and limit."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open one split; the first `limit` rows in dataset order.

    Raises:
        EnvironmentProblem: the Hub cannot be reached or wants a login, the disk is full.
        DataError: no such dataset, folder, configuration, revision, split or column; files that cannot be read.
    """
    return MappedRows(config, records(config, split, limit))


def records(config: Config, split: str, limit: int | None = None) -> Records:
    """The split's records, before their columns have roles."""
    _refuse_what_is_no_dataset(config.path)
    where = f"{config.path} [{split}]"
    pictures = Pictures(
        _roots(config),
        "the dataset's folder and the download caches, and is not read; store the images in the dataset, or beside it "
        "in dataset.path",
        Remote(config.remote_images),
        texts=False,
    )
    if config.stream:
        rows = streamed(config.path, config.name, config.revision, split, limit)
        read, narrow, count, labels = rows.read, rows.narrow, len(rows), rows.labels
    else:
        table = _table(config, split, limit)
        labels = Labels(table.features.to_dict(), where)
        read, count = labels.of(table.__getitem__), len(table)

        def narrow(columns: list[str]) -> ReadRecord:
            return labels.of(table.select_columns(columns).__getitem__)

    read = _portable(read, config.path)
    return Records(where, count, read, pictures.open, pictures.file, narrow, labels.names)


def _table(config: Config, split: str, limit: int | None) -> Any:
    """The split as `datasets` loads it, its images left undecoded."""
    import datasets

    datasets.disable_progress_bars()
    with errors_named(config.path, config.name, config.revision):
        table = datasets.load_dataset(config.path, config.name, split=split, revision=config.revision)
    if limit is not None:
        table = table.select(range(min(limit, len(table))))
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            table = table.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return table


def _refuse_what_is_no_dataset(path: str) -> None:
    here = Path(path)
    if here.is_file():
        raise DataError(f"dataset.path {path!r} is a file; name the folder it lies in, with the split's name")
    # A path that starts like one of a folder, or has more parts than a name on the Hub, can only mean a folder.
    local = "://" not in path and (path.startswith((".", "~")) or here.is_absolute() or path.count("/") > 1)
    if local and not here.exists():
        raise DataError(f"dataset.path {path!r}: no such folder; a name on the Hub looks like org/name")


def _portable(read: ReadRecord, path: str) -> ReadRecord:
    """Records whose image files are named relative to the dataset's own folder, where they lie in it."""
    if not Path(path).is_dir():
        return read
    root = Path(path).resolve()

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(item) for item in value]
        file = value.get("path") if isinstance(value, dict) and not value.get("bytes") else None
        if not isinstance(file, str) or not Path(file).is_absolute() or not Path(file).is_relative_to(root):
            return value
        return {**value, "path": Path(file).relative_to(root).as_posix()}

    return lambda index: {column: short(value) for column, value in read(index).items()}


def _roots(config: Config) -> list[str]:
    """Folders below which a row may name a file: the dataset's own first, then those that downloads are kept in."""
    import datasets
    import huggingface_hub.constants as hub

    known = datasets.config
    caches = (known.HF_DATASETS_CACHE, known.DOWNLOADED_DATASETS_PATH, known.EXTRACTED_DATASETS_PATH, hub.HF_HUB_CACHE)
    own = [config.path] if Path(config.path).is_dir() else []
    return [*own, *map(str, caches)]
