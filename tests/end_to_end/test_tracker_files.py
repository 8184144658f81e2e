"""What real trackers write: W&B in offline mode and TensorBoard, in a process of their own."""

import json
import pickle
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import make_image
from commands import command

from vlmtune.errors import EnvironmentProblem
from vlmtune.images import thumbnail
from vlmtune.tracking import ChangedRow, wandb

ROW = ChangedRow("row | 7", thumbnail(make_image(40, 32)), ("a cat", "the cat"), "dog", "a cat\n| sat", 0.25)

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


def _written(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in (folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_wandb_without_a_login_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    facts = {"config": {}, "dir": str(tmp_path), "name": "x", "id": "ab12"}
    with pytest.raises(EnvironmentProblem, match="run `wandb login`, or set mode: offline"):
        wandb.open_tracker(wandb.Config(), facts)
