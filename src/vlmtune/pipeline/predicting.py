"""The predict step: a prediction file with its controls and score, from the untouched model or one with an adapter."""

import json
from pathlib import Path
from typing import Any

from vlmtune import plugs
from vlmtune.answering import Answering, exchanged
from vlmtune.data import SplitRole
from vlmtune.engines import Engine
from vlmtune.files import write_json
from vlmtune.pipeline.session import Session, rows_facts
from vlmtune.predictions import Line, read
from vlmtune.runs import controls_path, read_manifest
from vlmtune.scoring.score import Score, choose
from vlmtune.scoring.score import score as score_lines
from vlmtune.types import Example

PROBED = 4
"""Requests on which an adapter must change something."""


def predict(session: Session, adapter: Path | None = None, role: SplitRole | None = None) -> Path:
    """Answers of the untouched model, or of the model with an adapter: a prediction file and its score.

    Raises:
        DataError: a row lacks what a metric compares with; before a model is loaded.
    """
    config = session.config
    artifact = config.output.path(config.output.baseline if adapter is None else config.output.tuned)
    above = session.conclusions()
    for file in map(config.output.path, (config.output.baseline, config.output.tuned)):
        session.folder.keep_apart(file, session.mock, [*session.beside(file), *above])
    if role not in (None, config.evaluation.split):
        artifact, above = artifact.with_name(f"{artifact.stem}.{role}{artifact.suffix}"), []
    rows = session.rows(role or config.evaluation.split)
    precision = config.inference.precision or config.training.precision
    origin = session.origin(
        adapter=session.adapter_hash(adapter),
        dataset=rows_facts(rows),
        inference=config.inference.model_dump(mode="json", exclude={"batch_size"}) | {"precision": precision},
        image_control_rows=config.evaluation.image_control_rows,
    )
    if session.folder.finished(artifact, origin, session.beside(artifact), above) is not None:
        session.progress.note(f"{artifact} is finished")
        if not session.metrics_path(artifact).is_file():
            _write_score(session, artifact)
        return artifact
    examples = list(rows)
    asked = [Line(row.id, None, session.task.truth(config.task, row)) for row in examples]
    choose(session.task, config.evaluation.metrics, asked)
    engine = plugs.load("engines", config.inference.engine).open_engine(
        config.inference, config.model, session.inputs, precision, adapter
    )
    try:
        facts = _answer(session, engine, examples, artifact, session.folder.work(artifact, origin))
    finally:
        engine.close()
    chosen = (read_manifest(adapter) or {}).get("selection_ids", []) if adapter is not None else []
    session.folder.publish(artifact, origin, {**facts, "selection_ids": chosen})
    return artifact


def score(session: Session, file: Path) -> Score:
    """The score of one of this config's prediction files."""
    return score_lines(read(file), session.task, session.config.task, session.config.evaluation.metrics)


def _answer(session: Session, engine: Engine, examples: list[Example], artifact: Path, work: Path) -> dict[str, Any]:
    """Ask everything, write answers, controls and score; returns the engine's facts."""
    name = artifact.stem
    answering = Answering(
        session.task, session.config.task, artifact.parent / "pictures", session.progress, session.stop
    )
    effect = engine.effect([answering.request(example) for example in examples[:PROBED]])
    lines = answering.answer(name, engine, examples, work / "answers.jsonl")
    failed = [f"row {line.id} was not answered: {line.failure['reason']}" for line in lines if line.failure]
    for said in [*failed[:3], *([f"and {len(failed) - 3} more; all stand in {artifact}"] * (len(failed) > 3))]:
        session.progress.note(said)
    swapped = exchanged(examples, session.config.evaluation.image_control_rows)
    control = answering.answer(f"{name}, other images", engine, swapped, work / "exchanged.jsonl")
    session.folder.write(artifact, "".join(line.to_json() + "\n" for line in lines))
    controls = {
        "schema_version": 1,
        "image": {"lines": [json.loads(line.to_json()) for line in control]} if control else None,
        "effect": {"max_logit_difference": effect} if effect is not None else None,
    }
    write_json(controls_path(artifact), controls)
    _write_score(session, artifact)
    return dict(engine.facts())


def _write_score(session: Session, artifact: Path) -> None:
    plain = score(session, artifact).to_json()
    # The scores stand at the top, too: scripts look for `bleu` there.
    write_json(session.metrics_path(artifact), {**plain["metrics"], **plain, "mock": session.mock})
