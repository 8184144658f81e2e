"""The local server behind the pages: for browsers of this machine, and it changes nothing.

Other sites can make a browser send requests here, also under a name of their own that leads to 127.0.0.1. So the name
asked for must be this machine's, and no other site may read or embed an answer. Files of a run folder, which may come
from anywhere, run in a sandbox: their scripts have no access to these pages.
"""

import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from vlmtune.errors import ConfigError, DataError, VlmtuneError
from vlmtune.terminal import safe
from vlmtune.view import pages

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
SANDBOX = "sandbox allow-scripts allow-popups allow-downloads"


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vlmtune", ""

    def do_GET(self) -> None:
        """Answer with a page, a file of a run, or an error in one sentence."""
        try:
            # The port may be another one where it is forwarded, and another name is a site's that leads here.
            if urlsplit(f"//{self.headers.get('Host')}").hostname not in NAMES:
                self._say(403, f"ask for {HOST}, not under another name")
                return
            self._answer(*_parts(self.path))
        except ConnectionError:  # the browser is gone
            self.close_connection = True
        except (ConfigError, DataError, ValueError) as error:
            self._say(404, str(error))
        except (VlmtuneError, OSError) as error:
            self._say(500, str(error))

    do_HEAD = do_GET  # noqa: N815 - the name that the base class looks for

    def _answer(self, path: str, chosen: list[str]) -> None:
        root, (kind, _, rest) = self.server.root, path.partition("/")
        if path == "":
            self._page(pages.index(root))
        elif kind == "run":
            self._page(pages.one_run(root, rest or "."))
        elif path == "compare":
            self._page(pages.comparison(root, chosen))
        elif kind == "file" and rest:
            self._file(root, rest)
        else:
            self._say(404, f"there is no page /{path}")

    def _file(self, root: Path, rest: str) -> None:
        run, _, name = rest.rpartition("/")
        run = run or "."
        found = next((file for file in pages.files(pages.find(root, run)) if file.name == name), None)
        if found is None:
            self._say(404, f"{run} has no page or picture {name!r}")
            return
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._send(200, found.read_bytes(), kind, {"Content-Security-Policy": SANDBOX})

    def _page(self, text: str) -> None:
        # Names that are no text are shown with question marks; addresses keep their bytes.
        self._send(200, text.encode(errors="replace"), "text/html; charset=utf-8")

    def _say(self, status: int, text: str) -> None:
        self._send(status, f"{safe(text)}\n".encode(errors="replace"), "text/plain; charset=utf-8")

    def _send(self, status: int, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a page that is open asks every two seconds."""


def _parts(address: str) -> tuple[str, list[str]]:
    """The path without its first slash, and the runs that a query chooses."""
    split = urlsplit(address)
    query = parse_qs(split.query, errors="surrogateescape")
    return unquote(split.path, errors="surrogateescape").removeprefix("/"), query.get("run", [])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        super().__init__((HOST, port), _Handler)


@contextmanager
def open_server(root: Path, port: int) -> Iterator[ThreadingHTTPServer]:
    """A server of the pages of a folder, which answers after `serve_forever`.

    Args:
        root: the folder in which runs are looked for.
        port: on 127.0.0.1; 0 chooses a free one.

    Raises:
        ConfigError: no such folder, or the port is taken.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    try:
        server = _Server(root, port)
    except OSError as error:
        raise ConfigError(f"port {port} cannot be opened ({error.strerror}); choose another one with --port") from None
    with server:
        yield server
