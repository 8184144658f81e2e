"""The local server of `vlmtune view`: it answers this machine's browser alone, with nothing but run folders."""

import http.client
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import command
from run_folders import BASE, TUNED, Worker, answer, compared, stopped, train
from typer.testing import CliRunner

from vlmtune.cli.app import app
from vlmtune.maintenance.inspect import find_runs
from vlmtune.view.server import open_server

HOSTILE = "<img src=x onerror=alert(1)>"
Answer = tuple[int, dict[str, str], str]
Ask = Callable[..., Answer]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A finished run, one that was stopped below another folder, and a file that belongs to neither."""
    root = tmp_path / "outputs"
    answer(root / "demo", "baseline_predictions.jsonl", BASE)
    train(root / "demo")
    answer(root / "demo", "lora_predictions.jsonl", TUNED)
    compared(root / "demo")
    stopped(root / "team" / "more", 10)
    (root / "secret.html").write_text("secret")
    (tmp_path / "outside.html").write_text("secret")
    return root


@pytest.fixture
def ask(root: Path) -> Iterator[Ask]:
    with open_server(root, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(path: str, method: str = "GET", host: str | None = None) -> Answer:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
            connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read().decode()

        yield ask
        server.shutdown()


def test_all_runs_are_listed_as_runs_ls_lists_them(root: Path, ask: Ask) -> None:
    status, _, page = ask("/")
    assert status == 200
    listed = CliRunner().invoke(app, ["runs", "ls", str(root)]).output
    for run in find_runs(root):
        assert f">{run.relative_to(root)}</a>" in page
        assert str(run) in listed
    assert re.findall(r'class="pill \w+">(\w+)<', page) in (["finished", "stopped"], ["stopped", "finished"])
    result = re.search(r"improved: bleu \S+ → \S+ \(\S+\)", listed)
    assert result is not None
    assert result[0] in page
    assert page.count('<input type="checkbox"') == 1, "what has no answers cannot be compared"


def test_a_run_has_its_scores_curve_files_and_next_command(ask: Ask) -> None:
    _, _, page = ask("/run/demo")
    assert "Learning curve" in page
    assert '<th scope="row">bleu</th>' in page
    assert '<a href="../file/demo/report.html">' in page
    _, _, page = ask("/run/team/more")
    assert "lora at step 10 of 90" in page
    assert '<a href="../../">All runs</a>' in page
    status, headers, report = ask("/file/demo/report.html")
    assert (status, headers["Content-Type"]) == (200, "text/html")
    assert "bleu" in report
    assert headers["Content-Security-Policy"].startswith("sandbox"), "its scripts may not read other pages"


def test_a_live_run_shows_where_it_is(root: Path, ask: Ask) -> None:
    worker = Worker(root / "live")
    with worker.held:
        worker.at(34, tokens_per_s=1200.0)
        worker.point(10, loss=2.5)
        worker.answer(2)
        _, _, page = ask("/run/live")
        assert 'data-live="yes"' in page
        assert '<progress max="90" value="34"' in page
        assert "tokens_per_s 1200.0" in page
        assert "Newest answers" in page
        assert 'data-live="yes"' in ask("/")[2]
    assert 'data-live="no"' in ask("/run/live")[2]


def test_two_runs_are_compared_as_their_files_are(root: Path, ask: Ask, tmp_path: Path) -> None:
    answer(root / "other", "lora_predictions.jsonl", TUNED)
    status, _, page = ask("/compare?run=demo&run=other")
    assert status == 200
    words = ["compare", *(str(root / run / "lora_predictions.jsonl") for run in ("demo", "other"))]
    assert CliRunner().invoke(app, [*words, "-o", str(tmp_path / "page.html")]).exit_code == 0
    title = re.compile(r"<h1>(.*?)</h1>")
    assert title.findall(page) == title.findall((tmp_path / "page.html").read_text(encoding="utf-8"))
    for query in ("", "?run=demo", "?run=demo&run=demo", "?run=demo&run=team/more", "?run=demo&run=gone"):
        status, _, said = ask(f"/compare{query}")
        assert status == 404
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "path",
    [
        *("/run/a%00", "/run/gone", "/run/../outputs/demo", "/run/%2e%2e/outputs/demo", "/run/demo/../../.."),
        *("/nothing", "/file/demo/../secret.html", "/file/demo/%2e%2e%2fsecret.html", "/file/%2e%2e/outside.html"),
        *("/file/secret.html", "/file/demo/lora_predictions.jsonl", "/file/demo/.vlmtune/lock", "/file/demo/link.html"),
    ],
)
def test_nothing_but_runs_and_their_pages_is_given(path: str, root: Path, ask: Ask, tmp_path: Path) -> None:
    (root / "demo" / "link.html").symlink_to(tmp_path / "outside.html")
    status, headers, said = ask(path)
    assert (status, headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
    assert "secret" not in said.replace("secret.html", "")


def test_another_name_of_this_machine_is_refused(ask: Ask) -> None:
    """A site whose own name leads to 127.0.0.1 would otherwise read everything."""
    for host in (
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8765",
        "[::1]:80",
    ):
        status, _, said = ask("/", host=host)
        assert (status, said) == (403, "ask for 127.0.0.1, not under another name\n")
    for host in ("localhost:9000", "127.0.0.1", "LOCALHOST:1"):
        assert ask("/", host=host)[0] == 200, "a port that is forwarded is another one"
    status, headers, _ = ask("/")
    assert (headers["Cross-Origin-Resource-Policy"], headers["X-Frame-Options"]) == ("same-origin", "DENY")
    assert status == 200


def test_nothing_can_be_changed(root: Path, ask: Ask) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask("/run/demo", method)[0] == 501
    assert ask("/run/demo", "HEAD")[::2] == (200, "")
    for path in ("/", "/run/demo", "/run/team/more", "/file/demo/report.html"):
        ask(path)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_names_and_answers_are_never_markup(root: Path, ask: Ask) -> None:
    worker = Worker(root / HOSTILE)
    with worker.held:
        worker.at(1)
        (worker.root / ".vlmtune/lora_predictions-0123456789ab").mkdir()
        (worker.root / ".vlmtune/lora_predictions-0123456789ab/answers.jsonl").write_text(
            f'{{"id": "{HOSTILE}", "prediction": "{HOSTILE}\\u001b[2J"}}\n'
        )
        pages = [ask("/")[2], ask(f"/run/{HOSTILE.replace(' ', '%20').replace('<', '%3C').replace('>', '%3E')}")[2]]
    for page in pages:
        assert HOSTILE not in page
        assert "\x1b" not in page
        assert "&lt;img src=x" in page


def test_a_name_that_is_no_text_is_shown(root: Path, ask: Ask) -> None:
    name = os.fsdecode(b"caf\xe9")
    answer(root / name, "lora_predictions.jsonl", TUNED)
    assert '<a href="run/caf%E9">caf' in ask("/")[2]
    assert ask("/run/caf%E9")[0] == 200
    assert ask("/compare?run=demo&run=caf%E9")[0] == 200


def test_a_browser_that_goes_away_is_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open_server(tmp_path, 0) as server:
        server.daemon_threads = False  # they are waited for when the server closes
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(("127.0.0.1", server.server_port)) as gone:
            gone.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("GET", "/", headers={"Connection": "close"})  # after it, the one before was accepted
        connection.getresponse().read()
        server.shutdown()
    assert "Traceback" not in capfd.readouterr().err


def test_a_folder_that_is_a_run_itself_is_shown(ask: Ask, root: Path) -> None:
    with open_server(root / "demo", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        for path in ("/", "/run/", "/file/report.html"):
            connection.request("GET", path)
            reply = connection.getresponse()
            assert (reply.status, b"bleu" in reply.read()) == (200, True), path
        server.shutdown()


def test_a_wrong_folder_and_a_taken_port_are_errors(root: Path) -> None:
    gone = CliRunner().invoke(app, ["view", str(root / "gone")])
    assert "no such folder" in str(gone.exception)
    with open_server(root, 0) as server:
        taken = CliRunner().invoke(app, ["view", str(root), "--port", str(server.server_port)])
        assert "choose another one with --port" in str(taken.exception)


def test_looking_at_runs_loads_no_model(tmp_path: Path) -> None:
    code = "import sys, vlmtune.view.server; print({'torch', 'transformers'} & set(sys.modules))"
    assert command(sys.executable, "-c", code, cwd=tmp_path).stdout == "set()\n"
