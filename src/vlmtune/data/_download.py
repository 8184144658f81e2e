"""Downloads images over https, caches downloads and conversions, and translates the errors of `datasets`.

A URL in a row may be hostile: it could point into this machine's network, or its host could resolve to another address
the second time. So the config must allow the host; its address is resolved once per hop, must be public, and is the one
connected to. Every redirect passes the same checks.

The cache lies beside that of the Hub client and may be deleted at any time. A file is written in full and renamed into
place, so a file that exists is complete.
"""

import contextlib
import errno
import fcntl
import http.client
import ipaddress
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
from vlmtune.files import building_path, fsync_folder
from vlmtune.hub import cache_file, http_error


def build_once(file: Path, build: Callable[[Path], None]) -> Path:
    """`file`, written by `build(temporary_file)` if it does not exist.

    One of several processes builds it while the others wait. A killed build leaves a partial file, which the next one
    replaces.

    Raises:
        EnvironmentProblem: the disk is full, or the folder cannot be written.
    """
    if file.is_file():
        return file
    with disk_errors_named(file), _locked(file):
        if not file.is_file():
            building = building_path(file)
            build(building)
            with building.open("rb") as stream:
                os.fsync(stream.fileno())
            building.replace(file)
            fsync_folder(file.parent)
    return file


def write_cache(file: Path, data: bytes) -> None:
    """Write a cache file; safe from several threads at once.

    Raises:
        EnvironmentProblem: as `build_once`.
    """
    with disk_errors_named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as building:
            building.write(data)
            building.flush()
            os.fsync(building.fileno())
        Path(building.name).replace(file)


@contextmanager
def disk_errors_named(file: Path) -> Iterator[None]:
    """Turn errors of writing to the cache into one that says what to do.

    Raises:
        EnvironmentProblem: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"{error.filename or file}: {error.strerror or error}; rows and images are cached there. "
            "Free some space, or set HF_HOME to a writable folder"
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
HTTPS_PORT = 443
CHUNK = 64 * 1024
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")

Address = tuple[str, int]
"""IP and port."""


def _host(text: str) -> str:
    if not _HOST.fullmatch(text.lower()):
        raise ValueError(f"must be a host such as images.example.org or *.example.org (got {text!r})")
    return text.lower()


Host = Annotated[str, AfterValidator(_host)]


class _Refused(Exception):
    """A URL that may not be read; the message says why."""


def public_address(host: str, port: int, lookup: Callable[..., Any] = socket.getaddrinfo) -> Address:
    """The address of a host, resolved once.

    Raises:
        OSError: it has no address.
        ValueError: one of its addresses is not public: this machine, its network, or a cloud's metadata service.
    """
    addresses = [entry[4][0] for entry in lookup(host, port, type=socket.SOCK_STREAM)]
    if not addresses:
        raise OSError(f"{host} has no address")
    for address in addresses:
        if not _is_public(address):
            raise ValueError(f"{host} resolves to {address}, which is not a public address")
    return str(addresses[0]), port


def _is_public(text: str) -> bool:
    """Whether an IP is public, including the IPv4 address that an IPv6 address may embed (6to4, NAT64)."""
    ip = ipaddress.ip_address(text.partition("%")[0])
    addresses: list[Any] = [ip]
    if isinstance(ip, ipaddress.IPv6Address):
        addresses.append(ip.sixtofour)
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            addresses.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return all(each.is_global and not each.is_multicast for each in addresses if each is not None)


@dataclass(frozen=True)
class RemoteImages:
    """Downloads images from allowed hosts.

    Attributes:
        hosts: allowed host names; `*.example.org` allows all hosts below example.org.
        address: resolves a host.
        context: checks certificates, None for the default.
        total_s: time limit of one download in seconds.
    """

    hosts: Sequence[str]
    address: Callable[[str, int], Address] = public_address
    context: ssl.SSLContext | None = None
    total_s: float = TOTAL_S

    def check(self, url: str, where: str) -> None:
        """Check an address before anything is connected.

        Raises:
            DataError: it may not be read; says what would allow it.
        """
        if not self.hosts:
            raise DataError(
                f"{where}: {url:.80} is a remote image; allow its host in dataset.remote_images, or download "
                "the images and store them with the rows"
            )
        try:
            self._split(url)
        except _Refused as refused:
            raise DataError(f"{where}: {refused}") from None

    def read(self, url: str, where: str) -> bytes:
        """The bytes of an image, from the cache or downloaded into it.

        Raises:
            ImageError: it may not be read, or the download failed or was incomplete.
            EnvironmentProblem: the cache cannot be written.
        """
        file = cache_file("images", url)
        if file.is_file():
            return file.read_bytes()
        deadline = time.monotonic() + self.total_s
        try:
            data = self._download(url, deadline)
        except _Refused as refused:
            raise ImageError(str(refused), where) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            timeout = f"took longer than {self.total_s:g} s" if time.monotonic() >= deadline else None
            reason = timeout or str(error) or type(error).__name__
            raise ImageError(f"{url:.200} cannot be downloaded: {reason}", where) from None
        write_cache(file, data)
        return data

    def _download(self, url: str, deadline: float) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            host, target = self._split(url)
            with _Connection(host, self.address(host, HTTPS_PORT), self.context, deadline) as connection:
                connection.request("GET", target, headers={"User-Agent": "vlmtune", "Accept-Encoding": "identity"})
                response = connection.getresponse()
                location = response.getheader("Location") if response.status in REDIRECTS else None
                if location is None:
                    if response.status != 200:
                        raise _Refused(f"{url:.200} answered {response.status} {response.reason}")
                    return _body(response, url, connection)
                url = urljoin(url, location)
        raise _Refused(f"{url:.200} redirects more than {MAX_REDIRECTS} times")

    def _split(self, url: str) -> tuple[str, str]:
        """(host, path with query) of an address that may be read."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").encode("idna").decode().lower(), parts.port
        except (ValueError, UnicodeError):
            raise _Refused(f"{url!r:.200} is not a valid address") from None
        if parts.scheme != "https" or port not in (None, HTTPS_PORT) or "@" in parts.netloc:
            raise _Refused(f"{url:.200} is not read: only https on port 443 and without credentials is allowed")
        if not any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in self.hosts):
            raise _Refused(f"{url:.200} is not read: {host} is not listed in dataset.remote_images")
        return host, quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe="/?&=%:;,+~!$'()*@[]")


class _Connection(http.client.HTTPSConnection):
    """A connection to one IP that checks the host's certificate and is shut down at a deadline, whatever it is doing.

    Socket timeouts alone do not bound a download, because a server may send a byte now and then. httpx2 has no other
    limit, and cannot connect to an address of our choice.
    """

    def __init__(self, host: str, address: Address, context: ssl.SSLContext | None, deadline: float) -> None:
        self._tls = context or ssl.create_default_context()
        super().__init__(host, context=self._tls)
        self._address, self._deadline = address, deadline
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(max(0.0, deadline - time.monotonic()), self._shut_down)
        self._timer.daemon = True

    def __enter__(self) -> "_Connection":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.close()

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._deadline

    def connect(self) -> None:
        """Connect to the checked address; the host name is only used for the certificate."""
        plain = socket.create_connection(self._address, CONNECT_S)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self._socket = self.sock
        self.sock.do_handshake()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # already closed
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _body(response: http.client.HTTPResponse, url: str, connection: _Connection) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read1(CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise _Refused(f"{url:.200} is larger than {MAX_BYTES // 1024**2} MB")
    if connection.is_late or response.length:
        raise http.client.IncompleteRead(b"".join(chunks))
    return b"".join(chunks)


@contextmanager
def errors_named(path: str, name: str | None, revision: str | None) -> Iterator[None]:
    """Turn exceptions of `datasets` into errors that say what to do.

    Raises:
        EnvironmentProblem: the Hub cannot be reached or wants a login, the disk is full.
        DataError: no such dataset, folder, configuration, revision or split; files that cannot be read.
    """
    import datasets

    try:
        yield
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, http_error()) as error:
        raise _translated(error, path, name, revision) from None


def _translated(error: BaseException, path: str, name: str | None, revision: str | None) -> VlmtuneError:
    from datasets.exceptions import DatasetBuildError, DatasetNotFoundError

    causes = list(_causes(error))
    dataset, message = f"dataset {path!r}", str(error)
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
        return EnvironmentProblem(f"{dataset}: the disk of the datasets cache is full; free some space, or set HF_HOME")
    if isinstance(error, DatasetNotFoundError):
        return _not_found(message, path, revision)
    if any(_is_network(cause) for cause in causes):
        return EnvironmentProblem(
            f"{dataset} is not in the local cache and the Hub cannot be reached ({_short(causes[-1])}). "
            "Check the network, or try the pipeline offline first: vlmtune demo, or USE_MOCK=True"
        )
    if isinstance(error, PermissionError):
        return EnvironmentProblem(f"{dataset}: {message}")
    if isinstance(error, DatasetBuildError):
        message = f"its files cannot be read: {_short(causes[-1])}"
    elif "BuilderConfig" in message or "Config name is missing" in message or "for config '" in message:
        message = f"set dataset.name to one of its configurations (got {name!r}): {message}"
    return DataError(f"{dataset} cannot be opened: {message}")


def _not_found(message: str, path: str, revision: str | None) -> VlmtuneError:
    """`datasets` raises one exception for missing, private and gated datasets; only its message tells them apart."""
    dataset, page = f"dataset {path!r}", f"https://huggingface.co/datasets/{path}"
    if "gated dataset" in message:
        return EnvironmentProblem(f"{dataset} is gated: accept its conditions at {page}, then run: hf auth login")
    if message.startswith("Revision "):
        return DataError(f"{dataset} has no revision {revision!r}; set dataset.revision to one of {page}")
    return DataError(f"{dataset} does not exist on the Hub, or is private: check dataset.path, or run: hf auth login")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then the ones it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_network(error: BaseException) -> bool:
    # `datasets` replaces the error of the Hub client by a FileNotFoundError that quotes it.
    is_quoted = isinstance(error, FileNotFoundError) and "LocalEntryNotFoundError" in str(error)
    return is_quoted or isinstance(error, (ConnectionError, TimeoutError, http_error()))


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]:.200}" if str(error) else type(error).__name__
