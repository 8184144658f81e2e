"""What a run folder keeps that nothing will ever read again, and how much room that takes.

That is: work on artifacts that are finished, checkpoints older than the one that would be resumed, merged models that
nothing serves, and what a mock run left when a real one moved it aside. What a real run made is never surplus.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.files import is_held, locked, os_errors_named
from vlmtune.maintenance.comparison_status import is_mock
from vlmtune.maintenance.inspect import Run, is_aside, is_published, look, makings, refuse_live
from vlmtune.maintenance.summary import size
from vlmtune.progress import Progress
from vlmtune.run_folder import (
    RunFolder,
    checkpoint_paths,
    controls_path,
    manifest_path,
    merged_lock_path,
    merged_models,
)
from vlmtune.training import checkpoints


@dataclass(frozen=True, slots=True)
class Surplus:
    """A file or folder that can go."""

    path: Path
    why: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"path": str(self.path), "why": self.why, "bytes": self.size}


def search(root: Path) -> list[Surplus]:
    """All surplus of a run folder; nothing is changed.

    Raises:
        ConfigError: no run folder.
        FolderLocked: a live process works there.
    """
    run = look(root)
    refuse_live(run)
    return _found(run)


def free(root: Path, progress: Progress) -> list[Surplus]:
    """Search, and delete what was found, under the folder's lock; returns it.

    Raises:
        ConfigError, FolderLocked: as `search`.
    """
    refuse_live(look(root))
    with RunFolder(root, progress).locked():
        found = _found(look(root))
        return [one for one in found if _freed(one.path)]


def _freed(path: Path) -> bool:
    """Whether it is gone now; a merged model is kept where somebody began to serve it while we looked."""
    lock = merged_lock_path(path)
    with locked(lock) if lock is not None else nullcontext(True) as ours, os_errors_named(path):
        if ours and path.is_dir():
            shutil.rmtree(path)
        elif ours:
            path.unlink()
    return ours


def _found(run: Run) -> list[Surplus]:
    found = dict([*_work(run), *_merged(run), *_mock(run)])
    return [Surplus(path, why, _size(path)) for path, why in found.items()]


def _merged(run: Run) -> Iterator[tuple[Path, str]]:
    for path in merged_models(run.root):
        lock = merged_lock_path(path)
        if lock is None or not is_held(lock, shared=True):
            yield (
                path,
                "a model with an adapter in its weights, which nothing serves; it can be made again",
            )


def _work(run: Run) -> Iterator[tuple[Path, str]]:
    for one in makings(run.root):
        if is_published(one, run.artifacts):
            yield one.folder, f"work on {one.name}, which is finished"
            continue
        newest = checkpoints.newest(one.folder)
        for path in checkpoint_paths(one.folder):
            if newest is not None and path < newest:
                yield path, f"a checkpoint before {newest.name}, which would be resumed"


def _mock(run: Run) -> Iterator[tuple[Path, str]]:
    why = "made by a mock run, moved aside by a real one"
    for artifact in run.artifacts:
        if artifact.aside and artifact.manifest["mock"]:
            beside = [] if artifact.path.is_dir() else [controls_path(artifact.path), manifest_path(artifact.path)]
            yield from ((path, why) for path in (artifact.path, *beside) if path.exists())
    for path in sorted(run.root.iterdir()):
        if path.is_file() and is_aside(path) == "mock" and is_mock(path):
            yield path, why


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def describe(found: Sequence[Surplus], done: bool) -> str:
    """What can go, or went, with its size, and the sum."""
    lines = [f"{one.path}: {size(one.size)}: {one.why}" for one in found]
    total = size(sum(one.size for one in found))
    return "\n".join([*lines, f"{total} freed" if done else f"{total} would be freed; --yes frees it"])


def plain(roots: Sequence[Path], found: Sequence[Surplus], done: bool) -> dict[str, Any]:
    """The findings for `--json`."""
    total = sum(one.size for one in found)
    return {
        "schema_version": 1,
        "folders": [str(root) for root in roots],
        "done": done,
        "bytes": total,
        "found": [one.to_json() for one in found],
    }
