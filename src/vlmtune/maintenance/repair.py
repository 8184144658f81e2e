"""Finds and repairs damage in a run folder after a crash, a full disk or an accident.

Nothing that has a manifest is ever deleted: a damaged artifact is archived under another name, or only reported.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmtune.errors import DataError, IntegrityError
from vlmtune.files import cut_torn_line, is_locked, translate_os_errors
from vlmtune.maintenance.inspect import Artifact, Run, artifact_paths, inspect_run, require_idle
from vlmtune.predictions import read
from vlmtune.progress import Progress
from vlmtune.run_folder import RunFolder, read_adapter_config, read_manifest
from vlmtune.run_layout import (
    ADAPTER_FILES,
    archive_path,
    checkpoint_paths,
    controls_path,
    lock_path,
    manifest_path,
    merged_lock_path,
    status_path,
    unfinished_writes,
    work_folders,
    writing_notes,
)
from vlmtune.training import checkpoints

Remedy = Literal["remove", "truncate", "archive", "unlock", "report"]
"""`truncate` removes a torn last line; `report` leaves the decision to the user."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file or folder, what is wrong with it, and the remedy."""

    path: Path
    what: str
    remedy: Remedy

    def to_json(self) -> dict[str, str]:
        """As JSON values."""
        return {"path": str(self.path), "what": self.what, "remedy": self.remedy}


def find_damage(root: Path) -> list[Damage]:
    """Damage in a run folder; nothing is changed.

    Raises:
        ConfigError: not a run folder.
        FolderLocked: a process works in it and may still finish what looks torn.
    """
    run = inspect_run(root)
    require_idle(run)
    return [*_lock(run), *_all_damage(run)]


def repair(root: Path, progress: Progress) -> list[Damage]:
    """Repair all damage under the folder's lock; returns what was found.

    Raises:
        ConfigError, FolderLocked: as in `find_damage`.
    """
    before = inspect_run(root)
    require_idle(before)
    with RunFolder(root, progress).lock():  # taking the lock clears the name of a dead process in it
        damage = [*_lock(before), *_all_damage(inspect_run(root))]
        for item in damage:
            with translate_os_errors(item.path):
                _repair(item)
    return damage


def _all_damage(run: Run) -> list[Damage]:
    damage = [*_unfinished_writes(run.root), *_notes(run.root), *_manifests(run.root), *_work(run)]
    for artifact in run.artifacts:
        damage += _adapter(artifact) if artifact.path.is_dir() else _answers(artifact)
    return damage


def _repair(item: Damage) -> None:
    if item.remedy == "remove" and item.path.is_dir():
        shutil.rmtree(item.path)
    elif item.remedy == "remove":
        item.path.unlink(missing_ok=True)
    elif item.remedy == "truncate":
        cut_torn_line(item.path)
    elif item.remedy == "archive":
        for path in _with_sidecars(item.path):
            path.rename(archive_path(path, "damaged"))


def _lock(run: Run) -> Iterator[Damage]:
    if run.owner is not None:
        yield Damage(lock_path(run.root), f"names {run.owner}, which no longer holds it", "unlock")
    if run.status is not None and not run.work:
        yield Damage(status_path(run.root), "shows the progress of a run, and nothing is in progress", "remove")


def _unfinished_writes(root: Path) -> Iterator[Damage]:
    """Temporary files of atomic writes, in this folder only: a subfolder may be another, live run.

    A temporary folder may belong to a running export, which takes no lock; a merged model has a lock.
    """
    work = work_folders(root)
    for path in unfinished_writes(root):
        lock = merged_lock_path(path)
        if lock is not None:
            if not is_locked(lock, shared=True):
                yield Damage(path, "an unfinished merged model", "remove")
        elif path.is_dir() and path.parent in work:
            yield Damage(path, "an unfinished checkpoint", "remove")
        elif path.is_dir():
            yield Damage(path, "an unfinished export, unless one is running; remove it yourself", "report")
        else:
            yield Damage(path, "an unfinished write; the file to be replaced is intact", "remove")


def _notes(root: Path) -> Iterator[Damage]:
    """Notes of intended writes that no longer explain anything."""
    for note, artifact in writing_notes(root):
        if not artifact.exists():
            yield Damage(note, f"announces {artifact.name}, which was never written", "remove")
        elif manifest_path(artifact).exists():
            yield Damage(note, f"announces {artifact.name}, which is finished", "remove")


def _manifests(root: Path) -> Iterator[Damage]:
    """Manifests that cannot be read, or whose artifact is missing."""
    for about in artifact_paths(root):
        file = manifest_path(about)
        try:
            read_manifest(about)
        except IntegrityError:
            yield Damage(about if about.exists() else file, "its manifest cannot be read", "archive")
            continue
        if not about.exists():
            yield Damage(file, "describes a file that does not exist and will be regenerated", "remove")


def _work(run: Run) -> Iterator[Damage]:
    """Torn lines and damaged checkpoints."""
    for folder in work_folders(run.root):
        for file in sorted(path for path in folder.glob("*.jsonl") if path.is_file()):
            data = file.read_bytes()
            if data and not data.endswith(b"\n"):
                torn = len(data) - data.rfind(b"\n") - 1
                yield Damage(file, f"its last line is torn, {torn} bytes", "truncate")
        newest = checkpoints.newest(folder)
        for path in reversed(checkpoint_paths(folder)):
            if path == newest:
                break
            yield Damage(path, "a damaged checkpoint; an older one is resumed, if there is one", "remove")


def _answers(artifact: Artifact) -> Iterator[Damage]:
    """A prediction file that was truncated or edited after it was published."""
    try:
        lines = read(artifact.path)
    except DataError as error:
        message = str(error).removeprefix(f"{artifact.path}:")
        yield Damage(artifact.path, f"cannot be read, line {message}", "archive")
        return
    rows = artifact.manifest["origin"].get("dataset", {}).get("rows")
    if "shard" not in artifact.manifest["origin"] and rows is not None and rows != len(lines):
        yield Damage(artifact.path, f"holds {len(lines)} rows, its manifest says {rows}", "archive")


def _adapter(artifact: Artifact) -> Iterator[Damage]:
    """An adapter whose files are missing or truncated."""
    from safetensors import SafetensorError, safe_open

    config, weights = (artifact.path / name for name in ADAPTER_FILES)
    if artifact.kind != "adapter":
        return
    missing = [path.name for path in (config, weights) if not path.is_file()]
    if missing:
        yield Damage(artifact.path, f"has no {missing[0]}", "archive")
        return
    try:
        read_adapter_config(artifact.path)
        with safe_open(weights, framework="numpy"):
            pass
    except (IntegrityError, SafetensorError) as error:
        yield Damage(artifact.path, f"cannot be read: {error}", "archive")


def _with_sidecars(path: Path) -> Sequence[Path]:
    """An artifact and its sidecars, as far as they exist."""
    sidecars = [] if path.is_dir() else [manifest_path(path), controls_path(path)]
    return [one for one in dict.fromkeys([path, *sidecars]) if one.exists()]


def describe(damage: Sequence[Damage], done: bool) -> str:
    """One line per item, with what would be or was done about it."""
    words: dict[Remedy, tuple[str, str]] = {
        "remove": ("would be removed", "removed"),
        "truncate": ("would be truncated", "truncated"),
        "archive": ("would be archived", "archived"),
        "unlock": ("would be unlocked", "unlocked"),
        "report": ("left to you", "left to you"),
    }
    return "\n".join(f"{item.path}: {item.what}: {words[item.remedy][done]}" for item in damage)


def to_json(root: Path, damage: Sequence[Damage], done: bool) -> dict[str, Any]:
    """For `--json`."""
    return {"schema_version": 1, "folder": str(root), "done": done, "damage": [item.to_json() for item in damage]}
