"""Asks a server that speaks OpenAI's chat completions: retries, gives up in time, checks who answered.

Every request ends as an answer or a named failure. What is wrong for all requests alike (nobody listens, a refused key,
another model) ends the run instead of failing row by row; what was answered before is the caller's to keep.

Work spread over a few threads, results as they come; a run in which nothing happens any more is ended.

Threads are daemons: one that hangs in a dead connection keeps nobody from leaving.

The engine over a server: one model of it, and the same with an adapter. Who runs the server does not matter here.
"""

import functools
import hashlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from vlmtune.engines import InferenceConfig
from vlmtune.engines import _http as http
from vlmtune.engines._messages import Answer, messages, read_answer
from vlmtune.errors import DataError, EnvironmentProblem, ImageError, IntegrityError, RemoteError
from vlmtune.types import Failure, Outcome, Outcomes, Prediction, Request

if TYPE_CHECKING:
    from vlmtune.processing.encoder import Encoded, Encoder
import time
from collections.abc import Container
from contextlib import contextmanager
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TypeVar

from vlmtune.errors import VlmtuneError

TICK_S = 0.2
"""How often it is looked whether work still makes progress."""

Work = TypeVar("Work")
Result = TypeVar("Result")


def spread(
    items: Iterable[Work],
    work: Callable[[Work], Result],
    threads: int,
    watchdog_s: float,
    look: Callable[[], None],
) -> Iterator[Result]:
    """Results of `work` in the order in which they are ready.

    Args:
        items: taken in this thread, one whenever a thread is free; taking one may raise.
        work: called in other threads; what of our errors it raises is raised here.
        threads: how many work at once.
        watchdog_s: seconds without any result after which the run is ended.
        look: called now and then while there is nothing to do; may raise.

    Raises:
        RemoteError: no result for `watchdog_s` seconds.
    """
    jobs: SimpleQueue[Work | None] = SimpleQueue()
    done: SimpleQueue[Result | VlmtuneError | None] = SimpleQueue()
    for _ in range(threads):
        threading.Thread(target=_run, args=(work, jobs, done), daemon=True).start()
    source, waiting = iter(items), 0
    try:
        while True:
            for item in islice(source, threads - waiting):
                jobs.put(item)
                waiting += 1
            if not waiting:
                return
            made = _next(done, watchdog_s, look)
            waiting -= 1
            if made is None:
                raise RuntimeError("a thread ended with the error printed above")
            if isinstance(made, VlmtuneError):
                raise made
            yield made
    finally:
        for _ in range(threads):
            jobs.put(None)


def _run(
    work: Callable[[Work], Result],
    jobs: "SimpleQueue[Work | None]",
    done: "SimpleQueue[Result | VlmtuneError | None]",
) -> None:
    """One thread. What it did not foresee is printed by Python as the thread ends; None tells that it happened."""
    while (job := jobs.get()) is not None:
        made: Result | VlmtuneError | None = None
        try:
            made = work(job)
        except VlmtuneError as error:
            made = error
        finally:
            done.put(made)


def _next(done: "SimpleQueue[Result]", watchdog_s: float, look: Callable[[], None]) -> Result:
    until = time.monotonic() + watchdog_s
    while True:
        try:
            return done.get(timeout=TICK_S)
        except Empty:
            look()
        if time.monotonic() > until:
            raise RemoteError(
                f"no answer came for {watchdog_s:g} s (inference.watchdog_s); the server hangs. What was answered is "
                "kept: run the same command again when it works"
            )


PASSING = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Statuses after which the same request may succeed."""

ALL_ALIKE = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 410})
"""Statuses that no other row would change."""

LONGEST_WAIT_S = 60.0
"""Longest pause between two tries, whatever the server asks for."""

REFUSED_ALIKE = 10
"""Requests refused in the same words, none answered, after which the rest is not tried."""

LOST_IN_A_ROW = 3
"""Requests that failed after all retries, none answered between them, after which the server counts as broken; at
least as many as are asked at once."""

PROBE_TOKENS = 16


class ClientConfig(InferenceConfig):
    """How a server is asked."""

    concurrency: PositiveInt = 8
    """Requests under way at once."""

    timeout_s: PositiveFloat = 120
    """Seconds after which a request that got no answer is tried again."""

    max_retries: NonNegativeInt = 5
    """Further tries of a request that failed for a reason that may pass: too many requests, a server error, a cut or
    silent connection."""

    retry_s: PositiveFloat = 0.5
    """Pause before the first further try; it doubles with each, shortened or lengthened by up to half at random."""

    watchdog_s: PositiveFloat = 600
    """Seconds without a single answer after which the run ends; what was answered is kept."""

    logprobs: bool = True
    """Whether to ask for the log-probabilities of the answer's tokens; not every server gives them."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask and as what.

    `answers_as` is the name by which the server calls the model it answers with. `ours` says that it is a vLLM with
    our checkpoint: it then gets pictures at the size the model reads, and must have read the very prompt that we would.
    `context` is the most tokens of prompt and answer together, where that is known. `look` raises where the server is
    known to have ended.
    """

    base_url: str
    key: str | None = field(repr=False)  # never in a traceback
    model: str
    answers_as: str
    ours: bool
    length_key: str = "max_tokens"
    context: int | None = None
    look: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Lost:
    """A request that failed after all retries."""

    failure: Failure
    nobody: bool


@dataclass(frozen=True, slots=True)
class _Refused:
    """A request that the server will not answer, however often it is asked."""

    failure: Failure
    said: str


class Client:
    """Asks one model of one server."""

    def __init__(self, config: ClientConfig, server: Server, encoder: "Encoder") -> None:
        self._config = config
        self._server = server
        self._encoder = encoder
        self._over = threading.Event()

    def answer(self, requests: Iterable[Request]) -> Outcomes:
        """One outcome per request, as they are ready.

        Raises:
            RemoteError: the server is down, hangs, or refuses everything.
            EnvironmentProblem: it refuses the key.
            IntegrityError: another model answers, or it reads another prompt.
        """
        answered, lost, refused = 0, 0, 0
        last = ""
        config = self._config
        self._over.clear()
        try:
            for made in spread(requests, self._outcome, config.concurrency, config.watchdog_s, self._server.look):
                if isinstance(made, _Lost):
                    lost, last = lost + 1, made.failure.reason
                    yield made.failure
                    if made.nobody or lost >= max(LOST_IN_A_ROW, config.concurrency):
                        raise self._broken(last)
                elif isinstance(made, _Refused):
                    refused = refused + 1 if made.said == last else 1
                    last = made.said
                    yield made.failure
                    if refused >= REFUSED_ALIKE and not answered:
                        raise RemoteError(f"{self._server.base_url} refuses every request: {last}")
                else:
                    answered += isinstance(made, Prediction)
                    lost = 0 if isinstance(made, Prediction) else lost
                    yield made
            if lost and not answered:
                raise self._broken(last)
        finally:
            self._over.set()

    def first_tokens(self, request: Request) -> Answer | Failure:
        """A short greedy answer with the likeliest first tokens.

        Raises:
            RemoteError, EnvironmentProblem, IntegrityError: as `answer`.
        """
        asked: dict[str, Any] = {"temperature": 0, self._server.length_key: PROBE_TOKENS}
        asked |= {"logprobs": True, "top_logprobs": 5} if self._config.logprobs else {}
        self._over.clear()
        ask = functools.partial(self._ask, asked=asked)
        return self._certain(next(spread([request], ask, 1, self._config.watchdog_s, self._server.look)))

    def token_outputs(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | Failure]]:
        """Each request with all that the server says about its answer, as they are ready; errors as `answer`."""
        self._over.clear()

        def ask(request: Request) -> tuple[Request, Answer | Failure | _Lost | _Refused]:
            return request, self._ask(request, self._decoding(request))

        config = self._config
        for request, made in spread(requests, ask, config.concurrency, config.watchdog_s, self._server.look):
            yield request, self._certain(made)

    def _certain(self, made: Answer | Failure | _Lost | _Refused) -> Answer | Failure:
        if isinstance(made, _Lost):
            raise self._broken(made.failure.reason)
        return made.failure if isinstance(made, _Refused) else made

    def _outcome(self, request: Request) -> Outcome | _Lost | _Refused:
        made = self._ask(request, self._decoding(request))
        if not isinstance(made, Answer):
            return made
        if made.finish_reason not in ("stop", "length"):
            return Failure(
                request.id, "engine", f"the server ended the answer for another reason: {made.finish_reason}"
            )
        text = made.text
        if self._server.ours and made.ids is not None:
            stops = self._encoder.stop_ids
            text = self._encoder.renderer.text([token for token in made.ids if token not in stops])
        # Some servers leave out the end of turn; then it is not known which tokens the values belong to.
        logprobs = made.logprobs if made.logprobs is not None and len(made.logprobs) == made.tokens else None
        return Prediction(
            request.id, text, "length" if made.finish_reason == "length" else "stop", made.tokens, logprobs
        )

    def _decoding(self, request: Request) -> dict[str, Any]:
        config = self._config
        asked: dict[str, Any] = {"temperature": config.temperature, self._server.length_key: config.max_new_tokens}
        if config.temperature > 0:
            seed = hashlib.sha256(f"{config.seed}/{request.id}".encode()).digest()
            asked |= {"top_p": config.top_p, "seed": int.from_bytes(seed[:4], "big") >> 1}
        return asked | ({"logprobs": True} if config.logprobs else {})

    def _ask(self, request: Request, asked: Mapping[str, Any]) -> Answer | Failure | _Lost | _Refused:
        """Ask until there is an answer, a refusal, or no try left."""
        try:
            encoded = self._encoder.prompt(request.conversation) if self._server.ours else None
            said = messages(request.conversation, encoded, self._encoder)
        except ImageError as error:
            return Failure(request.id, "image", str(error))
        except DataError as error:
            return Failure(request.id, "prompt", str(error))
        context = self._server.context
        if encoded is not None and context is not None and len(encoded) >= context:
            full = f"{len(encoded)} tokens leave no room for an answer: inference.context is {context}"
            return Failure(request.id, "prompt", full)
        body = {"model": self._server.model, "messages": said, **asked}
        if self._server.ours:
            body |= {"return_token_ids": True, "stop_token_ids": self._encoder.stop_ids}
        reason, nobody = "", False
        tries = self._config.max_retries + 1
        for attempt in range(tries):
            reply = self._post(body)
            if isinstance(reply, http.Reply) and reply.status not in PASSING:
                return self._read(request, reply, encoded)
            nobody = isinstance(reply, http.NoReply) and reply.nobody
            reason = reply.said if isinstance(reply, http.NoReply) else _status(reply)
            self._server.look()
            if attempt + 1 < tries and self._over.wait(self._pause(request, attempt, reply)):
                break
        return _Lost(Failure(request.id, "engine", f"the server {reason}, {tries} tries"), nobody)

    def _post(self, body: Mapping[str, Any]) -> http.Reply | http.NoReply:
        url = f"{self._server.base_url.rstrip('/')}/chat/completions"
        reply = http.send(url, self._server.key, self._config.timeout_s, body)
        if isinstance(reply, http.Reply) and reply.status == 200 and not http.is_json(reply.body):
            return http.NoReply("answered no whole JSON")
        return reply

    def _read(self, request: Request, reply: http.Reply, encoded: "Encoded | None") -> Answer | Failure | _Refused:
        if reply.status != 200:
            return self._refusal(request, reply)
        made = read_answer(reply.body, self._server.answers_as)
        if isinstance(made, str):
            return Failure(request.id, "engine", made)
        if encoded is not None and made.prompt_ids is not None and made.prompt_ids != encoded.rendered.ids:
            raise IntegrityError(
                f"row {request.id}: the server reads another prompt than training does ({len(made.prompt_ids)} tokens "
                f"instead of {len(encoded.rendered.ids)}): its chat template or image sizes are not those of "
                f"{self._encoder.checkpoint.name}"
            )
        return made

    def _refusal(self, request: Request, reply: http.Reply) -> _Refused:
        """A request that the server will not answer.

        Raises:
            EnvironmentProblem, RemoteError: it would refuse any other in the same way.
        """
        url, said = self._server.base_url, _status(reply)
        if reply.status in (401, 403):
            raise EnvironmentProblem(
                f"{url} refuses the key ({said}); inference.api_key names the variable it stands in"
            )
        if reply.status in ALL_ALIKE:
            raise RemoteError(
                f"{url} {said}, asked for model {self._server.model!r}. Check inference.base_url (it mostly ends in "
                f"/v1) and the served name; `curl {url.rstrip('/')}/models` lists what there is"
            )
        return _Refused(Failure(request.id, "prompt", f"the server {said}"), said)

    def _pause(self, request: Request, attempt: int, reply: http.Reply | http.NoReply) -> float:
        """Seconds before the next try; at random, so that requests that failed together do not return together."""
        jitter = 0.5 + random.Random(f"{self._config.seed}/{request.id}/{attempt}").random()
        own = self._config.retry_s * 2.0**attempt * jitter
        told = reply.retry_after if isinstance(reply, http.Reply) else None
        return min(LONGEST_WAIT_S, own if told is None else max(told, own))

    def _broken(self, reason: str) -> RemoteError:
        return RemoteError(
            f"{self._server.base_url}: {reason}. What was answered is kept: run the same command again when it works"
        )


def adapter_delta(base: Client, tuned: Client, requests: Sequence[Request]) -> float | None:
    """Largest change the adapter makes to the log-probability of a likely first token of these requests.

    The untouched model is asked before and after the tuned one: what two of its own answers differ by (a prompt found
    in the server's cache is computed otherwise) is no effect of an adapter. None where the server gives no
    log-probabilities: then other texts are the proof; and where no request could be answered.

    Raises:
        IntegrityError: the adapter changes nothing.
        RemoteError, EnvironmentProblem: the server cannot be asked.
    """
    changes: list[float] = []
    shown, seen = False, False
    for request in requests:
        before, after, again = (client.first_tokens(request) for client in (base, tuned, base))
        if isinstance(before, Failure) or isinstance(after, Failure) or isinstance(again, Failure):
            continue
        seen = True
        change = min(_distance(before, after), _distance(again, after))
        changes += [change] if before.likeliest and after.likeliest else []
        shown |= change > _distance(before, again) or before.text == again.text != after.text
    if seen and not shown:
        raise IntegrityError(
            "the server takes the adapter's name, but answers as without it: base and tuned answers are the same. It "
            "ignores the adapter, or the adapter was not trained"
        )
    return max(changes, default=None)


def _distance(one: Answer, other: Answer) -> float:
    """Largest difference of a first token's log-probability. A token that only one side lists is, on the other, less
    likely than all that are listed there: the difference is at least the one to the least likely of them.
    """

    def beyond(here: Mapping[str, float], there: Mapping[str, float]) -> list[float]:
        least = min(there.values(), default=0.0)
        return [
            abs(value - there[token]) if token in there else max(0.0, value - least) for token, value in here.items()
        ]

    sides = one.likeliest, other.likeliest
    return max([*beyond(*sides), *beyond(*reversed(sides))], default=0.0)


def _status(reply: http.Reply) -> str:
    return f"answered {reply.status}: {http.message(reply.body)}"


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
    def adapter_disabled(self) -> Iterator[None]:
        """The model without its adapter answers inside this block."""
        tuned, self._tuned = self._tuned, None
        try:
            yield
        finally:
            self._tuned = tuned

    def adapter_delta(self, requests: Sequence[Request]) -> float | None:
        """Largest change of a likely first token's log-probability; None without an adapter or log-probabilities.

        Raises:
            IntegrityError: the adapter changes nothing, or the server ignores it.
        """
        return adapter_delta(self._base, self._tuned, requests) if self._tuned is not None else None

    def token_outputs(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | Failure]]:
        """Each request with all that the server says about its answer, token ids included where it gives them."""
        return (self._tuned or self._base).token_outputs(requests)

    def facts(self) -> Mapping[str, Any]:
        """What is known of the server."""
        return self._facts

    def close(self) -> None:
        """End what was started."""
        self._close()
