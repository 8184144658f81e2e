"""Rows that are left out: within the budget, named, part of the identity of artifacts, equal on both sides."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import Notes, encoded, make_image

from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.dataset_check.quarantine import Quarantine, Remaining
from vlmtune.errors import DataError, IntegrityError
from vlmtune.pipeline import predict, run
from vlmtune.pipeline.session import Session, rows_facts
from vlmtune.pipeline.train import training_examples
from vlmtune.predictions import read
from vlmtune.progress import Progress, Silent
from vlmtune.run_folder import read_manifest
from vlmtune.run_layout import QUARANTINE
from vlmtune.signals import StopRequest

CONFIG = """\
model: {name: tiny, device: cpu}
dataset:
  source: jsonl
  path: data
  references: [caption]
  id: id
task: {name: captioning}
inference: {engine: fakes.engine}
training: {max_tokens: 400}
evaluation: {image_control_rows: 0, statistics: {resamples: 100}}
output: {dir: out}
"""
ROLES = ("train", "validation", "test")
Begin = Callable[..., Session]
ALLOWED = "dataset.max_bad_fraction=0.5"


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Ten good rows of each role; `spoil` makes some of them bad."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG, encoding="utf-8")
    Path("data").mkdir()
    for number, role in enumerate(ROLES):
        lines = []
        for n in range(10):
            name = f"quarantine-{role}-{n}.png"
            Path("data", name).write_bytes(encoded(make_image(64, 64, 100 * number + n)))
            lines.append(json.dumps({"id": f"{role}-{n}", "image": name, "caption": f"a ball {n} ."}) + "\n")
        Path("data", f"{role}.jsonl").write_text("".join(lines), encoding="utf-8")

    def begin(*sets: str, notes: Notes | None = None) -> Session:
        return Session(load("c.yaml", list(sets)).config, Progress(notes or Silent()))

    return begin


def spoil(role: str, row: int, line: str | None = None, **changed: Any) -> None:
    file = Path("data", f"{role}.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[row] = line if line is not None else json.dumps({**json.loads(lines[row]), **changed})
    file.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")


def tear(role: str, row: int) -> None:
    file = Path("data", f"quarantine-{role}-{row}.png")
    file.write_bytes(file.read_bytes()[:-3000])


def entry(role: str) -> Any:
    return json.loads(Path("out", QUARANTINE).read_text())["roles"][role]


def test_without_a_budget_nothing_is_left_out(begin: Begin) -> None:
    tear("train", 3)
    session = begin()
    rows = session.rows("train")
    assert len(rows) == 10
    assert set(rows_facts(rows)) == {"rows", "fingerprint"}
    assert not Path("out", QUARANTINE).exists()
    with pytest.raises(DataError, match="train-3 .*cannot be decoded.*\n.*data check.*max_bad_fraction"):
        training_examples(session, rows).check("train", Progress(Silent()), StopRequest())
    spoil("train", 3, "no JSON")
    with pytest.raises(DataError, match="train.jsonl:4: not JSON"):
        begin().rows("train")


def test_bad_train_rows_within_the_budget_are_left_out_and_named(begin: Begin) -> None:
    tear("train", 3)
    spoil("train", 4, "no JSON")
    spoil("train", 5, caption=" ")
    spoil("train", 6, id="train-0")
    spoil("train", 7, caption="a ball " * 400)
    notes = Notes()
    rows = begin(ALLOWED, notes=notes).rows("train")
    left_out = ["train-3", "row 4", "train-5", "row 6", "train-7"]
    assert [rows.id(n) for n in range(len(rows))] == [f"train-{n}" for n in (0, 1, 2, 8, 9)]
    assert [row.id for row in rows] == [rows[n].id for n in range(5)] == [rows.with_target(n, 0).id for n in range(5)]
    assert rows_facts(rows)["left_out"] == left_out
    assert [each["id"] for each in entry("train")["left_out"]] == left_out
    said = [each["reason"] for each in entry("train")["left_out"]]
    for reason, part in zip(
        said, ("decoded", "not JSON", "is empty", "ids must differ", "training.max_tokens"), strict=True
    ):
        assert part in reason
    assert notes.texts == [f"5 rows of train left out, see out/{QUARANTINE}"]


def test_one_bad_row_more_than_allowed_is_refused(begin: Begin) -> None:
    tear("train", 3)
    tear("train", 4)
    assert len(begin("dataset.max_bad_fraction=0.2").rows("train")) == 8
    with pytest.raises(DataError, match=r"2 of 10 train rows cannot be used \(20.0%\).*\(19.0%\):\n.*train-3") as error:
        begin("dataset.max_bad_fraction=0.19").rows("train")
    assert error.value.exit_code == 3
    for row in range(10):
        tear("validation", row)
    with pytest.raises(DataError, match="10 of 10 validation rows"):
        begin("dataset.max_bad_fraction=1").rows("validation")


def test_rows_are_checked_once_and_again_after_a_change(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    tear("train", 3)
    first = begin(ALLOWED).rows("train").fingerprint
    looks: list[str] = []
    real = Quarantine.write

    def write(self: Quarantine, name: str, *more: Any) -> None:
        looks.append(name)
        real(self, name, *more)

    monkeypatch.setattr(Quarantine, "write", write)
    assert begin(ALLOWED).rows("train").fingerprint == first
    assert looks == []
    notes = Notes()
    assert len(begin(ALLOWED, "training.max_tokens=300", notes=notes).rows("train")) == 9
    assert looks == ["train"]
    assert any("is about other train rows or settings" in text for text in notes.texts)
    tear("train", 8)
    assert begin(ALLOWED, "training.max_tokens=300").rows("train").fingerprint != first
    assert looks == ["train", "train"]


def test_different_quarantines_have_different_fingerprints(begin: Begin) -> None:
    rows = begin().rows("train")
    prints = {Remaining(rows, left_out).fingerprint for left_out in ({}, {1: "a"}, {2: "a"}, {1: "a", 2: "a"})}
    assert len(prints | {rows.fingerprint}) == 5
    assert Remaining(rows, {1: "a"}).fingerprint == Remaining(rows, {1: "b"}).fingerprint
    with pytest.raises(IndexError):
        Remaining(rows, {1: "a"})[9]


def test_an_undecodable_test_row_is_answered_unless_the_check_left_it_out(begin: Begin) -> None:
    """It becomes a counted failure; a row that cannot be read is left out."""
    tear("test", 3)
    spoil("test", 4, "no JSON")
    session = begin(ALLOWED)
    lines = read(predict.predict(session))
    assert [line.id for line in lines] == [f"test-{n}" for n in range(10) if n != 4]
    manifest = read_manifest(session.files.baseline)
    assert manifest is not None
    assert manifest["origin"]["dataset"]["left_out"] == ["row 4"]


def check(*sets: str) -> None:
    words = [word for one in sets for word in ("--set", one)]
    app(["data", "check", "c.yaml", "--progress", "none", *words], standalone_mode=False)


def test_both_sides_leave_out_what_the_check_left_out(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    tear("test", 3)
    check(ALLOWED)
    assert "will be left out" in capsys.readouterr().out
    assert [each["id"] for each in entry("test")["left_out"]] == ["test-3"]
    assert entry("train")["left_out"] == []
    session = begin(ALLOWED)
    file = predict.predict(session)
    assert len(read(file)) == 9
    manifest = read_manifest(file)
    assert manifest is not None
    facts = manifest["origin"]["dataset"]
    assert (facts["rows"], facts["left_out"]) == (9, ["test-3"])
    # The other side asks the same rows, and says so the same way.
    assert rows_facts(begin(ALLOWED).rows("test")) == facts


def test_answers_from_before_and_after_a_check_are_not_mixed(begin: Begin) -> None:
    tear("test", 3)
    predict.predict(begin(ALLOWED))
    check(ALLOWED)
    with pytest.raises(IntegrityError, match="left_out"):
        predict.predict(begin(ALLOWED))


def test_a_leaking_train_row_is_left_out_after_a_check(begin: Begin) -> None:
    Path("data", "quarantine-train-2.png").write_bytes(Path("data", "quarantine-test-5.png").read_bytes())
    with pytest.raises(DataError, match="1 error;"):
        check()
    assert len(begin(ALLOWED).rows("train")) == 10, "only a check compares splits"
    check(ALLOWED)
    rows = begin(ALLOWED).rows("train")
    assert rows_facts(rows)["left_out"] == ["train-2"]
    reason = entry("train")["left_out"][0]["reason"]
    assert reason.endswith("train.jsonl:3 (quarantine-train-2.png): shows the same pixels as test-5 of the test rows")


def test_a_run_stops_at_bad_rows_before_the_first_prediction(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    tear("train", 3)
    monkeypatch.setattr(predict, "predict", None)
    with pytest.raises(DataError, match="train-3"):
        run.run(begin())


def test_a_damaged_quarantine_is_named(begin: Begin) -> None:
    Path("out").mkdir()
    Path("out", QUARANTINE).write_text("[]")
    with pytest.raises(IntegrityError, match=QUARANTINE):
        begin(ALLOWED).rows("train")
