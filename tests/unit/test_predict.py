"""Answers are published once they are whole: what a server failed to answer is asked for again, by the same command."""

import json
from pathlib import Path
from typing import Any

import fake_server
import pytest
from commands import Ended, vlmtune_in_process
from fake_server import CONFIG, Body, Script, Step, always, answer, as_another, status

import vlmtune
from vlmtune.engines import _client as client
from vlmtune.errors import RemoteError

FILE = "out/baseline_predictions.jsonl"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)


def predict(folder: Path, stub: fake_server.Stub, *options: str, **more: Any) -> Ended:
    folder.mkdir(exist_ok=True)
    config = CONFIG.replace("test: 40", "test: 12").replace("image_control_rows: 0", "image_control_rows: 4")
    (folder / "c.yaml").write_text(config, "utf-8")
    given = {"engine": "openai", "base_url": stub.base_url, "concurrency": 1, "max_retries": 0, **more}
    sets = [word for key, value in given.items() for word in ("--set", f"inference.{key}={value}")]
    return vlmtune_in_process("predict", "c.yaml", *sets, *options, cwd=folder)


def failing(step: Step, numbers: set[int]) -> Script:
    """`step` for the requests of these numbers."""
    return lambda number, body: step if number in numbers else answer


@pytest.mark.parametrize(
    ("step", "numbers"),
    [
        (status(503), {1, 5}),
        (status(400, "maximum context length is 10"), {1, 5}),
        (fake_server.empty, {1, 5}),
        (status(503), {13}),  # a row with a shuffled image
    ],
    ids=["busy", "refused", "no answer", "in the control"],
)
def test_rows_on_which_a_server_failed_are_asked_for_again(step: Step, numbers: set[int], tmp_path: Path) -> None:
    with fake_server.serving(failing(step, numbers)) as stub:
        ended = predict(tmp_path / "flaky", stub)
        first, published = len(stub.seen), (tmp_path / "flaky" / FILE).exists()
        stub.script = always(answer)
        again, healthy = predict(tmp_path / "flaky", stub), predict(tmp_path / "healthy", stub)
    assert ended.returncode == 5, ended.stderr
    assert ended.stderr.count("run the same command again") == 1
    assert not published
    assert (again.returncode, healthy.returncode) == (0, 0), again.stderr
    assert f"the engine failed on {len(numbers)} of 16 requests" in ended.stderr
    assert len(stub.seen) == first + len(numbers) + 16
    for name in (FILE, "out/baseline_predictions.controls.json"):
        assert (tmp_path / "flaky" / name).read_bytes() == (tmp_path / "healthy" / name).read_bytes()


def test_a_server_that_refuses_every_row_ends_the_command(tmp_path: Path) -> None:
    """Also where the rows are fewer than it takes to tell that it refuses everything."""
    with fake_server.serving(always(status(400))) as stub:
        ended = predict(tmp_path, stub, "--set", "dataset.limit.test=2")
    assert ended.returncode == 5
    assert not (tmp_path / FILE).exists()


def test_failures_are_published_where_they_are_accepted(tmp_path: Path) -> None:
    with fake_server.serving(failing(status(500), {2})) as stub:
        accepted = predict(tmp_path, stub, "--accept-failures")
        asked = len(stub.seen)
        again = predict(tmp_path, stub)
        assert len(stub.seen) == asked
    assert (accepted.returncode, again.returncode) == (0, 0), accepted.stderr
    failures = [json.loads(line)["failure"] for line in (tmp_path / FILE).read_text("utf-8").splitlines()]
    assert [failure["stage"] for failure in failures if failure] == ["engine"]


def test_the_python_interface_publishes_them_where_they_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG.replace("test: 40", "test: 12"), "utf-8")
    with fake_server.serving(failing(status(500), {2})) as stub:
        given = [f"inference.base_url={stub.base_url}", "inference.engine=openai", "inference.max_retries=0"]
        with pytest.raises(RemoteError, match="run the same command again"):
            vlmtune.predict(vlmtune.load_config("c.yaml", given))
        stub.seen.clear()
        file = vlmtune.predict(vlmtune.load_config("c.yaml", [*given, "output.dir=other"]), accept_failures=True)
    assert [json.loads(line)["failure"] is None for line in file.read_text("utf-8").splitlines()].count(False) == 1


def test_another_model_is_no_failure_of_a_row(tmp_path: Path) -> None:
    with fake_server.serving(always(as_another)) as stub:
        assert predict(tmp_path, stub, "--accept-failures").returncode == 9


def values(logprob: str) -> Step:
    """An answer with this log-probability, written as a server may write it."""

    def step(exchange: fake_server.Exchange) -> None:
        body: Body = fake_server.completion(exchange.body, "a picture", 0.125)
        exchange.reply(200, json.dumps(body).replace("0.125", logprob).encode())

    return step


@pytest.mark.parametrize("logprob", ["NaN", "-Infinity", "1e400", "50000"])
def test_log_probabilities_that_are_none_are_refused(logprob: str, tmp_path: Path) -> None:
    with fake_server.serving(failing(values(logprob), {0})) as stub:
        ended = predict(tmp_path, stub)
    assert ended.returncode == 5
    assert "--set inference.logprobs=false does without" in ended.stderr
    assert not (tmp_path / FILE).exists()
