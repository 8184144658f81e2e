"""Scores and comparisons of prediction files of any program, and where they are written: no model and no dataset."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from vlmtune import registry
from vlmtune.errors import ConfigError, DataError
from vlmtune.files import replace_file, write_atomic, write_json
from vlmtune.judge import ServerJudge
from vlmtune.predictions import (
    LM_EVAL,
    LMMS_EVAL,
    VLMEVALKIT,
    VLMTUNE,
    Keys,
    Line,
    Predictions,
    read,
    read_any,
    read_references,
)
from vlmtune.progress import Progress
from vlmtune.registry import BaseConfig, did_you_mean
from vlmtune.report import ReportConfig, captions_grid, html, markdown, table
from vlmtune.report.rows import images_shown, overview
from vlmtune.run_folder import hash_adapter, is_adapter, read_controls, read_manifest
from vlmtune.run_layout import THUMBNAILS, thumbnail_path, verdicts_path
from vlmtune.scoring import EvaluationConfig
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.scoring.results import ComparisonFile, ScoredRows, TrainingSummary
from vlmtune.scoring.row_keys import is_score
from vlmtune.scoring.score import Score, reread, score
from vlmtune.scoring.truths import References, complete, has_truth, join_references, rows_named
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task

Block = TypeVar("Block", bound=BaseConfig)

Files = str | Path | Sequence[str | Path]
"""One side: a prediction file, or one file per training seed of the same recipe, as a list or joined by commas."""

TOOLS_OF_BENCHMARKS = (LM_EVAL, LMMS_EVAL, VLMEVALKIT)
"""Tools that name their files after the benchmark."""

TaskChoice = str | Mapping[str, Any] | None
"""A task: its name, or its block of a config. Keys it does not give come from the manifests, else from the defaults."""


BENCHMARKS: Mapping[str, tuple[str, str]] = {
    "docvqa": ("docvqa", "anls"),
    "infovqa": ("docvqa", "anls"),
    "infographicvqa": ("docvqa", "anls"),
    "chartqa": ("chartqa", "relaxed_accuracy"),
    "textvqa": ("vqa", "textvqa_accuracy"),
    "vizwiz": ("vqa", "textvqa_accuracy"),
    "vqav2": ("vqa", "vqa_accuracy"),
    "okvqa": ("vqa", "vqa_accuracy"),
    "ocrvqa": ("vqa", "exact_match"),
    "gqa": ("vqa", "exact_match"),
    "cococap": ("captioning", "cider_d"),
    "cocoval": ("captioning", "cider_d"),
    "flickr30k": ("captioning", "cider_d"),
    "nocaps": ("captioning", "cider_d"),
    "textcaps": ("captioning", "cider_d"),
}
"""Task and metric of benchmarks. Other tools name their files after the benchmark. Where the references do not allow
the metric, another one of the task is the primary one."""


SAME_SCORE = 1e-4
"""Difference up to which two scores are the same; other programs round theirs."""

LETTERS = "ABCDEFGHIJ"
"""Options of a multiple-choice question."""

SHORT_ANSWER = 3
"""Mean number of words up to which references are short answers rather than captions."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How files of other programs are read.

    `keys` names keys that are not recognized; `ignored` those that do not say which row it is. `references` has what
    rows without references are compared with: a file, or truths by id.
    """

    keys: Keys = field(default_factory=Keys)
    ignored: Sequence[str] = ()
    references: Path | References | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """A prediction file, the places of its rows, which tool wrote it, and what its keys are."""

    path: Path
    file: PredictionFile
    source: Predictions


def score_file(
    file: Path,
    task: TaskChoice = None,
    metrics: Sequence[str] | None = None,
    reading: Reading | None = None,
) -> Score:
    """Score any prediction file with a task's metrics. Task and errors as in `compare_files`."""
    read_files, chosen, config, notes = _open([(file, None)], task, reading or Reading())
    (kept,), unlabelled = _labelled(read_files, chosen)
    scored = score(kept.lines, chosen, config, list(metrics) if metrics else None)
    if unlabelled[0]:
        rows = {**scored.rows, "asked": len(kept.lines) + unlabelled[0], "without_reference": unlabelled[0]}
        scored = replace(scored, rows=cast(ScoredRows, rows))
    own = _own_scores(read_files[0], kept, scored)
    return replace(scored, notes=(*scored.notes, *kept.notes, *notes, *own))


def _own_scores(read_file: "_Read", kept: PredictionFile, scored: Score) -> list[str]:
    """What the rows of another program's file say about their scores, where no metric here gives the same."""
    if read_file.source.tool == VLMTUNE or read_file.file.manifest is not None:
        return []
    found = []
    for key in kept.lines[0].truth:
        values = [value for line in kept.lines if isinstance(value := line.truth.get(key), int | float)]
        if is_score(key) and len(values) == len(kept.lines) and min(values) >= 0 and max(values) <= 1:
            mean = fmean(values)
            if all(ours is None or abs(ours - mean) > SAME_SCORE for ours in scored.metrics.values()):
                found.append(f"the rows' own {key!r} has the mean {mean:.4f}, which no metric here gives")
    return found


def read_answered_file(file: Path, task: TaskChoice = None) -> list[Line]:
    """The lines of a prediction file, answers as a task reads them. Task and errors as in `compare_files`."""
    read_file = read_prediction_file(file)
    return reread(read_file.lines, *_task(task, [read_file]))


def compare_files(  # noqa: PLR0913 - the sides, and how they are read and compared
    before: Files,
    after: Files,
    *others: Files,
    task: TaskChoice = None,
    slices: Sequence[str] = (),
    evaluation: EvaluationConfig | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    reading: Reading | None = None,
) -> Comparison:
    """Compare any prediction files: `after`, and each of the others, with `before`.

    Args:
        before: side A, the reference.
        after: side B.
        others: further sides that are compared with A; they are in the result's `others`.
        task: whose metrics apply; by default the shipped one that the manifests name; for files of other programs that
            of a benchmark in the file's name, or vqa where the references are short answers; else captioning.
        slices: metadata columns to slice by, in addition to those of `evaluation`.
        evaluation: metrics, the primary one, statistics, a judge; by default all metrics of the task, the first one
            primary. The judge's verdicts are kept in the folder `.vlmtune` next to `after`.
        progress: shows the judge's progress.
        reading: how files of other programs are read.

    Raises:
        RemoteError, EnvironmentProblem: the judge cannot be asked; the verdicts so far are kept.
        ConfigError: one file given as two seeds; a custom task in the manifests and no `task`; a missing key of the
            task; or as in `scoring.comparison.compare`.
        DataError: a file cannot be read, or no row of it has references.
    """
    given = [files_of(side) for side in (before, after, *others)]
    names = _names([file for files in given for file in files])
    paths = [file for files in given for file in files]
    read_files, chosen, config, notes = _open([(file, names[file]) for file in paths], task, reading or Reading())
    kept, _ = _labelled(read_files, chosen)
    kept[0] = replace(kept[0], notes=(*kept[0].notes, *notes))
    rest = iter(kept)
    sides = [tuple(next(rest) for _ in files) for files in given]
    if not isinstance(evaluation, EvaluationConfig):
        evaluation = _block(EvaluationConfig, "evaluation", evaluation or {})
    evaluation = evaluation.model_copy(update={"slices": [*evaluation.slices, *slices]})
    judge = judge_of(evaluation, given[1][0].parent, progress)
    return compare(sides[0], sides[1], chosen, config, evaluation, sides[2:], judge=judge)


def judge_of(
    evaluation: EvaluationConfig, folder: Path, progress: Progress | None = None, stop: StopRequest | None = None
) -> ServerJudge | None:
    """The judge of a config, which keeps its verdicts in a run folder; None without one."""
    if evaluation.judge is None:
        return None
    return ServerJudge(evaluation.judge, verdicts_path(folder), progress, stop, folder / THUMBNAILS)


def _open(
    paths: Sequence[tuple[Path, str | None]], task: TaskChoice, reading: Reading
) -> tuple[list[_Read], Task, BaseConfig, tuple[str, ...]]:
    """Files with everything that the task's metrics compare with, the task, and notes about it."""
    opened = [_read(path, name, reading) for path, name in paths]
    for option, key in reading.keys.given().items():
        if all(option in (read.source.absent or {}) for read in opened):
            raise DataError(f"no row has the key {key!r} of --{option}. {opened[0].source.keys}{_nearest(key, opened)}")
    references = _references(opened, reading)
    guessed, reason = _guessed_task(opened, references) if task is None else (None, "")
    chosen, config = _task(guessed or task, [read.file for read in opened])
    name = guessed["name"] if isinstance(guessed, Mapping) else guessed
    notes = (f"task {name}, after {reason}; --task names another one",) if guessed else ()
    benchmark = _benchmark(opened)
    if guessed and benchmark is not None:
        chosen = _with_first(chosen, benchmark[1])
    completed = []
    for read_file in opened:
        lines, joined = read_file.file.lines, tuple[str, ...]()
        if references and any(not line.references for line in lines):
            lines, joined = join_references(lines, references, read_file.file.name)
        lines, made = complete(lines, _places(read_file), chosen, config)
        notes = (*notes, *made)
        file = replace(read_file.file, lines=lines, notes=(*read_file.file.notes, *joined))
        source = replace(read_file.source, lines=(), where=())  # the lines of `file` are others
        completed.append(replace(read_file, file=file, source=source))
    return completed, chosen, config, tuple(dict.fromkeys(notes))


def _nearest(key: str, opened: Sequence[_Read]) -> str:
    return did_you_mean(key, list(dict.fromkeys(name for read in opened for name in read.source.names)))


def _references(opened: Sequence[_Read], reading: Reading) -> References:
    """References by id: those given, else those of the other files where a file has none of its own."""
    if isinstance(reading.references, Path):
        return read_references(reading.references, reading.keys)
    if reading.references is not None:
        return reading.references
    if all(any(line.references for line in read.file.lines) for read in opened):
        return {}
    lines = [line for read in reversed(opened) for line in read.file.lines]
    return {line.id: {"references": list(line.references)} for line in lines if line.id is not None and line.references}


def _places(read_file: _Read) -> Sequence[str]:
    """Where each row is, for messages."""
    return read_file.source.where or [f"{read_file.path}, row {n}" for n in range(1, len(read_file.file.lines) + 1)]


def _benchmark(opened: Sequence[_Read]) -> tuple[str, str] | None:
    """Task and metric of the benchmark that the file of a known tool is named after."""
    known = [read.path for read in opened if read.source.tool in TOOLS_OF_BENCHMARKS]
    names = [re.sub("[^a-z0-9]", "", path.stem.lower()) for path in known]
    return next((known for name in names for benchmark, known in BENCHMARKS.items() if benchmark in name), None)


def _with_first(task: Task, name: str) -> Task:
    """The task with another metric as the one that is primary by default."""
    return replace(task, suited=lambda truths: sorted(task.default_metrics(truths), key=lambda one: one.name != name))


def _guessed_task(opened: Sequence[_Read], references: References) -> tuple[TaskChoice, str]:
    """The task of files that another program wrote, and what it was guessed from; None leaves it to the manifests."""
    benchmark = _benchmark(opened)
    if benchmark is not None:
        return benchmark[0], "the name of the file"
    if any(read.file.manifest is not None or read.source.tool == VLMTUNE for read in opened):
        return None, ""
    texts = [text for read in opened for line in read.file.lines for text in line.references]
    texts = texts or [text for truth in references.values() for text in truth["references"]]
    options = _options(texts, opened)
    if options:
        return {"name": "classification", "labels": options}, "the references, which are option letters"
    if texts and fmean(map(_words, texts)) <= SHORT_ANSWER:
        return "vqa", "the references, which are short answers"
    return None, ""


def _options(texts: Sequence[str], opened: Sequence[_Read]) -> list[str]:
    """The options of multiple-choice questions whose answers are letters; empty for other questions.

    VLMEvalKit's files have a key for each option.
    """
    letters = set(texts)
    if len(letters) < 2 or not letters <= set(LETTERS):
        return []
    letters |= {name for read in opened for name in read.source.names if name in LETTERS}
    return list(LETTERS[: LETTERS.index(max(letters)) + 1])


def _words(text: str) -> int:
    """The number of words; where a script has no spaces, two characters are about one."""
    return len(text.split()) if text.isascii() else max(len(text.split()), len(text) // 2)


def _labelled(opened: Sequence[_Read], task: Task) -> tuple[list[PredictionFile], list[int]]:
    """The files without the rows that have nothing to be compared with, which their notes count and name.

    Raises:
        DataError: no row of a file has anything.
    """
    files, counts = [], []
    for read_file in opened:
        file = read_file.file
        bare = [n for n, line in enumerate(file.lines) if not has_truth(line, task)]
        if bare and len(bare) == len(file.lines):
            raise DataError(
                f"{read_file.path}: no row has a reference; name their key with --reference KEY, or join a file or "
                f"dataset by id with --references FILE_OR_CONFIG. {read_file.source.keys}".rstrip()
            )
        counts.append(len(bare))
        if bare:
            note = f"{file.name}: {len(bare)} of {len(file.lines)} rows have no reference and are left out: "
            kept = [line for line in file.lines if has_truth(line, task)]
            file = replace(file, lines=kept, notes=(*file.notes, note + rows_named(bare, file.lines)))
        files.append(file)
    return files, counts


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
    return _read(file, name, Reading()).file


def _read(file: Path, name: str | None, reading: Reading) -> _Read:
    """A file of vlmtune, which has a manifest, or of another program."""
    manifest, controls = read_manifest(file), read_controls(file)
    if manifest is not None:
        source = Predictions(read(file))
    else:
        source = read_any(file, reading.keys, reading.ignored)
    training = _training(file.parent, manifest)
    return _Read(
        file, PredictionFile(name or file.stem, source.lines, manifest, controls, training, source.notes), source
    )


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
    """Write a comparison as JSON, as an HTML page, as Markdown or as a picture of a few rows, by the file's ending.

    A page that has not all rows in full has a table of them beside it, `NAME_rows.csv`.

    Args:
        comparison: what to write.
        file: ends in .json, .html, .md or .png.
        sources: the prediction files; thumbnails are looked up in the folder `thumbnails` next to them.
        config: what the page shows.

    Raises:
        ConfigError: another ending.
    """
    # The rows are made as they are needed: those of many would fill the memory.
    plain: ComparisonFile = {**comparison.result, "examples": comparison.examples}
    if file.suffix == ".json":
        write_json(file, comparison.to_json())
    elif file.suffix in (".html", ".htm"):
        _write_page(plain, file, sources, config or ReportConfig())
    elif file.suffix == ".md":
        write_atomic(file, markdown.render(plain))
    elif file.suffix == ".png":
        images = [row["image"] for row in captions_grid.shown(plain) if row["image"]]
        write_atomic(file, captions_grid.render(plain, thumbnails(images, sources)))
    else:
        raise ConfigError(f"{file}: a report ends in .html, .json, .md or .png")


def _write_page(plain: ComparisonFile, file: Path, sources: Sequence[Path], config: ReportConfig) -> None:
    """The page, and beside it a table of all rows where it does not have them in full."""
    rows = table.path_beside(file)
    page = render_page(plain, sources, config, rows.name)
    if not page.complete:
        with replace_file(rows) as stream:
            table.write(plain, stream)
    write_atomic(file, page.text)
    if page.complete:
        rows.unlink(missing_ok=True)


def render_page(plain: ComparisonFile, sources: Sequence[Path], config: ReportConfig, whole: str) -> html.Page:
    """The page of a comparison.

    Args:
        plain: with its examples, which may be made as they are needed.
        sources: the prediction files, beside which thumbnails are.
        config: what the page shows.
        whole: where all rows are in full, named if the page has not.
    """
    seen = overview(plain)
    return html.render(plain, thumbnails(images_shown(plain, config.examples, seen), sources), config, whole, seen)


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
