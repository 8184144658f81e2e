"""The layout of a run folder. No other module knows the name of a file in it.

An artifact is a file, with its manifest in `<stem>.manifest.json`, or a folder, with its manifest `vlmtune.json` in it.
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
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vlmtune.registry import BaseConfig

STATE = ".vlmtune"
"""Folder of a run's lock, its status and its work in progress."""

LOCK, STATUS, TRACKING, IMAGE_INDEX, VERDICTS = (
    "lock",
    "status.json",
    "tracking.json",
    "image-index.jsonl",
    "verdicts.jsonl",
)
"""Files in `STATE`: the run's lock and progress, IDs of its tracker runs, facts about images decoded before, a judge's
verdicts."""

MERGED = "merged"
"""Folder in `STATE` for models with an adapter merged into their weights."""

QUARANTINE, DATA_CHECK, DATA_CHECK_PAGE, LABEL_ERRORS = (
    "quarantine.json",
    "data_check.json",
    "data_check.html",
    "label_errors.html",
)
"""Results of `data check` and `data label-errors`."""

SEARCH, SEARCH_PAGE = "search.json", "search_report.html"
"""Results of `search`."""

LABELS, TEACHER, LABELLED_ROWS, LABELLED_IMAGES = "labels", "teacher", "rows.jsonl", "images"
"""The folder of rows that a teacher labelled, that of its answers, and what is in the former."""

LEARNING_CURVE = "learning_curve"
"""Folder of the runs of a learning curve, and the stem of its results."""

THUMBNAILS = "thumbnails"
"""Folder next to prediction files with a thumbnail of every first image."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""The files that PEFT loads; their hash identifies an adapter."""

SAMPLES = "samples.jsonl"
"""Every training sample with its loss; in the work folder, then in the adapter's folder."""

MEASURED = "measured.json"
"""In an adapter's folder: times, memory and resumptions of the processes that trained it; all else in the folder is the
same for equal provenance."""

CURVE, RESUMED, BUILT_ADAPTER = "curve.jsonl", "resumed.jsonl", "adapter"
"""In a training's work folder: points of the curve, steps at which it was resumed, the adapter before publication."""

ANSWERS, SHUFFLED_ANSWERS = "answers.jsonl", "shuffled.jsonl"
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
    def captions_grid(self) -> Path:
        """A few images with the captions before and after, as a picture."""
        return self._of_set("captions_grid.png")

    @property
    def regressions(self) -> Path:
        """The rows that got worse in the primary metric, worst first."""
        return self._of_set("regressions.jsonl")

    @property
    def derived(self) -> list[Path]:
        """Files made from several prediction files, which can be rewritten at any time."""
        return [self.comparison, self.report, self.captions_grid, self.regressions]

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


def manifest_path(artifact: Path) -> Path:
    """The manifest of an artifact."""
    return artifact / _FOLDER_MANIFEST if artifact.is_dir() else artifact.with_name(artifact.stem + _MANIFEST)


def folder_manifest_path(folder: Path) -> Path:
    """The manifest of a folder, which need not exist yet."""
    return folder / _FOLDER_MANIFEST


def manifested_files(folder: Path) -> list[Path]:
    """Files and folders directly in a folder that a manifest may describe, there or not; sorted.

    `<stem>.manifest.json` describes the file of that stem, by default `<stem>.jsonl`.
    """
    with os.scandir(folder) as entries:
        names = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    described: dict[str, str] = {}
    for name in sorted(names, reverse=True):
        if not name.endswith((_MANIFEST, _CONTROLS, _METRICS)):
            described[name.rpartition(".")[0]] = name
    stems = [name.removesuffix(_MANIFEST) for name in names if name.endswith(_MANIFEST)]
    files = {described.get(stem, f"{stem}.jsonl") for stem in stems}
    return [folder / name for name in sorted(files | {name for name, is_folder in names.items() if is_folder})]


def is_sidecar(file: Path) -> bool:
    """Whether a file is a manifest or the controls of another one, by its name."""
    return file.name.endswith((_MANIFEST, _CONTROLS))


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


def verdicts_path(root: Path) -> Path:
    """Verdicts of judges on the answers in a folder."""
    return root / STATE / VERDICTS


def search_path(root: Path) -> Path:
    """The trials of a search."""
    return root / SEARCH


def search_page_path(root: Path) -> Path:
    """The page of a search."""
    return root / SEARCH_PAGE


def labels_path(root: Path) -> Path:
    """Rows that a teacher labelled, as a dataset."""
    return root / LABELS


def teacher_folder(root: Path) -> Path:
    """Holds the run folders of a teacher's answers."""
    return root / TEACHER


def learning_curve_folder(root: Path) -> Path:
    """Holds a run folder for every number of train rows."""
    return root / LEARNING_CURVE


def learning_curve_path(root: Path) -> Path:
    """The learning curve."""
    return root / f"{LEARNING_CURVE}.json"


def learning_curve_page_path(root: Path) -> Path:
    """The page of the learning curve."""
    return root / f"{LEARNING_CURVE}.html"


def work_paths(root: Path, artifact: Path, key: str) -> list[Path]:
    """The work folder of an artifact, and its name in older versions, which several seeds shared."""
    return [root / STATE / f"{name}-{key}" for name in (artifact.name, artifact.stem)]


def work_folders(root: Path) -> list[Path]:
    """Folders of work in progress: `<artifact>-<key of its provenance>`."""
    return sorted(path for path in root.glob(f"{STATE}/*-*/") if re.fullmatch("[0-9a-f]{12}", work_key(path)))


def work_key(work: Path) -> str:
    """The key of the provenance in the name of a work folder."""
    return work.name.rpartition("-")[2]


def note_path(root: Path, artifact: Path) -> Path:
    """The note that announces a write of an artifact."""
    return root / STATE / (artifact.name + _WRITING)


def writing_notes(root: Path) -> list[tuple[Path, Path]]:
    """Notes that announce a write, each with its artifact."""
    notes = sorted((root / STATE).glob(f"*{_WRITING}"))
    return [(note, root / note.name.removesuffix(_WRITING)) for note in notes]


def unfinished_writes(root: Path) -> list[Path]:
    """Temporary files and folders of writes in this run folder; a subfolder may be another run."""
    return sorted([*root.glob(".*.building"), *(root / STATE).rglob(".*.building")])


def merged_model_path(root: Path, key: str) -> Path:
    """A merged model, by the key of its provenance."""
    return root / STATE / MERGED / key


def merged_models(root: Path) -> list[Path]:
    """Merged models, complete or not, also where older versions put them; sorted."""
    current = [path for path in root.glob(f"{STATE}/{MERGED}/*") if path.is_dir()]
    return sorted([*current, *root.glob(f"{STATE}/*-*/{MERGED}"), *root.glob(f"{STATE}/*-*/.{MERGED}.building")])


def merged_lock_path(path: Path) -> Path | None:
    """The lock of a merged model, complete or not; None for other paths, and where older versions put models."""
    if path.parent.name != MERGED or path.parent.parent.name != STATE:
        return None
    return lock_of_merged(path.with_name(path.name.removeprefix(".").removesuffix(".building")))


def lock_of_merged(merged: Path) -> Path:
    """The lock of a complete merged model."""
    return merged.with_name(f"{merged.name}.lock")


_HEXADECIMAL = re.compile("[0-9a-f]{16,}")


def thumbnail_path(folder: Path, image: str) -> Path:
    """The thumbnail of an image.

    Args:
        folder: a folder of thumbnails.
        image: sha256 of the image's pixels, in hexadecimal. Prediction files of others may hold anything else, such as
            `../../private`; that chooses no path, and has no thumbnail.
    """
    name = image if _HEXADECIMAL.fullmatch(image) else hashlib.sha256(image.encode(errors="replace")).hexdigest()
    return folder / f"{name[:16]}.webp"


def checkpoint_path(work: Path, step: int) -> Path:
    """The checkpoint of a training step."""
    return work / f"step-{step:06d}"


def checkpoint_step(checkpoint: Path) -> int:
    """The step of a checkpoint, from its name."""
    return int(checkpoint.name.removeprefix("step-"))


def checkpoint_paths(work: Path) -> list[Path]:
    """Checkpoints in a work folder, complete or not, oldest first."""
    return _by_step(_folders(work.glob("step-*")))


def _folders(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_dir() and not path.is_symlink()]


def _by_step(paths: Iterable[Path]) -> list[Path]:
    """Paths in the order of their steps: step-999999 comes before step-1000000. Others of the pattern are left out."""
    steps = [(path.stem.rpartition("-")[2], path) for path in paths]
    return [path for _, path in sorted((int(step), path) for step, path in steps if re.fullmatch("[0-9]+", step))]


def best_adapter_path(work: Path, step: int) -> Path:
    """The adapter of the best step so far."""
    return work / f"best-{step:06d}"


def best_adapter_paths(work: Path) -> list[Path]:
    """Folders of `best_adapter_path`; more than one until the earlier ones are pruned."""
    return _by_step(_folders(work.glob("best-*")))


def validation_answers_path(work: Path, step: int) -> Path:
    """Answers to the validation rows during the validation of a step."""
    return work / f"evaluation-{step:06d}.jsonl"


def validation_answers(work: Path) -> list[Path]:
    """Files of `validation_answers_path`, newest first."""
    return _by_step(work.glob("evaluation-*.jsonl"))[::-1]


def controls_path(artifact: Path) -> Path:
    """The controls of a prediction file."""
    return artifact.with_name(artifact.stem + _CONTROLS)


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
