"""The train step: an adapter folder with its manifest and curves."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune import registry
from vlmtune.data import Rows
from vlmtune.errors import ConfigError
from vlmtune.files import read_whole_lines, write_bytes
from vlmtune.inference import Answering
from vlmtune.pipeline.predict import unanswered
from vlmtune.pipeline.session import Session, lessons_of, rows_facts
from vlmtune.pipeline.tracking import open_trackers
from vlmtune.planning.plan import beside_measured
from vlmtune.progress import Progress, Silent
from vlmtune.run_folder import Origin
from vlmtune.scoring.score import choose
from vlmtune.scoring.score import score as score_lines

if TYPE_CHECKING:
    from vlmtune.training.checkpoints import Judge

CHANGE_NO_ADAPTER = {
    "attention",
    "checkpoint_layers",
    "evaluate_every_steps",
    "log_every_steps",
    "pack_tokens",
    "save_every_steps",
    "seeds",
    "workers",
}
"""Keys of `training` that change what is seen on the way, memory and speed, and not the adapter."""

DECODING = ("max_new_tokens", "temperature", "top_p", "seed")
"""Keys of `inference` that shape an answer, whatever the engine."""


def train(session: Session) -> list[Path]:
    """Train the adapter, or find it trained; returns its folder, or one folder per seed."""
    return [_train(seeded) for seeded in session.seeds]


def _train(session: Session) -> Path:
    from vlmtune.training.log import resumed_at
    from vlmtune.training.trainer import Job, train

    config, artifact = session.config, session.adapter_path()
    train_rows, validation_rows = session.rows("train"), session.rows("validation")
    origin = _origin(session, train_rows, validation_rows)
    work = session.ranks.share(lambda: _work(session, origin))
    if work is None:
        session.progress.note(f"adapter: {artifact} is finished")
        return artifact
    built = work / "adapter"
    begins = not (work / "curve.jsonl").is_file()
    trackers = open_trackers(session, config.output.adapter, begins) if session.ranks.first else []

    def mirror(step: int, values: Mapping[str, float]) -> None:
        for tracker in trackers:
            tracker.log(step, values)

    job = Job(
        settings=config.training,
        model=config.model,
        inputs=session.inputs,
        train=lessons_of(session, train_rows),
        validation=lessons_of(session, validation_rows),
        target=config.dataset.target,
        work=work,
        adapter=built,
        log=mirror,
        judge=judge_of(session, validation_rows, work),
        ranks=session.ranks,
    )
    facts = train(job, session.progress, session.stop)
    if session.ranks.first:
        if facts.get("device") == "cuda":
            _say_plan(session, train_rows, facts)
        curve = [json.loads(line) for line in read_whole_lines(work / "curve.jsonl")]
        # A copy: a run that goes on after a crash here finds its lines where they were.
        write_bytes(built / "visits.jsonl", (work / "visits.jsonl").read_bytes())
        chosen = [validation_rows.id(row) for row in range(len(validation_rows))] if config.training.best_metric else []
        way = {"curve": curve, "resumed_at": resumed_at(work)}
        session.folder.publish(artifact, origin, {**facts, **way, "selection_ids": chosen}, built)
        for tracker in trackers:
            tracker.finish(facts)
    return artifact


def _say_plan(session: Session, rows: Rows, facts: Mapping[str, Any]) -> None:
    """How good the plan was, where memory can be measured."""
    with contextlib.suppress(ConfigError):  # an architecture that cannot be planned was trained all the same
        session.progress.note(
            beside_measured(session.config, session.inputs.checkpoint, rows, facts, Progress(Silent()))
        )


def _origin(session: Session, train_rows: Rows, validation_rows: Rows) -> Origin:
    training, target = session.config.training, session.config.dataset.target
    chooses = {"evaluate_every_steps"} if training.best_metric is not None else set()
    settings = training.model_dump(mode="json", exclude=CHANGE_NO_ADAPTER - chooses)
    if training.continue_from is not None:
        settings["continue_from"] = session.adapter_hash(Path(training.continue_from))  # wherever it lies
    return session.origin(
        dataset={"train": rows_facts(train_rows), "validation": rows_facts(validation_rows), "target": target},
        training=settings,
    )


def _work(session: Session, origin: Origin) -> Path | None:
    """Where the work in progress lies; None where the adapter is finished."""
    artifact = session.adapter_path()
    if session.folder.finished(artifact, origin, above=session.conclusions()) is not None:
        return None
    return session.folder.work(artifact, origin)


def judge_of(session: Session, rows: Rows, work: Path) -> "Judge | None":
    """What answers the validation rows while training and measures the metric that chooses; None where none does.

    Raises:
        ConfigError: the task has no such metric, or the rows nothing that it compares with.
    """
    from vlmtune.modeling.loading import pick_device
    from vlmtune.training.checkpoints import Judge

    name, config = session.config.training.best_metric, session.config
    if name is None or name == "loss":
        return None
    examples = list(rows)
    metric = choose(session.task, [name], unanswered(session, examples))[0]
    answering = Answering(session.task, config.task, work / "pictures", session.progress, session.stop)
    hf = registry.load("engines", "hf")
    decoding = hf.Config(**{key: getattr(config.inference, key) for key in DECODING})

    def score(model: Any, step: int) -> float | None:
        engine = hf.attached(model, decoding, session.inputs, pick_device(config.model), config.training.precision)
        partial = work / f"judging-{step:06d}.jsonl"
        lines = answering.answer("judge validation rows", engine, examples, partial)
        partial.unlink()
        value = score_lines(lines, session.task, config.task, [name]).to_json()["metrics"][name]
        return None if value is None else float(value)

    return Judge(f"validation_{name}", metric.higher_is_better, score)
