"""What can go wrong while `datasets` opens or reads a dataset, as errors that say what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from vlmtune.errors import DataError, EnvironmentProblem, VlmtuneError


@contextmanager
def errors_named(path: str, name: str | None, revision: str | None) -> Iterator[None]:
    """Turn what `datasets` raises about a dataset into an error of ours.

    Raises:
        EnvironmentProblem: the Hub cannot be reached or wants a login, the disk is full.
        DataError: no such dataset, folder, configuration, revision or split; files that cannot be read.
    """
    import datasets
    import httpx

    try:
        yield
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise _named(error, path, name, revision) from None


def _named(error: BaseException, path: str, name: str | None, revision: str | None) -> VlmtuneError:
    """The error of ours that says what went wrong while a dataset was opened."""
    from datasets.exceptions import DatasetBuildError, DatasetNotFoundError

    chain = list(_chain(error))
    what, said = f"dataset {path!r}", str(error)
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in chain):
        return EnvironmentProblem(f"{what}: no space left on the disk of the datasets cache; make room or set HF_HOME")
    if isinstance(error, DatasetNotFoundError):
        return _not_found(said, path, revision)
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
        said = f"set dataset.name to one of its configurations (got {name!r}): {said}"
    return DataError(f"{what} cannot be opened: {said}")


def _not_found(said: str, path: str, revision: str | None) -> VlmtuneError:
    """`datasets` has one exception for what is not there and for what may not be seen; its message tells them apart."""
    what, page = f"dataset {path!r}", f"https://huggingface.co/datasets/{path}"
    if "gated dataset" in said:
        return EnvironmentProblem(f"{what} is gated: accept its conditions at {page}, then run: hf auth login")
    if said.startswith("Revision "):
        return DataError(f"{what} has no revision {revision!r}; set dataset.revision to one of {page}")
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
