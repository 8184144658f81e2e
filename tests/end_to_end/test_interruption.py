"""Ctrl-C, SIGTERM, kill and a full disk at any moment: the same command goes on, and ends in the same bytes."""

import hashlib
from pathlib import Path

import pytest
from commands import warm_vlmtune as vlmtune

SMALL = [
    "demo.yaml",
    *("--set", "dataset.limit={train: 48, select: 8, test: 24}", "--set", "evaluation.image_control_rows=8"),
    *("--set", "training.epochs=1", "--set", "training.batch_size=8", "--set", "training.micro_batch_size=8"),
    *("--set", "training.save_every_steps=2", "--set", "output.dir=out", "--progress", "plain"),
]
ADAPTER = "out/lora/adapter_model.safetensors"


def digest(folder: Path) -> dict[str, str]:
    names = [ADAPTER, "out/lora/adapter_config.json", "out/baseline_predictions.jsonl", "out/lora_predictions.jsonl"]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = vlmtune("run", *SMALL, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return digest(folder)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("checkpoint.weights:int", 130),
        ("checkpoint.moments:term:2", 75),
        ("checkpoint.complete:kill", -9),
        ("checkpoint.published:full", 4),
        ("file.appended:int:1", 130),
        ("manifest.before:kill:2", -9),
    ],
)
def test_the_same_command_ends_in_the_same_bytes(
    fault: str, code: int, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    stopped = vlmtune("run", *SMALL, cwd=tmp_path, VLMTUNE_FAULT=fault)
    assert stopped.returncode == code, stopped.stderr
    assert "Traceback" not in stopped.stderr
    if code in (75, 130):
        assert "Run the same command again to go on" in stopped.stderr
    again = vlmtune("run", *SMALL, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert digest(tmp_path) == undisturbed
