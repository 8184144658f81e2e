"""A dead network is noticed at once, an answer of any kind counts as a living one."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from builders import Notes

from vlmtune import hub
from vlmtune.progress import Progress


@pytest.fixture
def server() -> Iterator[str]:
    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Nothing."""

    served = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()


def test_a_dead_endpoint_turns_offline_mode_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv(hub.ENDPOINT, address)
    monkeypatch.setenv(hub.OFFLINE, "0")
    notes = Notes()
    hub.go_offline_if_unreachable(Progress(notes))
    assert hub.os.environ[hub.OFFLINE] == "1"
    assert notes.texts == [f"{address} cannot be reached ([Errno 111] Connection refused); using the local cache only"]


def test_an_answer_keeps_it_off(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv(hub.ENDPOINT, server)
    monkeypatch.setenv(hub.OFFLINE, "0")
    notes = Notes()
    hub.go_offline_if_unreachable(Progress(notes))
    assert (hub.os.environ[hub.OFFLINE], notes.texts) == ("0", [])


def test_who_is_offline_already_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub.ENDPOINT, "no address at all")
    monkeypatch.setenv(hub.OFFLINE, "1")
    notes = Notes()
    hub.go_offline_if_unreachable(Progress(notes))
    assert notes.texts == []
