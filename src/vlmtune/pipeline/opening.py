"""The engine of a session. Where it refuses the adapter, the model with the adapter merged into it answers instead."""

import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmtune.engines import Engine
from vlmtune.errors import AdapterRefused
from vlmtune.files import read_json
from vlmtune.locks import locked
from vlmtune.models import TINY
from vlmtune.pipeline.exporting import export
from vlmtune.pipeline.session import Session
from vlmtune.types import Outcomes, Request

TICK_S = 0.2


def open_engine(session: Session, adapter: Path | None) -> Engine:
    """The config's engine, ready to answer, with the adapter where one is given; the caller closes it.

    Raises:
        IntegrityError: the adapter is refused, and merging it changes the answers or shows that it does nothing.
    """
    try:
        return session.open_engine(adapter)
    except AdapterRefused as refused:
        if adapter is None:
            raise
        kept = ExitStack()
        return Merged(session, *kept.enter_context(merged(session, adapter, refused)), kept)


@contextmanager
def merged(session: Session, adapter: Path, refused: AdapterRefused) -> Iterator[tuple[Session, float]]:
    """The session over the model with the adapter in its weights, and what the adapter does to a first logit.

    The checkpoint is exported with its proof, once, and lies in the run folder until `runs gc` takes it, which it does
    not before this block ends. Its lock is its own: whoever serves it does not own the run.
    """
    made_from = session.origin(adapter=session.adapter_hash(adapter), precision=session.config.training.precision)
    folder = session.folder.merged(made_from)
    lock = folder.with_name(f"{folder.name}.lock")
    waits = False
    while True:
        with locked(lock, shared=True) as free:
            if free and folder.is_dir():
                yield _over(session, folder)
                return
        with locked(lock) as free:
            if free and not folder.is_dir():
                session.progress.note(f"{refused.args[0].partition('. ')[0]}. Merging it into the model: {folder}")
                export(session, folder, adapter)
        if not free:
            if not waits:
                session.progress.note(f"another process is at work on {folder}; waiting for it")
            waits = True
            session.stop.obey("nothing was asked yet")
            time.sleep(TICK_S)


def _over(session: Session, folder: Path) -> tuple[Session, float]:
    effect: float = read_json(folder / "vlmtune.json")["effect"]
    model = session.config.model
    # The stand-in runs on CPUs alone, under whatever name.
    device = "cpu" if model.name == TINY else model.device
    named = model.model_copy(update={"name": str(folder.resolve()), "revision": None, "device": device})
    return replace(session, config=session.config.model_copy(update={"model": named})), effect


class Merged:
    """An engine over a merged checkpoint, with another for the untouched model. One is open at a time: a GPU that one
    fills has no room for both.

    Args:
        base: whose model is untouched.
        tuned: the same with the adapter in the weights.
        effect: largest change of a first-token logit by the adapter.
        kept: closed with this engine: what keeps the checkpoint where it is.
    """

    def __init__(self, base: Session, tuned: Session, effect: float, kept: ExitStack) -> None:
        self._base, self._tuned, self._effect, self._kept = base, tuned, effect, kept
        self._asked = tuned
        self._open: Any = None

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        """One outcome per request that is not `done`, as the engine below says."""
        outcomes: Outcomes = self._engine().answer(requests, done)
        return outcomes

    def told(self, requests: Iterable[Request]) -> Iterator[Any]:
        """What the engine below says about its tokens."""
        told: Iterator[Any] = self._engine().told(requests)
        return told

    @contextmanager
    def untuned(self) -> Iterator[None]:
        """The untouched model answers inside this block."""
        self._turn_to(self._base)
        try:
            yield
        finally:
            self._turn_to(self._tuned)

    def effect(self, requests: Sequence[Request]) -> float:
        """As it was found when the adapter was merged, on rows of the config."""
        return self._effect

    def facts(self) -> Mapping[str, Any]:
        """Those of the engine below."""
        return {**self._engine().facts(), "merged": True}

    def close(self) -> None:
        """Free what was opened."""
        with self._kept:
            self._shut()

    def _shut(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _engine(self) -> Any:
        if self._open is None:
            self._open = self._asked.open_engine(None)
        return self._open

    def _turn_to(self, session: Session) -> None:
        self._shut()
        self._asked = session
