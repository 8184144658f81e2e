"""What one run folder holds, read from its files alone; nothing is written, locked or loaded.

A run folder has `.vlmtune` in it, or an artifact with a manifest.

The finished things in a run folder: what has a manifest of ours, and what was moved aside.
"""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmtune.errors import ConfigError, FolderLocked, IntegrityError
from vlmtune.files import building_path, is_held, os_errors_named, read_json, whole_lines
from vlmtune.maintenance import comparison_status
from vlmtune.run_folder import (
    ANSWERS,
    BUILT_ADAPTER,
    COMPLETE,
    CURVE,
    MERGED,
    SAMPLES,
    STATE,
    THUMBNAILS,
    Provenance,
    checkpoint_paths,
    checkpoint_step,
    folder_manifest_path,
    lock_path,
    manifest_path,
    manifested_file,
    read_manifest,
    status_path,
    work_folders,
    work_key,
)

KINDS = ("baseline", "untrained", "adapter", "tuned", "shard", "merged")
"""Kinds of artifacts, in the order of a run."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished file or folder."""

    path: Path
    kind: str
    manifest: Mapping[str, Any]

    @property
    def aside(self) -> bool:
        """Whether it has another name than the one it was made under: a run of the other kind moved it away."""
        return bool(self.manifest.get("artifact", self.path.name) != self.path.name)

    @property
    def key(self) -> str:
        """Hash of what it is made from, as its work folder had it."""
        return Provenance(self.manifest["origin"], self.manifest["mock"]).key


def finished(root: Path) -> Iterator[Path]:
    """Artifacts that have a manifest, readable or not."""
    for path in sorted(root.iterdir()):
        about = manifested_file(path) if path.is_file() else path
        if about is None or path.name.startswith(".") or not manifest_path(about).is_file():
            continue
        if not is_foreign(manifest_path(about)) and not _is_damaged(about):
            yield about


def is_foreign(manifest: Path) -> bool:
    """Whether other programs have written a file that has the name of a manifest: whole, and without our version."""
    try:
        return "schema_version" not in read_json(manifest)
    except IntegrityError:
        return False


def _is_damaged(path: Path) -> bool:
    """Whether `runs recover` moved it aside: it has such a name, and its manifest does not say that it is its own."""
    if is_aside(path) != "damaged":
        return False
    try:
        return (read_manifest(path) or {}).get("artifact") != path.name
    except IntegrityError:
        return True


def is_readable(artifact: Path) -> bool:
    """Whether it has a manifest of ours that can be read."""
    try:
        return read_manifest(artifact) is not None
    except IntegrityError:
        return False


def read_all(root: Path) -> tuple[list[Artifact], list[str]]:
    """The artifacts of a run folder, in the order of a run, and what is wrong with others."""
    found, problems = [], []
    for path in finished(root):
        try:
            manifest = read_manifest(path)
        except IntegrityError as error:
            problems.append(str(error))
            continue
        if manifest is None or not path.exists():
            problems.append(f"{manifest_path(path)}: describes {path.name}, which is not there")
        else:
            found.append(Artifact(path, _kind(manifest["origin"]), manifest))
    return sorted(found, key=lambda one: (KINDS.index(one.kind), one.path.name)), problems


def _kind(origin: Mapping[str, Any]) -> str:
    if "training" in origin:
        return "adapter"
    if "inference" not in origin:
        return "merged"
    if "shard" in origin:
        return "shard"
    if "column" in origin:
        return "untrained"
    return "baseline" if origin.get("adapter") is None else "tuned"


def is_aside(path: Path) -> str | None:
    """Why a file was moved aside, by its name: `mock` or `real` made it, or it was `damaged`; None for any other."""
    found = re.search(r"\.(mock|real|damaged)(-\d+)?(\.|$)", path.name)
    return found[1] if found else None


State = Literal["running", "stopped", "finished", "begun", "damaged"]
"""A live process works here; work in progress waits for the same command; compared; some steps are done; unreadable."""

_STATUS = {"step": str, "done": int, "total": int, "facts": dict, "at": float | int, "command": list}


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom the lock names. `alive` says whether it holds it; None where that is another machine's, and seems free."""

    pid: int
    host: str
    alive: bool | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, slots=True)
class Making:
    """Work in progress on one artifact: checkpoints of an adapter, or answers."""

    folder: Path
    name: str
    answers: int | None
    checkpoints: Sequence[int]

    @property
    def trains(self) -> bool:
        """Whether it is an adapter."""
        return self.answers is None

    @property
    def key(self) -> str:
        """Hash of what it is made from."""
        return work_key(self.folder)


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder at one moment.

    `status` is that of `progress.StatusFile`; `making` all work that is not published; `stale` says why the comparison
    is not about what lies here; `problems` what could not be read; `notes` what is here and belongs to nothing.
    """

    root: Path
    owner: Owner | None
    status: Mapping[str, Any] | None
    artifacts: Sequence[Artifact]
    making: Sequence[Making]
    comparison: Mapping[str, Any] | None
    stale: str | None
    problems: Sequence[str]
    notes: Sequence[str]
    size: int
    changed: float

    @property
    def live(self) -> bool:
        """Whether a process works here, as far as can be known."""
        return self.owner is not None and self.owner.alive is not False

    @property
    def state(self) -> State:
        """Its state in one word."""
        if self.live:
            return "running"
        if self.problems:
            return "damaged"
        if self.waiting:
            return "stopped"
        return "finished" if not self.stale and {"baseline", "tuned", "comparison"} <= {*self.steps} else "begun"

    @property
    def waiting(self) -> list[Making]:
        """Work that the same command goes on from: nothing finished has the name that it would get."""
        done = [one.path for one in self.artifacts if not one.aside]
        names = {name for path in done for name in (path.name, *([] if path.is_dir() else [path.stem]))}
        return [one for one in self.making if one.name not in names]

    @property
    def mock(self) -> bool:
        """Whether the stand-in made what is there."""
        return any(artifact.manifest["mock"] for artifact in self.artifacts if not artifact.aside)

    @property
    def steps(self) -> list[str]:
        """What is done, in the order of a run."""
        kinds = {artifact.kind for artifact in self.artifacts if not artifact.aside}
        return [kind for kind in KINDS if kind in kinds] + (["comparison"] if self.comparison else [])


def find(root: Path) -> list[Path]:
    """Every run folder in a folder and below, itself included, sorted.

    Raises:
        ConfigError: no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    found = []
    for place, folders, _ in os.walk(root):
        here = Path(place)
        if is_run(here):
            found.append(here)
        inside = (name for name in folders if not name.startswith(".") and name not in (THUMBNAILS, "wandb"))
        folders[:] = [name for name in inside if not folder_manifest_path(here / name).is_file()]
    return sorted(found)


def is_run(folder: Path) -> bool:
    """Whether vlmtune wrote here."""
    return (folder / STATE).is_dir() or any(is_readable(path) for path in finished(folder))


def look(root: Path) -> Run:
    """A run folder as it is now.

    Raises:
        ConfigError: it is none.
    """
    if not root.is_dir() or not is_run(root):
        raise ConfigError(
            f"{root} is no run folder: vlmtune wrote nothing there. `vlmtune runs ls` shows which there are"
        )
    with os_errors_named(root):
        artifacts, problems = read_all(root)
        compared, torn = comparison_status.comparisons(root)
        compared = [one for one in compared if not is_aside(root / one["file"])]
        comparison = next((one for one in compared if one.get("set") is None), None)
        files = [entry for path in root.rglob("*") if (entry := _entry(path)) is not None]
    return Run(
        root=root,
        owner=owner(root),
        status=status(root),
        artifacts=artifacts,
        making=[one for one in makings(root) if not is_published(one, artifacts)],
        comparison=comparison,
        stale=_stale(root, comparison, artifacts) if comparison else None,
        problems=[*problems, *torn],
        notes=comparison_status.left_over(comparison, compared) if comparison else [],
        size=sum(size for size, _ in files),
        changed=max((changed for _, changed in files), default=root.stat().st_mtime),
    )


def _entry(path: Path) -> tuple[int, float] | None:
    """(bytes, last change) of a file; None for what is none, or is gone by now."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return (found.st_size, found.st_mtime) if path.is_file() else None


def owner(root: Path) -> Owner | None:
    """Whom the lock names; None where it is free.

    A number proves nothing: in containers the next process gets it, too. Whether the lock is held is asked of the lock.
    """
    try:
        text = lock_path(root).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    found = re.fullmatch(r"process (\d+) on (\S+)", text.strip())
    if found is None:
        return None
    held = is_held(lock_path(root))
    return Owner(int(found[1]), found[2], held or (False if found[2] == socket.gethostname() else None))


def status(root: Path) -> dict[str, Any] | None:
    """Where the run stands, or stood when it ended early; None where it ended well, or in a file of another shape."""
    try:
        found = json.loads(status_path(root).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in _STATUS.items()):
        return None
    known = {"rate": None, **found}
    return known if isinstance(known["rate"], float | int | None) and all(map(_is_text, known["command"])) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def makings(root: Path) -> list[Making]:
    """Work in progress, finished or not, by name."""
    found = []
    for folder in work_folders(root):
        name = folder.name.removesuffix(f"-{work_key(folder)}")
        if {path.name for path in folder.iterdir()} <= {MERGED, building_path(folder / MERGED).name}:
            continue
        answers = len(whole_lines(folder / ANSWERS))
        trains = not answers and any((folder / file).exists() for file in (CURVE, SAMPLES, BUILT_ADAPTER))
        steps = [checkpoint_step(path) for path in checkpoint_paths(folder) if (path / COMPLETE).is_file()]
        found.append(Making(folder, name, None if trains or steps else answers, steps))
    return found


def is_published(one: Making, artifacts: Sequence[Artifact]) -> bool:
    """Whether an artifact made from the same as this work is finished; a name alone proves nothing."""
    return any(artifact.key == one.key and not artifact.aside for artifact in artifacts)


def _stale(root: Path, comparison: Mapping[str, Any], artifacts: Sequence[Artifact]) -> str | None:
    here = [one for one in artifacts if not one.aside]
    answers = {one.path: one.manifest["origin"] for one in here if one.kind == "tuned"}
    adapters = [one.path for one in here if one.kind == "adapter"]
    return comparison_status.stale(comparison, root / comparison["file"], answers, adapters)


def refuse_live(run: Run) -> None:
    """Nothing is judged or changed while a process works here, which the lock itself says.

    Raises:
        FolderLocked: it does.
    """
    if is_held(lock_path(run.root)):
        raise FolderLocked(
            f"{run.root} is in use by {run.owner or 'another process'}; what looks unfinished is in the making. Wait "
            "for it, or stop it"
        )
