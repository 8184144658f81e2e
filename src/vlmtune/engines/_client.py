"""A client of servers with OpenAI's chat completions API, and the engine built on it.

Every request ends as an answer or as a named failure. What affects all requests alike (nobody listens, the key is
refused, another model answers) ends the run instead of failing row by row; the caller keeps the answers so far.
"""

import functools
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from vlmtune.engines import InferenceConfig
from vlmtune.engines import _http as http
from vlmtune.engines._messages import Answer, messages, read_answer
from vlmtune.errors import DataError, EnvironmentProblem, ImageError, IntegrityError, RemoteError, VlmtuneError
from vlmtune.json_values import obeys_strict_rules
from vlmtune.thoughts import split_thought
from vlmtune.types import Failure, Outcome, Outcomes, Prediction, Request

if TYPE_CHECKING:
    from vlmtune.processing.encoder import Encoded, Encoder

POLL_S = 0.2
"""How often an idle worker pool checks whether the server is alive."""

RETRYABLE = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Statuses after which the same request may succeed."""

FATAL = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 410})
"""Statuses that every other request would get, too."""

FIRST_PAUSE_S = 0.5
"""Pause before the first retry; it doubles with each further one, plus or minus up to half at random."""

MAX_PAUSE_S = 60.0
"""Longest pause between two attempts, whatever the server asks for."""

MAX_REFUSED = 10
"""Requests refused with the same message, none answered, after which the run ends."""

MAX_UNANSWERED = 3
"""Requests in a row that failed after all retries, after which the server counts as broken; at least `concurrency`."""

PROBE_TOKENS = 16
"""Longest answer to a probe of the adapter."""

Work = TypeVar("Work")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Work], Result],
    items: Iterable[Work],
    threads: int,
    watchdog_s: float,
    check: Callable[[], None],
) -> Iterator[Result]:
    """Results of a function over items, in the order in which they are ready.

    The threads are daemons: one that hangs in a dead connection does not keep the process alive.

    Args:
        function: called in the threads; a VlmtuneError that it raises is raised here.
        items: taken in the calling thread, one whenever a thread is free; taking one may raise.
        threads: size of the pool.
        watchdog_s: seconds without any result after which the run ends.
        check: called repeatedly while waiting; may raise.

    Raises:
        RemoteError: no result for `watchdog_s` seconds.
    """
    jobs: SimpleQueue[Work | None] = SimpleQueue()
    results: SimpleQueue[Result | VlmtuneError | None] = SimpleQueue()
    for _ in range(threads):
        threading.Thread(target=_worker, args=(function, jobs, results), daemon=True).start()
    source, pending = iter(items), 0
    try:
        while True:
            for item in islice(source, threads - pending):
                jobs.put(item)
                pending += 1
            if not pending:
                return
            result = _next_result(results, watchdog_s, check)
            pending -= 1
            if result is None:
                raise RuntimeError("a thread ended with the error printed above")
            if isinstance(result, VlmtuneError):
                raise result
            yield result
    finally:
        for _ in range(threads):
            jobs.put(None)


def _worker(
    function: Callable[[Work], Result],
    jobs: "SimpleQueue[Work | None]",
    results: "SimpleQueue[Result | VlmtuneError | None]",
) -> None:
    """One thread. Python prints an unexpected error as the thread ends; the None in `results` signals it."""
    while (job := jobs.get()) is not None:
        result: Result | VlmtuneError | None = None
        try:
            result = function(job)
        except VlmtuneError as error:
            result = error
        finally:
            results.put(result)


def _next_result(results: "SimpleQueue[Result]", watchdog_s: float, check: Callable[[], None]) -> Result:
    deadline = time.monotonic() + watchdog_s
    while True:
        try:
            return results.get(timeout=POLL_S)
        except Empty:
            check()
        if time.monotonic() > deadline:
            raise RemoteError(
                f"no answer came for {watchdog_s:g} s (watchdog_s); the server hangs. The answers so far are "
                "saved: run the same command again when the server works"
            )


class ClientConfig(InferenceConfig):
    """How requests are sent to a server."""

    reads_videos: ClassVar[bool] = False
    """Servers choose frames themselves, and not all of them say when each was shown."""

    concurrency: PositiveInt = 8
    """Requests in flight at once."""

    timeout_s: PositiveFloat = 120
    """Seconds after which a request without an answer is retried."""

    max_retries: NonNegativeInt = 5
    """Retries of a request that failed for a temporary reason: too many requests, a server error, a broken or silent
    connection."""

    watchdog_s: PositiveFloat = 600
    """Seconds without a single answer after which the run ends; the answers so far are kept."""

    json_object: bool = False
    """Guided decoding: answers are JSON objects, whatever the model would write (`response_format`, as vLLM and OpenAI
    have it). For the task extraction; base and tuned model alike."""

    json_schema: str | None = None
    """Guided decoding by a JSON schema: `auto` for one that the objects of the train rows obey, in the task extraction;
    or a file with one. Sent as `response_format`, to the base and the tuned model alike. Null leaves answers free."""

    logprobs: bool = True
    """Whether to ask for the log-probabilities of the answer's tokens; not every server provides them."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and the model to request from it.

    `own_checkpoint` says whether it is a vLLM server with our checkpoint: it then gets images at the size at which the
    model reads them, and its prompts must equal ours, token for token. `context` limits the tokens of prompt and answer
    together, if known. `check_alive` raises if the server is known to have ended. `model_key` is the config's key of
    the model's name, for messages.
    """

    base_url: str
    key: str | None = field(repr=False)  # never in a traceback
    model: str
    own_checkpoint: bool
    context: int | None = None
    check_alive: Callable[[], None] = lambda: None
    model_key: str = "inference.served_model"

    @property
    def block(self) -> str:
        """The block of the config that names the server."""
        return self.model_key.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """A request that failed after all retries."""

    failure: Failure
    unreachable: bool


@dataclass(frozen=True, slots=True)
class _Refused:
    """A request that the server rejects, however often it is sent."""

    failure: Failure
    message: str


class Client:
    """Sends requests for one model to one server; a server with our checkpoint needs its encoder."""

    def __init__(self, config: ClientConfig, server: Endpoint, encoder: "Encoder | None") -> None:
        self._config = config
        self._server = server
        self._encoder = encoder if server.own_checkpoint else None
        self._opened_thought = encoder.renderer.opened_thought if encoder is not None else ""
        self._stopped = threading.Event()

    def answer(self, requests: Iterable[Request]) -> Outcomes:
        """One outcome per request, as they are ready.

        Raises:
            RemoteError: the server is down, hangs, or refuses everything.
            EnvironmentProblem: it refuses the key.
            IntegrityError: another model answers, or it sees another prompt.
        """
        answered, unanswered, refused = 0, 0, 0
        last = ""
        self._stopped.clear()
        try:
            for result in self._map(self._outcome, requests, self._config.concurrency):
                if isinstance(result, _Unanswered):
                    unanswered, last = unanswered + 1, result.failure.reason
                    yield result.failure
                    if result.unreachable or unanswered >= max(MAX_UNANSWERED, self._config.concurrency):
                        raise self._broken(last)
                elif isinstance(result, _Refused):
                    refused = refused + 1 if result.message == last else 1
                    last = result.message
                    yield result.failure
                    if refused >= MAX_REFUSED and not answered:
                        raise RemoteError(f"{self._server.base_url} refuses every request: {last}")
                else:
                    answered += isinstance(result, Prediction)
                    unanswered = 0 if isinstance(result, Prediction) else unanswered
                    yield result
            if unanswered and not answered:
                raise self._broken(last)
        finally:
            self._stopped.set()

    def first_tokens(self, request: Request) -> Answer | Failure:
        """A short greedy answer with the likeliest first tokens.

        Raises:
            RemoteError, EnvironmentProblem, IntegrityError: as `answer`.
        """
        decoding: dict[str, Any] = {"temperature": 0, "max_tokens": PROBE_TOKENS}
        decoding |= {"logprobs": True, "top_logprobs": 5} if self._config.logprobs else {}
        self._stopped.clear()
        send = functools.partial(self._send, decoding=decoding)
        return self._answer_or_raise(next(self._map(send, [request], 1)))

    def token_outputs(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | Failure]]:
        """Each request with all that the server reports about its answer, as they are ready; errors as `answer`."""
        self._stopped.clear()

        def send(request: Request) -> tuple[Request, Answer | Failure | _Unanswered | _Refused]:
            return request, self._send(request, self._decoding(request))

        for request, result in self._map(send, requests, self._config.concurrency):
            yield request, self._answer_or_raise(result)

    def _map(
        self, function: Callable[[Request], Result], requests: Iterable[Request], threads: int
    ) -> Iterator[Result]:
        return map_in_threads(function, requests, threads, self._config.watchdog_s, self._server.check_alive)

    def _answer_or_raise(self, result: Answer | Failure | _Unanswered | _Refused) -> Answer | Failure:
        if isinstance(result, _Unanswered):
            raise self._broken(result.failure.reason)
        return result.failure if isinstance(result, _Refused) else result

    def _outcome(self, request: Request) -> Outcome | _Unanswered | _Refused:
        answer = self._send(request, self._decoding(request))
        if not isinstance(answer, Answer):
            return answer
        if answer.finish_reason not in ("stop", "length"):
            reason = f"the server ended the answer for another reason: {answer.finish_reason:.100}"
            return Failure(request.id, "engine", reason, refused=answer.finish_reason == "content_filter")
        text = answer.text
        if self._encoder is not None and answer.ids is not None:
            stops = self._encoder.stop_ids
            text = self._encoder.renderer.text([token for token in answer.ids if token not in stops])
        text = self._with_thought(text, answer)
        # Some servers omit the end of turn; then it is unknown which tokens the values belong to.
        complete = answer.logprobs is not None and len(answer.logprobs) == answer.tokens
        return Prediction(
            request.id,
            text,
            "length" if answer.finish_reason == "length" else "stop",
            answer.tokens,
            answer.logprobs if complete else None,
        )

    def _with_thought(self, text: str, answer: Answer) -> str:
        """The text with the thought that the server keeps apart, or the beginning of it that is in the prompt.

        What prompts begin is certain only for a server with our checkpoint. With another one, an answer that was cut
        off without the end of a thought is taken for one.
        """
        if answer.reasoning is not None:
            ending = f"\n</think>\n\n{text}" if text else ""
            return f"<think>\n{answer.reasoning}{ending}"
        cut_off = answer.finish_reason == "length" and split_thought(text)[0] is None
        return self._opened_thought + text if self._encoder is not None or cut_off else text

    def _decoding(self, request: Request) -> dict[str, Any]:
        """The decoding parameters of a request's body."""
        config = self._config
        decoding: dict[str, Any] = {"temperature": config.temperature, "max_tokens": config.answer_limit}
        if config.temperature > 0:
            seed = hashlib.sha256(f"{config.seed}/{request.id}".encode()).digest()
            decoding |= {"top_p": config.top_p, "seed": int.from_bytes(seed[:4], "big") >> 1}
        # Not every server knows these: they are sent only where they change something.
        neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
        decoding |= {key: value for key, none in neutral.items() if (value := getattr(config, key)) != none}
        if config.json_object:
            decoding["response_format"] = {"type": "json_object"}
        if config.json_schema is not None:  # the schema itself, see `pipeline.json_schema`
            schema = json.loads(config.json_schema)
            named = {"name": "answer", "schema": schema, "strict": obeys_strict_rules(schema)}
            decoding["response_format"] = {"type": "json_schema", "json_schema": named}
        return decoding | ({"logprobs": True} if config.logprobs else {})

    def _send(self, request: Request, decoding: Mapping[str, Any]) -> Answer | Failure | _Unanswered | _Refused:
        """Send a request until it is answered or refused, or no attempt is left."""
        try:
            encoded = self._encoder.prompt(request.conversation) if self._encoder is not None else None
            chat = messages(request.conversation, encoded, self._encoder)
        except ImageError as error:
            return Failure(request.id, "image", str(error))
        except DataError as error:
            return Failure(request.id, "prompt", str(error))
        context = self._server.context
        if encoded is not None and context is not None and len(encoded) >= context:
            full = f"{len(encoded)} tokens leave no room for an answer: inference.context is {context}"
            return Failure(request.id, "prompt", full)
        body = {"model": self._server.model, "messages": chat, **decoding}
        tools = next((turn.more["tools"] for turn in request.conversation if "tools" in turn.more), None)
        body |= {} if tools is None else {"tools": tools, "tool_choice": "none"}
        if self._encoder is not None:
            body |= {"return_token_ids": True, "stop_token_ids": self._encoder.stop_ids}
            if variables := self._encoder.renderer.template_variables:
                body["chat_template_kwargs"] = variables
        reason, unreachable = "", False
        attempts = self._config.max_retries + 1
        for attempt in range(attempts):
            reply = self._post(body)
            if isinstance(reply, http.Reply) and reply.status not in RETRYABLE:
                return self._read(request, reply, encoded)
            unreachable = isinstance(reply, http.NoReply) and reply.unreachable
            reason = reply.reason if isinstance(reply, http.NoReply) else _status(reply)
            self._server.check_alive()
            if attempt + 1 < attempts and self._stopped.wait(self._pause(request, attempt, reply)):
                break
        return _Unanswered(Failure(request.id, "engine", f"the server {reason}, {attempts} tries"), unreachable)

    def _post(self, body: Mapping[str, Any]) -> http.Reply | http.NoReply:
        url = f"{self._server.base_url.rstrip('/')}/chat/completions"
        reply = http.send(url, self._server.key, self._config.timeout_s, body)
        if isinstance(reply, http.Reply) and reply.status == 200 and not http.is_json(reply.body):
            return http.NoReply("sent no complete JSON")
        return reply

    def _read(self, request: Request, reply: http.Reply, encoded: "Encoded | None") -> Answer | Failure | _Refused:
        if reply.status != 200:
            return self._refusal(request, reply)
        answer = read_answer(reply.body, self._server.model, self._server.model_key)
        if isinstance(answer, str):
            return Failure(request.id, "engine", answer)
        if self._encoder is None or encoded is None or answer.prompt_ids is None:
            return answer
        if answer.prompt_ids != encoded.rendered.ids:
            raise IntegrityError(
                f"row {request.id}: the server sees another prompt than training does ({len(answer.prompt_ids)} tokens "
                f"instead of {len(encoded.rendered.ids)}): its chat template or image sizes are not those of "
                f"{self._encoder.checkpoint.name}"
            )
        return answer

    def _refusal(self, request: Request, reply: http.Reply) -> _Refused:
        """A request that the server rejects.

        Raises:
            EnvironmentProblem, RemoteError: it would reject any other in the same way.
        """
        url, status = self._server.base_url, _status(reply)
        if reply.status in (401, 403):
            raise EnvironmentProblem(
                f"{url} refuses the key ({status}); {self._server.block}.api_key names the environment variable that "
                "holds it"
            )
        if reply.status in FATAL:
            raise RemoteError(
                f"{url} {status}, asked for model {self._server.model!r}. Check {self._server.block}.base_url (usually "
                f"ending in /v1) and the served name; `curl {url.rstrip('/')}/models` lists the models"
            )
        return _Refused(Failure(request.id, "engine", f"the server {status}", refused=True), status)

    def _pause(self, request: Request, attempt: int, reply: http.Reply | http.NoReply) -> float:
        """Seconds before the next attempt; jittered, so that requests that failed together do not return together."""
        jitter = 0.5 + random.Random(f"{self._config.seed}/{request.id}/{attempt}").random()
        backoff = FIRST_PAUSE_S * 2.0**attempt * jitter
        requested = reply.retry_after if isinstance(reply, http.Reply) else None
        return min(MAX_PAUSE_S, backoff if requested is None else max(requested, backoff))

    def _broken(self, reason: str) -> RemoteError:
        return RemoteError(
            f"{self._server.base_url}: {reason}. The answers so far are saved: run the same command again when the "
            "server works"
        )


def adapter_delta(base: Client, tuned: Client, requests: Sequence[Request]) -> float | None:
    """Largest change that the adapter makes to the log-probability of a likely first token of these requests.

    The base model is queried before and after the tuned one: its two answers may differ (a prompt in the server's cache
    is computed in another way), so only a larger difference is evidence of the adapter. None if no request was answered
    or the server provides no log-probabilities; in the latter case, different texts are the evidence.

    Raises:
        IntegrityError: the adapter changes nothing.
        RemoteError, EnvironmentProblem: the server cannot be reached.
    """
    changes: list[float] = []
    answered, changed = False, False
    for request in requests:
        before, after, again = (client.first_tokens(request) for client in (base, tuned, base))
        if isinstance(before, Failure) or isinstance(after, Failure) or isinstance(again, Failure):
            continue
        answered = True
        change = min(_distance(before, after), _distance(again, after))
        changes += [change] if before.likeliest and after.likeliest else []
        changed |= change > _distance(before, again) or before.text == again.text != after.text
    if answered and not changed:
        raise IntegrityError(
            "the server accepts the adapter's name but answers as without it: base and tuned answers are the same. It "
            "ignores the adapter, or the adapter was not trained"
        )
    return max(changes, default=None)


def _distance(one: Answer, other: Answer) -> float:
    """Largest difference of a first token's log-probability between two answers.

    A token listed in only one of them is, in the other, less likely than all that are listed there, so the difference
    is at least that to the least likely of them: {a: -1, b: -2} and {a: -1, c: -3} differ by 1, because b is at most
    -3 in the second.
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
    """An engine over a server, with one client per model.

    Args:
        base: for the base model.
        tuned: for the adapter; None without one.
        facts: about the server, for the manifest.
        close: stops what was started for this engine.
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
            IntegrityError: another model answers, or it sees another prompt.
        """
        return (self._tuned or self._base).answer(request for request in requests if request.id not in done)

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """Answer with the base model inside this block."""
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
        """Each request with all that the server reports about its answer, including token ids if it provides them."""
        return (self._tuned or self._base).token_outputs(requests)

    def facts(self) -> Mapping[str, Any]:
        """Facts about the server."""
        return self._facts

    def close(self) -> None:
        """Stop what was started for this engine."""
        self._close()
