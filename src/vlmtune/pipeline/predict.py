"""The predict step: a prediction file with its controls and score, from the base model or one with an adapter."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlmtune.data import Rows, SplitRole
from vlmtune.engines import Engine
from vlmtune.errors import DataError, ImageError, RemoteError
from vlmtune.files import write_json
from vlmtune.inference import ADDED_SETTINGS, Predictor, Shard, shuffle_images, truth_or_error
from vlmtune.pipeline.export import open_engine
from vlmtune.pipeline.prompt_baselines import BuildPrompt, PromptBaseline, prompt_baselines
from vlmtune.pipeline.session import Session, rows_facts
from vlmtune.predictions import Line, read
from vlmtune.run_folder import Provenance, read_manifest
from vlmtune.run_layout import ANSWERS, SHUFFLED_ANSWERS, THUMBNAILS, controls_path
from vlmtune.scoring.score import Score, choose_primary, reread, unfinished_thoughts
from vlmtune.scoring.score import score as score_lines
from vlmtune.thoughts import UNFINISHED_THOUGHT
from vlmtune.types import Example, ImageRef, Outcome, Request, VideoRef
from vlmtune.videos import FILE_ENDINGS

PROBE_REQUESTS = 4
"""Requests on which an adapter must have an effect."""

MAX_REPORTED = 3
"""Failed rows reported by id."""

NO_EFFECT_ON_ANSWERS = {
    "api_key",
    "batch_size",
    "batch_tokens",
    "cache_gb",
    "concurrency",
    "max_retries",
    "python",
    "start_s",
    "timeout_s",
    "watchdog_s",
    "workers",
}
"""Keys of `inference` that change speed, memory and timeouts, but not the answers."""


@dataclass(frozen=True, slots=True)
class PredictionTarget:
    """A prediction file to be made: its path, its provenance, its rows, and the files derived from it and others.

    With a `shard`, only that shard of the rows is in the file.
    """

    artifact: Path
    provenance: Provenance
    rows: Rows
    derived: Sequence[Path]
    shard: Shard | None = None

    def sharded(self, shard: Shard) -> "PredictionTarget":
        """The file of one shard, next to this one; nothing is derived from it until it is merged."""
        return PredictionTarget(
            self.artifact.with_name(f"{self.artifact.stem}.shard-{shard.index}-of-{shard.count}.jsonl"),
            replace(self.provenance, parts={**self.provenance.parts, "shard": asdict(shard)}),
            self.rows,
            (),
            shard,
        )


def predict(
    session: Session, adapter: Path | None = None, role: SplitRole | None = None, shard: Shard | None = None
) -> Path:
    """Answers of the base model, or of the model with an adapter: a prediction file and its score.

    Along with the evaluation rows, the same loaded model answers the additional evaluation sets and, if it is the base
    model, the prompt baselines. A shard gets no score, because its rows are no meaningful sample.

    Raises:
        DataError: a row lacks what a metric compares with, or a baseline its train rows; before a model is loaded.
    """
    additional, session = session.additional, session.for_adapter(adapter)
    on_evaluation_rows = role in (None, session.config.evaluation.split)
    baselines = prompt_baselines(session) if adapter is None and on_evaluation_rows else []
    for other in additional if on_evaluation_rows else []:
        try:
            _check_rows(other, list(other.rows(other.config.evaluation.split)))
        except DataError as error:
            raise DataError(f"evaluation.additional, {other.evaluation_set}: {error}") from None
    with _lazy_engine(session, adapter) as engine:
        artifact = _predict_file(session, engine, adapter, role, None, shard)
        for baseline in baselines:
            _predict_file(session, engine, adapter, role, baseline, shard)
        for other in additional if on_evaluation_rows else []:
            _predict_file(other.for_adapter(adapter), engine, adapter, None, None, shard)
    return artifact


def prediction_target(
    session: Session, adapter: Path | None, role: SplitRole | None, baseline: PromptBaseline | None
) -> PredictionTarget:
    """The prediction file of a side or prompt baseline; files of the other kind of run, mock or real, are archived."""
    config, files = session.config, session.files
    artifact, derived = files.baseline if adapter is None else files.tuned, files.derived
    for file in (files.baseline, files.tuned):
        session.folder.archive_other_kind(file, session.mock, [*files.sidecars(file), *derived])
    if role not in (None, config.evaluation.split):
        artifact, derived = artifact.with_name(f"{artifact.stem}.{role}{artifact.suffix}"), []
    if baseline is not None:
        artifact = files.prompt_baseline(baseline.name)
    rows = session.rows(role or config.evaluation.split)
    inference = session.inference.model_dump(mode="json", exclude=NO_EFFECT_ON_ANSWERS)
    for key in ADDED_SETTINGS:
        if key in inference and inference[key] == type(session.inference).model_fields[key].default:
            del inference[key]
    provenance = session.provenance(
        adapter=None if adapter is None else session.verify_adapter(adapter),
        dataset=rows_facts(rows),
        inference=inference | {"precision": session.precision},
        image_control_rows=config.evaluation.image_control_rows,
        **({"prompt_baseline": dict(baseline.facts)} if baseline is not None else {}),
        **({"evaluation_set": session.evaluation_set} if session.evaluation_set is not None else {}),
    )
    return PredictionTarget(artifact, provenance, rows, derived)


def _predict_file(
    session: Session,
    engine: Callable[[], Engine],
    adapter: Path | None,
    role: SplitRole | None,
    baseline: PromptBaseline | None,
    shard: Shard | None,
) -> Path:
    """Make one prediction file; the engine is opened only if an answer is missing."""
    target = prediction_target(session, adapter, role, baseline)
    if shard is not None:
        target = target.sharded(shard)
    artifact, provenance = target.artifact, target.provenance
    sidecars = session.files.sidecars(artifact)
    if session.folder.reconcile(artifact, provenance, sidecars, target.derived) is not None:
        session.progress.note(f"{artifact} is finished")
        if shard is None and not session.files.metrics(artifact).is_file():
            write_score(session, artifact)
        return artifact
    examples = list(target.rows)
    _check_rows(session, examples)
    if not session.config.dataset.labelled:
        session.progress.note(f"the dataset has no column of labels: {artifact} gets no score")
    facts = _answer(session, engine(), target, examples, baseline.prompt if baseline is not None else None)
    ids = selection_ids(session, adapter, target.rows)
    session.folder.publish(artifact, provenance, {**facts, "selection_ids": ids})
    return artifact


def _check_rows(session: Session, examples: list[Example]) -> None:
    """Check that prompts can be built from these rows and their answers scored, before the model is loaded.

    Raises:
        DataError: a row lacks what the task's prompt needs, or what a metric compares with.
    """
    for row in examples:
        session.task.prompt(session.config.task, row)
    if session.config.dataset.labelled:
        evaluation = session.config.evaluation
        lines = reread(truth_lines(session, examples), session.task, session.config.task)
        choice = choose_primary(session.task, session.config.task, lines, evaluation.metrics, evaluation.primary)
        for message in (*([f"primary metric: {choice.reason}"] if choice.reason else []), *choice.warnings):
            session.progress.note(message)


def selection_ids(session: Session, adapter: Path | None, rows: Rows) -> list[str]:
    """Ids of the rows that were used to select this adapter among its checkpoints."""
    manifest = read_manifest(adapter) if adapter is not None and session.selection_overlap != "none" else None
    ids = list((manifest or {}).get("selection_ids", []))
    return [rows.id(n) for n in range(len(rows))] if ids and session.selection_overlap == "all" else ids


@contextmanager
def _lazy_engine(session: Session, adapter: Path | None) -> Iterator[Callable[[], Engine]]:
    """The engine, opened on the first call and closed at the end of the block."""
    opened: list[Engine] = []

    def engine() -> Engine:
        if not opened:
            opened.append(open_engine(session, adapter))
        return opened[0]

    try:
        yield engine
    finally:
        for one in opened:
            one.close()


def score(session: Session, file: Path) -> Score | None:
    """The score of one of this config's prediction files; None if the dataset has no labels."""
    if not session.config.dataset.labelled:
        return None
    return score_lines(read(file), session.task, session.config.task, session.config.evaluation.metrics)


def image_control_rows(session: Session) -> int:
    """Number of rows also answered with shuffled images; 0 without labels, because the control compares scores."""
    return session.config.evaluation.image_control_rows if session.config.dataset.labelled else 0


def truth_lines(session: Session, examples: list[Example]) -> list[Line]:
    """What the rows are compared with, except for those whose truth needs an image that cannot be read."""
    truths = [(row.id, truth_or_error(session.task, session.config.task, row)) for row in examples]
    return [Line(name, None, truth) for name, truth in truths if not isinstance(truth, ImageError)]


def _answer(
    session: Session,
    engine: Engine,
    target: PredictionTarget,
    examples: list[Example],
    prompt: BuildPrompt | None,
) -> dict[str, Any]:
    """Answer all rows or one shard of them; write answers, controls and score. Returns the engine's facts."""
    artifact, shard, work = target.artifact, target.shard, session.folder.work(target.artifact, target.provenance)
    name = artifact.stem
    thumbnails = artifact.parent / THUMBNAILS
    predictor = Predictor(session.task, session.config.task, thumbnails, session.progress, session.stop, prompt)
    delta = engine.adapter_delta([predictor.request(example) for example in examples[:PROBE_REQUESTS]])
    shuffled = shuffle_images(examples, image_control_rows(session))
    if shard is not None:
        examples, shuffled = ([row for row in rows if shard.owns(row.id)] for rows in (examples, shuffled))
    lines = predictor.answer(name, engine, examples, work / ANSWERS)
    control = predictor.answer(f"{name}, shuffled images", engine, shuffled, work / SHUFFLED_ANSWERS)
    _report_failures(session, artifact, [*lines, *control])
    write(session, artifact, lines, [json.loads(line.to_json()) for line in control], delta)
    if shard is None:
        write_score(session, artifact)
    return dict(engine.facts())


def _report_failures(session: Session, artifact: Path, lines: Sequence[Line]) -> None:
    """Say which rows have no answer, or only a thought.

    An image that cannot be read never gets an answer; a server's failure may pass.

    Raises:
        DataError: no row has an answer, whose reason is then no matter of rows, and the session does not accept that.
        RemoteError: the engine failed on some rows, and the session does not accept that.
    """
    unfinished = sum(line.unparsed == UNFINISHED_THOUGHT for line in lines)
    if unfinished:
        session.progress.note(unfinished_thoughts(unfinished, len(lines)))
    failed = [(line, line.failure) for line in lines if line.failure]
    for line, failure in failed[:MAX_REPORTED]:
        session.progress.note(f"row {line.id} was not answered: {failure['reason']}")
    if len(failed) > MAX_REPORTED:
        session.progress.note(f"and {len(failed) - MAX_REPORTED} more")
    by_engine = sum(failure["stage"] == "engine" for _, failure in failed)
    if by_engine and not session.accept_failures:
        raise RemoteError(
            f"{artifact} is not finished: the engine failed on {by_engine} of {len(lines)} requests. The other answers "
            "are saved: run the same command again to repeat these, or add --accept-failures to publish the file "
            "without them"
        )
    if failed and len(failed) == len(lines) and not session.accept_failures:
        raise DataError(
            f"{artifact} is not finished: none of its {len(lines)} requests was answered, the first because: "
            f"{failed[0][1]['reason']}. Repair that and run the same command again, or add --accept-failures"
        )


def write(
    session: Session,
    artifact: Path,
    lines: Sequence[Line],
    control: Sequence[Mapping[str, Any]],
    adapter_delta: float | None,
) -> None:
    """Write answers and controls: lines with shuffled images, and the adapter's largest change of a logit."""
    session.folder.write(artifact, "".join(line.to_json() + "\n" for line in lines))
    controls = {
        "schema_version": 1,
        "image": {"lines": list(control)} if control else None,
        "adapter_delta": {"max_logit_difference": adapter_delta} if adapter_delta is not None else None,
    }
    write_json(controls_path(artifact), controls)


def write_score(session: Session, artifact: Path) -> None:
    """Write the score of one of this config's prediction files next to it, if the dataset has labels."""
    scored = score(session, artifact)
    if scored is None:
        return
    plain = scored.to_json()
    # The metrics are repeated at the top level, where existing scripts look for `bleu`.
    write_json(session.files.metrics(artifact), {**plain["metrics"], **plain, "mock": session.mock})


@dataclass(frozen=True, slots=True)
class ImageAnswers:
    """Both answers about one image; `tuned` is None without an adapter."""

    base: Outcome
    tuned: Outcome | None


def predict_image(
    session: Session, image: Path, adapter: Path | None = None, question: str | None = None
) -> ImageAnswers:
    """Answers of the base and the tuned model about an image or video, prompted by the config's task; writes nothing.

    Raises:
        DataError: the image cannot be read, or the task needs a question and none is given.
    """
    config = session.config
    if not image.is_file():
        raise DataError(f"{image}: no such image")
    ref = (VideoRef if image.suffix.lower() in FILE_ENDINGS else ImageRef)(str(image), image.read_bytes)
    example = Example(str(image), (ref,), None, {"references": ()}, question=question)
    request = Request(example.id, session.task.prompt(config.task, example))
    if adapter is not None:
        session.verify_adapter(adapter)
    engine = open_engine(session, adapter)
    try:
        with engine.adapter_disabled():
            base = next(iter(engine.answer([request])))
        tuned = next(iter(engine.answer([request]))) if adapter is not None else None
    finally:
        engine.close()
    return ImageAnswers(base, tuned)
