"""The layout of a run folder, and how artifacts are published in it. No other module knows a file name.

An artifact is a file, with its manifest in `<stem>.manifest.json`, or a folder, with its manifest `vlmtune.json` in it.
The manifest, written last, holds the artifact's provenance; an artifact of another provenance is never overwritten.
Work in progress is in `.vlmtune/<artifact>-<hash of the provenance>` until the artifact is published:

    outputs/demo/
      baseline_predictions.jsonl          artifact
      baseline_predictions.manifest.json  its manifest
      baseline_predictions.controls.json  sidecar: made from this artifact alone
      lora/                               artifact, with vlmtune.json in it
      compare.json, report.html           derived: made from several artifacts, rewritten at any time
      .vlmtune/
        lock, status.json                 of the live run
        lora-0123456789ab/                work in progress: curve.jsonl, step-000100/, ...
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
from vlmtune.files import fsync_folder, read_json, translate_os_errors, write_atomic, write_json
from vlmtune.progress import Progress
from vlmtune.registry import BaseConfig, under_current_names

MANIFEST_VERSION = 1

STATE = ".vlmtune"
"""Folder of a run's lock, its status and its work in progress."""

LOCK, STATUS, TRACKING, IMAGE_INDEX = "lock", "status.json", "tracking.json", "image-index.jsonl"
"""Files in `STATE`: the run's lock and progress, IDs of its tracker runs, facts about images decoded before."""

MERGED = "merged"
"""Folder in `STATE` for models with an adapter merged into their weights."""

QUARANTINE, DATA_CHECK, DATA_CHECK_PAGE, LABEL_ERRORS = (
    "quarantine.json",
    "data_check.json",
    "data_check.html",
    "label_errors.html",
)
"""Results of `data check` and `data label-errors`."""

THUMBNAILS = "pictures"
"""Folder beside prediction files with a thumbnail of every first image."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""The files that PEFT loads; their hash identifies an adapter."""

SAMPLES = "samples.jsonl"
"""Every training sample with its loss; in the work folder, then in the adapter's folder."""

CURVE, RESUMED, BUILT_ADAPTER = "curve.jsonl", "resumed.jsonl", "adapter"
"""In a training's work folder: points of the curve, steps at which it was resumed, the adapter before publication."""

ANSWERS, SHUFFLED_ANSWERS = "answers.jsonl", "exchanged.jsonl"
"""In a prediction's work folder: answers to the rows, and to rows with shuffled images."""

COMPLETE = "complete.json"
"""Written last into a checkpoint, with the hashes of its other files."""

_MANIFEST, _CONTROLS, _METRICS = ".manifest.json", ".controls.json", ".metrics.json"
_FOLDER_MANIFEST, _WRITING = "vlmtune.json", ".writing.json"


class OutputConfig(BaseConfig):
    """Where results are written."""

    dir: str = "outputs"
    """Folder of the run; the files in it have fixed names (docs/commands.md, Files)."""

    adapter: str = "lora"
    """Name of the adapter's folder in it."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Paths of a run's results.

    Each of several training seeds has its own adapter and answers, each additional evaluation set its own answers,
    scores and comparison: `lora_predictions.docs.seed7.jsonl` holds the answers of seed 7's adapter on the set "docs".

    Args:
        root: folder of the run.
        adapter_name: name of the adapter's folder.
        evaluation_set: name of an additional evaluation set; None for the config's own rows.
        seed: one of several training seeds; None if there is only one.
    """

    root: Path
    adapter_name: str
    evaluation_set: str | None = None
    seed: int | None = None

    @classmethod
    def of(cls, output: OutputConfig, evaluation_set: str | None = None, seed: int | None = None) -> "RunFiles":
        """Paths for a config's `output` block."""
        return cls(Path(output.dir), output.adapter, evaluation_set, seed)

    @property
    def adapter(self) -> Path:
        """The adapter's folder, in PEFT's format."""
        return self.root / (self.adapter_name if self.seed is None else f"{self.adapter_name}.seed{self.seed}")

    @property
    def baseline(self) -> Path:
        """Answers of the base model."""
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
        """The comparison as an HTML report."""
        return self._of_set("report.html")

    @property
    def regressions(self) -> Path:
        """The rows that got worse in the primary metric, worst first."""
        return self._of_set("regressions.jsonl")

    @property
    def derived(self) -> list[Path]:
        """Files made from several prediction files, which can be rewritten at any time."""
        return [self.comparison, self.report, self.regressions]

    def prompt_baseline(self, name: str) -> Path:
        """Answers of the base model to another prompt."""
        return _named(self.baseline, name)

    def metrics(self, predictions: Path) -> Path:
        """Scores of a prediction file."""
        if predictions == self.baseline:
            return self._of_set("metrics_baseline.json")
        if predictions == self.tuned:
            return self._of_seed("metrics_lora.json")
        return predictions.with_name(predictions.stem + _METRICS)

    def sidecars(self, predictions: Path) -> list[Path]:
        """Files made from one prediction file alone."""
        return [controls_path(predictions), self.metrics(predictions)]

    def _of_set(self, name: str) -> Path:
        return _named(self.root / name, self.evaluation_set)

    def _of_seed(self, name: str) -> Path:
        return _named(self._of_set(name), None if self.seed is None else f"seed{self.seed}")


def _named(file: Path, part: str | None) -> Path:
    """`a.jsonl` and `docs` give `a.docs.jsonl`."""
    return file if part is None else file.with_name(f"{file.stem}.{part}{file.suffix}")


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
        """Own the folder until the block ends. The lock is released when its process ends, for whatever reason.

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
        work, old = self._work_folders(artifact, provenance)
        with translate_os_errors(work):
            if old.is_dir() and not work.exists():
                old.rename(work)
            work.mkdir(parents=True, exist_ok=True)
        return work

    def merged(self, provenance: Provenance) -> tuple[Path, Path]:
        """Folder of a merged model, and its lock."""
        folder = self.root / STATE / MERGED / provenance.key
        return folder, _lock_of(folder)

    def write(self, artifact: Path, text: str) -> None:
        """Write the file of an artifact, to be followed by `publish`.

        A note with the hash of the bytes is written first. After a crash it tells a file of ours, which may be
        overwritten, from one that another program put there.

        Raises:
            IntegrityError: another program's file has this name.
        """
        self._refuse_foreign(artifact)
        with translate_os_errors(artifact):
            artifact.unlink(missing_ok=True)
            write_json(self._note(artifact), {"sha256": hashlib.sha256(text.encode()).hexdigest()})
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
            with translate_os_errors(artifact):
                built.rename(artifact)
                fsync_folder(artifact.parent)
        fault_injection.hit("manifest.after")
        self._delete_work(artifact, provenance)
        return manifest

    def _delete_work(self, artifact: Path, provenance: Provenance) -> None:
        """Delete checkpoints and answers: a user who deletes the artifact later wants it made from scratch."""
        with translate_os_errors(self.root):
            self._note(artifact).unlink(missing_ok=True)
            for work in self._work_folders(artifact, provenance):
                if work.is_dir():
                    shutil.rmtree(work)

    def _work_folders(self, artifact: Path, provenance: Provenance) -> list[Path]:
        """The work folder, and its name in older versions, which several seeds shared."""
        return [self.root / STATE / f"{name}-{provenance.key}" for name in (artifact.name, artifact.stem)]

    def _note(self, artifact: Path) -> Path:
        return self.root / STATE / (artifact.name + _WRITING)

    def _refuse_foreign(self, artifact: Path) -> None:
        if not artifact.exists():
            return
        note = self._note(artifact)
        if artifact.is_file() and note.is_file():
            with translate_os_errors(artifact):
                if read_json(note).get("sha256") == hashlib.sha256(artifact.read_bytes()).hexdigest():
                    return
        raise _foreign(artifact)


def manifest_path(artifact: Path) -> Path:
    """The manifest of an artifact."""
    return artifact / _FOLDER_MANIFEST if artifact.is_dir() else artifact.with_name(artifact.stem + _MANIFEST)


def folder_manifest_path(folder: Path) -> Path:
    """The manifest of a folder, which need not exist yet."""
    return folder / _FOLDER_MANIFEST


def manifested_file(manifest: Path) -> Path | None:
    """The file that `<stem>.manifest.json` describes, by default `<stem>.jsonl`; None for a file of another name."""
    if not manifest.name.endswith(_MANIFEST):
        return None
    stem = manifest.name.removesuffix(_MANIFEST)
    siblings = sorted(file for file in manifest.parent.glob(f"{stem}.*") if file.stem == stem)
    described = (file for file in siblings if not file.name.endswith((_MANIFEST, _CONTROLS, _METRICS)))
    return next(described, manifest.with_name(f"{stem}.jsonl"))


def lock_path(root: Path) -> Path:
    """The lock of a run folder."""
    return root / STATE / LOCK


def status_path(root: Path) -> Path:
    """The progress of a live run."""
    return root / STATE / STATUS


def tracking_path(root: Path) -> Path:
    """IDs of a run's parts in experiment trackers."""
    return root / STATE / TRACKING


def image_index_path(root: Path) -> Path:
    """Facts about images that were decoded before."""
    return root / STATE / IMAGE_INDEX


def work_folders(root: Path) -> list[Path]:
    """Folders of work in progress: `<artifact>-<key of its provenance>`."""
    return sorted(path for path in root.glob(f"{STATE}/*-*/") if re.fullmatch("[0-9a-f]{12}", work_key(path)))


def work_key(work: Path) -> str:
    """The key of the provenance in the name of a work folder."""
    return work.name.rpartition("-")[2]


def writing_notes(root: Path) -> list[tuple[Path, Path]]:
    """Notes that announce a write, each with its artifact."""
    notes = sorted((root / STATE).glob(f"*{_WRITING}"))
    return [(note, root / note.name.removesuffix(_WRITING)) for note in notes]


def unfinished_writes(root: Path) -> list[Path]:
    """Temporary files and folders of writes in this run folder; a subfolder may be another run."""
    return sorted([*root.glob(".*.building"), *(root / STATE).rglob(".*.building")])


def merged_models(root: Path) -> list[Path]:
    """Merged models, complete or not, also where older versions put them; sorted."""
    current = [path for path in root.glob(f"{STATE}/{MERGED}/*") if path.is_dir()]
    return sorted([*current, *root.glob(f"{STATE}/*-*/{MERGED}"), *root.glob(f"{STATE}/*-*/.{MERGED}.building")])


def merged_lock_path(path: Path) -> Path | None:
    """The lock of a merged model, complete or not; None for other paths, and where older versions put models."""
    if path.parent.name != MERGED or path.parent.parent.name != STATE:
        return None
    return _lock_of(path.with_name(path.name.removeprefix(".").removesuffix(".building")))


def _lock_of(merged: Path) -> Path:
    return merged.with_name(f"{merged.name}.lock")


def thumbnail_path(folder: Path, image: str) -> Path:
    """The thumbnail of an image.

    Args:
        folder: a folder of thumbnails.
        image: sha256 of the image's pixels, in hexadecimal.
    """
    return folder / f"{image[:16]}.webp"


def checkpoint_path(work: Path, step: int) -> Path:
    """The checkpoint of a training step."""
    return work / f"step-{step:06d}"


def checkpoint_step(checkpoint: Path) -> int:
    """The step of a checkpoint, from its name."""
    return int(checkpoint.name.removeprefix("step-"))


def checkpoint_paths(work: Path) -> list[Path]:
    """Checkpoints in a work folder, complete or not, oldest first."""
    return sorted(work.glob("step-*"))


def best_adapter_path(work: Path, step: int) -> Path:
    """The adapter of the best step so far."""
    return work / f"best-{step:06d}"


def best_adapter_paths(work: Path) -> list[Path]:
    """Folders of `best_adapter_path`; more than one until the earlier ones are pruned."""
    return sorted(work.glob("best-*"))


def validation_answers_path(work: Path, step: int) -> Path:
    """Answers to the validation rows during the validation of a step."""
    return work / f"judging-{step:06d}.jsonl"


def validation_answers(work: Path) -> list[Path]:
    """Files of `validation_answers_path`, newest first."""
    return sorted(work.glob("judging-*.jsonl"), reverse=True)


def controls_path(artifact: Path) -> Path:
    """The controls of a prediction file."""
    return artifact.with_name(artifact.stem + _CONTROLS)


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
    if not isinstance(manifest.get("origin"), dict) or not isinstance(manifest.get("mock"), bool):
        raise IntegrityError(f"{file}: not a manifest of vlmtune; move it away together with {artifact.name}")
    manifest.update(under_current_names(manifest))
    return manifest


def _is_ours(file: Path) -> bool:
    """Whether vlmtune wrote it: its controls and scores have these fields, scores of a classic script do not."""
    try:
        content = read_json(file)
    except IntegrityError:
        return False
    return "schema_version" in content and bool({"mock", "effect"} & content.keys())


def _foreign(file: Path) -> IntegrityError:
    return IntegrityError(
        f"{file} is there, but vlmtune did not make it (no manifest). Move it away, or choose another folder with "
        "--set output.dir=…"
    )


def archive_path(file: Path, kind: str) -> Path:
    """A free name in the same folder that says why the file is archived: `a.jsonl` becomes `a.mock.jsonl`.

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
    """Differences of two JSON values, one line each: dotted path, old and new value."""
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
    """Whether a folder holds the files that PEFT loads."""
    return all((folder / name).is_file() for name in ADAPTER_FILES)


def hash_adapter(folder: Path) -> str:
    """The hash that identifies an adapter: 16 hexadecimal digits over its two files."""
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        with translate_os_errors(folder / name):
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()[:16]
