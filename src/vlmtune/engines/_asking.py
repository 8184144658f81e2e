"""The engine over a server: one model of it, and the same with an adapter. Who runs the server does not matter here."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vlmtune.engines._client import Client, effect
from vlmtune.engines._messages import Answer
from vlmtune.types import Failure, Outcomes, Request


class ServerEngine:
    """Asks for the adapter where there is one.

    Args:
        base: asks for the untouched model.
        tuned: asks for the adapter; None without one.
        facts: what is known of the server, for the manifest.
        close: ends what was started for this engine.
    """

    def __init__(
        self,
        base: Client,
        tuned: Client | None,
        facts: Mapping[str, Any],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._base, self._tuned, self._facts, self._close = base, tuned, facts, close

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        """One outcome per request that is not `done`, as they are ready.

        Raises:
            RemoteError: the server is down, hangs, or refuses everything.
            EnvironmentProblem: it refuses the key.
            IntegrityError: another model answers, or it reads another prompt.
        """
        return (self._tuned or self._base).answer(request for request in requests if request.id not in done)

    @contextmanager
    def untuned(self) -> Iterator[None]:
        """The model without its adapter answers inside this block."""
        tuned, self._tuned = self._tuned, None
        try:
            yield
        finally:
            self._tuned = tuned

    def effect(self, requests: Sequence[Request]) -> float | None:
        """Largest change of a likely first token's log-probability; None without an adapter or log-probabilities.

        Raises:
            IntegrityError: the adapter changes nothing, or the server ignores it.
        """
        return effect(self._base, self._tuned, requests) if self._tuned is not None else None

    def told(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | Failure]]:
        """Each request with all that the server says about its answer, token ids included where it gives them."""
        return (self._tuned or self._base).told(requests)

    def facts(self) -> Mapping[str, Any]:
        """What is known of the server."""
        return self._facts

    def close(self) -> None:
        """End what was started."""
        self._close()
