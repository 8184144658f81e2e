"""How B was trained: found by the hash of its adapter, told by its comparison; where it was resumed is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import lines

from vlmtune.compare_files import compare_files
from vlmtune.files import write_json
from vlmtune.report import text
from vlmtune.run_folder import hash_adapter
from vlmtune.run_layout import ADAPTER_FILES
from vlmtune.training.log import TrainingLog, resumed_at

CURVE = [{"step": 1, "loss": 4.0}, {"step": 9, "loss": 1.0}]


def adapter(folder: Path, weights: bytes, **facts: Any) -> str:
    folder.mkdir()
    (folder / ADAPTER_FILES[0]).write_text("{}")
    (folder / ADAPTER_FILES[1]).write_bytes(weights)
    write_json(folder / "vlmtune.json", {"schema_version": 1, "mock": False, "origin": {}, "curve": CURVE, **facts})
    return hash_adapter(folder)


def answers(folder: Path, name: str, noise: float, adapter: str | None) -> Path:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(line.to_json() + "\n" for line in lines(30, noise)), encoding="utf-8")
    origin = {"adapter": adapter, "task": {"name": "captioning"}}
    write_json(folder / f"{name}.manifest.json", {"schema_version": 1, "mock": False, "origin": origin})
    return file


def test_a_comparison_tells_the_training_of_its_own_adapter(tmp_path: Path) -> None:
    adapter(tmp_path / "another", b"other weights", chosen_step=1)
    own = adapter(tmp_path / "own", b"weights", chosen_step=9, resumed_at=[4], seconds_in_steps=3.5, steps=9)
    base, tuned = answers(tmp_path, "base", 0.6, None), answers(tmp_path, "tuned", 0.3, own)
    found = compare_files(base, tuned)
    assert found.result["training"] == {"steps": 9, "chosen_step": 9, "resumed_at": [4], "curve": CURVE}
    assert "training: loss 4 █▁ 1 over 9 steps, step 9 selected, resumed after step 4" in text.render(found.to_json())
    assert compare_files(tuned, base).result["training"] is None
    assert compare_files(base, answers(tmp_path, "gone", 0.3, "0123")).result["training"] is None


def test_of_several_seeds_the_first_is_shown_by_name(tmp_path: Path) -> None:
    made = [answers(tmp_path, f"tuned{n}", 0.3, adapter(tmp_path / f"a{n}", bytes([n]), chosen_step=n)) for n in (1, 2)]
    told = compare_files(answers(tmp_path, "base", 0.6, None), made).result["training"]
    assert (told["seed_shown"], told["chosen_step"]) == ("tuned1", 1)


def test_resumptions_are_kept_and_cut_with_the_curve(tmp_path: Path) -> None:
    history = TrainingLog(tmp_path, lambda step, values: None)
    history.resume(0)
    assert resumed_at(tmp_path) == []
    for step in (10, 20, 20, 30):
        history.point(step, {"loss": 1.0})
        history.point(step + 5, {"loss": 1.0})
        history.resume(step)
    assert resumed_at(tmp_path) == [10, 20, 30]
    history.resume(20)  # the newest checkpoint was damaged
    assert resumed_at(tmp_path) == [10, 20]
    assert [point["step"] for point in history.points()] == [10, 20, 20]


@pytest.mark.parametrize("missing", ["resumed.jsonl"])
def test_a_folder_of_an_older_version_has_no_resumptions(tmp_path: Path, missing: str) -> None:
    (tmp_path / "curve.jsonl").write_text(json.dumps(CURVE[0]) + "\n")
    assert not (tmp_path / missing).exists()
    assert resumed_at(tmp_path) == []
