"""The classic commands, on fewer rows: four artifacts under USE_MOCK, one clear message without a network."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from commands import ROOT, Ended, command, warm_script

CONFIG = "flickr8k_captioning.yaml"
SMALL = ("--set", "dataset.limit={train: 800, validation: 16, test: 120}")


def classic(folder: Path, mode: str, **environment: str) -> Ended:
    return command(sys.executable, "main.py", "--mode", mode, "--config", CONFIG, cwd=folder, **environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """main.py and the configs, as a clone has them."""
    shutil.copy(ROOT / "main.py", tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    return tmp_path


def test_three_modes_leave_the_four_artifacts(folder: Path) -> None:
    said = {
        mode: warm_script("main.py", "--mode", mode, "--config", CONFIG, *SMALL, cwd=folder, USE_MOCK="True")
        for mode in ("baseline", "train", "eval")
    }
    for mode, ended in said.items():
        assert ended.returncode == 0, f"{mode}: {ended.stderr}"
        assert ended.stdout.startswith("USE_MOCK=True"), "said on screen"
    for name in ("baseline_predictions.jsonl", "lora_predictions.jsonl"):
        lines = [json.loads(line) for line in (folder / "outputs" / name).read_text().splitlines()]
        assert len(lines) == 120
        assert all({"id", "prediction", "references"} <= set(line) and len(line["references"]) == 5 for line in lines)
    scores = [json.loads((folder / f"outputs/metrics_{side}.json").read_text()) for side in ("baseline", "lora")]
    assert scores[0]["bleu"] < scores[1]["bleu"]
    assert all(score["mock"] for score in scores)
    assert (folder / "outputs/flickr8k_qwen3vl_lora/adapter_config.json").is_file()
    assert (folder / "outputs/flickr8k_qwen3vl_lora/adapter_model.safetensors").is_file()
    assert "Improved: bleu" in said["eval"].stdout
    assert "! made with USE_MOCK" in said["eval"].stdout
    assert "made with USE_MOCK" in (folder / "outputs/report.html").read_text(), "a page is sent around"


def test_without_mock_and_network_one_message_names_the_cause(folder: Path) -> None:
    ended = classic(folder, "baseline", USE_MOCK="False", HF_HUB_OFFLINE="1", HF_HOME=str(folder / "empty"))
    assert ended.returncode == 4
    (message,) = (line for line in ended.stderr.splitlines() if line.startswith("error:"))
    assert "'jxie/flickr8k' is not in the local cache and the Hub cannot be reached" in message
    assert "USE_MOCK=True" in message, "what to do"
    assert "Traceback" not in ended.stderr


def test_a_typo_in_use_mock_is_not_false(folder: Path) -> None:
    ended = classic(folder, "baseline", USE_MOCK="ture")
    assert ended.returncode != 0
    assert "USE_MOCK must be True or False (got 'ture')" in ended.stderr
