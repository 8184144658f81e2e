"""Answers from any server that speaks OpenAI's chat completions: one of `vlmtune serve`, or somebody else's model."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from vlmtune.engines._client import Client, ClientConfig, Server, effect
from vlmtune.engines._environment import named_secret, secret
from vlmtune.engines._lora import served
from vlmtune.engines._messages import Answer
from vlmtune.types import Failure, Outcomes, Request

if TYPE_CHECKING:
    from vlmtune.inputs import Inputs
    from vlmtune.models import ModelConfig


class Config(ClientConfig):
    """A server that speaks OpenAI's chat completions."""

    engine: str = "openai"
    """The engine."""

    base_url: str = Field(default="http://127.0.0.1:8000/v1", pattern=r"^https?://[^\s?#]+$")
    """Where the server is, mostly with /v1 at the end; the default is where `vlmtune serve` listens."""

    served_model: str | None = None
    """The name the server serves the model under; null is model.name."""

    served_adapter: str | None = None
    """The name the server serves the adapter under; null is the one that `vlmtune serve` gives it, a hash of its
    files."""

    answers_as: str | None = None
    """The name that stands in the server's answers, where it is not the one asked for: a version with its date."""

    api_key: Annotated[str | None, AfterValidator(named_secret)] = None
    """The key, only as ${env:NAME}: the environment variable it stands in."""

    server: Literal["any", "vllm"] = "any"
    """`vllm`: a vLLM that serves model.name itself. It gets pictures at the size the model reads, and its prompts are
    checked against ours, token for token. `any`: pictures keep their size, and nothing is known of the prompt."""

    length_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the longest answer; some newer models take max_completion_tokens alone."""


def open_engine(
    config: Config, model: "ModelConfig", inputs: "Inputs", precision: str, adapter: Path | None = None
) -> "OpenAIEngine":
    """Nothing is asked yet.

    Raises:
        EnvironmentProblem: the variable with the key is not set.
    """
    return OpenAIEngine(config, inputs, config.served_model or model.name, adapter)


class OpenAIEngine:
    """One model of a server, and the same with an adapter."""

    def __init__(self, config: Config, inputs: "Inputs", name: str, adapter: Path | None) -> None:
        self._config = config
        self._base = self._client(config, inputs, name)
        self._tuned: Client | None = None
        if adapter is not None:
            self._tuned = self._client(config, inputs, config.served_adapter or served(adapter).name)

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
            IntegrityError: the server ignores the adapter.
        """
        return effect(self._base, self._tuned, requests) if self._tuned is not None else None

    def told(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | Failure]]:
        """Each request with all that the server says about its answer, token ids included where it gives them."""
        return (self._tuned or self._base).told(requests)

    def facts(self) -> Mapping[str, Any]:
        """Which server was asked."""
        return {"device": "server", "precision": "the server's", "versions": {}, "server": self._config.base_url}

    def close(self) -> None:
        """Nothing is held."""

    @staticmethod
    def _client(config: Config, inputs: "Inputs", name: str) -> Client:
        server = Server(
            base_url=config.base_url,
            key=secret(config.api_key),
            model=name,
            answers_as=config.answers_as or name,
            ours=config.server == "vllm",
            length_key=config.length_key,
        )
        return Client(config, server, inputs)
