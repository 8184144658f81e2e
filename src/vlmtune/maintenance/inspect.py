"""Reads the state of a run folder from its files; nothing is written, locked or loaded.

A run folder holds the state folder `.vlmtune`, or an artifact with a manifest.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, NonNegativeFloat
from typing_extensions import TypedDict

from vlmtune.errors import ConfigError, FolderLocked, IntegrityError
from vlmtune.files import building_path, is_locked, read_json, translate_os_errors, whole_lines
from vlmtune.maintenance import comparison_status
from vlmtune.run_folder import Provenance, read_manifest
from vlmtune.run_layout import (
    ANSWERS,
    BUILT_ADAPTER,
    COMPLETE,
    CURVE,
    MERGED,
    SAMPLES,
    STATE,
    THUMBNAILS,
    checkpoint_paths,
    checkpoint_step,
    folder_manifest_path,
    lock_path,
    manifest_path,
    manifested_files,
    status_path,
    work_folders,
    work_key,
)

KINDS = ("baseline", "prompt_baseline", "adapter", "tuned", "shard", "merged")
"""Kinds of artifacts, in the order in which a run makes them."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished file or folder that has a manifest."""

    path: Path
    kind: str
    manifest: Mapping[str, Any]

    @property
    def archived(self) -> bool:
        """Whether a run of the other kind (mock or real) renamed it."""
        return bool(self.manifest.get("artifact", self.path.name) != self.path.name)

    @property
    def key(self) -> str:
        """Hash of its provenance, as in the name of its work folder."""
        return Provenance(self.manifest["origin"], self.manifest["mock"]).key


def artifact_paths(root: Path) -> Iterator[Path]:
    """Artifacts that have a manifest, readable or not. The artifact itself may be missing."""
    for artifact in manifested_files(root):
        manifest = manifest_path(artifact)
        if manifest.is_file() and not is_foreign(manifest) and not _is_damaged(artifact):
            yield artifact


def is_foreign(manifest: Path) -> bool:
    """Whether another program wrote a file with the name of a manifest: it is valid JSON without our schema version."""
    with translate_os_errors(manifest):
        if b'"schema_version"' in manifest.read_bytes():
            return False
    try:
        return "schema_version" not in read_json(manifest)
    except IntegrityError:
        return False


def _is_damaged(path: Path) -> bool:
    """Whether `runs recover` archived it: it has such a name, and its manifest gives another one."""
    if archive_kind(path) != "damaged":
        return False
    try:
        return (read_manifest(path) or {}).get("artifact") != path.name
    except IntegrityError:
        return True


def is_readable(artifact: Path) -> bool:
    """Whether it has a manifest that can be read."""
    try:
        return read_manifest(artifact) is not None
    except IntegrityError:
        return False


def read_artifacts(root: Path) -> tuple[list[Artifact], list[str]]:
    """Artifacts of a run folder, ordered by kind and name, and errors of those that cannot be read."""
    artifacts, problems = [], []
    for path in artifact_paths(root):
        try:
            manifest = read_manifest(path)
        except IntegrityError as error:
            problems.append(str(error))
            continue
        if manifest is None or not path.exists():
            problems.append(f"{manifest_path(path)}: describes {path.name}, which does not exist")
        else:
            artifacts.append(Artifact(path, _kind(manifest["origin"]), manifest))
    return sorted(artifacts, key=lambda artifact: (KINDS.index(artifact.kind), artifact.path.name)), problems


def _kind(provenance: Mapping[str, Any]) -> str:
    if "training" in provenance:
        return "adapter"
    if "inference" not in provenance:
        return "merged"
    if "shard" in provenance:
        return "shard"
    if "prompt_baseline" in provenance:
        return "prompt_baseline"
    return "baseline" if provenance.get("adapter") is None else "tuned"


def archive_kind(path: Path) -> str | None:
    """Why a file was archived, by its name: a `mock` or `real` run made it, or it was `damaged`; None if it was not."""
    match = re.search(r"\.(mock|real|damaged)(-\d+)?(\.|$)", path.name)
    return match[1] if match else None


State = Literal["running", "stopped", "finished", "partial", "damaged"]
"""`running`: a process works here; `stopped`: it can be resumed; `finished`: it has a current comparison; `partial`:
some steps are finished; `damaged`: a file cannot be read."""

_Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Status(TypedDict):
    """Types of the fields of a status file."""

    step: str
    done: _Count
    total: _Count
    facts: dict[str, float | int | str]
    at: float
    command: Annotated[list[str], Field(min_length=1)]
    rate: NotRequired[NonNegativeFloat | None]


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that a lock names. `alive`: whether it holds the lock; None if unknown, as on another host."""

    pid: int
    host: str
    alive: bool | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, slots=True)
class Work:
    """Work in progress on one artifact.

    `answers` counts the saved answers of a prediction file, None for an adapter; `checkpoints` are the steps of an
    adapter's complete checkpoints, oldest first.
    """

    folder: Path
    name: str
    answers: int | None
    checkpoints: Sequence[int]

    @property
    def trains(self) -> bool:
        """Whether the artifact is an adapter."""
        return self.answers is None

    @property
    def key(self) -> str:
        """Hash of its provenance."""
        return work_key(self.folder)


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder at one moment.

    `status` is as `progress.StatusFile` wrote it; `work` is not yet published; `stale` says why the comparison no
    longer matches the artifacts; `problems` what cannot be read; `notes` what belongs to nothing in the config. `size`
    is in bytes, `changed` a Unix time.
    """

    root: Path
    owner: Owner | None
    status: Mapping[str, Any] | None
    artifacts: Sequence[Artifact]
    work: Sequence[Work]
    comparison: Mapping[str, Any] | None
    stale: str | None
    problems: Sequence[str]
    notes: Sequence[str]
    size: int
    changed: float

    @property
    def live(self) -> bool:
        """Whether a process works here, as far as is known."""
        return self.owner is not None and self.owner.alive is not False

    @property
    def state(self) -> State:
        """The state in one word."""
        if self.live:
            return "running"
        if self.problems:
            return "damaged"
        if self.resumable:
            return "stopped"
        return "finished" if not self.stale and {"baseline", "tuned", "comparison"} <= {*self.steps} else "partial"

    @property
    def resumable(self) -> list[Work]:
        """Work that the same command continues: no finished artifact has its name yet."""
        done = [one.path for one in self.artifacts if not one.archived]
        names = {name for path in done for name in (path.name, *([] if path.is_dir() else [path.stem]))}
        return [one for one in self.work if one.name not in names]

    @property
    def mock(self) -> bool:
        """Whether the tiny stand-in model made any of the artifacts."""
        return any(artifact.manifest["mock"] for artifact in self.artifacts if not artifact.archived)

    @property
    def steps(self) -> list[str]:
        """The finished steps, in the order of a run."""
        kinds = {artifact.kind for artifact in self.artifacts if not artifact.archived}
        return [kind for kind in KINDS if kind in kinds] + (["comparison"] if self.comparison else [])


def find_runs(root: Path) -> list[Path]:
    """Run folders in a folder and its subfolders, itself included, sorted.

    Raises:
        ConfigError: no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    runs = []
    for place, folders, _ in os.walk(root):
        here = Path(place)
        if is_run(here):
            runs.append(here)
        inside = (name for name in folders if not name.startswith(".") and name not in (THUMBNAILS, "wandb"))
        folders[:] = [name for name in inside if not folder_manifest_path(here / name).is_file()]
    return sorted(runs)


def is_run(folder: Path) -> bool:
    """Whether a folder holds files of a run; a model or adapter that was merged into it makes it none."""
    return (folder / STATE).is_dir() or any(_is_of_a_step(path) for path in artifact_paths(folder))


def _is_of_a_step(artifact: Path) -> bool:
    try:
        manifest = read_manifest(artifact)
    except IntegrityError:
        return False
    return manifest is not None and _kind(manifest["origin"]) != "merged"


def inspect_run(root: Path) -> Run:
    """The current state of a run folder.

    Raises:
        ConfigError: not a run folder.
    """
    if not root.is_dir() or not is_run(root):
        raise ConfigError(f"{root} is no run folder: vlmtune wrote nothing there. `vlmtune runs ls` lists run folders")
    with translate_os_errors(root):
        artifacts, problems = read_artifacts(root)
        compared, torn = comparison_status.comparisons(root)
        compared = [one for one in compared if not archive_kind(root / one["file"])]
        comparison = next((one for one in compared if one.get("evaluation_set") is None), None)
        files = list(_entries(str(root)))
    return Run(
        root=root,
        owner=owner(root),
        status=status(root),
        artifacts=artifacts,
        work=[one for one in work_in_progress(root) if not is_published(one, artifacts)],
        comparison=comparison,
        stale=_stale(root, comparison, artifacts) if comparison else None,
        problems=[*problems, *torn],
        notes=comparison_status.orphaned(comparison, compared) if comparison else [],
        size=sum(size for size, _ in files),
        changed=max((changed for _, changed in files), default=root.stat().st_mtime),
    )


def _entries(folder: str) -> Iterator[tuple[int, float]]:
    """(size in bytes, mtime) of every file in a folder and those below; not of one deleted in the meantime."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _entries(entry.path)
                elif entry.is_file():
                    status = entry.stat(follow_symlinks=False)
                    yield status.st_size, status.st_mtime


def owner(root: Path) -> Owner | None:
    """The process that the lock names; None if it names none.

    A process ID proves nothing, since containers reuse the same few. Only the lock itself says whether it is held.
    """
    try:
        text = lock_path(root).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    match = re.fullmatch(r"process (\d+) on (\S+)", text.strip())
    if match is None:
        return None
    held = is_locked(lock_path(root))
    return Owner(int(match[1]), match[2], held or (False if match[2] == socket.gethostname() else None))


def status(root: Path) -> dict[str, Any] | None:
    """The status of a run that is live or ended early; None if it ended normally or the file is malformed."""
    try:
        fields: dict[str, Any] = read_json(status_path(root), _Status)
    except (ConfigError, IntegrityError):
        return None
    return {"rate": None, **fields}


def work_in_progress(root: Path) -> list[Work]:
    """All work folders of a run, whether their artifact is finished or not, by name."""
    in_progress = []
    for folder in work_folders(root):
        name = folder.name.removesuffix(f"-{work_key(folder)}")
        if {path.name for path in folder.iterdir()} <= {MERGED, building_path(folder / MERGED).name}:
            continue
        answers = len(whole_lines(folder / ANSWERS))
        trains = not answers and any((folder / file).exists() for file in (CURVE, SAMPLES, BUILT_ADAPTER))
        steps = [checkpoint_step(path) for path in checkpoint_paths(folder) if (path / COMPLETE).is_file()]
        in_progress.append(Work(folder, name, None if trains or steps else answers, steps))
    return in_progress


def is_published(one: Work, artifacts: Sequence[Artifact]) -> bool:
    """Whether an artifact of the same provenance is finished; an equal name alone proves nothing."""
    return any(artifact.key == one.key and not artifact.archived for artifact in artifacts)


def _stale(root: Path, comparison: Mapping[str, Any], artifacts: Sequence[Artifact]) -> str | None:
    current = [one for one in artifacts if not one.archived]
    answers = {one.path: one.manifest["origin"] for one in current if one.kind == "tuned"}
    adapters = [one.path for one in current if one.kind == "adapter"]
    return comparison_status.stale(comparison, root / comparison["file"], answers, adapters)


def require_idle(run: Run) -> None:
    """Refuse a folder in which a process works.

    Raises:
        FolderLocked: its lock is held.
    """
    if is_locked(lock_path(run.root)):
        raise FolderLocked(
            f"{run.root} is in use by {run.owner or 'another process'}, which may still finish what looks incomplete. "
            "Wait for it or stop it"
        )
