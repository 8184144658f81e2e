"""A local stand-in for the Hugging Face Hub that supports uploads and records them."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Exchange(BaseHTTPRequestHandler):
    """One request."""

    server: "Hub"

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").partition("?")[0].partition("/revision")[0]
        self.reply(200, {"id": name, "modelId": name, "private": self.server.private, "sha": "0" * 40})

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.keys.append(self.headers.get("Authorization"))
        if hub.status != 200:
            self.reply(hub.status, {"error": "no"})
        elif self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            asked = hub.created[-1]
            self.reply(200, {"url": f"{hub.address}/{asked['organization']}/{asked['name']}"})
        elif self.path == "/api/validate-yaml":
            hub.card = json.loads(body)["content"]
            self.reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self.reply(200, {"files": modes})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.reply(
                200,
                {"commitUrl": f"{hub.address}/team/better/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True},
            )

    def reply(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Hub(ThreadingHTTPServer):
    """`files` are the committed files and `created` the created repositories; a `status` makes it refuse everything."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.card = ""
        self.private, self.status = True, 200


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
