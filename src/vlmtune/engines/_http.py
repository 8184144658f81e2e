"""One JSON request over HTTP, and the secrets that engines read from the environment.

A request ends in a value: the reply, or why there is none. Nothing is retried here and no status is interpreted.
Redirects are not followed, because they would take the key along.
"""

import contextlib
import functools
import ipaddress
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vlmtune.errors import EnvironmentProblem
from vlmtune.json_values import parse_json
from vlmtune.registry import SECRET_REFERENCE
from vlmtune.terminal import MIN_SECRET_LENGTH, hide

if TYPE_CHECKING:
    import httpx2

MAX_REPLY_BYTES = 16 * 1024 * 1024
"""A long answer with its log-probabilities is a hundredth of it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply. `retry_after` is the pause that the server asks for, in seconds, if it does."""

    status: int
    body: bytes
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class NoReply:
    """Why there is no complete reply. `unreachable` says that no server was reached at all."""

    reason: str
    unreachable: bool = False


def send(url: str, key: str | None, timeout_s: float, body: Mapping[str, Any] | None = None) -> Reply | NoReply:
    """POST `body` as JSON, or GET without one; all of it together takes at most about `timeout_s` seconds.

    A key that the server echoes is redacted from the reply, so that it never reaches a file.
    """
    import httpx2

    # Uncompressed, so that the limits on size and time hold for the body itself.
    headers = {b"Content-Type": b"application/json", b"Accept-Encoding": b"identity"}
    headers |= {b"Authorization": f"Bearer {key}".encode("latin-1")} if key else {}
    content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
    # Proxies of the environment apply to remote servers only.
    late = NoReply(f"gave no answer in {timeout_s:g} s")
    limit = _TimeLimit(timeout_s)
    try:
        with (
            httpx2.Client(verify=_tls_context(), trust_env=not is_local(url), timeout=timeout_s) as client,
            limit.running(),
            client.stream(
                "POST" if content else "GET", url, content=content, headers=headers, extensions={"trace": limit.trace}
            ) as reply,
        ):
            data = _redacted(key, _read(reply))
            return late if limit.passed else Reply(reply.status_code, data, _seconds(reply.headers.get("Retry-After")))
    except httpx2.TimeoutException:
        return late
    except (httpx2.ConnectError, httpx2.ProxyError, httpx2.InvalidURL, ImportError, ValueError) as error:
        # The last two mean that the environment names a proxy of an unsupported kind, such as SOCKS.
        return NoReply(f"cannot be reached ({error})", unreachable=True)
    except httpx2.TransportError as error:
        if limit.passed:
            return late
        return NoReply(f"closed the connection ({type(error).__name__})")


def is_local(url: str) -> bool:
    """Whether a URL points to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def free_port() -> int:
    """A port of this machine that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a port of this machine is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port closed a moment ago is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_json(body: bytes) -> bool:
    """Whether a body is complete JSON; a truncated one never is."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def message(body: bytes) -> str:
    """The text of an error reply: OpenAI's {"error": {"message"}}, and the variants of other servers."""
    try:
        value = parse_json(body)
    except ValueError:
        value = body.decode(errors="replace")
    for key in ("error", "message", "detail"):
        value = value.get(key, value) if isinstance(value, dict) else value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())[:300] or "no reason given"


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Shared by all requests, because loading the certificates takes longer than one of them."""
    return ssl.create_default_context()


class _TimeLimit:
    """Ends a request from outside after some seconds, wherever it is.

    httpx2's own timeout restarts with every byte, so a server that trickles its headers or its body never reaches it.
    """

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._socket: socket.socket | None = None
        self.passed = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The time runs inside this block."""
        self._timer.start()
        try:
            yield
        finally:
            self._timer.cancel()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by the HTTP library at every event; takes the socket of a new connection, with TLS or without."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.passed:
                self._end()

    def _end(self) -> None:
        self.passed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _read(reply: "httpx2.Response") -> bytes:
    """The body; only its beginning if the connection broke, which the caller notices by its JSON.

    An error counts as a reply whatever happens to its body.
    """
    import httpx2

    body = bytearray()
    with contextlib.suppress(httpx2.RemoteProtocolError if reply.is_success else httpx2.TransportError):
        for chunk in reply.iter_raw():
            body += chunk
            if len(body) > MAX_REPLY_BYTES:
                raise httpx2.ReadError("too long")
    return bytes(body)


def _redacted(key: str | None, body: bytes) -> bytes:
    if key is None or len(key) < MIN_SECRET_LENGTH:
        return body
    return hide(key, "the key", body.decode("latin-1")).encode("latin-1")


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; None for its other form, a date."""
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None


SERVER_KEY = "VLLM_API_KEY"
"""The variable from which vLLM's server reads the key that clients must present."""


def secret(value: str | None, key_name: str = "inference.api_key") -> str | None:
    """The value of the variable that a config names; `key_name` is the config's key, for messages.

    Raises:
        EnvironmentProblem: the variable is not set, or its value cannot be sent in a header.
    """
    found = SECRET_REFERENCE.fullmatch(value) if value is not None else None
    if found is None:
        return None
    key = os.environ.get(found[1])
    if not key:
        raise EnvironmentProblem(f"the environment variable {found[1]} is not set; {key_name} reads the key from it")
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise EnvironmentProblem(
            f"the environment variable {found[1]} contains a line break or another character that no key "
            "has; set it again"
        )
    return key


def server_key() -> str | None:
    """The key that a server started with our environment will require."""
    return os.environ.get(SERVER_KEY) or None


def with_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Our environment with variables added, for a child process."""
    return {**os.environ, **more}
