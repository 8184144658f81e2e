"""The predict step: a prediction file with its controls and score, from the untouched model or one with an adapter.

One picture, answered at once by the untouched model and by the tuned one; and whether two engines agree.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlmtune.data import Rows, SplitRole
from vlmtune.engines import Engine
from vlmtune.errors import DataError, ImageError
from vlmtune.files import write_json
from vlmtune.inference import Predictor, Shard, exchanged, known_truth
from vlmtune.pipeline.export import open_engine
from vlmtune.pipeline.parity import Parity, examine
from vlmtune.pipeline.prompt_baselines import Ask, Column, columns
from vlmtune.pipeline.session import Session, rows_facts
from vlmtune.predictions import Line, read
from vlmtune.run_folder import ANSWERS, SHUFFLED_ANSWERS, THUMBNAILS, Provenance, controls_path, read_manifest
from vlmtune.scoring.score import Score, choose_metrics
from vlmtune.scoring.score import score as score_lines
from vlmtune.types import Example, ImageRef, Outcome, Request

PROBED = 4
"""Requests on which an adapter must change something."""

CHANGE_NO_ANSWER = {
    "api_key",
    "batch_size",
    "batch_tokens",
    "cache_gb",
    "concurrency",
    "max_retries",
    "python",
    "retry_s",
    "start_s",
    "timeout_s",
    "watchdog_s",
    "workers",
}
"""Keys of `inference` that change speed, memory and patience, and not the answers."""


@dataclass(frozen=True, slots=True)
class Target:
    """A prediction file: where it is, what it is made from, its rows, and what is concluded from it and from others."""

    artifact: Path
    provenance: Provenance
    rows: Rows
    derived: Sequence[Path]
    part: Shard | None = None
    """Which of the rows are in the file; None for all."""

    def shard(self, shard: Shard) -> "Target":
        """The file of one shard, beside this one; nothing is concluded from it before it is merged."""
        return Target(
            self.artifact.with_name(f"{self.artifact.stem}.shard-{shard.index}-of-{shard.count}.jsonl"),
            replace(self.provenance, parts={**self.provenance.parts, "shard": asdict(shard)}),
            self.rows,
            (),
            shard,
        )


def predict(
    session: Session, adapter: Path | None = None, role: SplitRole | None = None, shard: Shard | None = None
) -> Path:
    """Answers of the untouched model, or of the model with an adapter: a prediction file and its score.

    On the evaluation rows, the further evaluation sets are answered, too, and by the untouched model the untrained
    columns, all from the same loaded model. Of a shard there is no score: its rows are no sample that anybody asked
    for.

    Raises:
        DataError: a row lacks what a metric compares with, or a column its train rows; before a model is loaded.
    """
    additional, session = session.additional, session.of(adapter)
    evaluated = role in (None, session.config.evaluation.split)
    asked = columns(session) if adapter is None and evaluated else []
    for other in additional if evaluated else []:
        try:
            _answerable(other, list(other.rows(other.config.evaluation.split)))
        except DataError as error:
            raise DataError(f"evaluation.additional, {other.evaluation_set}: {error}") from None
    with _opening(session, adapter) as engine:
        artifact = _predicted(session, engine, adapter, role, None, shard)
        for column in asked:
            _predicted(session, engine, adapter, role, column, shard)
        for other in additional if evaluated else []:
            _predicted(other.of(adapter), engine, adapter, None, None, shard)
    return artifact


def target(session: Session, adapter: Path | None, role: SplitRole | None, column: Column | None) -> Target:
    """The prediction file of one side, or of an untrained column; what the other kind of run left is moved aside."""
    config, files = session.config, session.files
    artifact, derived = files.baseline if adapter is None else files.tuned, files.derived
    for file in (files.baseline, files.tuned):
        session.folder.archive_other_kind(file, session.mock, [*files.sidecars(file), *derived])
    if role not in (None, config.evaluation.split):
        artifact, derived = artifact.with_name(f"{artifact.stem}.{role}{artifact.suffix}"), []
    if column is not None:
        artifact = files.prompt_baseline(column.name)
    rows = session.rows(role or config.evaluation.split)
    provenance = session.provenance(
        adapter=None if adapter is None else session.verify_adapter(adapter),
        dataset=rows_facts(rows),
        inference=config.inference.model_dump(mode="json", exclude=CHANGE_NO_ANSWER) | {"precision": session.precision},
        image_control_rows=config.evaluation.image_control_rows,
        **({"column": dict(column.facts)} if column is not None else {}),
        **({"set": session.evaluation_set} if session.evaluation_set is not None else {}),
    )
    return Target(artifact, provenance, rows, derived)


def _predicted(
    session: Session,
    engine: Callable[[], Engine],
    adapter: Path | None,
    role: SplitRole | None,
    column: Column | None,
    shard: Shard | None,
) -> Path:
    """One prediction file; the engine is opened only where something is left to ask."""
    made = target(session, adapter, role, column)
    if shard is not None:
        made = made.shard(shard)
    artifact, provenance = made.artifact, made.provenance
    sidecars = session.files.sidecars(artifact)
    if session.folder.reconcile(artifact, provenance, sidecars, made.derived) is not None:
        session.progress.note(f"{artifact} is finished")
        if shard is None and not session.files.metrics(artifact).is_file():
            write_score(session, artifact)
        return artifact
    examples = list(made.rows)
    _answerable(session, examples)
    if not session.config.dataset.labelled:
        session.progress.note(f"the dataset names no column of labels: {artifact} gets no score")
    ask = column.ask if column is not None else None
    facts = _answer(session, engine(), made, examples, ask)
    session.folder.publish(artifact, provenance, {**facts, "selection_ids": chosen(session, adapter, made.rows)})
    return artifact


def _answerable(session: Session, examples: list[Example]) -> None:
    """That these rows can be asked, and their answers scored, before anything is asked.

    Raises:
        DataError: a row lacks what the task asks, or what a metric compares with.
    """
    for row in examples:
        session.task.ask(session.config.task, row)
    if session.config.dataset.labelled:
        choose_metrics(session.task, session.config.evaluation.metrics, unanswered(session, examples))


def chosen(session: Session, adapter: Path | None, rows: Rows) -> list[str]:
    """Ids of these rows that chose this adapter among its checkpoints."""
    manifest = read_manifest(adapter) if adapter is not None and session.choosing != "none" else None
    ids = list((manifest or {}).get("selection_ids", []))
    return [rows.id(n) for n in range(len(rows))] if ids and session.choosing == "all" else ids


@contextmanager
def _opening(session: Session, adapter: Path | None) -> Iterator[Callable[[], Engine]]:
    """The engine, loaded when it is first called for and freed at the end of the block."""
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
    """The score of one of this config's prediction files; None where the dataset has no labels."""
    if not session.config.dataset.labelled:
        return None
    return score_lines(read(file), session.task, session.config.task, session.config.evaluation.metrics)


def control_rows(session: Session) -> int:
    """How many rows are answered with other images, too: to see what that does to a score there must be one."""
    return session.config.evaluation.image_control_rows if session.config.dataset.labelled else 0


def unanswered(session: Session, examples: list[Example]) -> list[Line]:
    """What the rows are compared with; a row whose truth needs an image that cannot be read will be a failure."""
    truths = [(row.id, known_truth(session.task, session.config.task, row)) for row in examples]
    return [Line(name, None, truth) for name, truth in truths if not isinstance(truth, ImageError)]


def _answer(session: Session, engine: Engine, made: Target, examples: list[Example], ask: Ask | None) -> dict[str, Any]:
    """Ask everything, or one shard of it; write answers, controls and score. Returns the engine's facts."""
    artifact, shard, work = made.artifact, made.part, session.folder.work(made.artifact, made.provenance)
    name = artifact.stem
    answering = Predictor(
        session.task, session.config.task, artifact.parent / THUMBNAILS, session.progress, session.stop, ask
    )
    effect = engine.adapter_delta([answering.request(example) for example in examples[:PROBED]])
    swapped = exchanged(examples, control_rows(session))
    if shard is not None:
        examples, swapped = ([row for row in rows if shard.owns(row.id)] for rows in (examples, swapped))
    lines = answering.answer(name, engine, examples, work / ANSWERS)
    failed = [f"row {line.id} was not answered: {line.failure['reason']}" for line in lines if line.failure]
    for said in [*failed[:3], *([f"and {len(failed) - 3} more; all stand in {artifact}"] * (len(failed) > 3))]:
        session.progress.note(said)
    control = answering.answer(f"{name}, other images", engine, swapped, work / SHUFFLED_ANSWERS)
    write(session, artifact, lines, [json.loads(line.to_json()) for line in control], effect)
    if shard is None:
        write_score(session, artifact)
    return dict(engine.facts())


def write(
    session: Session,
    artifact: Path,
    lines: Sequence[Line],
    control: Sequence[Mapping[str, Any]],
    effect: float | None,
) -> None:
    """The answers and their controls: lines with other images, and the largest change of a logit by the adapter."""
    session.folder.write(artifact, "".join(line.to_json() + "\n" for line in lines))
    controls = {
        "schema_version": 1,
        "image": {"lines": list(control)} if control else None,
        "effect": {"max_logit_difference": effect} if effect is not None else None,
    }
    write_json(controls_path(artifact), controls)


def write_score(session: Session, artifact: Path) -> None:
    """The score beside one of this config's prediction files."""
    found = score(session, artifact)
    if found is None:
        return
    plain = found.to_json()
    # The scores stand at the top, too: scripts look for `bleu` there.
    write_json(session.files.metrics(artifact), {**plain["metrics"], **plain, "mock": session.mock})


@dataclass(frozen=True, slots=True)
class Asked:
    """Both answers about one picture; `tuned` is None without an adapter."""

    base: Outcome
    tuned: Outcome | None


def ask(session: Session, image: Path, adapter: Path | None = None, question: str | None = None) -> Asked:
    """What the models say about a picture, asked as the config's task asks; nothing is written.

    Raises:
        DataError: the picture cannot be read, or the task puts a question to the model and none is given.
    """
    config = session.config
    if not image.is_file():
        raise DataError(f"{image}: no such picture")
    example = Example(
        str(image), (ImageRef(str(image), image.read_bytes),), None, {"references": ()}, question=question
    )
    request = Request(example.id, session.task.ask(config.task, example))
    if adapter is not None:
        session.verify_adapter(adapter)
    engine = open_engine(session, adapter)
    try:
        with engine.adapter_disabled():
            base = next(iter(engine.answer([request])))
        tuned = next(iter(engine.answer([request]))) if adapter is not None else None
    finally:
        engine.close()
    return Asked(base, tuned)


def agree(session: Session, count: int, adapter: Path | None = None) -> Parity:
    """Whether the config's engine and transformers here give the same tokens on the first `count` rows.

    Raises:
        ConfigError: the config's engine does not say its tokens, as hf itself does not.
    """
    from vlmtune.modeling.loading import attach_adapter, load_model, pick_device

    config = session.config
    if adapter is not None:
        session.verify_adapter(adapter)
    rows = list(session.rows(config.evaluation.split))[:count]
    requests = [Request(row.id, session.task.ask(config.task, row)) for row in rows]
    engine = open_engine(session, adapter)
    try:
        model = load_model(session.encoder.checkpoint, pick_device(config.model), session.precision)
        local = attach_adapter(model, adapter) if adapter is not None else model
        return examine(engine, local, session.encoder, requests)
    finally:
        engine.close()
