"""Answers from any server with OpenAI's chat completions API: `vlmtune serve`, or somebody else's model."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlmtune.engines._client import Client, ClientConfig, Endpoint, ServerEngine
from vlmtune.engines._http import secret
from vlmtune.engines._vllm_server import served
from vlmtune.registry import SecretName, ServerUrl

if TYPE_CHECKING:
    from vlmtune.modeling.loading import ModelConfig
    from vlmtune.processing.encoder import Encoder


class Config(ClientConfig):
    """A server with OpenAI's chat completions API."""

    engine: str = "openai"
    """The engine."""

    base_url: ServerUrl = "http://127.0.0.1:8000/v1"
    """URL of the server, usually ending in /v1; the default is where `vlmtune serve` listens. It is stored with the
    results, so it must not contain a password."""

    served_model: str | None = None
    """Name under which the server serves the model; null is `model.name`."""

    served_adapter: str | None = None
    """Name under which the server serves the adapter; null is the name that `vlmtune serve` uses, a hash of its
    files."""

    api_key: SecretName = None
    """The API key, only as ${env:NAME}: the environment variable that holds it."""

    server: Literal["any", "vllm"] = "any"
    """`vllm`: a vLLM server of `model.name`. It gets images at the size at which the model reads them, and its prompts
    are compared with ours, token for token. `any`: images keep their size, and prompts are not checked."""


def open_client(config: Config, model: str, model_key: str) -> Client:
    """A client of the server without a checkpoint of ours: texts go as they are, and nothing is compared with it.

    Args:
        config: the server, and how requests are sent.
        model: name under which the server serves the model.
        model_key: the config's key of that name, for messages.

    Raises:
        EnvironmentProblem: as `open_engine`.
    """
    key = secret(config.api_key, f"{model_key.rpartition('.')[0]}.api_key")
    return Client(config, Endpoint(config.base_url, key, model, own_checkpoint=False, model_key=model_key), None)


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
