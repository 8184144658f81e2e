"""Answers from a vLLM server that is started for the run, in a separate environment."""

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PositiveFloat, PositiveInt

from vlmtune.engines import _http as http
from vlmtune.engines._client import Client, ClientConfig, Endpoint, ServerEngine
from vlmtune.engines._http import server_key
from vlmtune.engines._vllm_server import ServedAdapter, Server, command, find_python, open_log, served
from vlmtune.errors import ConfigError
from vlmtune.types import Message, Request

if TYPE_CHECKING:
    from vlmtune.modeling.loading import ModelConfig
    from vlmtune.processing.encoder import Encoder

CPU_CACHE_GB = 1.0
"""Key-value cache of a server on the CPU; by default vLLM would take 90 % of the memory."""


class Config(ClientConfig):
    """A vLLM server started for the run."""

    engine: str = "vllm"
    """The engine."""

    concurrency: PositiveInt = 64
    """Requests in flight at once."""

    python: str | None = None
    """Python of vLLM's environment; null is .venv-vllm/bin/python here, which `make vllm-env` creates."""

    context: PositiveInt = 16384
    """Most tokens of prompt and answer together; a longer prompt is a failure. More takes more memory."""

    cache_gb: PositiveFloat | None = None
    """Size of the key-value cache in GB; null takes the free memory of a GPU, and 1 on a CPU."""

    start_s: PositiveFloat = 900
    """Seconds within which the server must be ready; a large model takes minutes to load and compile."""

    arguments: list[str] = []
    """Further command-line arguments of vLLM's server."""


def open_engine(
    config: Config, model: "ModelConfig", encoder: "Encoder", precision: str, adapter: Path | None = None
) -> ServerEngine:
    """Start a server, load the adapter, and answer one request to warm it up.

    Raises:
        EnvironmentProblem: vLLM is not installed, or its server does not start.
        AdapterRefused: vLLM cannot serve this adapter.
        ConfigError: it cannot serve the quantized model.
    """
    to_serve = _served(adapter)
    key = secrets.token_urlsafe(32)
    command_line = arguments(config, model, encoder, precision, find_python(config.python), to_serve)
    server = Server(command_line, http.free_port(), key, open_log())

    def client_for(name: str) -> Client:
        endpoint = Endpoint(
            server.base_url,
            key,
            name,
            own_checkpoint=True,
            context=_context(config, encoder),
            check_alive=server.check_alive,
        )
        return Client(config, endpoint, encoder)

    base = client_for(encoder.checkpoint.name)
    tuned = client_for(to_serve.name) if to_serve is not None else None
    with ExitStack() as unless_ready:
        unless_ready.callback(server.stop)
        server.wait(config.start_s)
        if to_serve is not None:
            server.load(to_serve)
        # vLLM compiles at the first request, which can take longer than `timeout_s`.
        base.first_tokens(Request("first request", (Message("user", ("Hello",)),)))
        unless_ready.pop_all()
    facts = {"device": "vllm", "precision": precision, "versions": {"vllm": server.version()}}
    return ServerEngine(base, tuned, facts, server.stop)


def open_server(
    config: Config, model: "ModelConfig", encoder: "Encoder", precision: str, adapter: Path | None, port: int
) -> tuple[Server, ServedAdapter | None]:
    """Start a server for other clients on a port of this machine, logging to stderr; does not wait until it is ready.

    Raises:
        EnvironmentProblem: vLLM is not installed.
        AdapterRefused: vLLM cannot serve this adapter.
        ConfigError: the port is taken.
    """
    to_serve = _served(adapter)
    command_line = arguments(config, model, encoder, precision, find_python(config.python), to_serve)
    if not http.is_free(port):
        raise ConfigError(f"port {port} is in use; choose another one with --port")
    return Server(command_line, port, server_key(), None), to_serve


def arguments(
    config: Config,
    model: "ModelConfig",
    encoder: "Encoder",
    precision: str,
    python: Path,
    adapter: ServedAdapter | None,
) -> list[str]:
    """The command line of a server for this config.

    Raises:
        ConfigError: the model is quantized, or reads tiles.
    """
    if encoder.image_processor.limits.tile is not None:
        raise ConfigError(
            f"vLLM cannot be given the pixels that {encoder.checkpoint.family.name} is trained with; use --set "
            "inference.engine=hf"
        )
    if model.quantization is not None:
        raise ConfigError(
            f"vLLM does not serve model.quantization={model.quantization} here; use --set inference.engine=hf, so that "
            "base and tuned answers come from the same weights"
        )
    on_cpu = model.device == "cpu" or model.name == "tiny"
    cache_gb = config.cache_gb or (CPU_CACHE_GB if on_cpu else None)
    limits = {
        "max-model-len": _context(config, encoder),
        "max-num-seqs": config.concurrency,
        "kv-cache-memory-bytes": None if cache_gb is None else int(cache_gb * 1e9),
        "seed": config.seed,
    }
    return command(python, encoder, precision, adapter, limits, config.arguments)


def _served(adapter: Path | None) -> ServedAdapter | None:
    from vlmtune.modeling.loading import refuse_not_finite

    if adapter is None:
        return None
    refuse_not_finite(adapter)
    return served(adapter)


def _context(config: Config, encoder: "Encoder") -> int:
    return min(config.context, encoder.max_positions)
