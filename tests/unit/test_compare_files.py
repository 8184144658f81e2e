"""How B was trained: found by the hash of its adapter, told by its comparison; where it was resumed is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import lines

from vlmtune.compare_files import compare_files, read_answered_file, score_file
from vlmtune.files import write_json
from vlmtune.predictions import read_any
from vlmtune.report import text
from vlmtune.run_folder import hash_adapter
from vlmtune.run_layout import ADAPTER_FILES
from vlmtune.scoring.score import reread
from vlmtune.scoring.truths import complete
from vlmtune.tasks import captioning
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
    assert found.result["training"] == {"steps": 9, "chosen_step": 9, "curve": CURVE}
    assert "training: loss 4 █▁ 1 over 9 steps, step 9 selected" in text.render(found.to_json())
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


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_unreadable_answers_are_counted_by_reading_them(tmp_path: Path) -> None:
    """Whatever the file says: it may come from another tool, or from a version that read answers differently."""
    truth = {"label": "fox", "class": {"label": "fox", "labels": ["fox", "hare"]}, "references": ["fox"]}
    rows = [
        {"id": "0", "prediction": "A fox", "unparsed": "names no label", **truth},
        {"id": "1", "prediction": "a cow", "answer": "fox", **truth},
        {"id": "2", "prediction": "<think>a fox, surely", **truth},
        {"id": "3", "prediction": None, **truth},
    ]
    file, task = write_rows(tmp_path / "a.jsonl", rows), {"name": "classification", "labels": ["fox", "hare"]}
    found = score_file(file, task)
    assert (found.rows["unparsed"], found.shares["unparsed"], found.metrics["accuracy"]) == (2, 0.6667, 1 / 3)
    compared = compare_files(file, write_rows(tmp_path / "b.jsonl", rows), task=task)
    assert compared.result["shares"]["b"]["unparsed"] == 0.6667
    assert [row["flags"]["a"] for row in compared.examples] == [[], ["unparsed"], ["unparsed"], ["failed"]]
    lines = read_answered_file(file, task)
    assert [line.unparsed for line in lines] == [None, "names no label", "the thinking was cut off", None]


def test_spelling_that_decides_a_score_is_said(tmp_path: Path) -> None:
    references = [["yes"] * 10, ["no"] * 10]
    rows = [
        [{"id": str(n), "prediction": text, "references": references[n % 2]} for n, text in enumerate(side * 15)]
        for side in (["Yes", "No."], ["yes", "no"])
    ]
    a, b = (write_rows(tmp_path / f"{name}.jsonl", side) for name, side in zip("ab", rows, strict=True))
    scored = score_file(a, "vqa")
    assert (scored.metrics["vqa_accuracy"], scored.metrics["textvqa_accuracy"]) == (0, 1)
    assert [note[:53] for note in scored.notes] == ["vqa_accuracy: 30 of 30 answers differ from their refer"[:53]]
    told = compare_files(a, b, task="vqa", evaluation={"primary": "vqa_accuracy"})
    (note,) = [warning for warning in told.result["warnings"] if "vqa_accuracy" in warning]
    assert note.startswith("a: vqa_accuracy: 30 of 30 answers")
    assert f"! {note}" in text.render(told.result)


def test_thinking_costs_neither_side_anything(tmp_path: Path) -> None:
    rows = [
        {"prediction": f"<think>x or y?</think>\n\n{answer}", "reference": answer} for answer in ("red", "U.S.", "2")
    ]
    found = score_file(write_rows(tmp_path / "a.jsonl", rows), "docvqa")
    assert (found.metrics["anls"], found.metrics["exact_match"], found.rows["unparsed"]) == (1, 1, 0)


def test_two_files_share_texts_ids_and_lines(tmp_path: Path) -> None:
    for name, answer in (("a", "a dog"), ("b", "a cat")):
        row = {"id": "row 1", "prediction": answer, "references": ["a dog on the grass", "one dog"]}
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps({**row, 'id': 'row 2'})}\n")
    read = [read_any(tmp_path / f"{name}.jsonl") for name in "ab"]
    (a, *_), (b, *_) = (file.lines for file in read)
    assert a.id is b.id
    assert a.meta is b.meta
    assert all(x is y for x, y in zip(a.references, b.references, strict=True))
    completed, _ = complete(read[0].lines, read[0].where, captioning.TASK, captioning.Config())
    assert completed[0] is a
    answered = reread(completed, captioning.TASK, captioning.Config())
    assert reread(answered, captioning.TASK, captioning.Config())[0] is answered[0]
