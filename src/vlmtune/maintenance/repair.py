"""What is damaged in a run folder after a crash, a full disk or an accident, and what is done about it.

Nothing that has a manifest is ever deleted: what is damaged there is moved aside, or only named.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmtune.errors import DataError, IntegrityError
from vlmtune.files import cut_torn_line, is_held, os_errors_named, read_json
from vlmtune.maintenance.inspect import Artifact, Run, finished, look, refuse_live
from vlmtune.predictions import read
from vlmtune.progress import Progress
from vlmtune.run_folder import (
    ADAPTER_FILES,
    RunFolder,
    checkpoint_paths,
    controls_path,
    lock_path,
    manifest_path,
    merged_lock_path,
    read_manifest,
    status_path,
    unfinished_writes,
    work_folders,
    writing_notes,
)
from vlmtune.training import checkpoints

Remedy = Literal["remove", "cut", "move aside", "unlock", "tell"]
"""`cut` shortens a file by its torn last line; `tell` leaves it to the user, who alone knows what it was."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as a run leaves it."""

    path: Path
    what: str
    remedy: Remedy

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return {"path": str(self.path), "what": self.what, "remedy": self.remedy}


def search(root: Path) -> list[Damage]:
    """All damage in a run folder; nothing is changed.

    Raises:
        ConfigError: no run folder.
        FolderLocked: a live process works there, and what looks torn is in the making.
    """
    run = look(root)
    refuse_live(run)
    return [*_lock(run), *_found(run)]


def mend(root: Path, progress: Progress) -> list[Damage]:
    """Search, and do what is said, under the folder's lock; returns what was found.

    Raises:
        ConfigError, FolderLocked: as `search`.
    """
    before = look(root)
    refuse_live(before)
    with RunFolder(root, progress).locked():  # taking it clears what a dead process left in it
        found = [*_lock(before), *_found(look(root))]
        for one in found:
            with os_errors_named(one.path):
                _mend(one)
    return found


def _found(run: Run) -> list[Damage]:
    found = [*_unfinished_writes(run.root), *_notes(run.root), *_manifests(run.root), *_work(run)]
    for artifact in run.artifacts:
        found += _adapter(artifact) if artifact.path.is_dir() else _answers(artifact)
    return found


def _mend(one: Damage) -> None:
    if one.remedy == "remove" and one.path.is_dir():
        shutil.rmtree(one.path)
    elif one.remedy == "remove":
        one.path.unlink(missing_ok=True)
    elif one.remedy == "cut":
        cut_torn_line(one.path)
    elif one.remedy == "move aside":
        for path in _together(one.path):
            path.rename(_free(path))


def _lock(run: Run) -> Iterator[Damage]:
    if run.owner is not None:
        yield Damage(lock_path(run.root), f"names {run.owner}, which holds it no longer", "unlock")
    if run.status is not None and not run.making:
        yield Damage(status_path(run.root), "says where a run stands, and nothing is in the making", "remove")


def _unfinished_writes(root: Path) -> Iterator[Damage]:
    """Files that were to replace others, in this folder alone: one below may be another run, and at work.

    A folder may belong to an export, which takes no lock; a merged model has one.
    """
    for path in unfinished_writes(root):
        lock = merged_lock_path(path)
        if lock is not None:
            if not is_held(lock, shared=True):
                yield Damage(path, "a merged model whose writing never ended", "remove")
        elif path.is_dir():
            yield Damage(path, "an unfinished export, unless one is running; remove it yourself", "tell")
        else:
            yield Damage(path, "a write that never ended; the file it was to replace is untouched", "remove")


def _notes(root: Path) -> Iterator[Damage]:
    """Notes of what was about to be written, where they explain nothing any more."""
    for note, artifact in writing_notes(root):
        if not artifact.exists():
            yield Damage(note, f"announces {artifact.name}, which was never written", "remove")
        elif manifest_path(artifact).exists():
            yield Damage(note, f"announces {artifact.name}, which is finished", "remove")


def _manifests(root: Path) -> Iterator[Damage]:
    """Manifests that say nothing, or are about nothing."""
    for about in finished(root):
        file = manifest_path(about)
        try:
            read_manifest(about)
        except IntegrityError:
            yield Damage(about if about.exists() else file, "its manifest cannot be read", "move aside")
            continue
        if not about.exists():
            yield Damage(file, "describes a file that is not there; it is made again", "remove")


def _work(run: Run) -> Iterator[Damage]:
    """Torn lines, checkpoints that are not whole, folders that never got their name."""
    for folder in work_folders(run.root):
        for file in sorted(folder.glob("*.jsonl")):
            data = file.read_bytes()
            if data and not data.endswith(b"\n"):
                torn = len(data) - data.rfind(b"\n") - 1
                yield Damage(file, f"its last line is torn, {torn} bytes", "cut")
        for path in sorted(folder.glob("building-*")):
            yield Damage(path, "a checkpoint whose writing never ended", "remove")
        newest = checkpoints.newest(folder)
        for path in reversed(checkpoint_paths(folder)):
            if path == newest:
                break
            yield Damage(path, "a checkpoint that is not whole; an older one is resumed, if there is one", "remove")


def _answers(artifact: Artifact) -> Iterator[Damage]:
    """A prediction file that was cut or edited after it was published."""
    try:
        lines = read(artifact.path)
    except DataError as error:
        said = str(error).removeprefix(f"{artifact.path}:")
        yield Damage(artifact.path, f"cannot be read, line {said}", "move aside")
        return
    rows = artifact.manifest["origin"].get("dataset", {}).get("rows")
    if "shard" not in artifact.manifest["origin"] and rows is not None and rows != len(lines):
        yield Damage(artifact.path, f"holds {len(lines)} rows, its manifest says {rows}", "move aside")


def _adapter(artifact: Artifact) -> Iterator[Damage]:
    """An adapter whose files are missing or cut."""
    from safetensors import SafetensorError, safe_open

    config, weights = (artifact.path / name for name in ADAPTER_FILES)
    if artifact.kind != "adapter":
        return
    missing = [path.name for path in (config, weights) if not path.is_file()]
    if missing:
        yield Damage(artifact.path, f"has no {missing[0]}", "move aside")
        return
    try:
        read_json(config)
        with safe_open(weights, framework="numpy"):
            pass
    except (IntegrityError, SafetensorError) as error:
        yield Damage(artifact.path, f"cannot be read: {error}", "move aside")


def _together(path: Path) -> Sequence[Path]:
    """An artifact and what is about it alone."""
    beside = [] if path.is_dir() else [manifest_path(path), controls_path(path)]
    return [one for one in dict.fromkeys([path, *beside]) if one.exists()]


def _free(path: Path) -> Path:
    """A name that says what happened, and that nobody has."""
    aside, count = path.with_name(f"{path.stem}.damaged{path.suffix}"), 1
    while aside.exists():
        count += 1
        aside = path.with_name(f"{path.stem}.damaged-{count}{path.suffix}")
    return aside


def describe(found: Sequence[Damage], done: bool) -> str:
    """The findings as lines, each with what is, or was, done about it."""
    words: dict[Remedy, tuple[str, str]] = {
        "remove": ("would be removed", "removed"),
        "cut": ("would be cut off", "cut off"),
        "move aside": ("would be moved aside", "moved aside"),
        "unlock": ("would be unlocked", "unlocked"),
        "tell": ("left to you", "left to you"),
    }
    return "\n".join(f"{one.path}: {one.what}: {words[one.remedy][done]}" for one in found)


def plain(root: Path, found: Sequence[Damage], done: bool) -> dict[str, Any]:
    """The findings for `--json`."""
    return {"schema_version": 1, "folder": str(root), "done": done, "found": [one.to_json() for one in found]}
