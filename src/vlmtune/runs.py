"""The run folder: what a step made is written once, atomically, with its manifest last.

An artifact is a file (its manifest beside it, `<stem>.manifest.json`) or a folder (its manifest inside,
`vlmtune.json`). A manifest says what the artifact was made from; an artifact made from something else is never
overwritten. Work in progress lives in `.vlmtune/`, under the hash of what it is made from.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune import faults
from vlmtune.errors import ConfigError, FolderLocked, IntegrityError
from vlmtune.files import write_json
from vlmtune.plugs import Part
from vlmtune.progress import Progress


class OutputConfig(Part):
    """Where results are written. The file names are those of the classic scripts."""

    dir: str = "outputs"
    """Folder of the run."""

    baseline: str = "baseline_predictions.jsonl"
    """Answers of the untouched model."""

    tuned: str = "lora_predictions.jsonl"
    """Answers of the tuned model."""

    baseline_metrics: str = "metrics_baseline.json"
    """Scores of the untouched model."""

    tuned_metrics: str = "metrics_lora.json"
    """Scores of the tuned model."""

    adapter: str = "lora"
    """Folder of the adapter, in PEFT's format."""

    comparison: str = "compare.json"
    """The comparison of both."""

    report: str = "report.html"
    """The comparison as a page."""

    def path(self, name: str) -> Path:
        """A file of this folder."""
        return Path(self.dir) / name


@dataclass(frozen=True, slots=True)
class Origin:
    """What an artifact is made from: equal origins make equal artifacts. `mock` marks what ran on the tiny stand-in."""

    parts: Mapping[str, Any]
    mock: bool = False

    @property
    def key(self) -> str:
        """Short hash of the parts."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()[:12]


class RunFolder:
    """One folder of results."""

    def __init__(self, root: Path, progress: Progress) -> None:
        if root.exists() and not root.is_dir():
            raise ConfigError(f"output.dir {root} is a file; choose a folder with --set output.dir=…")
        self.root = root
        self._progress = progress

    def work(self, artifact: Path, origin: Origin) -> Path:
        """Folder for the work in progress of an artifact made from `origin`."""
        return self.root / ".vlmtune" / f"{artifact.stem}-{origin.key}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes here until this ends. The lock dies with its process, however that ends.

        Raises:
            FolderLocked: a live process holds it.
        """
        file = self.root / ".vlmtune" / "lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                stream.seek(0)
                raise FolderLocked(
                    f"{self.root} is in use by {stream.read().strip() or 'another process'}. Wait for it, stop it, or "
                    "choose another folder with --set output.dir=…"
                ) from None
            stream.seek(0)
            if left := stream.read().strip():
                self._progress.note(f"{left} ended without finishing; going on from what it saved")
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            stream.flush()
            try:
                yield
            finally:
                stream.truncate(0)

    def finished(self, artifact: Path, origin: Origin) -> dict[str, Any] | None:
        """The manifest of an artifact that is already made from `origin`; None where it is still to be made.

        What mock and real runs left is kept apart: an artifact of the other kind is moved aside with a notice.

        Raises:
            IntegrityError: something else is there: from another config (the differences are named), or not ours.
        """
        manifest = read_manifest(artifact)
        if manifest is None:
            if artifact.exists() and not self._started(artifact).exists():
                raise IntegrityError(
                    f"{artifact} is there, but vlmtune did not make it (no manifest). Move it away, or choose another "
                    "folder with --set output.dir=…"
                )
            return None
        if not artifact.exists() or manifest["origin"] == json.loads(json.dumps(origin.parts)):
            return manifest if artifact.exists() else None
        if manifest["mock"] != origin.mock:
            self._move_aside(artifact, "mock" if manifest["mock"] else "real")
            return None
        raise IntegrityError(
            f"{artifact} was made from another configuration; nothing was overwritten:\n"
            + "\n".join(f"  {line}" for line in differences(manifest["origin"], origin.parts)[:12])
            + "\nChoose another folder with --set output.dir=…, or move the old results away"
        )

    def start(self, artifact: Path, origin: Origin) -> Path:
        """Note that an artifact is being made; what a crash leaves may be overwritten. Returns its work folder."""
        work = self.work(artifact, origin)
        work.mkdir(parents=True, exist_ok=True)
        write_json(self._started(artifact), {"origin": origin.parts})
        return work

    def publish(self, artifact: Path, origin: Origin, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The artifact is whole: write its manifest, and forget that it was in the making."""
        faults.hit("manifest.before")
        manifest = {
            "schema_version": 1,
            "artifact": artifact.name,
            "mock": origin.mock,
            "origin": origin.parts,
            **facts,
        }
        write_json(manifest_path(artifact), manifest)
        faults.hit("manifest.after")
        self._started(artifact).unlink(missing_ok=True)
        return manifest

    def _started(self, artifact: Path) -> Path:
        return self.root / ".vlmtune" / f"{artifact.name}.started.json"

    def _move_aside(self, artifact: Path, kind: str) -> None:
        aside = artifact.with_name(f"{artifact.stem}.{kind}{artifact.suffix}")
        count = 1
        while aside.exists():
            count += 1
            aside = artifact.with_name(f"{artifact.stem}.{kind}-{count}{artifact.suffix}")
        companions = [(manifest_path(artifact), manifest_path(aside)), (_sidecar(artifact), _sidecar(aside))]
        shutil.move(artifact, aside)
        for old, new in companions:
            if old.exists():
                shutil.move(old, new)
        self._progress.note(f"{artifact} came from a {kind} run and is kept as {aside.name}")


def manifest_path(artifact: Path) -> Path:
    """Where an artifact's manifest lies."""
    return artifact / "vlmtune.json" if artifact.is_dir() else artifact.with_name(f"{artifact.stem}.manifest.json")


def _sidecar(artifact: Path) -> Path:
    return artifact.with_name(f"{artifact.stem}.controls.json")


def read_manifest(artifact: Path) -> dict[str, Any] | None:
    """The manifest of an artifact, None where it has none.

    Raises:
        IntegrityError: the manifest cannot be read.
    """
    file = manifest_path(artifact)
    if not file.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{file}: not JSON ({error}); move it away together with {artifact.name}") from None
    return manifest


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two plain values differ, one line each: dotted path, old and new value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = list(dict.fromkeys([*old, *new]))
        return [line for k in keys for line in differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    if json.dumps(old) == json.dumps(new):
        return []
    return [f"{path}: {_short(old)} there, {_short(new)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def hash_files(folder: Path, names: list[str]) -> str:
    """Hash over some files of a folder."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()[:16]
