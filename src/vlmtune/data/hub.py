"""Datasets on the Hugging Face Hub, or in a local folder that `datasets` understands. Images stay undecoded."""

from pathlib import Path
from typing import Any

from vlmtune.data import DatasetConfig
from vlmtune.data._rows import MappedRows
from vlmtune.errors import DataError, EnvironmentProblem
from vlmtune.types import ImageRef


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


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """Open one split; the first `limit` rows in dataset order.

    Raises:
        EnvironmentProblem: the Hub cannot be reached.
        DataError: no such dataset, split or column.
    """
    table = _load(config, split)
    if limit is not None:
        table = table.select(range(min(limit, len(table))))
    import datasets

    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            table = table.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return MappedRows(config, f"{config.path} [{split}]", len(table), table.__getitem__, _image)


def _load(config: Config, split: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(config.path, config.name, split=split, revision=config.revision)
    except (DatasetNotFoundError, ConnectionError, OSError) as error:
        if Path(config.path).exists() or "doesn't exist on the Hub" in str(error):
            raise DataError(f"dataset {config.path!r} cannot be opened: {error}") from None
        raise EnvironmentProblem(
            f"dataset {config.path!r} is not in the local cache and the Hub cannot be reached ({_short(error)}). "
            "Check the network, or try the pipeline offline first: vlmtune demo, or USE_MOCK=True"
        ) from None
    except ValueError as error:
        raise DataError(f"dataset {config.path!r} cannot be opened: {error}") from None


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]:.120}" if str(error) else type(error).__name__


def _image(value: Any, where: str) -> ImageRef:
    if isinstance(value, dict) and (value.get("bytes") or value.get("path")):
        return ImageRef(where, lambda: value.get("bytes") or Path(value["path"]).read_bytes())
    raise DataError(f"{where}: not an image column; set dataset.image to one (got {type(value).__name__})")
