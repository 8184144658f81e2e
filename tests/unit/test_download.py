"""Remote images: which are read at all, from which address, through which redirects, how much and how long."""

import itertools
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from builders import encoded, make_image
from pydantic import ValidationError

from vlmtune.data import _download, hub, jsonl
from vlmtune.data._download import Address, RemoteImages, public_address
from vlmtune.errors import DataError, ImageError
from vlmtune.hub import cache_file
from vlmtune.images import decode_rgb

PNG = encoded(make_image(11, 7))
PEM = Path(__file__).parents[1] / "data" / "example_hosts.pem"
HOST = "images.example.org"


class Site(ThreadingHTTPServer):
    """A web site with TLS for the hosts of the certificate; `pages` say what each path answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(PEM)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked: list[tuple[str, str]] = []
        self.over = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))
        kind, _, more = self.path.strip("/").partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", more if more.startswith(("http", "file")) else f"/{more}")
            self.end_headers()
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            while not self.server.over.wait(0.05):
                self.wfile.write(b"x")
        elif kind == "drip":
            for letter in itertools.cycle("HTTP/1.0 200 OK\r\n" + "X-A: b\r\n" * 9):
                self.wfile.write(letter.encode())
                if self.server.over.wait(0.05):
                    break
        else:
            status = 404 if kind == "missing" else 200
            body = {"big": bytes(3000), "empty": b""}.get(kind, PNG)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + (50 if kind == "cut" else 0)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    with Site() as made:
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield made
        made.over.set()
        made.shutdown()


@pytest.fixture
def remote(site: Site) -> Callable[..., RemoteImages]:
    """Reads from the site, whatever the host; `lookups` notes which hosts were looked up."""

    def make(*hosts: str, total_s: float = 20, lookups: list[str] | None = None) -> RemoteImages:
        def address(host: str, port: int) -> Address:
            assert port == 443
            (lookups if lookups is not None else []).append(host)
            if host == "other.example.net":
                return public_address(host, port, lambda *_, **__: [(0, 0, 0, "", ("10.1.2.3", port))])
            return "127.0.0.1", site.server_address[1]

        return RemoteImages(hosts or (HOST,), address, ssl.create_default_context(cafile=str(PEM)), total_s)

    return make


def test_an_image_is_downloaded_once(remote: Callable[..., RemoteImages], site: Site) -> None:
    url = f"https://{HOST}/an image.png?x=1"
    assert remote().read(url, "row 0") == PNG
    assert remote().read(url, "row 0") == PNG
    assert site.asked == [(HOST, "/an%20image.png?x=1")]


def test_redirects_are_followed_and_each_hop_is_looked_up_once(remote: Callable[..., RemoteImages]) -> None:
    lookups: list[str] = []
    reader = remote("*.example.org", lookups=lookups)
    assert reader.read(f"https://{HOST}/to/to/https://cdn.example.org/to/a.png", "row 0") == PNG
    assert lookups == [HOST, HOST, "cdn.example.org", "cdn.example.org"]
    with pytest.raises(ImageError, match="row 1: .*redirects more than 3 times"):
        reader.read(f"https://{HOST}/to/to/to/to/a.png", "row 1")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("to/https://other.example.net/a.png", "other.example.net resolves to 10.1.2.3, which is not a public address"),
        ("to/https://example.com/a.png", "example.com is not listed in dataset.remote_images"),
        ("to/http://images.example.org/a.png", "only https on port 443 and without credentials"),
        ("to/https://images.example.org:8443/a.png", "only https on port 443"),
        ("to/https://me:secret@images.example.org/a.png", "only https on port 443 and without credentials"),
        ("to/file:///etc/passwd", "only https"),
        ("missing", "answered 404"),
        ("cut", "cannot be downloaded: IncompleteRead"),
        ("slow", "took longer than 1 s"),
        ("drip", "took longer than 1 s"),
    ],
)
def test_what_is_no_whole_image_from_an_allowed_public_host(
    path: str, said: str, remote: Callable[..., RemoteImages], tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=f"^row 3: .*{said}"):
        remote(HOST, "other.example.net", total_s=1).read(f"https://{HOST}/{path}", "row 3")
    assert [file for file in tmp_path.rglob("cache/**/*") if file.is_file()] == []


def test_an_image_that_is_too_large_is_cut_off(
    remote: Callable[..., RemoteImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download, "MAX_BYTES", 2000)
    with pytest.raises(ImageError, match="is larger than"):
        remote().read(f"https://{HOST}/big", "row 0")


def test_the_certificate_must_be_the_hosts(remote: Callable[..., RemoteImages]) -> None:
    with pytest.raises(ImageError, match="CERTIFICATE_VERIFY_FAILED"):
        remote("wrong.example.org").read("https://wrong.example.org/a.png", "row 0")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "240.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:0a00:0001::",
        "ff02::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    def lookup(*found: str) -> Callable[..., Any]:
        return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 443)) for text in found]

    assert public_address("h", 443, lookup("93.184.215.14")) == ("93.184.215.14", 443)
    for answer in ((address,), ("93.184.215.14", address)):
        with pytest.raises(ValueError, match="is not a public address"):
            public_address("h", 443, lookup(*answer))


def test_by_itself_a_host_of_this_machine_is_refused(site: Site) -> None:
    with pytest.raises(ImageError, match="localhost.localdomain"):
        RemoteImages(("localhost.localdomain",), total_s=5).read("https://localhost.localdomain/a.png", "row 0")
    assert site.asked == []


def row(tmp_path: Path, url: str, **keys: Any) -> Any:
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": url, "caption": "x"}) + "\n", encoding="utf-8")
    config = {"path": str(tmp_path), "references": ["caption"], **keys}
    return jsonl.open(jsonl.Config.model_validate(config), "t.jsonl")


def test_they_are_off_by_default_and_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 0, column 'image': https://.* allow its host in dataset.remote_images"):
        row(tmp_path, "https://images.example.org/a.png")[0]
    for url in (
        "http://a.example.org/x",
        "https://example.org/x",
        "https://a.example.org.evil.net/x",
        "https://[::1/x",
    ):
        with pytest.raises(DataError, match="row 0, column 'image'"):
            row(tmp_path, url, remote_images=["*.example.org"])[0]
    for url in ("file:///etc/passwd", "ftp://a.example.org/x", "HTTPS://a.example.org/x"):
        with pytest.raises(DataError, match="lies outside"):
            row(tmp_path, url, remote_images=["*.example.org"])[0]


def test_the_fingerprint_does_not_depend_on_what_was_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    url = "https://images.example.org/kept.png"
    before = row(tmp_path, url, remote_images=[HOST]).fingerprint
    _download.write_cache(cache_file("images", url), PNG)
    rows = row(tmp_path, url, remote_images=[HOST])
    assert rows.fingerprint == before
    assert decode_rgb(rows[0].images[0]).size == (11, 7)


@pytest.mark.parametrize("host", ["*", "*.org.", "https://example.org", "example.org/x", "localhost", "", "a b.org"])
def test_a_host_is_a_name(host: str) -> None:
    with pytest.raises(ValidationError, match="must be a host such as images.example.org"):
        hub.Config(path="o/n", remote_images=[host])
    assert hub.Config(path="o/n", remote_images=["*.Example.org"]).remote_images == ["*.example.org"]
