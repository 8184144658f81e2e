"""One picture, answered at once by the untouched model and by the tuned one; and whether two engines agree."""

from dataclasses import dataclass
from pathlib import Path

from vlmtune.checks.parity import Parity, examine
from vlmtune.errors import DataError
from vlmtune.pipeline.opening import open_engine
from vlmtune.pipeline.session import Session
from vlmtune.types import Example, ImageRef, Outcome, Request


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
    session.adapter_hash(adapter)
    engine = open_engine(session, adapter)
    try:
        with engine.untuned():
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
    from vlmtune.models import attach_adapter, load_model, pick_device

    config = session.config
    session.adapter_hash(adapter)
    rows = list(session.rows(config.evaluation.split))[:count]
    requests = [Request(row.id, session.task.ask(config.task, row)) for row in rows]
    engine = open_engine(session, adapter)
    try:
        model = load_model(session.inputs.checkpoint, pick_device(config.model), session.precision)
        local = attach_adapter(model, adapter) if adapter is not None else model
        return examine(engine, local, session.inputs, requests)
    finally:
        engine.close()
