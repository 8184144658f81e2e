"""A run watched from outside: what it shows is what the run left on disk, and nothing there is touched."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import lines
from run_folders import ANSWERING, WORK, Worker
from typer.testing import CliRunner

from vlmtune.cli.app import app
from vlmtune.errors import ConfigError
from vlmtune.files import append_lines
from vlmtune.maintenance import watch
from vlmtune.progress import Progress, Silent, StatusFile


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path / "run")
    with made.held:
        yield made


def script(*acts: Callable[[], object]) -> Callable[[float], None]:
    """What happens between the looks."""
    left = iter(acts)

    def wait(seconds: float) -> None:
        next(left)()

    return wait


def test_it_is_seen_as_it_goes_and_ends_with_the_run(worker: Worker) -> None:
    def train() -> None:
        worker.at(0)
        worker.point(1, loss=8.0, grad_norm=1.0)

    def later() -> None:
        for done in (31, 32, 33):
            worker.at(done, loss=2.5, **{"samples/s": 160.0})
        worker.point(30, loss=2.0)
        worker.point(30, validation_loss=1.5, validation_bleu=0.25)

    def publish() -> None:
        for path in (worker.root / WORK).iterdir():
            path.unlink()
        (worker.root / WORK).rmdir()
        worker.listener.end("train")
        worker.answer(40)

    seen = list(watch.snapshots(worker.root, script(train, later, publish, worker.end)))
    assert [one.status and one.status["done"] for one in seen] == [None, 0, 33, 33]
    first, second, third, fourth = ("\n".join(watch.render(one, worker.root, 100)) for one in seen)
    assert "no step has started yet" in first
    assert "0/90  0%" in second
    assert "33/90  37%" in third
    assert "loss             8 █▁ 2 at step 30, now 2.5" in third
    assert "validation_bleu  0.25 ▁ 0.25 at step 30" in third
    assert "samples/s 160" in third
    assert third.count("ETA") == 1
    assert "answer  row 39: " in fourth
    assert fourth.count("answer ") == watch.NEWEST
    assert watch.log_line(seen[2]).startswith(
        "train 33/90  step 30: validation_loss 1.5, validation_bleu 0.25  samples/s 160  ETA "
    )


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_screen_fits_the_terminal(worker: Worker, width: int) -> None:
    worker.at(0)
    for step in range(1, 90):
        worker.point(step, loss=9 / step)
        worker.at(step, loss=9 / step)
    worker.answer(5)
    seen = next(watch.snapshots(worker.root, script()))
    shown = watch.render(seen, worker.root, width)
    assert max(map(len, shown)) <= width


def test_watching_touches_nothing(worker: Worker) -> None:
    worker.at(34, loss=1.0)
    worker.point(30, loss=2.0)
    with (worker.root / WORK / "curve.jsonl").open("a") as file:
        file.write('{"step": 31, "lo')  # what an append looks like in its middle

    def state() -> dict[str, Any]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in worker.root.rglob("*")}

    before = state()
    seen = watch.snapshots(worker.root, lambda seconds: None)
    assert [next(seen).curve for _ in range(3)] == [[{"step": 30, "loss": 2.0}]] * 3
    assert state() == before


def test_what_a_model_says_moves_no_cursor(worker: Worker) -> None:
    (worker.root / ANSWERING).mkdir()
    said = replace(
        lines(1, 0.2)[0], id="\x1b[2Jrow", prediction="red\x1b]0;title\x07 \x9b2J\nball \U0001f468\u200d\U0001f469"
    )
    append_lines(worker.root / ANSWERING / "answers.jsonl", [said.to_json()])
    seen = next(watch.snapshots(worker.root, script()))
    assert seen.answers == [("[2Jrow", "red ]0;title 2J ball \U0001f468\u200d\U0001f469")]


@pytest.mark.parametrize("status", ["[]", '{"step": "x"}', '{"step": 1, "done": "a"}', "{"])
def test_files_of_another_shape_are_passed_over(worker: Worker, status: str) -> None:
    for step, loss in ((1, 4.0), (2, float("inf")), (3, float("nan")), (4, 1.0)):
        worker.point(step, loss=loss, validation_loss=loss)
    with (worker.root / WORK / "curve.jsonl").open("a", errors="surrogateescape") as file:
        file.write('\n[]\n\udcff\n{"loss": 2}\n{"step": 5, "loss": "low", "validation_loss": Infinity}\n')
    with (worker.root / WORK / "evaluation-000004.jsonl").open("a") as file:
        file.write('\n7\n{"id": 1}\n')
    (worker.root / ".vlmtune/status.json").write_text(status)
    seen = next(watch.snapshots(worker.root, script()))
    shown = "\n".join(watch.render(seen, worker.root, 100))
    assert "no step has started yet" in shown
    assert "loss             4 █▁ 1 at step 4" in shown
    assert "validation_loss  4 █▁ 1 at step 4" in shown
    assert seen.answers == [("1", "(failed: None)")]
    assert watch.log_line(seen).startswith("starting  step 5")


def follow(root: Path, **environment: str) -> str:
    ended = CliRunner().invoke(app, ["runs", "show", str(root), "--follow"], env=environment)
    assert ended.exit_code == 0, ended.exception
    return ended.stdout


def test_a_log_gets_one_line_per_change(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    acts = [lambda: worker.at(0), lambda: None, lambda: worker.point(1, loss=8.0), lambda: None, worker.end]
    monkeypatch.setattr(time, "sleep", script(*acts))
    said = follow(worker.root).splitlines()
    assert said[:3] == ["starting", "train 0/90", "train 0/90  step 1: loss 8"]
    assert said[3:5] == [str(worker.root), "  state       stopped, resumable: lora before its first checkpoint"]


def test_a_terminal_is_drawn_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", script(lambda: worker.at(45), worker.end))
    said = follow(worker.root, FORCE_COLOR="1", COLUMNS="90", TERM="xterm")
    assert "\x1b[1A" in said, "the cursor goes up"
    assert "45/90  50%" in said


def test_ctrl_c_ends_the_watching_and_says_where_the_run_stands(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    worker.at(45)
    monkeypatch.setattr(time, "sleep", script(stop))
    assert f"in progress: train 45/90 (process {os.getpid()}" in follow(worker.root)


def test_what_is_no_run_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder"):
        next(watch.snapshots(tmp_path, script()))


def kept(root: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((root / "status.json").read_text())
    return plain


def test_the_file_says_the_innermost_step_and_after_an_exception_the_outermost(tmp_path: Path) -> None:
    progress = Progress(StatusFile(Silent(), tmp_path / "status.json"))

    def fail() -> None:
        with progress.step("train", 90) as train:
            train.advance(30)
            assert (kept(tmp_path)["step"], kept(tmp_path)["done"]) == ("train", 0), "once a second is enough"
            with progress.step("judge", 8) as judge:
                assert (kept(tmp_path)["step"], kept(tmp_path)["total"]) == ("judge", 8)
                judge.advance(8 // 0)

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (kept(tmp_path)["step"], kept(tmp_path)["done"], kept(tmp_path)["total"]) == ("train", 30, 90)
    assert list(tmp_path.iterdir()) == [tmp_path / "status.json"]


def test_the_rate_does_not_count_what_an_interrupted_run_had_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Progress(StatusFile(Silent(), tmp_path / "status.json")).step("train", 90) as train:
        train.advance(60)
        assert kept(tmp_path)["rate"] is None
        for _ in range(10):
            clock[0] += 2.0
            train.advance(1)
        assert kept(tmp_path)["rate"] == pytest.approx(0.5)


def test_a_file_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    with Progress(StatusFile(Silent(), tmp_path / "not there" / "status.json")).step("train", 2) as train:
        train.advance(2)
