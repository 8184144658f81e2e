"""Rows without labels are answered, and the uncertain ones picked for labelling."""

import json
from pathlib import Path

from commands import vlmtune, warm_vlmtune


def test_rows_without_labels_are_answered_and_the_doubtful_ones_written(tmp_path: Path) -> None:
    """Answered by the real engine, because the confidence is what it says."""
    (tmp_path / "c.yaml").write_text(
        "model: {name: tiny, device: cpu}\ndataset: {source: scenes, id: id, limit: {test: 6}}\n"
        "task: {name: captioning}\ninference: {max_new_tokens: 8}\ntraining: {precision: fp32}\n"
    )
    ran = warm_vlmtune("predict", "c.yaml", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "answered; the dataset has no labels to score against\n"
    assert "next: vlmtune data uncertain outputs/baseline_predictions.jsonl" in ran.stderr
    assert not list((tmp_path / "outputs").glob("metrics*"))
    assert json.loads((tmp_path / "outputs/baseline_predictions.controls.json").read_text())["image"] is None
    predictions = "outputs/baseline_predictions.jsonl"
    picked = vlmtune("data", "uncertain", predictions, "-n", "2", "-o", "next.jsonl", cwd=tmp_path)
    assert picked.returncode == 0, picked.stderr
    first, second = map(json.loads, (tmp_path / "next.jsonl").read_text().splitlines())
    assert first["confidence"] <= second["confidence"]
