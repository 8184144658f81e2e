"""The serve step: a vLLM server with the model of a config and adapters, until a signal stops it."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune import registry
from vlmtune.config import Config
from vlmtune.engines import SERVER_KEY, server_key
from vlmtune.errors import AdapterRefused, ConfigError
from vlmtune.pipeline.export import merged_session
from vlmtune.pipeline.session import Session
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest, stop_on_signal
from vlmtune.types import ImageRef, Message, Request

TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A running server. `models` are the names to request, each with the folder of its adapter.

    Without an adapter, the only name is that of the base model, which has no folder.
    """

    base_url: str
    models: Mapping[str, Path | None]
    server: Any
    stop: StopRequest

    @property
    def curl(self) -> str:
        """A shell command that sends an example request."""
        request = {
            "model": next(iter(self.models)),
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 32,
        }
        key = [f'-H "Authorization: Bearer ${SERVER_KEY}"'] if server_key() else []
        body = shlex.quote(json.dumps({**request, "temperature": 0}))
        return " ".join(
            ["curl", f"{self.base_url}/chat/completions", *key, "-H 'Content-Type: application/json'", "-d", body]
        )

    def wait(self) -> None:
        """Wait for a signal to stop.

        Raises:
            RemoteError: the server exited.
        """
        while self.stop.received is None:
            self.server.check_alive()
            time.sleep(TICK_S)


@contextmanager
def run_server(config: Config, progress: Progress, adapters: Sequence[Path], port: int) -> Iterator[RunningServer]:
    """A running server, stopped when the block ends.

    Raises:
        EnvironmentProblem: vLLM is not installed, or the server does not start.
        ConfigError: the port is taken, or vLLM cannot serve one of several adapters.
        IntegrityError: an adapter does not fit the model, or changes no answer.
        Interrupted, Terminated: a signal arrived before it was ready.
    """
    with stop_on_signal() as stop:
        session = Session(config, progress, stop)
        hashes = [session.verify_adapter(adapter) for adapter in adapters]
        if twice := next((one for one, own in zip(adapters, hashes, strict=True) if hashes.count(own) > 1), None):
            raise ConfigError(f"--adapter {twice}: the same adapter is named twice")
        with ExitStack() as until_stopped:
            try:
                running = _start(session, adapters, port)
            except AdapterRefused as refused:
                if len(adapters) != 1:
                    raise
                tuned, _ = until_stopped.enter_context(merged_session(session, adapters[0], refused))
                running = _start(tuned, (), port)
            until_stopped.callback(running.server.stop)
            yield running


def _start(session: Session, adapters: Sequence[Path], port: int) -> RunningServer:
    """Start a server and wait until it is ready and every adapter has shown that it changes answers."""
    engine: Any = registry.load("engines", "vllm")
    config, encoder = session.config, session.encoder
    settings = config.inference if isinstance(config.inference, engine.Config) else engine.Config()
    server, served = engine.open_server(settings, config.model, encoder, session.precision, adapters, port)
    with ExitStack() as unless_ready:
        unless_ready.callback(server.stop)
        server.wait(settings.start_s, lambda: session.stop.raise_if_requested("nothing was served yet"))
        engine.load_adapters(server, settings, encoder, served, probes())
        unless_ready.pop_all()
    models: dict[str, Path | None] = {one.name: folder for one, folder in zip(served, adapters, strict=True)}
    return RunningServer(server.base_url, models or {config.model.name: None}, server, session.stop)


def probes() -> list[Request]:
    """Questions to which an adapter must change an answer: it needs no dataset to be served."""
    from PIL import Image

    gradient = Image.linear_gradient("L")
    pictures = [Image.merge("RGB", (gradient, gradient.rotate(90 * turn), gradient)) for turn in range(1, 4)]
    seen = [ImageRef(f"probe {n}", lambda picture=picture: picture) for n, picture in enumerate(pictures)]  # type: ignore[misc]
    text = Request("text", (Message("user", ("Describe a photo.",)),))
    return [text, *(Request(one.where, (Message("user", (one, "Describe this image.")),)) for one in seen)]
