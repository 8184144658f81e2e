"""Trackers mirror the curve and cannot hurt: not by raising, not by hanging, not by being away."""

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import Notes, judged, lines, make_image

from vlmtune.errors import EnvironmentProblem
from vlmtune.images import thumbnail
from vlmtune.pipeline import tracking
from vlmtune.pipeline.tracking import SHOWN, BackgroundTracker, changed_rows
from vlmtune.progress import Progress
from vlmtune.tracking import ChangedRow, tensorboard

ROW = ChangedRow("row | 7", thumbnail(make_image(40, 32)), ("a cat", "the cat"), "dog", "a cat\n| sat", 0.25)


class Recording:
    def __init__(self) -> None:
        self.calls: list[tuple[int, Mapping[str, float]]] = []
        self.summary: Mapping[str, Any] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append((step, values))

    def log_rows(self, metric: str, rows: Sequence[ChangedRow]) -> None:
        self.rows = (metric, rows)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.summary = summary


def test_calls_arrive_in_order() -> None:
    tracker, notes = Recording(), Notes()
    guarded = BackgroundTracker("t", lambda: tracker, Progress(notes))
    for step in range(20):
        guarded.log(step, {"loss": 1 / (step + 1)})
    guarded.log_rows("bleu", [ROW])
    guarded.finish({"validation_loss": 0.5})
    assert tracker.rows == ("bleu", (ROW,))
    assert tracker.calls == [(step, {"loss": 1 / (step + 1)}) for step in range(20)]
    assert (tracker.summary, notes.texts) == ({"validation_loss": 0.5}, [])


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
    guarded = BackgroundTracker("t", opening, Progress(notes))
    guarded.log(1, {})
    guarded.log(2, {})
    guarded.finish({})
    assert notes.texts == ["t failed (quota); continuing without it, the local curve is complete"]


def test_a_tracker_that_hangs_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "FINISH_TIMEOUT_S", 0.2)

    taken, over = [], threading.Event()

    class Hanging(Recording):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            taken.append(step)
            over.wait()

    notes = Notes()
    guarded = BackgroundTracker("t", Hanging, Progress(notes))
    for step in range(1000):
        guarded.log(step, {})
    guarded.finish({})
    over.set()
    assert taken in ([], [0])
    assert notes.texts == ["t does not finish in time; continuing without it, the local curve is complete"]


def test_the_rows_that_a_tracker_shows_are_the_largest_gains_and_losses(tmp_path: Path) -> None:
    comparison = judged(lines(300, 0.6), lines(300, 0.5, seed=2))
    gains = sorted(example["gain"] for example in comparison.examples)
    rows = changed_rows(comparison, [])
    assert [row.change for row in rows] == [*gains[::-1][:SHOWN], *gains[:SHOWN][::-1]]
    first = next(example for example in comparison.examples if example["id"] == rows[0].id)
    assert (rows[0].before, rows[0].after, list(rows[0].references)) == (first["a"], first["b"], first["references"])


def test_a_writer_that_is_not_there_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(EnvironmentProblem, match="uv pip install tensorboardX"):
        tensorboard.open_tracker(tensorboard.Config(), {"dir": ".", "name": "x"})
