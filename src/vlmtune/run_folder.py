"""The run folder: what a step made is written once, atomically, with its manifest last.

An artifact is a file (its manifest beside it, `<stem>.manifest.json`) or a folder (its manifest inside,
`vlmtune.json`). A manifest says what the artifact was made from; an artifact made from something else is never
overwritten. Work in progress lies in `.vlmtune/`, under the hash of what it is made from, until the artifact is whole.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from vlmtune import fault_injection, files
from vlmtune.errors import ConfigError, FolderLocked, IntegrityError
from vlmtune.files import fsync_folder, os_errors_named, read_json, write_atomic, write_json
from vlmtune.progress import Progress
from vlmtune.registry import BaseConfig, under_current_names

MANIFEST_VERSION = 1
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]
"""What PEFT loads, and what an adapter is known by."""

MERGED = "merged"
"""Folder in `.vlmtune` of the models with an adapter in their weights."""


class OutputConfig(BaseConfig):
    """Where results are written: one folder, and plain names in it, by default those of the classic scripts."""

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

    regressions: str = "regressions.jsonl"
    """The rows that got worse in the primary metric, worst first."""

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
        """Short hash; what mock and real runs have in the making never meets."""
        return hashlib.sha256(json.dumps([self.parts, self.mock], sort_keys=True).encode()).hexdigest()[:12]


class RunFolder:
    """One folder of results."""

    def __init__(self, root: Path, progress: Progress) -> None:
        with os_errors_named(root):
            if root.exists() and not root.is_dir():
                raise ConfigError(f"output.dir {root} is a file; choose a folder with --set output.dir=…")
        self.root = root
        self._progress = progress

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes here until this ends. The lock dies with its process, however that ends.

        Raises:
            FolderLocked: a live process holds it.
            EnvironmentProblem, ConfigError: the folder cannot be made or written.
        """
        file = self.root / ".vlmtune" / "lock"
        with os_errors_named(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            stream = file.open("a+", errors="replace")
        with stream:
            with os_errors_named(file):
                self._take(stream)
            try:
                yield
            finally:
                stream.truncate(0)

    def _take(self, stream: TextIO) -> None:
        free = files.take(stream)
        stream.seek(0)
        if not free:
            raise FolderLocked(
                f"{self.root} is in use by {stream.read().strip() or 'another process'}. Wait for it, stop it, or "
                "choose another folder with --set output.dir=…"
            )
        if left := stream.read().strip():
            self._progress.note(f"{left} ended without finishing; going on from what it saved")
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()

    def finished(
        self, artifact: Path, origin: Origin, beside: Sequence[Path] = (), above: Sequence[Path] = ()
    ) -> dict[str, Any] | None:
        """The manifest of an artifact that is already made from `origin`; None where it is still to be made.

        What the other kind of run left (mock or real) is moved aside first, see `keep_apart`. Without a manifest,
        whatever has the name of the artifact or of a file `beside` it is refused, unless a crash of ours left it: the
        artifact has the bytes that were about to be written, a file beside it the fields that only vlmtune writes.
        Files `above` are made again at any time and not looked at.

        Args:
            artifact: file or folder.
            origin: what it would be made from now.
            beside: files made from this artifact alone (controls, scores).
            above: files made from it and from others (comparison, page).

        Raises:
            IntegrityError: something else is there: from another config (the differences are named), or not ours.
        """
        self.keep_apart(artifact, origin.mock, (*beside, *above))
        manifest = read_manifest(artifact)
        if manifest is None:
            self._refuse_foreign(artifact)
            for file in beside:
                if file.exists() and not _is_derived(file):
                    raise _foreign(file)
            return None
        if not artifact.exists():
            manifest_path(artifact).unlink()
            return None
        if manifest["origin"] == json.loads(json.dumps(origin.parts)):
            self._forget(artifact, origin)
            return manifest
        raise IntegrityError(
            f"{artifact} was made from another configuration; nothing was overwritten:\n"
            + "\n".join(f"  {line}" for line in differences(manifest["origin"], origin.parts)[:12])
            + "\nChoose another folder with --set output.dir=…, or move the old results away"
        )

    def keep_apart(self, artifact: Path, mock: bool, companions: Sequence[Path] = ()) -> None:
        """Move an artifact that the other kind of run made, mock or real, aside together with its companions."""
        manifest = read_manifest(artifact)
        if manifest is None or manifest["mock"] == mock:
            return
        kind = "mock" if manifest["mock"] else "real"
        aside = _free(artifact, kind)
        moves = {file: _free(file, kind) for file in companions} | {artifact: aside}
        if not artifact.is_dir():
            moves |= {path(artifact): path(aside) for path in (controls_path, manifest_path)}
        moved = {old: new for old, new in moves.items() if old.exists()}
        for old, new in moved.items():
            with os_errors_named(old):
                old.rename(new)
        names = ", ".join(new.name for new in moved.values())
        self._progress.note(f"{artifact} came from a {kind} run and is kept, with what belongs to it: {names}")

    def work(self, artifact: Path, origin: Origin) -> Path:
        """Folder for the work in progress of an artifact; gone when the artifact is published."""
        work, old = self._works(artifact, origin)
        with os_errors_named(work):
            if old.is_dir() and not work.exists():
                old.rename(work)
            work.mkdir(parents=True, exist_ok=True)
        return work

    def merged(self, origin: Origin) -> Path:
        """Where a model with an adapter in its weights lies; the lock on it is beside it, as `<name>.lock`."""
        return self.root / ".vlmtune" / MERGED / origin.key

    def write(self, artifact: Path, text: str) -> None:
        """Write the file of an artifact; its manifest is to follow.

        Which bytes are about to be written is noted right before: what a crash leaves is known by them, and a file that
        somebody else put there in the meantime is not.

        Raises:
            IntegrityError: such a file is there.
        """
        self._refuse_foreign(artifact)
        with os_errors_named(artifact):
            artifact.unlink(missing_ok=True)
            write_json(self._note(artifact), {"sha256": hashlib.sha256(text.encode()).hexdigest()})
            write_atomic(artifact, text)

    def publish(
        self, artifact: Path, origin: Origin, facts: Mapping[str, Any], built: Path | None = None
    ) -> dict[str, Any]:
        """The artifact is whole: write its manifest, and forget the work that led to it.

        Args:
            artifact: a file that `write` wrote, or the folder that `built` becomes.
            origin: what it was made from.
            facts: what else its manifest says.
            built: a folder in `work`; renamed to the artifact with its manifest in it: that is there whole, or not.

        Raises:
            IntegrityError: something that vlmtune did not make has the folder's name by now.
        """
        fault_injection.hit("manifest.before")
        manifest = {
            "schema_version": MANIFEST_VERSION,
            "artifact": artifact.name,
            "mock": origin.mock,
            "origin": origin.parts,
            **facts,
        }
        if built is None:
            write_json(manifest_path(artifact), manifest)
        else:
            write_json(manifest_path(built), manifest)
            self._refuse_foreign(artifact)
            with os_errors_named(artifact):
                built.rename(artifact)
                fsync_folder(artifact.parent)
        fault_injection.hit("manifest.after")
        self._forget(artifact, origin)
        return manifest

    def _forget(self, artifact: Path, origin: Origin) -> None:
        """Away with checkpoints and answers: who deletes the artifact wants it made anew, not put together again."""
        with os_errors_named(self.root):
            self._note(artifact).unlink(missing_ok=True)
            for work in self._works(artifact, origin):
                if work.is_dir():
                    shutil.rmtree(work)

    def _works(self, artifact: Path, origin: Origin) -> list[Path]:
        """The folder of its work, and the one that older versions gave it, by a name that seeds share."""
        return [self.root / ".vlmtune" / f"{name}-{origin.key}" for name in (artifact.name, artifact.stem)]

    def _note(self, artifact: Path) -> Path:
        return self.root / ".vlmtune" / f"{artifact.name}.writing.json"

    def _refuse_foreign(self, artifact: Path) -> None:
        if not artifact.exists():
            return
        note = self._note(artifact)
        if artifact.is_file() and note.is_file():
            with os_errors_named(artifact):
                if read_json(note).get("sha256") == hashlib.sha256(artifact.read_bytes()).hexdigest():
                    return
        raise _foreign(artifact)


def manifest_path(artifact: Path) -> Path:
    """Where an artifact's manifest lies."""
    return artifact / "vlmtune.json" if artifact.is_dir() else artifact.with_name(f"{artifact.stem}.manifest.json")


def controls_path(artifact: Path) -> Path:
    """Where the controls of a prediction file lie."""
    return artifact.with_name(f"{artifact.stem}.controls.json")


def read_manifest(artifact: Path) -> dict[str, Any] | None:
    """The manifest of an artifact, None where it has none.

    Raises:
        IntegrityError: the manifest cannot be read, or another version of vlmtune wrote it.
    """
    file = manifest_path(artifact)
    if not file.is_file():
        return None
    manifest: dict[str, Any] = read_json(file)
    version = manifest.get("schema_version")
    if version != MANIFEST_VERSION:
        raise IntegrityError(
            f"{file}: a manifest of version {version!r}, this vlmtune reads version {MANIFEST_VERSION}; use the one "
            f"that wrote it, or move it away together with {artifact.name}"
        )
    if not isinstance(manifest.get("origin"), dict) or not isinstance(manifest.get("mock"), bool):
        raise IntegrityError(f"{file}: not a manifest of vlmtune; move it away together with {artifact.name}")
    manifest.update(under_current_names(manifest))
    return manifest


def _is_derived(file: Path) -> bool:
    """Whether only vlmtune writes such a file: controls and scores have these fields, a classic script's have not."""
    try:
        found = read_json(file)
    except IntegrityError:
        return False
    return "schema_version" in found and bool({"mock", "effect"} & found.keys())


def _foreign(file: Path) -> IntegrityError:
    return IntegrityError(
        f"{file} is there, but vlmtune did not make it (no manifest). Move it away, or choose another folder with "
        "--set output.dir=…"
    )


def _free(file: Path, kind: str) -> Path:
    """A name beside a file that says which kind of run it came from, and that nobody has."""
    aside, count = file.with_name(f"{file.stem}.{kind}{file.suffix}"), 1
    while aside.exists():
        count += 1
        aside = file.with_name(f"{file.stem}.{kind}-{count}{file.suffix}")
    return aside


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
        with os_errors_named(folder / name):
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()[:16]
