"""`vlmtune label`: a teacher's labels, what they are worth, and the report of a training on them."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import vlmtune_in_process, warm_vlmtune

from vlmtune.config import load_config
from vlmtune.data import open_role
from vlmtune.images import decode_rgb

SETS = [
    "dataset.limit={train: 40, validation: 12, test: 16}",
    "training.epochs=1",
    "training.workers=0",
    "evaluation.metrics=[chrf]",
    "evaluation.image_control_rows=0",
    "inference.max_new_tokens=16",
]
UNLABELLED, LEAKED = 5, 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without labels; two of them are of the evaluation and validation rows, under other names."""
    folder = tmp_path_factory.mktemp("photos")
    config = load_config("demo", ["dataset.limit={train: 60, validation: 12, test: 16}"])
    train, validation, test = (open_role(config.dataset, role) for role in ("train", "validation", "test"))
    rows = [*(train[n] for n in range(50, 50 + UNLABELLED)), validation[3], test[4]]
    for number, row in enumerate(rows):
        decode_rgb(row.images[0]).save(folder / f"{number}.png")
    return folder


def label(folder: Path, photos: Path, *more: str) -> tuple[int, str, str]:
    block = f"label={{dataset: {{source: imagefolder, path: {photos}, splits: {{train: .}}}}, samples: 1}}"
    sets = [f"--set={one}" for one in (*SETS, block, *more)]
    ended = warm_vlmtune("label", "demo", *sets, "--json", "--progress", "none", cwd=folder)
    return ended.returncode, ended.stdout, ended.stderr


def test_labels_become_train_rows_and_the_report_says_whose_they_are(photos: Path, tmp_path: Path) -> None:
    code, out, err = label(tmp_path, photos)
    assert code == 0, err
    said: dict[str, Any] = json.loads(out)
    assert said["rows"] == {"asked": 7, "labelled": 5, "failed": 0, "filtered": 0, "evaluated": 2}
    assert said["teacher"] == "tiny"
    worth = said["filters"]
    assert {one["filter"] for one in worth} == {"agreement", "confidence", "configured"}
    assert worth[0]["rows"] == said["validation_rows"] == 12
    assert worth[0]["low"] <= worth[0]["score"] <= worth[0]["high"]
    labels = tmp_path / "outputs" / "demo" / "labels"
    rows = [json.loads(line) for line in (labels / "rows.jsonl").open()]
    assert all(row["label"] and 0 <= row["agreement"] <= 1 and 0 < row["confidence"] <= 1 for row in rows)
    assert label(tmp_path, photos)[1] == out, "finished labels are not asked for again"
    dataset = (
        f"{{source: jsonl, path: {labels}, image: images, references: [label], id: id, splits: {{train: rows.jsonl}}}}"
    )
    mixed = f"datasets=[{{name: t, weight: 0.25, evaluate: false, dataset: {dataset}, task: {{name: captioning}}}}]"
    sets = [f"--set={one}" for one in (*SETS, mixed)]
    ended = warm_vlmtune("run", "demo", *sets, "--json", "--progress", "none", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["training"]["teachers"] == {"tiny": 0.25}
    assert "teachers.tiny" in (tmp_path / "outputs" / "demo" / "report.html").read_text()


def test_filters_leave_rows_out_and_never_all_of_them(photos: Path, tmp_path: Path) -> None:
    assert label(tmp_path, photos)[0] == 0
    values = sorted(json.loads(line)["confidence"] for line in (tmp_path / "outputs/demo/labels/rows.jsonl").open())
    strict = label(tmp_path, photos, f"label.min_confidence={values[2]}", "output.dir=strict")
    assert json.loads(strict[1])["rows"] == {"asked": 7, "labelled": 3, "failed": 0, "filtered": 2, "evaluated": 2}
    none = label(tmp_path, photos, "label.min_confidence=1", "output.dir=none")
    assert none[0] == 3
    assert "no row can be used" in none[2]


@pytest.mark.parametrize(
    ("config", "columns", "message"),
    [
        ("demo", None, "no label block"),
        ("demo_grounding", "", "are not texts"),
        ("demo", ", video: clip", "label.dataset.video: only rows with images or texts"),
    ],
)
def test_what_cannot_be_labelled_is_named(
    config: str, columns: str | None, message: str, photos: Path, tmp_path: Path
) -> None:
    source = "imagefolder" if columns == "" else "jsonl"
    block = f"label={{dataset: {{source: {source}, path: {photos}{columns}}}}}" if columns is not None else "label=null"
    ended = vlmtune_in_process("label", config, f"--set={block}", cwd=tmp_path)
    assert ended.returncode == 2
    assert message in ended.stderr
