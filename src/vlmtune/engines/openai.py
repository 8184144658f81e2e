"""Answers from any server with OpenAI's chat completions API: `vlmtune serve`, or somebody else's model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from vlmtune.engines._client import Client, ClientConfig, Endpoint, ServerEngine
from vlmtune.engines._http import named_secret, no_login, secret
from vlmtune.engines._vllm_server import served

if TYPE_CHECKING:
    from vlmtune.modeling.loading import ModelConfig
    from vlmtune.processing.encoder import Encoder


class Config(ClientConfig):
    """A server with OpenAI's chat completions API."""

    engine: str = "openai"
    """The engine."""

    base_url: Annotated[str, AfterValidator(no_login)] = Field(
        default="http://127.0.0.1:8000/v1", pattern=r"^https?://[^\s?#]+$"
    )
    """URL of the server, usually ending in /v1; the default is where `vlmtune serve` listens. It is stored with the
    results, so it must not contain a password."""

    served_model: str | None = None
    """Name under which the server serves the model; null is `model.name`."""

    served_adapter: str | None = None
    """Name under which the server serves the adapter; null is the name that `vlmtune serve` uses, a hash of its
    files."""

    api_key: Annotated[str | None, AfterValidator(named_secret)] = None
    """The API key, only as ${env:NAME}: the environment variable that holds it."""

    server: Literal["any", "vllm"] = "any"
    """`vllm`: a vLLM server of `model.name`. It gets images at the size at which the model reads them, and its prompts
    are compared with ours, token for token. `any`: images keep their size, and prompts are not checked."""


def open_engine(
    config: Config, model: "ModelConfig", encoder: "Encoder", precision: str, adapter: Path | None = None
) -> ServerEngine:
    """Create the clients; sends nothing yet.

    Raises:
        EnvironmentProblem: the variable with the key is not set, or its value cannot be sent in a header.
    """

    def client(name: str) -> Client:
        endpoint = Endpoint(
            base_url=config.base_url,
            key=secret(config.api_key),
            model=name,
            own_checkpoint=config.server == "vllm",
        )
        return Client(config, endpoint, encoder)

    tuned = client(config.served_adapter or served(adapter).name) if adapter is not None else None
    facts = {"device": "server", "precision": "the server's", "versions": {}, "server": config.base_url}
    return ServerEngine(client(config.served_model or model.name), tuned, facts)
