"""Trackers mirror the curve and cannot hurt: not by raising, not by hanging, not by being away."""

import json
import pickle
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import Notes, judged, lines, make_image
from commands import command

from vlmtune.errors import EnvironmentProblem
from vlmtune.images import thumbnail
from vlmtune.pipeline import tracking
from vlmtune.pipeline.tracking import SHOWN, BackgroundTracker, changed_rows
from vlmtune.progress import Progress
from vlmtune.tracking import ChangedRow, tensorboard, wandb

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


SECRETS = {"WANDB_API_KEY": "c0ffee" * 6 + "beef", "HF_TOKEN": "hf_cAnArYcAnArYcAnArYcAnArYcAnArYcA"}
BOTH = """
import sys, pickle
from pathlib import Path
from vlmtune.tracking import tensorboard, wandb
facts = {"config": {"seed": 1, "key": "${env:HF_TOKEN}"}, "dir": sys.argv[1], "name": "demo-lora", "id": "ab12"}
row = pickle.loads(Path("row").read_bytes())
for plugin, more in ((wandb, {"mode": "offline"}), (tensorboard, {})):
    tracker = plugin.open_tracker(plugin.Config(**more), facts)
    tracker.log(1, {"loss": 2.0})
    tracker.log_rows("bleu", [row])
    tracker.finish({"validation_loss": 1.5, "verdict": "better"})
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of both trackers, made in a process of its own: what W&B writes is complete when the process ends."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "row").write_bytes(pickle.dumps(ROW))
    ended = command(sys.executable, "-c", BOTH, str(folder), cwd=folder, HOME=str(folder), **SECRETS)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_wandb_offline_keeps_the_run_in_the_folder(tracked: Path) -> None:
    deadline = time.monotonic() + 60
    while not (content := _written(tracked)) or b"validation_loss" not in content:
        assert time.monotonic() < deadline, "the run was never written"
        time.sleep(0.2)
    assert b"loss" in content
    [table] = tracked.glob("wandb/offline-run-*-ab12/files/media/table/*.json")
    plain = json.loads(table.read_text())
    assert plain["columns"] == ["id", "image", "references", "before", "after", "change in bleu"]
    [[name, image, *rest]] = plain["data"]
    assert (name, image, rest) == ("row | 7", "Image", ["a cat\nthe cat", "dog", "a cat\n| sat", 0.25])
    staged = [file.read_bytes() for file in tracked.glob(".local/share/wandb/artifacts/staging/*")]
    assert [data for data in staged if data.startswith(b"\x89PNG")], "the thumbnail waits for the upload"


def test_tensorboard_writes_curve_table_thumbnail_and_summary(tracked: Path) -> None:
    values = {value.tag: value for event in _events(tracked / "tensorboard/demo-lora") for value in event.summary.value}
    assert values["loss"].simple_value == 2.0
    table = values["before and after/text_summary"].tensor.string_val[0].decode()
    assert table.splitlines()[2] == "| row \\| 7 | a cat / the cat | dog | a cat \\| sat | +0.2500 |"
    assert "| validation_loss | 1.5 |" in values["summary/text_summary"].tensor.string_val[0].decode()
    [image] = [value.image for tag, value in values.items() if tag.startswith("before_and_after/row")]
    assert (image.width, image.height) == (40, 32)


def _events(folder: Path) -> Iterator[Any]:
    """Events of TensorBoard's files: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for file in folder.glob("events.*"):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size


def test_no_secret_is_in_any_file_that_a_tracker_wrote(tracked: Path) -> None:
    files = [file for file in tracked.rglob("*") if file.is_file()]
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        assert not any(secret.encode() in content for secret in SECRETS.values()), file


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


def _written(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in (folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_wandb_without_a_login_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    facts = {"config": {}, "dir": str(tmp_path), "name": "x", "id": "ab12"}
    with pytest.raises(EnvironmentProblem, match="run `wandb login`, or set mode: offline"):
        wandb.open_tracker(wandb.Config(), facts)
