"""The train step: an adapter folder with its manifest and curves."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vlmtune import plugs
from vlmtune.config import config_json
from vlmtune.data import Rows
from vlmtune.files import read_whole_lines, write_bytes
from vlmtune.pipeline.session import Session, rows_facts
from vlmtune.tracking._guarded import Guarded

if TYPE_CHECKING:
    from vlmtune.training.lessons import Lessons

CHANGE_NO_ADAPTER = {"evaluate_every_steps", "log_every_steps", "save_every_steps", "row_tokens"}
"""Keys of `training` that change what is seen on the way, memory and speed, and not the adapter."""


def train(session: Session) -> Path:
    """Train the adapter, or find it trained; returns its folder."""
    from vlmtune.training.loop import Job, train

    config, artifact = session.config, session.adapter_path()
    train_rows, select_rows = session.rows("train"), session.rows("select")
    settings = config.training.model_dump(mode="json", exclude=CHANGE_NO_ADAPTER)
    origin = session.origin(
        dataset={
            "train": rows_facts(train_rows),
            "select": rows_facts(select_rows),
            "target": config.dataset.target,
        },
        training=settings,
    )
    if session.folder.finished(artifact, origin, above=session.conclusions()) is not None:
        session.progress.note(f"adapter: {artifact} is finished")
        return artifact
    work = session.folder.work(artifact, origin)
    built = work / "adapter"
    trackers = _trackers(session)

    def mirror(step: int, values: Mapping[str, float]) -> None:
        for tracker in trackers:
            tracker.log(step, values)

    job = Job(
        settings=config.training,
        model=config.model,
        inputs=session.inputs,
        train=lessons_of(session, train_rows),
        select=lessons_of(session, select_rows),
        target=config.dataset.target,
        work=work,
        adapter=built,
        log=mirror,
    )
    facts = train(job, session.progress, session.stop)
    curve = [json.loads(line) for line in read_whole_lines(work / "curve.jsonl")]
    # A copy: a run that goes on after a crash here finds its lines where they were.
    write_bytes(built / "visits.jsonl", (work / "visits.jsonl").read_bytes())
    session.folder.publish(artifact, origin, {**facts, "curve": curve, "selection_ids": []}, built)
    for tracker in trackers:
        tracker.finish(facts)
    return artifact


def lessons_of(session: Session, rows: Rows) -> "Lessons":
    """The rows as they are taught."""
    from vlmtune.training.lessons import Lessons

    return Lessons(rows, session.task, session.config.task, session.inputs, session.config.training)


def _trackers(session: Session) -> list[Guarded]:
    facts = {"config": config_json(session.config), "dir": str(session.folder.root)}
    opened = []
    for config in session.config.tracking:
        plug = plugs.load("tracking", config.to)
        opened.append(Guarded(config.to, functools.partial(plug.open_tracker, config, facts), session.progress))
    return opened
