"""What real trackers write: W&B in offline mode, TensorBoard, MLflow and Trackio, in a process of their own."""

import contextlib
import json
import os
import pickle
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import make_image
from commands import command
from PIL import Image

from vlmtune.errors import EnvironmentProblem
from vlmtune.images import thumbnail
from vlmtune.tracking import ChangedRow, mlflow, wandb

ROW = ChangedRow("row | 7", thumbnail(make_image(40, 32)), ("a cat", "the cat"), "dog", "a cat\n| sat", 0.25)

SECRETS = {"WANDB_API_KEY": "c0ffee" * 6 + "beef", "HF_TOKEN": "hf_cAnArYcAnArYcAnArYcAnArYcAnArYcA"}
MLFLOW = {"MLFLOW_TRACKING_URI": "runs", "MLFLOW_ALLOW_FILE_STORE": "true"}
TRACK = """
import sys, pickle, importlib
from pathlib import Path
facts = {"config": {"seed": 1, "key": "${env:HF_TOKEN}"}, "dir": sys.argv[1], "name": "demo-lora", "id": "ab12"}
row = pickle.loads(Path("row").read_bytes())
for name in sys.argv[2:]:
    plugin = importlib.import_module(f"vlmtune.tracking.{name}")
    config = plugin.Config(**({"mode": "offline"} if name == "wandb" else {}))
    tracker = plugin.open_tracker(config, facts)
    tracker.log(1, {"loss": 2.0})
    if name in ("mlflow", "trackio"):
        tracker = plugin.open_tracker(config, facts)  # as a resumed training does
        tracker.log(2, {"loss": 1.0})
    tracker.log_rows("bleu", [row])
    tracker.finish({"validation_loss": 1.5, "verdict": "better"})
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the trackers, made in a process of its own: what W&B writes is complete when the process ends."""
    return track(tmp_path_factory.mktemp("tracked"), sys.executable, "wandb", "tensorboard", "mlflow")


def track(folder: Path, python: str, *names: str) -> Path:
    (folder / "row").write_bytes(pickle.dumps(ROW))
    variables = {**SECRETS, **MLFLOW, "HOME": str(folder)}
    ended = command(python, "-c", TRACK, str(folder), *names, cwd=folder, **variables)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
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


def test_mlflow_keeps_one_run_with_curve_config_rows_and_summary(tracked: Path) -> None:
    """Read from the files of its local store, which is made here; users have a server."""
    [run] = tracked.glob("runs/*/*/meta.yaml")
    assert {"run_name: demo-lora", "status: 3"} <= set(run.read_text().splitlines()), "finished"
    kept = {file.relative_to(run.parent).as_posix(): file for file in run.parent.rglob("*") if file.is_file()}
    points = [line.split()[1:] for line in kept["metrics/loss"].read_text().splitlines()]
    assert [(float(value), step) for value, step in points] == [(2.0, "1"), (1.0, "2")]
    texts = {name: kept[name].read_text() for name in ("params/seed", "tags/vlmtune.id", "tags/vlmtune.verdict")}
    assert list(texts.values()) == ["1", "ab12", "better"]
    assert kept["metrics/validation_loss"].read_text().split()[1] == "1.5"
    [row] = json.loads(kept["artifacts/before_and_after/rows.json"].read_text())["rows"]
    assert row["change in bleu"] == 0.25
    assert Image.open(kept[f"artifacts/{row['image']}"]).size == (40, 32)
    assert json.loads(kept["artifacts/config.json"].read_text()) == {"seed": 1, "key": "${env:HF_TOKEN}"}
    assert not [name for name in kept if "mlflow.source" in name or "git" in name], "nothing about the process"


def test_mlflow_without_a_server_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(EnvironmentProblem, match="set uri in tracking, or MLFLOW_TRACKING_URI"):
        mlflow.open_tracker(mlflow.Config(), {"config": {}, "dir": ".", "name": "x", "id": "ab12"})


def test_trackio_keeps_one_run_and_leaves_stdout_alone(tmp_path: Path) -> None:
    """In a Python of its own: Trackio needs an older Pillow."""
    python = os.environ.get("VLMTUNE_TRACKIO")
    if not python:
        pytest.skip("VLMTUNE_TRACKIO names no Python that has trackio, pydantic and rapidfuzz")
    track(tmp_path, python, "trackio")
    with contextlib.closing(sqlite3.connect(next(tmp_path.rglob("vlmtune.db")))) as kept:
        rows = kept.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert {name for name, _, _ in rows} == {"demo-lora-ab12"}
    logged = [json.loads(values) for _, _, values in rows]
    assert [(step, values["loss"]) for (_, step, _), values in zip(rows, logged, strict=True) if "loss" in values] == [
        (1, 2.0),
        (2, 1.0),
    ]
    assert logged[-1] == {"validation_loss": 1.5, "verdict": "better"}
    assert any("before and after" in values for values in logged)
    assert list(tmp_path.rglob("*.png"))


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


def _written(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in (folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_wandb_without_a_login_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    facts = {"config": {}, "dir": str(tmp_path), "name": "x", "id": "ab12"}
    with pytest.raises(EnvironmentProblem, match="run `wandb login`, or set mode: offline"):
        wandb.open_tracker(wandb.Config(), facts)
