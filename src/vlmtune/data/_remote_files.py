"""The folder of a dataset: on this machine, or in an object store (`s3://`, `gs://`, `hf://`), which fsspec reads.

Files of a store are copied into the cache when they are opened, once for each version of a file.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from vlmtune.data._download import build_once
from vlmtune.data._file_shards import find_files
from vlmtune.data._text import ending
from vlmtune.errors import DataError, EnvironmentProblem
from vlmtune.hub import cache_file


class Folder:
    """A folder with the files of a dataset.

    Args:
        path: a path, or a URL of an object store.

    Attributes:
        local: the folder that image paths are relative to; for a store an empty one.
    """

    def __init__(self, path: str) -> None:
        self._url = path.rstrip("/") if "://" in path else None
        self.local = cache_file("files", path) if self._url else Path(path).expanduser()
        self._remote: dict[Path, str] = {}

    def find(self, split: str, endings: Sequence[str]) -> list[Path]:
        """The files of a split, as `find_files` does; those of a store need not be here yet.

        Args:
            split: name of a file, or a pattern.
            endings: of files that could be meant, for the error message.

        Raises:
            DataError: there is no such file.
            EnvironmentProblem: the store cannot be read.
        """
        if self._url is None:
            names = [file.name for file in self.local.glob("*") if ending(file) in endings]
            return find_files(self.local, split, names)
        with _errors_named(self._url):
            store, root = self._store()
            named = f"{root}/{split}"
            files = (
                [named] if store.isfile(named) else [file for file in sorted(store.glob(named)) if store.isfile(file)]
            )
            if not files:
                listed = [PurePosixPath(name).name for name in store.ls(root, detail=False)]
                there = ", ".join(name for name in sorted(listed) if ending(name) in endings)
                raise DataError(f"{self._url}/{split}: no such file; there are: {there or 'none'}. Set dataset.splits")
            for file in files:
                copy = cache_file("files", [self._url, file, store.ukey(file)])
                self._remote[copy.with_name(f"{copy.name}-{PurePosixPath(file).name}")] = file
        return [copy for copy, file in self._remote.items() if file in files]

    def fetch(self, file: Path) -> Path:
        """A file of a split, copied into the cache if it is not here.

        Raises:
            EnvironmentProblem: the store cannot be read, or the disk is full.
        """
        return build_once(file, functools.partial(self._copy, self._remote[file])) if self._url else file

    def _copy(self, name: str, building: Path) -> None:
        with _errors_named(f"{self._url}, {name}"):
            store, _ = self._store()
            store.get_file(name, str(building))

    def _store(self) -> tuple[Any, str]:
        """The file system, and the folder in it."""
        from fsspec.core import url_to_fs

        store, root = url_to_fs(self._url)
        return store, root.rstrip("/")


@contextmanager
def _errors_named(url: str) -> Iterator[None]:
    """Turn errors of fsspec into one that names the URL; the package of a store may be missing.

    Raises:
        EnvironmentProblem: names the URL and the problem.
    """
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise EnvironmentProblem(
            f"{url}: cannot be read: {str(error) or type(error).__name__}; check the address and your credentials, and "
            "that the package of this store is installed (s3fs, gcsfs, adlfs)"
        ) from None
