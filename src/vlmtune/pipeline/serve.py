"""The serve step: a vLLM server with the model of a config and an adapter, until a signal stops it."""

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune import registry
from vlmtune.config import Config
from vlmtune.engines import SERVER_KEY, server_key
from vlmtune.errors import AdapterRefused
from vlmtune.pipeline.export import merged_session
from vlmtune.pipeline.session import Session
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest, stop_on_signal

TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A running server. `model` is the name to request: that of the adapter, if there is one."""

    base_url: str
    model: str
    server: Any
    stop: StopRequest

    @property
    def curl(self) -> str:
        """A shell command that sends an example request."""
        request = {"model": self.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}
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
def run_server(config: Config, progress: Progress, adapter: Path | None, port: int) -> Iterator[RunningServer]:
    """A running server, stopped when the block ends.

    Raises:
        EnvironmentProblem: vLLM is not installed, or the server does not start.
        ConfigError: the port is taken.
        IntegrityError: the adapter does not fit the model.
        Interrupted, Terminated: a signal arrived before it was ready.
    """
    with stop_on_signal() as stop:
        session = Session(config, progress, stop)
        if adapter is not None:
            session.verify_adapter(adapter)
        with ExitStack() as until_stopped:
            try:
                running = _start(session, adapter, port)
            except AdapterRefused as refused:
                if adapter is None:
                    raise
                tuned, _ = until_stopped.enter_context(merged_session(session, adapter, refused))
                running = _start(tuned, None, port)
            until_stopped.callback(running.server.stop)
            yield running


def _start(session: Session, adapter: Path | None, port: int) -> RunningServer:
    """Start a server and wait until it is ready."""
    engine: Any = registry.load("engines", "vllm")
    config = session.config
    settings = config.inference if isinstance(config.inference, engine.Config) else engine.Config()
    server, served = engine.open_server(settings, config.model, session.encoder, session.precision, adapter, port)
    with ExitStack() as unless_ready:
        unless_ready.callback(server.stop)
        server.wait(settings.start_s, lambda: session.stop.raise_if_requested("nothing was served yet"))
        if served is not None:
            server.load(served)
        unless_ready.pop_all()
    return RunningServer(server.base_url, served.name if served else config.model.name, server, session.stop)
