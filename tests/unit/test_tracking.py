"""Trackers mirror the curve and cannot hurt: not by raising, not by hanging, not by being away."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import command
from pieces import Notes

from vlmtune.errors import EnvironmentProblem
from vlmtune.progress import Progress
from vlmtune.tracking import _guarded, wandb
from vlmtune.tracking._guarded import Guarded


class Recording:
    def __init__(self) -> None:
        self.calls: list[tuple[int, Mapping[str, float]]] = []
        self.summary: Mapping[str, Any] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append((step, values))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.summary = summary


def test_calls_arrive_in_order() -> None:
    tracker, notes = Recording(), Notes()
    guarded = Guarded("t", lambda: tracker, Progress(notes))
    for step in range(20):
        guarded.log(step, {"loss": 1 / (step + 1)})
    guarded.finish({"select_loss": 0.5})
    assert tracker.calls == [(step, {"loss": 1 / (step + 1)}) for step in range(20)]
    assert (tracker.summary, notes.texts) == ({"select_loss": 0.5}, [])


@pytest.mark.parametrize("where", ["opening", "log", "finish"])
def test_what_it_raises_is_said_once(where: str) -> None:
    class Raising(Recording):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            if where == "log":
                raise RuntimeError("quota")

        def finish(self, summary: Mapping[str, Any]) -> None:
            raise RuntimeError("quota")

    def opening() -> Raising:
        if where == "opening":
            raise RuntimeError("quota")
        return Raising()

    notes = Notes()
    guarded = Guarded("t", opening, Progress(notes))
    guarded.log(1, {})
    guarded.log(2, {})
    guarded.finish({})
    assert notes.texts == ["t failed and is left out (quota); training goes on, its curve is local"]


def test_a_tracker_that_hangs_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guarded, "PATIENCE_S", 0.2)

    class Hanging(Recording):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            time.sleep(30)

    notes, began = Notes(), time.monotonic()
    guarded = Guarded("t", Hanging, Progress(notes))
    for step in range(1000):
        guarded.log(step, {})
    guarded.finish({})
    assert time.monotonic() - began < 10
    assert notes.texts == ["t is slow to finish and is left behind; the local curve is complete"]


OFFLINE_RUN = """
import sys
from vlmtune.tracking import wandb
tracker = wandb.open_tracker(wandb.Config(mode="offline"), {"config": {"seed": 1}, "dir": sys.argv[1]})
tracker.log(1, {"loss": 2.0})
tracker.finish({"select_loss": 1.5})
"""


def test_wandb_offline_keeps_the_run_in_the_folder(tmp_path: Path) -> None:
    """In a process of its own, as in a real run: what wandb writes is whole once that has ended."""
    ended = command(sys.executable, "-c", OFFLINE_RUN, str(tmp_path), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    deadline = time.monotonic() + 60
    while not (content := _written(tmp_path)) or b"select_loss" not in content:
        assert time.monotonic() < deadline, "the run was never written"
        time.sleep(0.2)
    assert b"loss" in content


def _written(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in (folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_wandb_without_a_login_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(EnvironmentProblem, match="run `wandb login`, or set mode: offline"):
        wandb.open_tracker(wandb.Config(), {"config": {}, "dir": str(tmp_path)})
