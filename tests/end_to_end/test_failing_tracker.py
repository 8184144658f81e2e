"""A tracker that raises or hangs at every call does not stop a run."""

import functools
import json
import sys
from pathlib import Path

import pytest
from commands import warm_vlmtune

FAKE = """
import time
from types import SimpleNamespace

def hurt(*words, **more):
    with open("hurt", "a") as file:
        file.write("x")
    {how}

api = SimpleNamespace(api_key="key")
def Settings(**more):
    return None
def init(**more):
    {opening}
    return SimpleNamespace(log=hurt, finish=hurt, summary=SimpleNamespace(update=hurt))
Table = Image = hurt
"""
SMALL = [
    "demo.yaml", "--progress", "plain",
    *("--set", "dataset.limit={train: 8, validation: 4, test: 6}", "--set", "evaluation.image_control_rows=0"),
    *("--set", "evaluation.statistics.resamples=100", "--set", "inference.max_new_tokens=4"),
    *("--set", "training.epochs=1", "--set", "training.batch_size=4", "--set", "training.log_every_steps=1"),
    *("--set", "tracking=[{to: wandb}]", "--set", "output.dir=out"),
]  # fmt: skip


def look_first_in(folder: str) -> None:
    sys.path.insert(0, folder)


@pytest.mark.parametrize(
    ("how", "opening", "said"),
    [
        ("raise RuntimeError('quota')", "pass", "wandb failed (quota); continuing without it"),
        ("time.sleep(600)", "pass", "wandb does not finish in time"),
        ("time.sleep(600)", "hurt()", "wandb does not finish in time"),
    ],
    ids=["raises", "sleeps", "sleeps at once"],
)
def test_a_wandb_that_raises_or_sleeps_at_every_call_stops_no_run(
    how: str, opening: str, said: str, tmp_path: Path
) -> None:
    """The run ends as usual, and the local curve is complete."""
    (tmp_path / "wandb.py").write_text(FAKE.format(how=how, opening=opening), encoding="utf-8")
    ended = warm_vlmtune("run", *SMALL, cwd=tmp_path, before=functools.partial(look_first_in, str(tmp_path)))
    assert ended.returncode == 0, ended.stderr
    assert said in ended.stderr
    assert (tmp_path / "hurt").is_file()
    manifest = json.loads((tmp_path / "out/lora/vlmtune.json").read_text())
    assert [point["step"] for point in manifest["curve"]] == [1, 2, 2]
    assert json.loads((tmp_path / "out/compare.json").read_text())["training"]["curve"] == manifest["curve"]
