"""Shards answered apart and merged are the unsharded file; what is not provably whole is refused, with a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import Notes
from typer.testing import CliRunner

from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.files import read_json
from vlmtune.inference import Shard
from vlmtune.pipeline import merge_shards, predict
from vlmtune.pipeline.session import Session
from vlmtune.predictions import read
from vlmtune.progress import Progress

CONFIG = """\
model: {name: tiny, device: cpu}
dataset:
  source: scenes
  references: [caption_0, caption_1]
  id: id
  limit: {train: 4, validation: 4, test: 12}
task: {name: captioning}
inference: {engine: fakes.engine, max_new_tokens: 8}
training: {precision: fp32}
evaluation:
  image_control_rows: 5
  baselines: [{name: short, length_instruction: true}]
"""
COUNT = 3
Begin = Callable[..., Session]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """A session in the run folder `folder`."""
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def begin(folder: str, *sets: str, notes: Notes | None = None) -> Session:
        config = load("c.yaml", [f"output.dir={folder}", *sets]).config
        return Session(config, Progress(notes or Notes()))

    return begin


def answered(begin: Begin, *sets: str) -> list[Path]:
    """The files of all shards, each in a run folder of its own."""
    return [predict.predict(begin(f"part {n}", *sets), shard=Shard(n, COUNT)) for n in range(COUNT)]


def plain(file: Path) -> list[dict[str, Any]]:
    """Lines of a prediction file without log-probabilities: those move in the last digit with the company."""
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in record.items() if "logprob" not in k} for record in records]


def names(folder: str) -> set[str]:
    return {str(file.relative_to(folder)) for file in Path(folder).rglob("*") if ".vlmtune" not in file.parts}


def test_merged_shards_are_the_unsharded_run(begin: Begin) -> None:
    """Of a real model: texts and tokens of every row and control, score, origin; the baseline, too."""
    engine = "inference={engine: hf, batch_size: 4}"
    whole = predict.predict(begin("whole", engine))
    shards = answered(begin, engine)
    assert [plain(file) != [] for file in shards] == [True] * COUNT, "an empty shard shows little"
    merged = merge_shards.merge(begin("merged", engine), shards[::-1])
    assert plain(merged) == plain(whole)
    for mine, other in zip(read(merged), read(whole), strict=True):
        assert mine.token_logprobs == pytest.approx(other.token_logprobs, abs=2e-4)
    both = [read_json(file.with_name(f"{file.stem}.controls.json")) for file in (merged, whole)]
    told = [[(line["id"], line["prediction"], line["tokens"]) for line in one["image"]["lines"]] for one in both]
    assert told[0] == told[1]
    assert len(told[0]) == 5
    assert read_json(Path("merged/metrics_baseline.json")) == read_json(Path("whole/metrics_baseline.json"))
    baselines = [file.with_name(file.name.replace("predictions.", "predictions.short.")) for file in shards]
    baseline = merge_shards.merge(begin("merged", engine), baselines)
    assert plain(baseline) == plain(whole.with_name(baseline.name))
    assert plain(baseline) != plain(merged)
    assert names("merged") == names("whole")
    notes = Notes()
    assert predict.predict(begin("merged", engine, notes=notes)) == merged
    assert notes.texts == [f"{merged} is finished", f"{baseline} is finished"]


def test_shards_one_after_the_other_in_one_folder(begin: Begin) -> None:
    shards = [predict.predict(begin("out"), shard=Shard(n, COUNT)) for n in range(COUNT)]
    ids = [{line.id for line in read(file)} for file in shards]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 12
    assert not list(Path("out").glob("*metrics*")), "a part has no score"
    merged = merge_shards.merge(begin("out"), shards)
    assert plain(merged) == plain(predict.predict(begin("whole")))


def test_more_shards_than_rows(begin: Begin) -> None:
    """Some are empty, and as much a part of the proof as any other."""
    few = "dataset.limit.test=2"
    shards = [predict.predict(begin("out", few), shard=Shard(n, 4)) for n in range(4)]
    assert sorted(len(read(file)) for file in shards)[:2] == [0, 0]
    merged = merge_shards.merge(begin("out", few), shards)
    assert plain(merged) == plain(predict.predict(begin("whole", few)))
    with pytest.raises(IntegrityError, match="1 of 4 shards are missing: 3"):
        merge_shards.merge(begin("other", few), shards[:3])


def without_row(file: Path) -> str:
    """Take the first row out of a shard; returns its id."""
    first, *others = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(others), encoding="utf-8")
    return str(json.loads(first)["id"])


def test_what_is_not_whole_is_refused(begin: Begin) -> None:
    shards = answered(begin)

    def refused(files: list[Path], *sets: str) -> str:
        with pytest.raises(IntegrityError) as raised:
            merge_shards.merge(begin("merged", *sets), files)
        assert not (names("merged") if Path("merged").exists() else set()), "nothing was written"
        return str(raised.value)

    assert "1 of 3 shards are missing: 1." in refused([shards[0], shards[2]])
    assert f"shard 0 is given twice: {shards[0]}, {shards[0]}" in refused([*shards, shards[0]])
    other = predict.predict(begin("other", "task.prompt=Say it."), shard=Shard(1, COUNT))
    said = refused([shards[0], other, shards[2]])
    assert f"{other} is not a shard of baseline_predictions.jsonl as this config makes it" in said
    assert "task.prompt" in said
    assert "image_control_rows: 5 there, 4 here" in refused(shards, "evaluation.image_control_rows=4")
    fourth = predict.predict(begin("fourth"), shard=Shard(1, 4))
    assert "is one of 4 shards" in refused([shards[0], fourth, shards[2]])
    whole = predict.predict(begin("whole"))
    assert "is not a shard: its manifest says that it holds all rows" in refused([whole])
    baseline = shards[1].with_name(shards[1].name.replace("predictions.", "predictions.short."))
    assert "prompt_baseline: " in refused([shards[0], baseline, shards[2]])


def test_a_changed_shard_is_refused(begin: Begin) -> None:
    shards = answered(begin)
    kept = [file.read_text(encoding="utf-8") for file in shards]

    def refused() -> str:
        with pytest.raises(IntegrityError) as raised:
            merge_shards.merge(begin("merged"), shards)
        shards[1].write_text(kept[1], encoding="utf-8")
        return str(raised.value)

    gone = without_row(shards[1])
    assert f"1 of 12 rows are in no shard: {gone}." in refused()
    moved = kept[0].splitlines(keepends=True)[0]
    shards[1].write_text(kept[1] + moved, encoding="utf-8")
    assert f"row {json.loads(moved)['id']!r} does not belong to shard 1 of 3" in refused()
    shards[1].write_text(kept[1] + '{"id": "stranger", "prediction": "a"}\n', encoding="utf-8")
    assert "row 'stranger' does not belong to shard 1 of 3" in refused()
    beside = [file.with_name(f"{file.stem}.controls.json") for file in shards]
    changed = next(file for file in beside if read_json(file)["image"])
    controls = read_json(changed)
    original = changed.read_text(encoding="utf-8")
    lines = controls["image"]["lines"]
    changed.write_text(json.dumps({**controls, "image": {"lines": lines[1:]}}), encoding="utf-8")
    assert f"1 of 5 rows with shuffled images are in no shard: {lines[0]['id']}." in refused()
    changed.write_text(json.dumps({**controls, "image": {"lines": [*lines, lines[0]]}}), encoding="utf-8")
    assert f"{lines[0]['id']!r} occurs twice among the rows with shuffled images" in refused()
    changed.unlink()
    assert "are missing; copy them to the same folder" in refused()
    changed.write_text(original, encoding="utf-8")
    shards[2].with_name(f"{shards[2].stem}.manifest.json").unlink()
    assert "manifest.json, is missing" in refused()


@pytest.mark.usefixtures("begin")
def test_the_two_commands() -> None:
    def said(*words: str) -> dict[str, Any]:
        ended = CliRunner().invoke(app, [*words, "--set", "output.dir=out", "--json", "--progress", "none"])
        assert ended.exit_code == 0, ended.exception
        return dict(json.loads(ended.stdout))

    files = [said("predict", "c.yaml", "--shards", "3", "--shard", str(n))["shard"] for n in range(COUNT)]
    assert files[1] == "out/baseline_predictions.shard-1-of-3.jsonl"
    merged = said("merge", "c.yaml", *files)
    assert len(read(Path("out/baseline_predictions.jsonl"))) == 12
    assert said("predict", "c.yaml") == merged


@pytest.mark.usefixtures("begin")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--shards", "3"], "--shards N and --shard I must be given together"),
        (["--shard", "0"], "--shards N and --shard I must be given together"),
        (["--shards", "3", "--shard", "3"], "with --shards 3 it is at most 2 (got 3)"),
        (["--shards", "3", "--shard", "0", "--parity", "2"], "it cannot be combined with --image or --parity"),
    ],
)
def test_options_that_name_no_shard(words: list[str], told: str) -> None:
    error = CliRunner().invoke(app, ["predict", "c.yaml", *words]).exception
    assert isinstance(error, ConfigError)
    assert told in str(error)
