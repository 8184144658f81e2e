"""Answers from a vLLM server that is started for the run, in a separate environment."""

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PositiveFloat, PositiveInt

from vlmtune.engines import _http as http
from vlmtune.engines._client import Client, ClientConfig, Endpoint, ServerEngine, adapter_delta
from vlmtune.engines._http import server_key
from vlmtune.engines._vllm_server import ServedAdapter, Server, command, find_python, open_log, served
from vlmtune.errors import ConfigError, IntegrityError
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
    server, adapters = open_server(config, model, encoder, precision, [] if adapter is None else [adapter])
    with ExitStack() as unless_ready:
        unless_ready.callback(server.stop)
        server.wait(config.start_s)
        base, *tuned = load_adapters(server, config, encoder, adapters)
        unless_ready.pop_all()
    facts = {"device": "vllm", "precision": precision, "versions": {"vllm": server.version()}}
    return ServerEngine(base, tuned[0] if tuned else None, facts, server.stop)


def open_server(
    config: Config,
    model: "ModelConfig",
    encoder: "Encoder",
    precision: str,
    adapters: Sequence[Path],
    port: int | None = None,
) -> tuple[Server, list[ServedAdapter]]:
    """Start a server that can load some adapters; does not wait until it is ready.

    Args:
        config: of the engine.
        model: what is served.
        encoder: of its checkpoint.
        precision: of its weights.
        adapters: folders of those that are loaded later.
        port: for other clients, with the key of the environment and a log on stderr; None is a server for this process
            alone, with a key and a log of its own.

    Raises:
        EnvironmentProblem: vLLM is not installed.
        AdapterRefused: vLLM cannot serve one of the adapters.
        ConfigError: the port is taken, or vLLM cannot serve the model.
    """
    from vlmtune.modeling.loading import refuse_not_finite

    for adapter in adapters:
        refuse_not_finite(adapter)
    to_serve = [served(adapter) for adapter in adapters]
    command_line = arguments(config, model, encoder, precision, find_python(config.python), to_serve)
    if port is None:
        return Server(command_line, http.free_port(), secrets.token_urlsafe(32), open_log()), to_serve
    if not http.is_free(port):
        raise ConfigError(f"port {port} is in use; choose another one with --port")
    return Server(command_line, port, server_key(), None), to_serve


def load_adapters(
    server: Server,
    config: Config,
    encoder: "Encoder",
    adapters: Sequence[ServedAdapter],
    probes: Sequence[Request] = (),
) -> list[Client]:
    """Load adapters into a server that is ready, and warm it up; a client of the base model, and one per adapter.

    Args:
        server: that is ready.
        config: of the engine.
        encoder: of the server's checkpoint.
        adapters: as the server was started for them.
        probes: questions to which each adapter must change the answers; none are asked by default.

    Raises:
        AdapterRefused: the server refuses one.
        IntegrityError: one changes no answer to the probes.
        RemoteError: the server ended.
    """
    for adapter in adapters:
        server.load(adapter)
    endpoint = Endpoint(
        server.base_url,
        server.key,
        encoder.checkpoint.name,
        own_checkpoint=True,
        context=_context(config, encoder),
        check_alive=server.check_alive,
    )
    names = [endpoint.model, *(adapter.name for adapter in adapters)]
    clients = [Client(config, replace(endpoint, model=name), encoder) for name in names]
    # vLLM compiles at the first request, which can take longer than `timeout_s`.
    base, *tuned = clients
    base.first_tokens(Request("first request", (Message("user", ("Hello",)),)))
    for adapter, client in zip(adapters, tuned, strict=True) if probes else ():
        try:
            adapter_delta(base, client, probes)
        except IntegrityError as error:
            raise IntegrityError(f"{adapter.folder}: {error}") from None
    return clients


def arguments(
    config: Config,
    model: "ModelConfig",
    encoder: "Encoder",
    precision: str,
    python: Path,
    adapters: Sequence[ServedAdapter],
) -> list[str]:
    """The command line of a server for this config.

    Raises:
        ConfigError: the model is quantized when it is loaded, or stored so and to be served in fp32, or reads tiles.
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
    if encoder.checkpoint.stored is not None and precision == "fp32":
        raise ConfigError(
            f"model {encoder.checkpoint.name!r} is stored in {encoder.checkpoint.stored}, whose kernels in vLLM "
            "compute in 16 bits: --set inference.precision=bf16"
        )
    on_cpu = model.device == "cpu" or model.name == "tiny"
    cache_gb = config.cache_gb or (CPU_CACHE_GB if on_cpu else None)
    limits = {
        "max-model-len": _context(config, encoder),
        "max-num-seqs": config.concurrency,
        "kv-cache-memory-bytes": None if cache_gb is None else int(cache_gb * 1e9),
        "seed": config.seed,
    }
    return command(python, encoder, precision, adapters, limits, config.arguments)


def _context(config: Config, encoder: "Encoder") -> int:
    return min(config.context, encoder.max_positions)
