"""Answers from any server that speaks OpenAI's chat completions: one of `vlmtune serve`, or somebody else's model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from vlmtune.engines._client import Client, ClientConfig, Server, ServerEngine
from vlmtune.engines._http import named_secret, no_login, secret
from vlmtune.engines._vllm_server import served

if TYPE_CHECKING:
    from vlmtune.modeling.loading import ModelConfig
    from vlmtune.processing.encoder import Encoder


class Config(ClientConfig):
    """A server that speaks OpenAI's chat completions."""

    engine: str = "openai"
    """The engine."""

    base_url: Annotated[str, AfterValidator(no_login)] = Field(
        default="http://127.0.0.1:8000/v1", pattern=r"^https?://[^\s?#]+$"
    )
    """Where the server is, mostly with /v1 at the end; the default is where `vlmtune serve` listens. It stands in every
    snapshot, so it may hold no password."""

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
    config: Config, model: "ModelConfig", encoder: "Encoder", precision: str, adapter: Path | None = None
) -> ServerEngine:
    """Nothing is asked yet.

    Raises:
        EnvironmentProblem: the variable with the key is not set, or no header can carry what it holds.
    """

    def asks(name: str) -> Client:
        server = Server(
            base_url=config.base_url,
            key=secret(config.api_key),
            model=name,
            answers_as=config.answers_as or name,
            ours=config.server == "vllm",
            length_key=config.length_key,
        )
        return Client(config, server, encoder)

    tuned = asks(config.served_adapter or served(adapter).name) if adapter is not None else None
    facts = {"device": "server", "precision": "the server's", "versions": {}, "server": config.base_url}
    return ServerEngine(asks(config.served_model or model.name), tuned, facts)
