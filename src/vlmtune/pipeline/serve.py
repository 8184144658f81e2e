"""Serve: a vLLM server with a config's model and an adapter, for other programs to ask, until a signal comes."""

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
from vlmtune.pipeline.export import merged
from vlmtune.pipeline.session import Session
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest, stop_on_signal

TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that answers. `model` is the name to ask for: the adapter's where there is one."""

    base_url: str
    model: str
    server: Any
    stop: StopRequest

    @property
    def curl(self) -> str:
        """A command that asks it something."""
        asked = {"model": self.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}
        key = [f'-H "Authorization: Bearer ${SERVER_KEY}"'] if server_key() else []
        body = shlex.quote(json.dumps({**asked, "temperature": 0}))
        return " ".join(
            ["curl", f"{self.base_url}/chat/completions", *key, "-H 'Content-Type: application/json'", "-d", body]
        )

    def wait(self) -> None:
        """Return when a signal asks to stop.

        Raises:
            RemoteError: the server ended by itself.
        """
        while self.stop.received is None:
            self.server.check_alive()
            time.sleep(TICK_S)


@contextmanager
def serving(config: Config, progress: Progress, adapter: Path | None, port: int) -> Iterator[Serving]:
    """A server that answers, until the block ends.

    Raises:
        EnvironmentProblem: vLLM is not installed, or its server does not start.
        ConfigError: the port is taken.
        IntegrityError: the adapter does not fit the model.
        Interrupted, Terminated: a signal came before it was ready.
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
                tuned, _ = until_stopped.enter_context(merged(session, adapter, refused))
                running = _start(tuned, None, port)
            until_stopped.callback(running.server.stop)
            yield running


def _start(session: Session, adapter: Path | None, port: int) -> Serving:
    """A server that has begun to answer."""
    engine: Any = registry.load("engines", "vllm")
    config = session.config
    how = config.inference if isinstance(config.inference, engine.Config) else engine.Config()
    server, served = engine.open_server(how, config.model, session.encoder, session.precision, adapter, port)
    with ExitStack() as unless_ready:
        unless_ready.callback(server.stop)
        server.wait(how.start_s, lambda: session.stop.obey("nothing was served yet"))
        if served is not None:
            server.load(served)
        unless_ready.pop_all()
    return Serving(server.base_url, served.name if served else config.model.name, server, session.stop)
