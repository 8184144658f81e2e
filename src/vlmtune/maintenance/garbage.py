"""Finds and deletes files in a run folder that nothing will read again.

These are work on finished artifacts, checkpoints older than the one that would be resumed, merged models that nothing
serves, and archived results of mock runs. Results of a real run are never garbage.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.files import is_locked, lock_file, translate_os_errors
from vlmtune.maintenance.comparison_status import is_mock
from vlmtune.maintenance.inspect import Run, archive_kind, inspect_run, is_published, require_idle, work_in_progress
from vlmtune.maintenance.summary import format_bytes
from vlmtune.progress import Progress
from vlmtune.run_folder import RunFolder
from vlmtune.run_layout import checkpoint_paths, controls_path, manifest_path, merged_lock_path, merged_models
from vlmtune.training import checkpoints


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file or folder that can be deleted, and why."""

    path: Path
    why: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"path": str(self.path), "why": self.why, "bytes": self.size}


def find_garbage(root: Path) -> list[Garbage]:
    """Garbage in a run folder; nothing is changed.

    Raises:
        ConfigError: not a run folder.
        FolderLocked: a process works in it.
    """
    run = inspect_run(root)
    require_idle(run)
    return _all_garbage(run)


def collect(root: Path, progress: Progress) -> list[Garbage]:
    """Delete the garbage under the folder's lock; returns what was deleted.

    Raises:
        ConfigError, FolderLocked: as in `find_garbage`.
    """
    require_idle(inspect_run(root))
    with RunFolder(root, progress).lock():
        return [item for item in _all_garbage(inspect_run(root)) if _delete(item.path)]


def _delete(path: Path) -> bool:
    """Whether it was deleted; a merged model that another process opened in the meantime is kept."""
    lock = merged_lock_path(path)
    with lock_file(lock) if lock is not None else nullcontext(True) as ours, translate_os_errors(path):
        if ours and path.is_dir():
            shutil.rmtree(path)
        elif ours:
            path.unlink()
    return ours


def _all_garbage(run: Run) -> list[Garbage]:
    reasons = dict([*_work(run), *_merged(run), *_mock(run)])
    return [Garbage(path, why, _size(path)) for path, why in reasons.items()]


def _merged(run: Run) -> Iterator[tuple[Path, str]]:
    for path in merged_models(run.root):
        lock = merged_lock_path(path)
        if lock is None or not is_locked(lock, shared=True):
            yield path, "a merged model that nothing serves; it can be regenerated"


def _work(run: Run) -> Iterator[tuple[Path, str]]:
    for one in work_in_progress(run.root):
        if is_published(one, run.artifacts):
            yield one.folder, f"work on {one.name}, which is finished"
            continue
        newest = checkpoints.newest(one.folder)
        for path in checkpoint_paths(one.folder):
            if newest is not None and path < newest:
                yield path, f"a checkpoint older than {newest.name}, which would be resumed"


def _mock(run: Run) -> Iterator[tuple[Path, str]]:
    why = "made by a mock run and archived by a real one"
    for artifact in run.artifacts:
        if artifact.archived and artifact.manifest["mock"]:
            sidecars = [] if artifact.path.is_dir() else [controls_path(artifact.path), manifest_path(artifact.path)]
            yield from ((path, why) for path in (artifact.path, *sidecars) if path.exists())
    for path in sorted(run.root.iterdir()):
        if path.is_file() and archive_kind(path) == "mock" and is_mock(path):
            yield path, why


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def describe(garbage: Sequence[Garbage], done: bool) -> str:
    """What can be or was deleted, with sizes and their sum."""
    lines = [f"{item.path}: {format_bytes(item.size)}: {item.why}" for item in garbage]
    total = format_bytes(sum(item.size for item in garbage))
    return "\n".join([*lines, f"{total} freed" if done else f"{total} would be freed; --yes deletes it"])


def to_json(roots: Sequence[Path], garbage: Sequence[Garbage], done: bool) -> dict[str, Any]:
    """For `--json`."""
    total = sum(item.size for item in garbage)
    return {
        "schema_version": 1,
        "folders": [str(root) for root in roots],
        "done": done,
        "bytes": total,
        "garbage": [item.to_json() for item in garbage],
    }
