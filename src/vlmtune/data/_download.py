"""Images that rows name by an https address: downloaded once, and only from hosts that the config allows.

Rows are data, and data may be hostile: an address could name this machine's network, or a host that points somewhere
else the second time it is asked for. So the address of a host is looked up once per hop, must be public, and is the one
that is connected to; every redirect passes the same checks.

Where a source keeps what it made once: beside what the Hub's client keeps, one file per content.

A file there is made under a lock, in full, and renamed into place; whoever finds it may believe it. Nothing is lost
when the folder is deleted.

What can go wrong while `datasets` opens or reads a dataset, as errors that say what to do.
"""

import contextlib
import errno
import fcntl
import hashlib
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urljoin, urlsplit

from pydantic import AfterValidator

from vlmtune.errors import DataError, EnvironmentProblem, ImageError, VlmtuneError
from vlmtune.files import fsync_folder
from vlmtune.hub import http_error


def place(kind: str, key: Any, suffix: str = "") -> Path:
    """The file of a kind ("rows", "images") for a key that JSON can hold; it need not be there."""
    import huggingface_hub.constants

    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return Path(huggingface_hub.constants.HF_HOME) / "vlmtune" / kind / f"{name}{suffix}"


def kept(file: Path, make: Callable[[Path], None]) -> Path:
    """`file`, made by `make(building)` where it is not there yet.

    Of several processes one makes it and the others wait; one that was killed leaves a half that the next one replaces.

    Raises:
        EnvironmentProblem: the disk is full, or the folder may not be written.
    """
    if file.is_file():
        return file
    with _disk_named(file), _locked(file):
        if not file.is_file():
            building = file.with_name(f".{file.name}.building")
            make(building)
            with building.open("rb") as stream:
                os.fsync(stream.fileno())
            building.replace(file)
            fsync_folder(file.parent)
    return file


def put(file: Path, data: bytes) -> None:
    """Keep `data`; several threads may do so at once.

    Raises:
        EnvironmentProblem: as `kept`.
    """
    with _disk_named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as building:
            building.write(data)
            building.flush()
            os.fsync(building.fileno())
        Path(building.name).replace(file)


@contextmanager
def _disk_named(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"{error.filename or file}: {error.strerror or error}; rows and images are kept there for the next time. "
            "Make room, or set HF_HOME to a folder that can be written"
        ) from None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


MAX_BYTES = 50 * 1024 * 1024
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
CONNECT_S, TOTAL_S = 10.0, 60.0
PORT = 443
PIECE = 64 * 1024
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")

Address = tuple[str, int]
"""Where a connection goes: IP and port."""


def _host(text: str) -> str:
    if not _HOST.fullmatch(text.lower()):
        raise ValueError(f"names a host, as images.example.org or *.example.org (got {text!r})")
    return text.lower()


Host = Annotated[str, AfterValidator(_host)]


class _Refused(Exception):
    """Why an address is not read."""


def public_address(host: str, port: int, lookup: Callable[..., Any] = socket.getaddrinfo) -> Address:
    """Where `host` is, looked up once.

    Raises:
        OSError: it has no address.
        ValueError: one of its addresses is not public: of this machine, its network, or a cloud's metadata service.
    """
    found = [entry[4][0] for entry in lookup(host, port, type=socket.SOCK_STREAM)]
    if not found:
        raise OSError(f"{host} has no address")
    for text in found:
        if not _is_public(text):
            raise ValueError(f"{host} is at {text}, which is no public address")
    return str(found[0]), port


def _is_public(text: str) -> bool:
    """Whether an IP is public, and so is the IPv4 address that an IPv6 one may carry inside."""
    ip = ipaddress.ip_address(text.partition("%")[0])
    inside: list[Any] = [ip]
    if isinstance(ip, ipaddress.IPv6Address):
        inside.append(ip.sixtofour)
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inside.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return all(each.is_global and not each.is_multicast for each in inside if each is not None)


@dataclass(frozen=True)
class Remote:
    """Reads remote images of the hosts it allows.

    `address` finds where a host is; `context` is how certificates are checked, None for the usual way; a download takes
    at most `total_s` seconds.
    """

    hosts: Sequence[str]
    address: Callable[[str, int], Address] = public_address
    context: ssl.SSLContext | None = None
    total_s: float = TOTAL_S

    def check(self, url: str, where: str) -> None:
        """That an address may be read, as far as it tells by itself.

        Raises:
            DataError: it may not; says what would allow it.
        """
        if not self.hosts:
            raise DataError(
                f"{where}: {url:.80} is a remote image, and is not read: allow its host in dataset.remote_images, "
                "or download the images beside the rows"
            )
        try:
            self._parted(url)
        except _Refused as refused:
            raise DataError(f"{where}: {refused}") from None

    def read(self, url: str, where: str) -> bytes:
        """The bytes behind an address: from the cache, or downloaded into it.

        Raises:
            ImageError: it may not be read, or no whole image came.
            EnvironmentProblem: the cache cannot be written.
        """
        file = place("images", url)
        if file.is_file():
            return file.read_bytes()
        until = time.monotonic() + self.total_s
        try:
            data = self._download(url, until)
        except _Refused as refused:
            raise ImageError(str(refused), where) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = f"took longer than {self.total_s:g} s" if time.monotonic() >= until else None
            said = late or str(error) or type(error).__name__
            raise ImageError(f"{url:.200} cannot be downloaded: {said}", where) from None
        put(file, data)
        return data

    def _download(self, url: str, until: float) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            host, target = self._parted(url)
            with _Connection(host, self.address(host, PORT), self.context, until) as connection:
                connection.request("GET", target, headers={"User-Agent": "vlmtune", "Accept-Encoding": "identity"})
                reply = connection.getresponse()
                onward = reply.getheader("Location") if reply.status in REDIRECTS else None
                if onward is None:
                    if reply.status != 200:
                        raise _Refused(f"{url:.200} answered {reply.status} {reply.reason}")
                    return _body(reply, url, connection)
                url = urljoin(url, onward)
        raise _Refused(f"{url:.200} redirects more than {MAX_REDIRECTS} times")

    def _parted(self, url: str) -> tuple[str, str]:
        """Host, and path with query, of an address that may be read."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").encode("idna").decode().lower(), parts.port
        except (ValueError, UnicodeError):
            raise _Refused(f"{url!r:.200} is no address") from None
        if parts.scheme != "https" or port not in (None, PORT) or "@" in parts.netloc:
            raise _Refused(f"{url:.200} is not read: only https, at its usual port and without a password")
        if not any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in self.hosts):
            raise _Refused(f"{url:.200} is not read: {host} is not one of dataset.remote_images")
        return host, quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe="/?&=%:;,+~!$'()*@[]")


class _Connection(http.client.HTTPSConnection):
    """To one IP, with the certificate of a host; cut off when its time is over, whatever it waits for then."""

    def __init__(self, host: str, address: Address, context: ssl.SSLContext | None, until: float) -> None:
        self._certified = context or ssl.create_default_context()
        super().__init__(host, context=self._certified)
        self._address, self._until = address, until
        self._line: socket.socket | None = None
        self._watch = threading.Timer(max(0.0, until - time.monotonic()), self._cut)
        self._watch.daemon = True

    def __enter__(self) -> "_Connection":
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.cancel()
        self.close()

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() >= self._until

    def connect(self) -> None:
        """To the address that was checked; the host's name is for the certificate alone."""
        plain = socket.create_connection(self._address, CONNECT_S)
        self.sock = self._certified.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self._line = self.sock
        self.sock.do_handshake()

    def _cut(self) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):  # it ended by itself in this moment
                socket.socket.shutdown(self._line, socket.SHUT_RDWR)


def _body(reply: http.client.HTTPResponse, url: str, connection: _Connection) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := reply.read1(PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BYTES:
            raise _Refused(f"{url:.200} is larger than {MAX_BYTES // 1024**2} MB")
    if connection.late or reply.length:
        raise http.client.IncompleteRead(b"".join(pieces))
    return b"".join(pieces)


@contextmanager
def errors_named(path: str, name: str | None, revision: str | None) -> Iterator[None]:
    """Turn what `datasets` raises about a dataset into an error of ours.

    Raises:
        EnvironmentProblem: the Hub cannot be reached or wants a login, the disk is full.
        DataError: no such dataset, folder, configuration, revision or split; files that cannot be read.
    """
    import datasets

    try:
        yield
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, http_error()) as error:
        raise _named(error, path, name, revision) from None


def _named(error: BaseException, path: str, name: str | None, revision: str | None) -> VlmtuneError:
    """The error of ours that says what went wrong while a dataset was opened."""
    from datasets.exceptions import DatasetBuildError, DatasetNotFoundError

    chain = list(_chain(error))
    what, said = f"dataset {path!r}", str(error)
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in chain):
        return EnvironmentProblem(f"{what}: no space left on the disk of the datasets cache; make room or set HF_HOME")
    if isinstance(error, DatasetNotFoundError):
        return _not_found(said, path, revision)
    if any(_is_network(cause) for cause in chain):
        return EnvironmentProblem(
            f"{what} is not in the local cache and the Hub cannot be reached ({_short(chain[-1])}). "
            "Check the network, or try the pipeline offline first: vlmtune demo, or USE_MOCK=True"
        )
    if isinstance(error, PermissionError):
        return EnvironmentProblem(f"{what}: {said}")
    if isinstance(error, DatasetBuildError):
        said = f"its files cannot be read: {_short(chain[-1])}"
    elif "BuilderConfig" in said or "Config name is missing" in said or "for config '" in said:
        said = f"set dataset.name to one of its configurations (got {name!r}): {said}"
    return DataError(f"{what} cannot be opened: {said}")


def _not_found(said: str, path: str, revision: str | None) -> VlmtuneError:
    """`datasets` has one exception for what is not there and for what may not be seen; its message tells them apart."""
    what, page = f"dataset {path!r}", f"https://huggingface.co/datasets/{path}"
    if "gated dataset" in said:
        return EnvironmentProblem(f"{what} is gated: accept its conditions at {page}, then run: hf auth login")
    if said.startswith("Revision "):
        return DataError(f"{what} has no revision {revision!r}; set dataset.revision to one of {page}")
    return DataError(f"{what} does not exist on the Hub, or is private: check dataset.path, or run: hf auth login")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_network(error: BaseException) -> bool:
    # `datasets` hides what the Hub's client raised behind a FileNotFoundError that quotes it.
    quoted = isinstance(error, FileNotFoundError) and "LocalEntryNotFoundError" in str(error)
    return quoted or isinstance(error, (ConnectionError, TimeoutError, http_error()))


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]:.200}" if str(error) else type(error).__name__
