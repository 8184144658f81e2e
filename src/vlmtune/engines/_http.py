"""One JSON request to a server of answers, as a value: what it replied, or what went wrong on the way.

Nothing is repeated here and no status is judged. Redirects are not followed: the key would travel along.

The environment as engines use it: secrets that a config only names, and what a server of ours is started with.
"""

import contextlib
import http.client
import ipaddress
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from vlmtune.errors import EnvironmentProblem

LARGEST_REPLY = 64 * 1024 * 1024
"""Bytes; an answer with its log-probabilities is a thousandth of it."""

PIECE = 64 * 1024

SHORTEST_KEY = 8
"""Bytes of a key that is kept secret; a shorter one is a placeholder such as EMPTY, and may stand in any answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. `retry_after` is what the server asks to wait, in seconds, where it says so."""

    status: int
    body: bytes
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class NoReply:
    """No whole reply. `nobody` says that no server was reached at all."""

    said: str
    nobody: bool = False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:  # the 3xx itself is the reply
        return None


def send(url: str, key: str | None, timeout_s: float, body: Mapping[str, Any] | None = None) -> Reply | NoReply:
    """POST `body` as JSON, or GET without one; reading the whole reply takes at most about `timeout_s` seconds.

    A server that says the key back does not bring it into our files: it is cut out of the reply.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
    request = urllib.request.Request(url, data, headers)
    until = time.monotonic() + timeout_s
    try:
        with _opener(url).open(request, timeout=timeout_s) as reply:
            return Reply(reply.status, _without(key, _read(reply, until)))
    except urllib.error.HTTPError as error:
        return _error(error, key, until)
    except urllib.error.URLError as error:
        reason = error.reason
        waited = isinstance(reason, TimeoutError)
        return NoReply(f"gave no answer in {timeout_s:g} s" if waited else f"cannot be reached ({reason})", not waited)
    except TimeoutError:
        return NoReply(f"gave no answer in {timeout_s:g} s")
    except (OSError, http.client.HTTPException) as error:
        return NoReply(f"cut the connection ({type(error).__name__})")


def is_local(url: str) -> bool:
    """Whether an address is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of this machine."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was left a moment ago is free
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_json(body: bytes) -> bool:
    """Whether a body is whole JSON; one that was cut off never is."""
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def message(body: bytes) -> str:
    """What an error reply says in words: OpenAI's {"error": {"message"}}, and what other servers make of it."""
    try:
        found = json.loads(body)
    except ValueError:
        found = body.decode(errors="replace")
    for key in ("error", "message", "detail"):
        found = found.get(key, found) if isinstance(found, dict) else found
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return " ".join(text.split())[:300] or "no reason given"


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Proxies of the environment are for servers elsewhere."""
    local = [urllib.request.ProxyHandler({})] if is_local(url) else []
    return urllib.request.build_opener(_NoRedirect, *local)


def _read(reply: IO[bytes], until: float) -> bytes:
    """A socket's own timeout starts anew with every byte; a server that drips would never reach it."""
    pieces: list[bytes] = []
    while piece := reply.read1(PIECE):  # type: ignore[attr-defined]  # both HTTPResponse and HTTPError have it
        pieces.append(piece)
        if time.monotonic() > until:
            raise TimeoutError
        if len(pieces) * PIECE > LARGEST_REPLY and sum(map(len, pieces)) > LARGEST_REPLY:
            raise http.client.HTTPException("too long")
    return b"".join(pieces)


def _error(error: urllib.error.HTTPError, key: str | None, until: float) -> Reply:
    body = b""
    with contextlib.suppress(OSError, http.client.HTTPException), error:
        body = error.read(PIECE) if time.monotonic() < until else b""
    return Reply(error.code, _without(key, body), _seconds(error.headers.get("Retry-After")))


def _without(key: str | None, body: bytes) -> bytes:
    if key is None or len(key) < SHORTEST_KEY:
        return body
    return body.replace(key.encode(), b"[the key]").replace(json.dumps(key)[1:-1].encode(), b"[the key]")


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; its other form, a date, is read as none."""
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None


SERVER_KEY = "VLLM_API_KEY"
"""Where vLLM's server looks for the key that it asks of others."""

_NAMED = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


def named_secret(value: str | None) -> str | None:
    """Accept a secret by name alone; a value in a config would stand in every snapshot. Says what it is not, not what.

    Raises:
        PydanticCustomError: it is not written as ${env:NAME}.
    """
    if value is not None and _NAMED.fullmatch(value) is None:
        raise PydanticCustomError(
            "secret", "must name an environment variable, as ${env:NAME}, not hold the key itself"
        )
    return value


def no_login(address: str) -> str:
    """Accept an address without a user's name and password in it.

    Raises:
        PydanticCustomError: it has one.
    """
    if "@" in urlsplit(address).netloc:
        raise PydanticCustomError("secret", "must hold no name or password; name the key with inference.api_key")
    return address


def secret(value: str | None) -> str | None:
    """What stands in the variable that a config names.

    Raises:
        EnvironmentProblem: the variable is not set, or holds what the header of a request cannot carry.
    """
    found = _NAMED.fullmatch(value) if value is not None else None
    if found is None:
        return None
    key = os.environ.get(found[1])
    if not key:
        raise EnvironmentProblem(
            f"the environment variable {found[1]} is not set; inference.api_key reads the key there"
        )
    if not (key.isascii() and key.isprintable()):
        raise EnvironmentProblem(
            f"the environment variable {found[1]} holds a line break, or another character that no key has; set it anew"
        )
    return key


def server_key() -> str | None:
    """The key that a server which inherits our environment will ask for."""
    return os.environ.get(SERVER_KEY) or None


def with_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Our environment with more variables over it, for a process of ours."""
    return {**os.environ, **more}
