"""A scripted local chat-completions server: slow, refusing, disconnecting, silent, or another model.

Run as a program, it stands in for vLLM's server: `python fake_server.py ANYTHING… --host H --port P`.
"""

import base64
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-canary-123"
"""A key that must not be found in anything that is written."""

CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, references: [caption_0], id: id, limit: {test: 40}}
task: {name: captioning}
evaluation: {image_control_rows: 0}
output: {dir: out}
"""

Body = dict[str, Any]


class Exchange(BaseHTTPRequestHandler):
    """One request. A step of a script is a function of this."""

    server: "Stub"

    def do_POST(self) -> None:
        self.body: Body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stub = self.server
        with stub.lock:
            number = len(stub.seen)
            stub.seen.append((self.path, dict(self.headers), self.body))
        stub.script(number, self.body)(self)

    def do_GET(self) -> None:
        self.reply(200, {"version": "stub"})

    def reply(self, status: int, value: object, cut: int = 0, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data[: len(data) - cut])

    def log_message(self, *_: object) -> None:
        pass


Step = Callable[[Exchange], None]
Script = Callable[[int, Body], Step]


class Stub(ThreadingHTTPServer):
    """`seen` holds (path, headers, body) of all POST requests."""

    daemon_threads = True

    def __init__(self, script: Script, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Exchange)
        self.script = script
        self.seen: list[tuple[str, dict[str, str], Body]] = []
        self.lock = threading.Lock()
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnected."""


@contextmanager
def serving(script: Script) -> Iterator[Stub]:
    stub = Stub(script)
    threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield stub
    finally:
        stub.shutdown()
        stub.server_close()


def asked(body: Body) -> str:
    """All text of a request."""
    contents = [message["content"] for message in body["messages"]]
    return " ".join(part["text"] for parts in contents for part in parts if part["type"] == "text")


def pictures(body: Body) -> list[bytes]:
    """The encoded images of a request, all of which are data: URLs."""
    parts = [part for message in body["messages"] for part in message["content"] if part["type"] == "image_url"]
    urls = [part["image_url"]["url"] for part in parts]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def completion(body: Body, text: str, logprob: float | None = -0.5, **more: object) -> Body:
    """The response of a server that answers with two tokens."""
    tokens = [{"token": "a", "logprob": logprob, "top_logprobs": [{"token": "a", "logprob": logprob}]}] * 2
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    choice["logprobs"] = {"content": tokens} if logprob is not None else None  # type: ignore[assignment]
    return {"model": body["model"], "choices": [choice], "usage": {"completion_tokens": 2}} | more


def words(body: Body) -> str:
    """An answer that depends on the request's images and texts, but not on the model's name."""
    return "a picture " + hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:6]


def answer(exchange: Exchange) -> None:
    exchange.reply(200, completion(exchange.body, words(exchange.body)))


def slowly(exchange: Exchange) -> None:
    time.sleep(0.1)
    answer(exchange)


def status(code: int, said: str = "because", **headers: str) -> Step:
    return lambda exchange: exchange.reply(code, {"error": {"message": said}}, **headers)


def cut(exchange: Exchange) -> None:
    exchange.reply(200, completion(exchange.body, "never read"), cut=20)
    exchange.connection.close()


def cut_unseen(exchange: Exchange) -> None:
    exchange.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(completion(exchange.body, "x")).encode()[:-1])


def dropped(exchange: Exchange) -> None:
    exchange.connection.close()


def hang(exchange: Exchange) -> None:
    time.sleep(3)


def trickle(exchange: Exchange) -> None:
    exchange.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(30):
        exchange.wfile.write(b" ")
        time.sleep(0.1)


def as_another(exchange: Exchange) -> None:
    exchange.reply(200, completion(exchange.body, "hello", model="another"))


def empty(exchange: Exchange) -> None:
    exchange.reply(200, completion(exchange.body, "", choices=[]))


def always(step: Step) -> Script:
    return lambda number, body: step


def main() -> None:
    """vLLM's additions: adapters can be loaded, and change answers, unless their folder is named `refused` or `dead`.

    The log contains the key.
    """
    import os

    effective = set()

    def script(number: int, body: Body) -> Step:
        if "lora_path" in body:
            if body["lora_path"].endswith("refused"):
                return status(500, "no such layer")
            effective.update([body["lora_name"]] if not body["lora_path"].endswith("dead") else [])
            return status(200, "loaded")
        logprob = -2.0 if body["model"] in effective else -1.0
        return lambda exchange: exchange.reply(200, completion(exchange.body, "hello", logprob))

    print("started with", os.environ.get("VLLM_API_KEY"), flush=True)
    if "--fail" in sys.argv:
        sys.exit("out of memory")
    Stub(script, int(sys.argv[sys.argv.index("--port") + 1])).serve_forever()


if __name__ == "__main__":
    main()
