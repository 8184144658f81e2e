"""Scores and comparisons of prediction files, and where they are written: no model, no dataset and no config."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from vlmtune import registry
from vlmtune.errors import ConfigError
from vlmtune.files import read_json, write_atomic, write_json
from vlmtune.judge import ServerJudge
from vlmtune.predictions import read
from vlmtune.progress import Progress
from vlmtune.registry import BaseConfig
from vlmtune.report import ReportConfig, html, markdown
from vlmtune.report.rows import images_shown
from vlmtune.run_folder import hash_adapter, is_adapter, read_manifest
from vlmtune.run_layout import THUMBNAILS, controls_path, thumbnail_path, verdicts_path
from vlmtune.scoring import EvaluationConfig
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.scoring.results import TrainingSummary
from vlmtune.scoring.score import Score, score
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task

Block = TypeVar("Block", bound=BaseConfig)

Files = str | Path | Sequence[str | Path]
"""One side: a prediction file, or one file per training seed of the same recipe, as a list or joined by commas."""

TaskChoice = str | Mapping[str, Any] | None
"""A task: its name, or its block of a config. Keys it does not give come from the manifests, else from the defaults."""


def score_file(file: Path, task: TaskChoice = None, metrics: Sequence[str] | None = None) -> Score:
    """Score any prediction file with a task's metrics. Task and errors as in `compare_files`."""
    read_file = read_prediction_file(file)
    return score(read_file.lines, *_task(task, [read_file]), list(metrics) if metrics else None)


def compare_files(
    before: Files,
    after: Files,
    *others: Files,
    task: TaskChoice = None,
    slices: Sequence[str] = (),
    evaluation: EvaluationConfig | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare any prediction files: `after`, and each of the others, with `before`.

    Args:
        before: side A, the reference.
        after: side B.
        others: further sides that are compared with A; they are in the result's `others`.
        task: whose metrics apply; by default the shipped one that the manifests name, else captioning.
        slices: metadata columns to slice by, in addition to those of `evaluation`.
        evaluation: metrics, the primary one, statistics, a judge; by default all metrics of the task, the first one
            primary. The judge's verdicts are kept in the folder `.vlmtune` next to `after`.
        progress: shows the judge's progress.

    Raises:
        RemoteError, EnvironmentProblem: the judge cannot be asked; the verdicts so far are kept.
        ConfigError: one file given as two seeds; a custom task in the manifests and no `task`; a missing key of the
            task; or as in `scoring.comparison.compare`.
    """
    given = [files_of(side) for side in (before, after, *others)]
    names = _names([file for files in given for file in files])
    sides = [tuple(read_prediction_file(file, names[file]) for file in files) for files in given]
    chosen = _task(task, [file for side in sides for file in side])
    if not isinstance(evaluation, EvaluationConfig):
        evaluation = _block(EvaluationConfig, "evaluation", evaluation or {})
    evaluation = evaluation.model_copy(update={"slices": [*evaluation.slices, *slices]})
    judge = judge_of(evaluation, given[1][0].parent, progress)
    return compare(sides[0], sides[1], *chosen, evaluation, sides[2:], judge=judge)


def judge_of(
    evaluation: EvaluationConfig, folder: Path, progress: Progress | None = None, stop: StopRequest | None = None
) -> ServerJudge | None:
    """The judge of a config, which keeps its verdicts in a run folder; None without one."""
    if evaluation.judge is None:
        return None
    return ServerJudge(evaluation.judge, verdicts_path(folder), progress, stop)


def _task(given: TaskChoice, files: Sequence[PredictionFile]) -> tuple[Task, BaseConfig]:
    """A task and its configuration; of several manifests the last one counts."""
    recorded = [dict(file.provenance["task"]) for file in files if "task" in file.provenance]
    chosen = {"name": given} if isinstance(given, str) else dict(given or {})
    name = str(chosen.get("name") or (recorded[-1].get("name") if recorded else "captioning"))
    if "name" not in chosen and name not in registry.available("tasks"):
        # A dotted name is imported: the user decides which code runs, never a file.
        raise ConfigError(f"the manifests name the custom task {name!r}; pass it with --task to run its code")
    known = next((block for block in reversed(recorded) if block.get("name") == name), {})
    plugin = registry.load("tasks", name)
    return plugin.TASK, _block(plugin.Config, "task", {**known, **chosen, "name": name})


def _block(config: type[Block], name: str, values: Mapping[str, Any]) -> Block:
    """A block of a config on its own."""
    try:
        return config.model_validate(values)
    except ValidationError as error:
        wrong = [(".".join(map(str, (name, *detail["loc"]))), detail["msg"]) for detail in error.errors()]
        messages = "; ".join(f"{key}: {message}" for key, message in wrong)
        raise ConfigError(f"{messages}. Set a key with --set '{wrong[0][0]}=VALUE', where VALUE is YAML") from None


def files_of(side: Files) -> list[Path]:
    """The files of one side; a string that is not the name of a file is split at its commas.

    Raises:
        ConfigError: no file, or one of them twice: the same answers are not two training seeds.
    """
    given = [side] if isinstance(side, str | Path) and Path(side).exists() else side
    texts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, Path) else given
    files = [Path(text) for text in texts if str(text)]
    twice = [file for file, count in Counter(file.resolve() for file in files).items() if count > 1]
    if twice or not files:
        raise ConfigError(f"{twice[0]} is given twice as a seed of one side" if twice else "a side without a file")
    return files


def read_prediction_file(file: Path, name: str | None = None) -> PredictionFile:
    """A prediction file with its manifest, its controls, and how its adapter was trained.

    Args:
        file: the prediction file.
        name: its name in the comparison; by default the file's stem.
    """
    manifest, sidecar = read_manifest(file), controls_path(file)
    controls = read_json(sidecar) if sidecar.is_file() else None
    return PredictionFile(name or file.stem, read(file), manifest, controls, _training(file.parent, manifest))


def _training(folder: Path, manifest: Mapping[str, Any] | None) -> TrainingSummary | None:
    """How the adapter that answered was trained, if it is in the same folder; identified by the hash of its files."""
    adapter_hash = (manifest or {}).get("origin", {}).get("adapter")
    if adapter_hash is None:
        return None
    for adapter in sorted(path for path in folder.iterdir() if path.is_dir()):
        trained = is_adapter(adapter) and read_manifest(adapter)
        if trained and hash_adapter(adapter) == adapter_hash:
            keys = [key for key in TrainingSummary.__annotations__ if trained.get(key) not in (None, [])]
            return cast(TrainingSummary, {key: trained[key] for key in keys})
    return None


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """The name of each file: its stem; with its folder in front, or its path, where several have the same stem."""
    whole = {file: file.resolve() for file in files}
    names: dict[Path, str] = {}
    for file, path in whole.items():
        rest = [other for other in whole.values() if other != path]
        if path.stem not in {other.stem for other in rest}:
            names[file] = path.stem
        elif (path.parent.name, path.stem) not in {(other.parent.name, other.stem) for other in rest}:
            names[file] = f"{path.parent.name}/{path.stem}"
        else:
            names[file] = str(file)
    return names


def write_comparison(
    comparison: Comparison, file: Path, sources: Sequence[Path], config: ReportConfig | None = None
) -> None:
    """Write a comparison as JSON, as an HTML page or as Markdown, by the file's ending.

    Args:
        comparison: what to write.
        file: ends in .json, .html or .md.
        sources: the prediction files; thumbnails are looked up in the folder `pictures` next to them.
        config: what the page shows.

    Raises:
        ConfigError: another ending.
    """
    plain, shown = comparison.to_json(), config or ReportConfig()
    if file.suffix == ".json":
        write_json(file, plain)
    elif file.suffix in (".html", ".htm"):
        write_atomic(file, html.render(plain, thumbnails(images_shown(plain, shown.examples), sources), shown))
    elif file.suffix == ".md":
        write_atomic(file, markdown.render(plain))
    else:
        raise ConfigError(f"{file}: a report ends in .html, .json or .md")


def write_regressions(comparison: Comparison, file: Path) -> int:
    """Write the rows that got worse by the primary metric, worst first, as JSON lines; returns how many."""
    rows = comparison.regressions()
    write_atomic(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def thumbnails(images: Sequence[str], sources: Sequence[Path]) -> dict[str, bytes]:
    """Thumbnails by the hash of their image: those that exist next to the prediction files."""
    thumbnail_bytes: dict[str, bytes] = {}
    for image in images:
        for source in sources:
            thumbnail = thumbnail_path(source.parent / THUMBNAILS, image)
            if thumbnail.is_file():
                thumbnail_bytes[image] = thumbnail.read_bytes()
    return thumbnail_bytes
