"""A run folder: its lock, and how artifacts are published in it (`run_layout` has the names of its files).

The manifest of an artifact, written last, holds its provenance; an artifact of another provenance is never overwritten.
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
from typing import Annotated, Any, Literal, Required, TextIO, cast

from pydantic import AfterValidator, FiniteFloat, PositiveInt
from typing_extensions import TypedDict

from vlmtune import fault_injection, files
from vlmtune.errors import ConfigError, FolderLocked, IntegrityError
from vlmtune.files import fsync_folder, read_json, translate_os_errors, write_atomic, write_json
from vlmtune.json_values import mismatch
from vlmtune.predictions import AdapterDelta, Controls
from vlmtune.progress import Progress
from vlmtune.registry import under_current_names
from vlmtune.run_layout import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    archive_path,
    controls_path,
    lock_of_merged,
    lock_path,
    manifest_path,
    merged_model_path,
    note_path,
    work_paths,
)

MANIFEST_VERSION = 1


class _Origin(TypedDict, total=False):
    """Types of what is read from a manifest's `origin`; other parts are only compared and shown."""

    model: dict[str, Any] | None
    preprocessing: dict[str, Any] | None
    task: dict[str, Any]
    dataset: dict[str, Any]
    inference: dict[str, Any] | None
    training: dict[str, Any]
    adapter: str | None
    evaluation_set: str | None
    prompt_baseline: dict[str, Any]
    shard: dict[str, int]


def _with_step(point: dict[str, float | None]) -> dict[str, float | None]:
    if point.get("step") is None:
        raise ValueError("a point of the curve has no step")
    return point


class _Manifest(TypedDict, total=False):
    """Types of what is read from a manifest."""

    artifact: str
    mock: Required[bool]
    origin: Required[_Origin]
    versions: dict[str, str | None]
    curve: list[Annotated[dict[str, FiniteFloat | None], AfterValidator(_with_step)]]
    steps: int
    chosen_step: int
    trainable_parameters: int
    stopped_early: bool
    selection_ids: list[str]
    resumed_at: list[int]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an artifact is made from: equal provenance gives equal artifacts. `mock` marks the tiny stand-in's results.

    In manifests, `parts` has the key `origin`.
    """

    parts: Mapping[str, Any]
    mock: bool = False

    @property
    def key(self) -> str:
        """Hash of 12 hexadecimal digits; it keeps the work of mock and real runs apart."""
        return hashlib.sha256(json.dumps([self.parts, self.mock], sort_keys=True).encode()).hexdigest()[:12]

    def manifest(self, artifact: str | None = None, **facts: Any) -> dict[str, Any]:
        """The manifest of what is made from this.

        Args:
            artifact: its name, by which an archived one is told; None for what may have any.
            **facts: further entries.
        """
        named = {"artifact": artifact} if artifact is not None else {}
        return {"schema_version": MANIFEST_VERSION, **named, "mock": self.mock, "origin": self.parts, **facts}


class RunFolder:
    """The folder of one run: its lock, its work in progress and its artifacts."""

    def __init__(self, root: Path, progress: Progress) -> None:
        with translate_os_errors(root):
            if root.exists() and not root.is_dir():
                raise ConfigError(f"output.dir {root} is a file; choose a folder with --set output.dir=…")
        self.root = root
        self._progress = progress

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder until the block ends. The lock is released when its process ends, for whatever reason.

        Raises:
            FolderLocked: a live process holds it.
            EnvironmentProblem, ConfigError: the folder cannot be created or written.
        """
        file = lock_path(self.root)
        with translate_os_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            stream = file.open("a+", errors="replace")
        with stream:
            with translate_os_errors(file):
                self._take(stream)
            try:
                yield
            finally:
                stream.truncate(0)

    def _take(self, stream: TextIO) -> None:
        free = files.try_lock(stream)
        stream.seek(0)
        if not free:
            raise FolderLocked(
                f"{self.root} is in use by {stream.read().strip() or 'another process'}. Wait for it, stop it, or "
                "choose another folder with --set output.dir=…"
            )
        if previous := stream.read().strip():
            self._progress.note(f"{previous} ended without finishing; continuing from what it saved")
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()

    def finished(self, artifact: Path, provenance: Provenance) -> dict[str, Any] | None:
        """The manifest of an artifact that was already made from `provenance`; None if it is still to be made.

        Nothing is changed; call `reconcile` before making an artifact.

        Raises:
            IntegrityError: it was made from another config; the message lists the differences.
        """
        manifest = read_manifest(artifact)
        if manifest is None or not artifact.exists() or manifest["mock"] != provenance.mock:
            return None
        origin, parts = manifest["origin"], _comparable(manifest["origin"], provenance.parts)
        if origin == parts:
            return manifest
        raise IntegrityError(
            f"{artifact} was made from another configuration; nothing was overwritten:\n"
            + "\n".join(f"  {line}" for line in differences(origin, parts)[:12])
            + "\nChoose another folder with --set output.dir=…, or move the old results away"
        )

    def reconcile(
        self, artifact: Path, provenance: Provenance, sidecars: Sequence[Path] = (), derived: Sequence[Path] = ()
    ) -> dict[str, Any] | None:
        """Prepare for an artifact that is to be made from `provenance`; returns its manifest if it is already finished.

        Results of the other kind of run (mock or real) are archived. A manifest without its artifact is deleted, and so
        is the work of a finished artifact. A file without a manifest that has the name of the artifact or of a sidecar
        is refused, unless a crash of vlmtune left it: such an artifact has exactly the bytes that were announced in its
        note, such a sidecar the fields that only vlmtune writes.

        Args:
            artifact: file or folder.
            provenance: what it would be made from now.
            sidecars: files made from this artifact alone (controls, scores).
            derived: files made from several artifacts (comparison, report), which may be rewritten at any time.

        Raises:
            IntegrityError: the name is taken by an artifact of another config (the message lists the differences), or
                by a file that vlmtune did not make.
        """
        self.archive_other_kind(artifact, provenance.mock, (*sidecars, *derived))
        if read_manifest(artifact) is None:
            self._refuse_foreign(artifact)
            for file in sidecars:
                if file.exists() and not _is_ours(file):
                    raise _foreign(file)
        elif not artifact.exists():
            manifest_path(artifact).unlink()
        finished = self.finished(artifact, provenance)
        if finished is not None:
            self._delete_work(artifact, provenance)
        return finished

    def archive_other_kind(self, artifact: Path, mock: bool, related: Sequence[Path] = ()) -> None:
        """Archive an artifact that the other kind of run made (mock or real), and the files related to it."""
        manifest = read_manifest(artifact)
        if manifest is None or manifest["mock"] == mock:
            return
        kind = "mock" if manifest["mock"] else "real"
        archived = archive_path(artifact, kind)
        moves = {file: archive_path(file, kind) for file in related} | {artifact: archived}
        if not artifact.is_dir():
            moves |= {path(artifact): path(archived) for path in (controls_path, manifest_path)}
        moved = {old: new for old, new in moves.items() if old.exists()}
        for old, new in moved.items():
            with translate_os_errors(old):
                old.rename(new)
        names = ", ".join(new.name for new in moved.values())
        self._progress.note(f"{artifact} came from a {kind} run and is archived, with its related files: {names}")

    def work(self, artifact: Path, provenance: Provenance) -> Path:
        """Create the work folder of an artifact; publishing the artifact deletes it."""
        work, old = work_paths(self.root, artifact, provenance.key)
        with translate_os_errors(work):
            if old.is_dir() and not work.exists():
                old.rename(work)
            work.mkdir(parents=True, exist_ok=True)
        return work

    def merged(self, provenance: Provenance) -> tuple[Path, Path]:
        """Folder of a merged model, and its lock."""
        folder = merged_model_path(self.root, provenance.key)
        return folder, lock_of_merged(folder)

    def write(self, artifact: Path, text: str) -> None:
        """Write the file of an artifact, to be followed by `publish`.

        A note with the hash of the bytes is written first. After a crash it distinguishes a file of vlmtune, which may
        be overwritten, from one that another program put there.

        Raises:
            IntegrityError: another program's file has this name.
        """
        self._refuse_foreign(artifact)
        with translate_os_errors(artifact):
            artifact.unlink(missing_ok=True)
            write_json(note_path(self.root, artifact), {"sha256": hashlib.sha256(text.encode()).hexdigest()})
            write_atomic(artifact, text)

    def publish(
        self, artifact: Path, provenance: Provenance, facts: Mapping[str, Any], built: Path | None = None
    ) -> dict[str, Any]:
        """Write the manifest of a complete artifact and delete its work folder; returns the manifest.

        Args:
            artifact: a file that `write` wrote, or the folder that `built` becomes.
            provenance: what it was made from.
            facts: further entries of its manifest.
            built: a folder in `work`, renamed to the artifact after its manifest was written into it.

        Raises:
            IntegrityError: another program's file or folder has the name by now.
        """
        fault_injection.hit("manifest.before")
        manifest = provenance.manifest(artifact.name, **facts)
        if built is None:
            write_json(manifest_path(artifact), manifest)
        else:
            write_json(manifest_path(built), manifest)
            self._refuse_foreign(artifact)
            with translate_os_errors(artifact):
                built.rename(artifact)
                fsync_folder(artifact.parent)
        fault_injection.hit("manifest.after")
        self._delete_work(artifact, provenance)
        return manifest

    def _delete_work(self, artifact: Path, provenance: Provenance) -> None:
        """Delete checkpoints and answers: a user who deletes the artifact later expects a fresh start."""
        with translate_os_errors(self.root):
            note_path(self.root, artifact).unlink(missing_ok=True)
            for work in work_paths(self.root, artifact, provenance.key):
                if work.is_dir():
                    shutil.rmtree(work)

    def _refuse_foreign(self, artifact: Path) -> None:
        if not artifact.exists():
            return
        note = note_path(self.root, artifact)
        if artifact.is_file() and note.is_file():
            with translate_os_errors(artifact):
                if read_json(note).get("sha256") == hashlib.sha256(artifact.read_bytes()).hexdigest():
                    return
        raise _foreign(artifact)


def read_manifest(artifact: Path) -> dict[str, Any] | None:
    """The manifest of an artifact; None if it has none.

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
    if isinstance(manifest.get("origin"), dict):
        manifest.update(under_current_names(manifest))
    if (wrong := mismatch(manifest, _Manifest)) is not None:
        raise IntegrityError(f"{file}: no manifest of vlmtune ({wrong}); move it away together with {artifact.name}")
    return manifest


class _ShuffledAnswer(TypedDict):
    id: str | None
    prediction: str | None


class _ShuffledAnswers(TypedDict):
    lines: list[_ShuffledAnswer]


class _Controls(TypedDict, total=False):
    """Types of what is read from controls; `effect` is the old name of `adapter_delta`."""

    image: _ShuffledAnswers | None
    adapter_delta: AdapterDelta | None
    effect: AdapterDelta | None


def read_controls(artifact: Path) -> Controls | None:
    """The controls of a prediction file; None if it has none.

    Raises:
        IntegrityError: the file cannot be read.
    """
    file = controls_path(artifact)
    return cast(Controls, with_adapter_delta(read_json(file, _Controls))) if file.is_file() else None


def with_adapter_delta(content: dict[str, Any]) -> dict[str, Any]:
    """Content of a file that was written when `adapter_delta` was named `effect`, under today's name."""
    return {"adapter_delta": content.get("effect")} | content


def _is_ours(file: Path) -> bool:
    """Whether vlmtune wrote it: its controls and scores have these fields, scores of a classic script do not."""
    try:
        content = read_json(file)
    except IntegrityError:
        return False
    return "schema_version" in content and bool({"mock", "adapter_delta", "effect"} & content.keys())


def _comparable(origin: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts as JSON holds them, without those that the origin is too old to have."""
    plain: dict[str, Any] = json.loads(json.dumps(parts))
    for block, _, key in (name.partition(".") for name in ADDED_LATER):
        if key not in (origin.get(block) or {}):
            plain.get(block, {}).pop(key, None)
    return plain


def _foreign(file: Path) -> IntegrityError:
    return IntegrityError(
        f"{file} is there, but vlmtune did not make it (no manifest). Move it away, or choose another folder with "
        "--set output.dir=…"
    )


ADDED_LATER = {"model.weights"}
"""Parts of a provenance that older ones lack: what was not recorded does not differ."""


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Differences of two JSON values, one line each: dotted path, old and new value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        unknown = {name.removeprefix(f"{path}.") for name in ADDED_LATER if path} - (old.keys() & new.keys())
        keys = [key for key in dict.fromkeys([*old, *new]) if key not in unknown]
        return [line for k in keys for line in differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    if json.dumps(old) == json.dumps(new):
        return []
    return [f"{path}: {_short(old)} there, {_short(new)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds the files that PEFT loads."""
    return all((folder / name).is_file() for name in ADAPTER_FILES)


class _AdapterConfig(TypedDict, total=False):
    """Types of what is read from PEFT's `adapter_config.json`."""

    peft_type: Literal["LORA"]
    r: Required[PositiveInt]
    rank_pattern: dict[str, PositiveInt] | None
    lora_alpha: FiniteFloat
    use_rslora: bool
    use_dora: bool
    bias: str
    lora_bias: bool
    modules_to_save: list[str] | None
    base_model_name_or_path: str | None


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """PEFT's configuration of an adapter.

    Raises:
        IntegrityError: it is none of a LoRA.
    """
    config: dict[str, Any] = read_json(folder / ADAPTER_CONFIG, _AdapterConfig)
    return config


def largest_rank(config: Mapping[str, Any]) -> int:
    """The largest rank of any layer of an adapter, from its configuration."""
    return int(max([config["r"], *(config.get("rank_pattern") or {}).values()]))


def hash_adapter(folder: Path) -> str:
    """The hash that identifies an adapter: 16 hexadecimal digits over its two files."""
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        with translate_os_errors(folder / name):
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()[:16]
