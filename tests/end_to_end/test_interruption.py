"""A kill at every fault point and at random moments, Ctrl-C, SIGTERM, a full disk: the same command goes on.

It ends in the same bytes as if nothing had happened.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from commands import warm_vlmtune
from kills import kill_at_random_moments
from sources import PACKAGE

SMALL = [
    "demo.yaml",
    *("--set", "dataset.limit={train: 12, validation: 4, test: 6}", "--set", "evaluation.image_control_rows=2"),
    *("--set", "evaluation.statistics.resamples=100", "--set", "inference.max_new_tokens=6"),
    *("--set", "training.epochs=1", "--set", "training.batch_size=4", "--set", "training.log_every_steps=1"),
    *("--set", "training.save_every_steps=1", "--set", "output.dir=out", "--progress", "plain"),
]
"""Three optimizer steps, a checkpoint after each, the last one included."""

STEPS = ("predict", "train", "run")
"""In this order each finds what it needs: `run` has only the tuned answers and the comparison left to make."""

KILLED = {
    "checkpoint.weights": ["train:2"],
    "checkpoint.moments": ["train:3"],
    "checkpoint.complete": ["train:2"],
    "checkpoint.published": ["train:1", "train:3"],
    "file.written": ["predict:1", "predict:8", "train:2", "run:5"],
    "file.appended": ["predict:1", "predict:2", "train:4", "run:1"],
    "manifest.before": ["predict:1", "train:1", "run:1"],
    "manifest.after": ["predict:1", "train:1", "run:1"],
}
"""Every fault point of the source: where it is killed, as step:n-th hit."""

ASKED = [
    ("train", "checkpoint.weights:int", 130),
    ("train", "checkpoint.moments:term:2", 75),
    ("predict", "file.appended:int", 130),
    ("predict", "file.appended:term", 75),
    ("train", "checkpoint.published:full:2", 4),
]

MEASURED = "measured.json"
"""What an adapter's folder says of the processes that trained it: the only file that may tell two runs apart."""


def state(folder: Path) -> dict[str, str]:
    """Every result with its hash: adapter, samples, answers, manifests, controls, scores, comparison, page."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and ".vlmtune" not in file.parts)
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.name != MEASURED
    }


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of an undisturbed run: `predict`, `train`, `run` as each left them, `before <step>` as it found them."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "before predict").mkdir()
    for step, following in zip(STEPS, (*STEPS[1:], None), strict=True):
        shutil.copytree(root / f"before {step}", root / step)
        ended = warm_vlmtune(step, *SMALL, cwd=root / step)
        assert ended.returncode == 0, ended.stderr
        if following:
            shutil.copytree(root / step, root / f"before {following}")
    return root


def stop_and_go_on(step: str, fault: str, code: int, folder: Path, stages: Path) -> str:
    """Let a step end early, give its command again, compare; returns what was said at the early end."""
    here = folder / "here"
    shutil.copytree(stages / f"before {step}", here)
    stopped = warm_vlmtune(step, *SMALL, cwd=here, VLMTUNE_FAULT=fault)
    assert stopped.returncode == code, stopped.stderr
    assert "Traceback" not in stopped.stderr
    again = warm_vlmtune(step, *SMALL, cwd=here)
    assert again.returncode == 0, again.stderr
    assert state(here) == state(stages / step)
    assert sorted(path.name for path in (here / "out/.vlmtune").iterdir()) == ["lock"]
    return stopped.stderr


def test_every_fault_point_has_its_crash() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py"))
    assert set(re.findall(r"fault_injection\.hit\(\"([^\"]+)\"\)", source)) == set(KILLED)
    assert source.count("fault_injection.hit(") == len(re.findall(r"fault_injection\.hit\(\"[^\"]+\"\)", source))


@pytest.mark.parametrize(("point", "where"), [(point, where) for point in KILLED for where in KILLED[point]])
def test_killed_at_any_point_the_same_command_ends_in_the_same_bytes(
    point: str, where: str, tmp_path: Path, stages: Path
) -> None:
    step, count = where.split(":")
    stop_and_go_on(step, f"{point}:kill:{count}", -9, tmp_path, stages)


@pytest.mark.parametrize(("step", "fault", "code"), ASKED)
def test_stopped_in_an_orderly_way_it_says_how_to_go_on(
    step: str, fault: str, code: int, tmp_path: Path, stages: Path
) -> None:
    said = stop_and_go_on(step, fault, code, tmp_path, stages)
    assert ("run the same command again" if code == 4 else "Run the same command again to resume") in said


EVALUATED = [
    *SMALL,
    *("--set", "dataset.limit.test=96", "--set", "inference.batch_size=4", "--set", "inference.max_new_tokens=12"),
]
"""Enough batches that most moments find some answers saved and others not."""


def saved(folder: Path) -> int:
    """Answers that a killed evaluation left, of which a row has one at most."""
    count = 0
    for partial in folder.rglob("answers.jsonl"):
        ids = Counter(json.loads(line)["id"] for line in partial.read_bytes().split(b"\n")[:-1])
        assert set(ids.values()) <= {1}
        count += len(ids)
    return count


def test_an_evaluation_killed_at_random_moments_answers_every_row_once(tmp_path: Path, soak: bool) -> None:
    whole, folders = kill_at_random_moments(["predict", *EVALUATED], 20 if soak else 2, tmp_path, shown=saved)
    expected = [json.loads(line)["id"] for line in (whole / "out/baseline_predictions.jsonl").open(encoding="utf-8")]
    assert len(set(expected)) == 96
    for here in folders:
        lines = (here / "out/baseline_predictions.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["id"] for line in lines] == expected
        assert state(here) == state(whole)


def test_the_whole_story_killed_at_random_moments_ends_in_the_same_bytes(tmp_path: Path, soak: bool) -> None:
    """Baseline, adapter, answers, comparison and page."""
    whole, folders = kill_at_random_moments(["run", *SMALL], 20 if soak else 2, tmp_path)
    assert {"out/lora/adapter_model.safetensors", "out/lora_predictions.jsonl"} <= state(whole).keys()
    for here in folders:
        assert state(here) == state(whole)
