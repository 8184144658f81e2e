"""The run folder: what a step made is written once, atomically, with its manifest last.

An artifact is a file (its manifest beside it, `<stem>.manifest.json`) or a folder (its manifest inside,
`vlmtune.json`). A manifest says what the artifact was made from; an artifact made from something else is never
overwritten. Work in progress lies in `.vlmtune/`, under the hash of what it is made from, until the artifact is whole.
"""

import hashlib
import json
import os
import re
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

STATE = ".vlmtune"
"""Folder of a run's lock, its status and its work in progress."""

LOCK, STATUS, TRACKING, IMAGE_CACHE = "lock", "status.json", "tracking.json", "pictures-looked-at.jsonl"
"""Files in `STATE`: who works here, how far the run is, what trackers know it by, which images were decoded before."""

MERGED = "merged"
"""Folder in `STATE` of the models with an adapter in their weights."""

QUARANTINE, DATA_CHECK, DATA_CHECK_PAGE, LABEL_ERRORS = (
    "quarantine.json",
    "data_check.json",
    "data_check.html",
    "label_errors.html",
)
"""What looking at the dataset leaves beside the results."""

THUMBNAILS = "pictures"
"""Folder beside prediction files with a thumbnail of every first image."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""What PEFT loads, and what an adapter is known by."""

SAMPLES = "visits.jsonl"
"""Every training example each time it was seen, with its loss; in the work folder, later in the adapter's."""

CURVE, RESUMED, BUILT_ADAPTER = "curve.jsonl", "resumed.jsonl", "adapter"
"""The rest of a training's work folder: points of the curve, steps at which it went on, the adapter to be published."""

ANSWERS, SHUFFLED_ANSWERS = "answers.jsonl", "exchanged.jsonl"
"""Answers in a prediction's work folder: to the rows, and to rows with other rows' images."""

COMPLETE = "complete.json"
"""Written last into a checkpoint: the hashes of its other files."""

_MANIFEST, _CONTROLS, _METRICS = ".manifest.json", ".controls.json", ".metrics.json"
_FOLDER_MANIFEST, _WRITING = "vlmtune.json", ".writing.json"


class OutputConfig(BaseConfig):
    """Where results are written."""

    dir: str = "outputs"
    """Folder of the run; the files in it have fixed names (docs/commands.md)."""

    adapter: str = "lora"
    """Name of the adapter's folder in it."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Where the results of a run lie.

    Each of several training seeds has an adapter and answers of its own, each additional evaluation set its answers,
    scores and comparison: `lora_predictions.docs.seed7.jsonl` is what the adapter of seed 7 answers on the set "docs".

    Args:
        root: folder of the run.
        adapter_name: name of the adapter's folder.
        evaluation_set: name of an additional evaluation set; None for the config's own rows.
        seed: which of several training seeds; None where there is one.
    """

    root: Path
    adapter_name: str
    evaluation_set: str | None = None
    seed: int | None = None

    @classmethod
    def of(cls, output: OutputConfig, evaluation_set: str | None = None, seed: int | None = None) -> "RunFiles":
        """The results of a config's `output` block."""
        return cls(Path(output.dir), output.adapter, evaluation_set, seed)

    @property
    def adapter(self) -> Path:
        """Folder of the adapter, in PEFT's format."""
        return self.root / (self.adapter_name if self.seed is None else f"{self.adapter_name}.seed{self.seed}")

    @property
    def baseline(self) -> Path:
        """Answers of the untouched model."""
        return self._of_set("baseline_predictions.jsonl")

    @property
    def tuned(self) -> Path:
        """Answers of the tuned model."""
        return self._of_seed("lora_predictions.jsonl")

    @property
    def comparison(self) -> Path:
        """The comparison of both."""
        return self._of_set("compare.json")

    @property
    def report(self) -> Path:
        """The comparison as a page."""
        return self._of_set("report.html")

    @property
    def regressions(self) -> Path:
        """The rows that got worse in the primary metric, worst first."""
        return self._of_set("regressions.jsonl")

    @property
    def derived(self) -> list[Path]:
        """What is made from several prediction files and can be made again at any time."""
        return [self.comparison, self.report, self.regressions]

    def prompt_baseline(self, name: str) -> Path:
        """Answers of the untouched model to another prompt."""
        return _named(self.baseline, name)

    def metrics(self, predictions: Path) -> Path:
        """The score of a prediction file."""
        if predictions == self.baseline:
            return self._of_set("metrics_baseline.json")
        if predictions == self.tuned:
            return self._of_seed("metrics_lora.json")
        return predictions.with_name(predictions.stem + _METRICS)

    def sidecars(self, predictions: Path) -> list[Path]:
        """What is made from one prediction file alone."""
        return [controls_path(predictions), self.metrics(predictions)]

    def _of_set(self, name: str) -> Path:
        return _named(self.root / name, self.evaluation_set)

    def _of_seed(self, name: str) -> Path:
        return _named(self._of_set(name), None if self.seed is None else f"seed{self.seed}")


def _named(file: Path, part: str | None) -> Path:
    """`a.jsonl` and `docs` make `a.docs.jsonl`."""
    return file if part is None else file.with_name(f"{file.stem}.{part}{file.suffix}")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an artifact is made from: equal provenance makes equal artifacts. `mock` marks what the tiny stand-in made.

    Manifests hold `parts` under the key `origin`.
    """

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
        file = lock_path(self.root)
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

    def finished(self, artifact: Path, provenance: Provenance) -> dict[str, Any] | None:
        """The manifest of an artifact that is already made from `provenance`; None where it is still to be made.

        Nothing is changed; `reconcile` first, where something is to be made.

        Raises:
            IntegrityError: it was made from another config; the differences are named.
        """
        manifest = read_manifest(artifact)
        if manifest is None or not artifact.exists() or manifest["mock"] != provenance.mock:
            return None
        if manifest["origin"] == json.loads(json.dumps(provenance.parts)):
            return manifest
        raise IntegrityError(
            f"{artifact} was made from another configuration; nothing was overwritten:\n"
            + "\n".join(f"  {line}" for line in differences(manifest["origin"], provenance.parts)[:12])
            + "\nChoose another folder with --set output.dir=…, or move the old results away"
        )

    def reconcile(
        self, artifact: Path, provenance: Provenance, sidecars: Sequence[Path] = (), derived: Sequence[Path] = ()
    ) -> dict[str, Any] | None:
        """Make room for an artifact that is about to be made from `provenance`; its manifest where it is finished.

        What the other kind of run left (mock or real) is archived, see `archive_other_kind`. A manifest without its
        artifact is removed, and so is the work behind a finished artifact. Without a manifest, whatever has the name of
        the artifact or of a sidecar is refused, unless a crash of ours left it: the artifact has the bytes that were
        about to be written, a sidecar the fields that only vlmtune writes.

        Args:
            artifact: file or folder.
            provenance: what it would be made from now.
            sidecars: files made from this artifact alone (controls, scores).
            derived: files made from it and from others (comparison, page), made again at any time.

        Raises:
            IntegrityError: something else is there: from another config (the differences are named), or not ours.
        """
        self.archive_other_kind(artifact, provenance.mock, (*sidecars, *derived))
        if read_manifest(artifact) is None:
            self._refuse_foreign(artifact)
            for file in sidecars:
                if file.exists() and not _is_derived(file):
                    raise _foreign(file)
        elif not artifact.exists():
            manifest_path(artifact).unlink()
        finished = self.finished(artifact, provenance)
        if finished is not None:
            self._forget(artifact, provenance)
        return finished

    def archive_other_kind(self, artifact: Path, mock: bool, companions: Sequence[Path] = ()) -> None:
        """Rename an artifact that the other kind of run made, mock or real, together with its companions."""
        manifest = read_manifest(artifact)
        if manifest is None or manifest["mock"] == mock:
            return
        kind = "mock" if manifest["mock"] else "real"
        archived = archive_path(artifact, kind)
        moves = {file: archive_path(file, kind) for file in companions} | {artifact: archived}
        if not artifact.is_dir():
            moves |= {path(artifact): path(archived) for path in (controls_path, manifest_path)}
        moved = {old: new for old, new in moves.items() if old.exists()}
        for old, new in moved.items():
            with os_errors_named(old):
                old.rename(new)
        names = ", ".join(new.name for new in moved.values())
        self._progress.note(f"{artifact} came from a {kind} run and is kept, with what belongs to it: {names}")

    def work(self, artifact: Path, provenance: Provenance) -> Path:
        """Folder for the work in progress of an artifact; gone when the artifact is published."""
        work, old = self._works(artifact, provenance)
        with os_errors_named(work):
            if old.is_dir() and not work.exists():
                old.rename(work)
            work.mkdir(parents=True, exist_ok=True)
        return work

    def merged(self, provenance: Provenance) -> tuple[Path, Path]:
        """Where a model with an adapter in its weights lies, and the lock on it."""
        folder = self.root / STATE / MERGED / provenance.key
        return folder, _lock_of(folder)

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
        self, artifact: Path, provenance: Provenance, facts: Mapping[str, Any], built: Path | None = None
    ) -> dict[str, Any]:
        """The artifact is whole: write its manifest, and forget the work that led to it.

        Args:
            artifact: a file that `write` wrote, or the folder that `built` becomes.
            provenance: what it was made from.
            facts: what else its manifest says.
            built: a folder in `work`; renamed to the artifact with its manifest in it: that is there whole, or not.

        Raises:
            IntegrityError: something that vlmtune did not make has the folder's name by now.
        """
        fault_injection.hit("manifest.before")
        manifest = {
            "schema_version": MANIFEST_VERSION,
            "artifact": artifact.name,
            "mock": provenance.mock,
            "origin": provenance.parts,
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
        self._forget(artifact, provenance)
        return manifest

    def _forget(self, artifact: Path, provenance: Provenance) -> None:
        """Away with checkpoints and answers: who deletes the artifact wants it made anew, not put together again."""
        with os_errors_named(self.root):
            self._note(artifact).unlink(missing_ok=True)
            for work in self._works(artifact, provenance):
                if work.is_dir():
                    shutil.rmtree(work)

    def _works(self, artifact: Path, provenance: Provenance) -> list[Path]:
        """The folder of its work, and the one that older versions gave it, by a name that seeds share."""
        return [self.root / STATE / f"{name}-{provenance.key}" for name in (artifact.name, artifact.stem)]

    def _note(self, artifact: Path) -> Path:
        return self.root / STATE / (artifact.name + _WRITING)

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
    return artifact / _FOLDER_MANIFEST if artifact.is_dir() else artifact.with_name(artifact.stem + _MANIFEST)


def folder_manifest_path(folder: Path) -> Path:
    """Where the manifest of a folder lies, whether the folder is there or not."""
    return folder / _FOLDER_MANIFEST


def manifested_file(manifest: Path) -> Path | None:
    """The file that `<stem>.manifest.json` is about, by default `<stem>.jsonl`; None for a file of another name."""
    if not manifest.name.endswith(_MANIFEST):
        return None
    stem = manifest.name.removesuffix(_MANIFEST)
    beside = sorted(file for file in manifest.parent.glob(f"{stem}.*") if file.stem == stem)
    own = (file for file in beside if not file.name.endswith((_MANIFEST, _CONTROLS, _METRICS)))
    return next(own, manifest.with_name(f"{stem}.jsonl"))


def lock_path(root: Path) -> Path:
    """The lock of a run folder."""
    return root / STATE / LOCK


def status_path(root: Path) -> Path:
    """Where a live run says how far it is."""
    return root / STATE / STATUS


def tracking_path(root: Path) -> Path:
    """What experiment trackers know the parts of a run by."""
    return root / STATE / TRACKING


def image_cache_path(root: Path) -> Path:
    """What is remembered of images that were decoded before."""
    return root / STATE / IMAGE_CACHE


def work_folders(root: Path) -> list[Path]:
    """Folders of work in progress: `<artifact>-<12 hexadecimal digits of what it is made from>`."""
    return sorted(path for path in root.glob(f"{STATE}/*-*/") if re.fullmatch("[0-9a-f]{12}", work_key(path)))


def work_key(work: Path) -> str:
    """The key of what the artifact of a work folder is made from."""
    return work.name.rpartition("-")[2]


def writing_notes(root: Path) -> list[tuple[Path, Path]]:
    """Notes of what was about to be written, each with its artifact."""
    notes = sorted((root / STATE).glob(f"*{_WRITING}"))
    return [(note, root / note.name.removesuffix(_WRITING)) for note in notes]


def unfinished_writes(root: Path) -> list[Path]:
    """Files and folders in this run folder whose writing has not ended; those below it may be another run's."""
    return sorted([*root.glob(".*.building"), *(root / STATE).rglob(".*.building")])


def merged_models(root: Path) -> list[Path]:
    """Models with an adapter in their weights, whole or half, also where older versions put them; sorted."""
    own = [path for path in root.glob(f"{STATE}/{MERGED}/*") if path.is_dir()]
    return sorted([*own, *root.glob(f"{STATE}/*-*/{MERGED}"), *root.glob(f"{STATE}/*-*/.{MERGED}.building")])


def merged_lock_path(path: Path) -> Path | None:
    """The lock on a merged model, whole or half; None for other things, and where older versions knew of none."""
    if path.parent.name != MERGED or path.parent.parent.name != STATE:
        return None
    return _lock_of(path.with_name(path.name.removeprefix(".").removesuffix(".building")))


def _lock_of(merged: Path) -> Path:
    return merged.with_name(f"{merged.name}.lock")


def thumbnail_path(folder: Path, image: str) -> Path:
    """Where the thumbnail of an image lies.

    Args:
        folder: a folder of thumbnails.
        image: sha256 of the image's pixels, in hexadecimal.
    """
    return folder / f"{image[:16]}.webp"


def checkpoint_path(work: Path, step: int) -> Path:
    """The checkpoint of a training step."""
    return work / f"step-{step:06d}"


def checkpoint_step(checkpoint: Path) -> int:
    """The step of a checkpoint, as its name says it."""
    return int(checkpoint.name.removeprefix("step-"))


def checkpoint_paths(work: Path) -> list[Path]:
    """All checkpoints in a work folder, whole or not, the oldest first."""
    return sorted(work.glob("step-*"))


def validation_answers_path(work: Path, step: int) -> Path:
    """Answers to the validation rows while a step is evaluated."""
    return work / f"judging-{step:06d}.jsonl"


def validation_answers(work: Path) -> list[Path]:
    """Such files, the newest first."""
    return sorted(work.glob("judging-*.jsonl"), reverse=True)


def controls_path(artifact: Path) -> Path:
    """Where the controls of a prediction file lie."""
    return artifact.with_name(artifact.stem + _CONTROLS)


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


def archive_path(file: Path, kind: str) -> Path:
    """A name beside a file that is not taken and says why it is archived: `a.jsonl` becomes `a.mock.jsonl`.

    Args:
        file: file or folder.
        kind: `mock` or `real`, the kind of run that made it, or `damaged`.
    """
    archived, count = file.with_name(f"{file.stem}.{kind}{file.suffix}"), 1
    while archived.exists():
        count += 1
        archived = file.with_name(f"{file.stem}.{kind}-{count}{file.suffix}")
    return archived


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


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds what PEFT loads."""
    return all((folder / name).is_file() for name in ADAPTER_FILES)


def hash_adapter(folder: Path) -> str:
    """What an adapter is known by: a hash of its two files."""
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        with os_errors_named(folder / name):
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()[:16]
