"""Datasets on the Hugging Face Hub, or in a local folder that `datasets` understands. Images stay undecoded.

A row may name an image file instead of holding the image. Only files below the dataset's own folder and the caches of
`datasets` and the Hub are read: rows are data, and no row may point into the rest of this machine.
"""

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmtune.data import DatasetConfig
from vlmtune.data._files import resolved
from vlmtune.data._rows import MappedRows, Records
from vlmtune.errors import DataError, EnvironmentProblem, VlmtuneError
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
        EnvironmentProblem: the Hub cannot be reached or wants a login, the disk is full.
        DataError: no such dataset, folder, configuration, revision, split or column; files that cannot be read.
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
    roots = _roots(config)
    return MappedRows(
        config,
        Records(
            f"{config.path} [{split}]",
            len(table),
            table.__getitem__,
            lambda value, where: _image(value, where, roots),
            lambda value: _file(value, roots),
            lambda columns: table.select_columns(columns).__getitem__,
        ),
    )


def _load(config: Config, split: str) -> Any:
    import datasets
    import httpx

    here = Path(config.path)
    if here.is_file():
        raise DataError(f"dataset.path {config.path!r} is a file; name the folder it lies in, with the split's name")
    if not here.exists() and _is_local(config.path):
        raise DataError(f"dataset.path {config.path!r}: no such folder; a name on the Hub looks like org/name")
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(config.path, config.name, split=split, revision=config.revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise _named(error, config) from None


def _is_local(path: str) -> bool:
    """Whether a path can only mean a folder: it starts like one, or has more parts than a name on the Hub."""
    return "://" not in path and (path.startswith((".", "~")) or Path(path).is_absolute() or path.count("/") > 1)


def _named(error: BaseException, config: Config) -> VlmtuneError:
    """The error of ours that says what went wrong while a dataset was opened."""
    from datasets.exceptions import DatasetBuildError, DatasetNotFoundError

    chain = list(_chain(error))
    what, said = f"dataset {config.path!r}", str(error)
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in chain):
        return EnvironmentProblem(f"{what}: no space left on the disk of the datasets cache; make room or set HF_HOME")
    if isinstance(error, DatasetNotFoundError):
        return _not_found(said, config)
    if any(_is_network(cause) for cause in chain):
        return EnvironmentProblem(
            f"{what} is not in the local cache and the Hub cannot be reached ({_short(chain[-1])}). "
            "Check the network, or try the pipeline offline first: vlmtune demo, or USE_MOCK=True"
        )
    if isinstance(error, PermissionError):
        return EnvironmentProblem(f"{what}: {said}")
    if isinstance(error, DatasetBuildError):
        said = f"its files cannot be read: {_short(chain[-1])}"
    elif "BuilderConfig" in said or "Config name is missing" in said or "for config '" in said:
        said = f"set dataset.name to one of its configurations (got {config.name!r}): {said}"
    return DataError(f"{what} cannot be opened: {said}")


def _not_found(said: str, config: Config) -> VlmtuneError:
    """`datasets` has one exception for what is not there and for what may not be seen; its message tells them apart."""
    what, page = f"dataset {config.path!r}", f"https://huggingface.co/datasets/{config.path}"
    if "gated dataset" in said:
        return EnvironmentProblem(f"{what} is gated: accept its conditions at {page}, then run: hf auth login")
    if said.startswith("Revision "):
        return DataError(f"{what} has no revision {config.revision!r}; set dataset.revision to one of {page}")
    return DataError(f"{what} does not exist on the Hub, or is private: check dataset.path, or run: hf auth login")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_network(error: BaseException) -> bool:
    import httpx

    # `datasets` hides what the Hub's client raised behind a FileNotFoundError that quotes it.
    quoted = isinstance(error, FileNotFoundError) and "LocalEntryNotFoundError" in str(error)
    return quoted or isinstance(error, ConnectionError | TimeoutError | httpx.HTTPError)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]:.200}" if str(error) else type(error).__name__


def _roots(config: Config) -> list[str]:
    """Folders below which a row may name a file: the dataset's own first, then those that downloads are kept in."""
    import datasets
    import huggingface_hub.constants as hub

    known = datasets.config
    caches = (known.HF_DATASETS_CACHE, known.DOWNLOADED_DATASETS_PATH, known.EXTRACTED_DATASETS_PATH, hub.HF_HUB_CACHE)
    own = [config.path] if Path(config.path).is_dir() else []
    return [*own, *map(str, caches)]


def _image(value: Any, where: str, roots: Sequence[str]) -> ImageRef:
    if not isinstance(value, dict) or not {"bytes", "path"} & set(value):
        raise DataError(f"{where}: not an image column; set dataset.image to one (got {type(value).__name__})")
    data, path = value.get("bytes"), value.get("path")
    if data:
        return ImageRef(where, lambda: data)
    if not path:
        raise DataError(f"{where}: no image in this row; repair or remove it")
    file = _file(value, roots)
    if file is None:
        raise DataError(
            f"{where}: {path} lies outside the dataset's folder and the download caches, and is not read; store the "
            "images in the dataset, or beside it in dataset.path"
        )
    return ImageRef(f"{where} ({Path(path).name})", lambda: Path(file).read_bytes())


def _file(value: Any, roots: Sequence[str]) -> str | None:
    """The file that an undecoded image names; None where it holds the bytes, or names none that may be read."""
    path = value.get("path") if isinstance(value, dict) and not value.get("bytes") else None
    return None if not isinstance(path, str) or "://" in path or "::" in path else resolved(path, roots)
