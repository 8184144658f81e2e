"""Answers from a vLLM server of our own: started, watched and ended here, in an environment of its own."""

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PositiveFloat, PositiveInt

from vlmtune.engines import _client as client
from vlmtune.engines import _http as http
from vlmtune.engines._client import Client, ClientConfig, ServerEngine
from vlmtune.engines._http import server_key
from vlmtune.engines._vllm_server import Served, Server, command, find_python, open_log, served
from vlmtune.errors import ConfigError
from vlmtune.types import Request, Turn

if TYPE_CHECKING:
    from vlmtune.modeling.loading import ModelConfig
    from vlmtune.processing.encoder import Encoder

CPU_CACHE_GB = 1.0
"""Keys and values that a server on the CPU keeps; left alone it takes 90 % of the memory."""


class Config(ClientConfig):
    """A vLLM server of our own."""

    engine: str = "vllm"
    """The engine."""

    concurrency: PositiveInt = 64
    """Requests under way at once."""

    python: str | None = None
    """The python of vLLM's environment; null is .venv-vllm/bin/python here, which `make vllm-env` makes."""

    context: PositiveInt = 16384
    """Most tokens of a prompt and its answer together; a longer prompt is a named failure. More needs more memory."""

    cache_gb: PositiveFloat | None = None
    """Memory for keys and values in GB; null is what vLLM finds free on a GPU, and 1 on the CPU."""

    start_s: PositiveFloat = 900
    """Seconds within which the server must be ready; a large model loads and compiles for minutes."""

    arguments: list[str] = []
    """Further arguments of vLLM's server, as on its command line."""


def open_engine(
    config: Config, model: "ModelConfig", encoder: "Encoder", precision: str, adapter: Path | None = None
) -> ServerEngine:
    """Start a server, put the adapter on it, and answer one request.

    Raises:
        EnvironmentProblem: vLLM is not installed, or its server does not start.
        AdapterRefused: vLLM cannot serve this adapter.
        ConfigError: it cannot serve the model as it is quantised.
    """
    taken = served(adapter) if adapter is not None else None
    key = secrets.token_urlsafe(32)
    words = arguments(config, model, encoder, precision, find_python(config.python), taken)
    server = Server(words, http.free_port(), key, open_log())

    def asks(name: str) -> Client:
        where = client.Server(
            server.base_url, key, name, name, ours=True, context=_context(config, encoder), look=server.look
        )
        return Client(config, where, encoder)

    base, tuned = asks(encoder.checkpoint.name), asks(taken.name) if taken is not None else None
    with ExitStack() as unless_ready:
        unless_ready.callback(server.stop)
        server.wait(config.start_s)
        if taken is not None:
            server.load(taken)
        # A server compiles at its first request, longer than a row may take.
        base.first_tokens(Request("first request", (Turn("user", ("Hello",)),)))
        unless_ready.pop_all()
    facts = {"device": "vllm", "precision": precision, "versions": {"vllm": server.version()}}
    return ServerEngine(base, tuned, facts, server.stop)


def open_server(
    config: Config, model: "ModelConfig", encoder: "Encoder", precision: str, adapter: Path | None, port: int
) -> tuple[Server, Served | None]:
    """Start a server for others to ask, at a port of this machine, its log on our stderr; it is not ready yet.

    Raises:
        EnvironmentProblem: vLLM is not installed.
        AdapterRefused: vLLM cannot serve this adapter.
        ConfigError: the port is taken.
    """
    taken = served(adapter) if adapter is not None else None
    words = arguments(config, model, encoder, precision, find_python(config.python), taken)
    if not http.is_free(port):
        raise ConfigError(f"port {port} is taken by another program; choose one with --port")
    return Server(words, port, server_key(), None), taken


def arguments(
    config: Config, model: "ModelConfig", encoder: "Encoder", precision: str, python: Path, adapter: Served | None
) -> list[str]:
    """The command of a server for this config.

    Raises:
        ConfigError: the model is quantised.
    """
    if model.quantization is not None:
        raise ConfigError(
            f"vLLM does not serve model.quantization={model.quantization} here; use --set inference.engine=hf, so that "
            "baseline and tuned answers come from the same weights"
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


def _context(config: Config, encoder: "Encoder") -> int:
    return min(config.context, encoder.max_positions)
