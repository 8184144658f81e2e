"""What one run folder holds, read from its files alone; nothing is written, locked or loaded.

A run folder has `.vlmtune` in it, or an artifact with a manifest.
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
from vlmtune.files import os_errors_named, read_json
from vlmtune.progress import STATUS
from vlmtune.runs import manifest_path, read_manifest

State = Literal["running", "stopped", "finished", "begun", "damaged"]
"""A live process works here; work in progress waits for the same command; compared; some steps are done; unreadable."""

OWN = ".vlmtune"
KINDS = ("baseline", "untrained", "adapter", "tuned", "shard", "merged")
"""Kinds of artifacts, in the order of a run."""

_MANIFEST = ".manifest.json"
_VERDICT = 400
"""A comparison has its verdict in its first bytes."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom the lock names. `alive` is None for a process of another machine, which cannot be asked."""

    pid: int
    host: str
    alive: bool | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


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


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder at one moment. `status` is what `progress.Kept` left; `problems` what could not be read."""

    root: Path
    owner: Owner | None
    status: Mapping[str, Any] | None
    artifacts: Sequence[Artifact]
    making: Sequence[Making]
    comparison: Mapping[str, Any] | None
    problems: Sequence[str]
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
        if self.making:
            return "stopped"
        return "finished" if {"baseline", "tuned", "comparison"} <= {*self.steps} else "begun"

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
        inside = (name for name in folders if not name.startswith(".") and name not in ("pictures", "wandb"))
        folders[:] = [name for name in inside if not (here / name / "vlmtune.json").is_file()]
    return sorted(found)


def is_run(folder: Path) -> bool:
    """Whether vlmtune wrote here."""
    return (folder / OWN).is_dir() or any(True for _ in _finished(folder))


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
        artifacts, problems = _artifacts(root)
        comparison = _comparison(root, problems)
        files = [entry for path in root.rglob("*") if (entry := _entry(path)) is not None]
    return Run(
        root=root,
        owner=owner(root),
        status=status(root),
        artifacts=artifacts,
        making=[one for one in makings(root) if not is_published(one, artifacts)],
        comparison=comparison,
        problems=problems,
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
    """Whom the lock names; None where it is free. It is not tried: a run that starts now must not meet us in it."""
    try:
        text = (root / OWN / "lock").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    found = re.fullmatch(r"process (\d+) on (\S+)", text.strip())
    if found is None:
        return None
    pid, host = int(found[1]), found[2]
    return Owner(pid, host, _alive(pid) if host == socket.gethostname() else None)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def status(root: Path) -> dict[str, Any] | None:
    """Where the run stands, or stood when it ended early; None where it ended well or never began a step."""
    try:
        found: dict[str, Any] = json.loads((root / OWN / STATUS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def makings(root: Path) -> list[Making]:
    """Work in progress, finished or not, by name."""
    found = []
    for folder in sorted(root.glob(f"{OWN}/*-*/")):
        name, _, key = folder.name.rpartition("-")
        if not re.fullmatch(r"[0-9a-f]{12}", key) or not any(folder.glob("*")):
            continue
        answers = _lines(folder / "answers.jsonl")
        trains = not answers and any((folder / file).exists() for file in ("curve.jsonl", "visits.jsonl", "adapter"))
        steps = sorted(int(path.parent.name[5:]) for path in folder.glob("step-*/complete.json"))
        found.append(Making(folder, name, None if trains or steps else answers, steps))
    return found


def is_published(one: Making, artifacts: Sequence[Artifact]) -> bool:
    """Whether an artifact of that name is finished: nothing will go on from this work."""
    return any(artifact.path.stem == one.name and not artifact.aside for artifact in artifacts)


def whole_lines(file: Path) -> list[bytes]:
    """Lines of a file that another process appends to, without a torn last one; the file stays as it is."""
    try:
        return file.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def _lines(file: Path) -> int:
    return len(whole_lines(file))


def _finished(root: Path) -> Iterator[Path]:
    """Artifacts that have a manifest, readable or not."""
    for path in sorted(root.iterdir()):
        if is_aside(path) == "damaged":
            continue
        if path.name.endswith(_MANIFEST):
            stem = path.name.removesuffix(_MANIFEST)
            yield next(
                (file for file in sorted(root.glob(f"{stem}.*")) if _is_answers(file, stem)), root / f"{stem}.jsonl"
            )
        elif not path.name.startswith(".") and (path / "vlmtune.json").is_file():
            yield path


def _is_answers(file: Path, stem: str) -> bool:
    """Whether a manifest `<stem>.manifest.json` is about this file."""
    return file.stem == stem and not file.name.endswith((_MANIFEST, ".controls.json", ".metrics.json"))


def _artifacts(root: Path) -> tuple[list[Artifact], list[str]]:
    found, problems = [], []
    for path in _finished(root):
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


def _comparison(root: Path, problems: list[str]) -> dict[str, Any] | None:
    """The comparison without its examples: a JSON file that begins with a verdict; of several the shortest name."""
    for file in sorted(root.glob("*.json"), key=lambda path: (len(path.name), path.name)):
        with file.open("rb") as stream:
            begins = stream.read(_VERDICT)
        if b'"verdict"' not in begins or is_aside(file):
            continue
        try:
            plain: dict[str, Any] = read_json(file)
        except IntegrityError as error:
            problems.append(str(error))
            continue
        return {key: value for key, value in plain.items() if key != "examples"} | {"file": file.name}
    return None


def is_aside(path: Path) -> str | None:
    """Why a file was moved aside, by its name: `mock` or `real` made it, or it was `damaged`; None for any other."""
    found = re.search(r"\.(mock|real|damaged)(-\d+)?(\.|$)", path.name)
    return found[1] if found else None


def refuse_live(run: Run) -> None:
    """Nothing is judged or changed while a process works here; one of another machine only the lock itself can tell.

    Raises:
        FolderLocked: it does.
    """
    if run.owner is not None and run.owner.alive:
        raise FolderLocked(
            f"{run.root} is in use by {run.owner}; what looks unfinished is in the making. Wait, or stop it"
        )
