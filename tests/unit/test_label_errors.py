"""Label errors are found among noisy training losses, and shown with the content of their rows."""

import html
import json
import math
from pathlib import Path

import numpy as np
import pytest
from commands import vlmtune_in_process

from vlmtune.data import scenes
from vlmtune.dataset_check.label_errors import rank_label_errors, read_loss_log
from vlmtune.errors import DataError


def loss_log(rows: int, wrong: set[int], epochs: int = 2) -> list[dict[str, object]]:
    """Losses that fall over the steps, with noise; those of wrong labels stay high."""
    rng = np.random.default_rng(3)
    log: list[dict[str, object]] = []
    for epoch in range(epochs):
        for row in rng.permutation(rows).tolist():
            level = 4 * math.exp(-len(log) / rows) + 0.5
            loss = level * math.exp(0.3 * rng.normal()) + (3 if row in wrong else 0)
            log.append({"step": len(log) // 8, "id": f"row {row}", "target": 0, "epoch": epoch, "loss": loss})
    return log


def test_wrong_labels_are_found_at_any_step() -> None:
    """Losses fall to an eighth during training: ranked by loss alone, the first rows would look wrong."""
    wrong = set(range(0, 800, 40))
    log = loss_log(800, wrong)
    found = {one.id for one in rank_label_errors(log, 20)}
    assert len(found & {f"row {row}" for row in wrong}) >= 17
    worst = sorted(log, key=lambda entry: -float(str(entry["loss"])))[:20]
    assert len({entry["id"] for entry in worst} & {f"row {row}" for row in wrong}) <= 10
    (first,) = rank_label_errors(log, 1)
    assert len(first.losses) == 2


def test_targets_of_one_row_are_ranked_separately() -> None:
    log = [{"id": f"row {n % 10}", "target": n % 2, "loss": 1.0 + 0.01 * (n % 7)} for n in range(100)]
    for entry in log:
        if (entry["id"], entry["target"]) == ("row 3", 1):
            entry["loss"] = 3.0
    (first,) = rank_label_errors(log, 1)
    assert (first.id, first.target) == ("row 3", 1)


def test_label_errors_are_shown_with_their_rows(tmp_path: Path) -> None:
    """The page has the image and text of each, and no script."""
    (tmp_path / "c.yaml").write_text(
        "model: {name: tiny}\ndataset: {source: scenes, references: [caption_0, caption_1], target: each, id: id,\n"
        "  limit: {train: 20}}\ntask: {name: captioning}\n"
    )
    folder = tmp_path / "outputs" / "lora"
    folder.mkdir(parents=True)
    log = [
        {"id": f"train-{n:05d}", "target": target, "epoch": 0, "loss": 5.0 if (n, target) == (7, 1) else 1 + 0.01 * n}
        for n in range(20)
        for target in (0, 1)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    ran = vlmtune_in_process("data", "label-errors", "c.yaml", "-n", "3", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    first, *others = map(json.loads, ran.stdout.splitlines())
    assert (first["id"], first["row"], first["target_index"], first["losses"]) == ("train-00007", 7, 1, [5.0])
    row = scenes.record("train", 7)
    assert (first["target"], first["other_references"]) == (row["caption_1"], [row["caption_0"]])
    assert len(others) == 2
    page = (tmp_path / "outputs" / "label_errors.html").read_text()
    assert html.escape(row["caption_1"]) in page
    assert page.count("data:image/webp") == 3
    assert "<script" not in page
    shorter = vlmtune_in_process("data", "label-errors", "c.yaml", "--set", "dataset.limit.train=5", cwd=tmp_path)
    assert shorter.returncode == 3
    assert "the adapter was trained on a row 'train-00007'" in shorter.stderr


def test_a_missing_loss_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="samples.jsonl does not exist"):
        read_loss_log(tmp_path)
