"""What tuning broke: further evaluation sets, and parts of the rows that an average hides."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from builders import QUICK, judged, lines

from vlmtune.config import load
from vlmtune.errors import ConfigError, DataError, IntegrityError
from vlmtune.pipeline import merge_shards, predict, run
from vlmtune.pipeline.session import Session
from vlmtune.predictions import Line
from vlmtune.report import ReportConfig, html, markdown, text
from vlmtune.scoring.comparison import Comparison, with_additional_sets

CONFIG = """\
model: {name: tiny, device: cpu}
dataset:
  {source: scenes, references: [caption_0, caption_1], id: id, limit: {train: 8, validation: 4, test: 30}}
task: {name: captioning}
inference: {engine: fakes.engine}
evaluation:
  image_control_rows: 4
  statistics: {resamples: 100}
  additional:
    - name: questions
      dataset: {source: scenes, question: question, references: [answer], id: id, limit: {test: 24}}
      task: {name: vqa}
      metrics: [exact_match]
    - name: more
      split: validation
      dataset: {source: scenes, references: [caption_0, caption_1], id: id, limit: {validation: 22}}
      task: {name: captioning}
"""
Begin = Callable[..., Session]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return lambda *sets: Session(load("c.yaml", ["output.dir=out", *sets]).config)


def adapter(session: Session, selection: list[str]) -> Path:
    folder = session.files.adapter
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    manifest = {"schema_version": 1, "mock": False, "origin": session.provenance().parts, "selection_ids": selection}
    (folder / "vlmtune.json").write_text(json.dumps(manifest))
    return folder


def test_sets_are_answered_with_the_run_s_own_settings(begin: Begin) -> None:
    """One engine answers all rows; a set need not have train rows of its own to derive settings from."""
    session = begin("training.seeds=[1, 2]")
    assert all(other.inference is session.inference for other in session.additional)
    assert all(seeded.inference is session.inference for other in session.additional for seeded in other.seeds)


def test_both_models_answer_further_sets_and_each_is_compared(begin: Begin) -> None:
    """From one engine per side, in files of their own, with the metrics of their own task."""
    session = begin()
    tuned = adapter(session, ["validation-00000", "test-00001"])
    predict.predict(session)
    predict.predict(session, tuned)
    comparison = run.compare(session)
    questions, more = comparison.result["additional"]
    assert [questions["name"], more["name"]] == ["questions", "more"]
    assert [entry["name"] for entry in questions["metrics"]] == ["exact_match"]
    assert questions["rows"]["compared"] == 24
    assert more["rows"]["selection"] == 1, "rows of the trained dataset that chose the checkpoint are no evidence here"
    assert questions["rows"]["selection"] == 0, "another dataset's row of the same id is another row"
    names = {file.name for file in Path("out").iterdir()}
    assert {
        "compare.questions.json",
        "report.questions.html",
        "lora_predictions.more.jsonl",
        "regressions.jsonl",
    } <= names
    assert {"metrics_baseline.questions.json", "lora_predictions.questions.controls.json"} <= names
    own = json.loads(Path("out/compare.questions.json").read_text())
    assert own["metrics"] == questions["metrics"]
    assert len(own["examples"]) == 24
    assert [json.loads(line)["id"] for line in Path("out/regressions.jsonl").read_text().splitlines()] == [
        row["id"] for row in comparison.regressions()
    ]


def test_a_finished_set_is_not_asked_again_and_another_dataset_is_refused(begin: Begin) -> None:
    predict.predict(begin())
    before = Path("out/baseline_predictions.questions.jsonl").stat().st_mtime_ns
    predict.predict(begin())
    assert Path("out/baseline_predictions.questions.jsonl").stat().st_mtime_ns == before
    Path("c.yaml").write_text(CONFIG.replace("name: vqa", "name: vqa, prompt: 'Say {question}'"), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"baseline_predictions.questions.jsonl was made from another"):
        predict.predict(begin())


def test_a_set_that_cannot_be_scored_stops_everything_before_the_model(begin: Begin) -> None:
    broken = CONFIG.replace("metrics: [exact_match]", "metrics: [exact_match]\n").replace(
        "references: [answer], id: id", "references: [phrase], id: id"
    )
    Path("c.yaml").write_text(broken, encoding="utf-8")
    with pytest.raises(DataError, match="evaluation.additional, questions: .*column 'phrase'"):
        predict.predict(begin())
    assert not Path("out/baseline_predictions.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "selected"),
    [("", 1), ("meta: [label], ", 1), ("question: question, ", 1), ("id: ", 22)],
    ids=["the same block", "with metadata", "with a question", "without ids"],
)
def test_rows_that_chose_are_no_evidence_however_they_are_called(begin: Begin, change: str, selected: int) -> None:
    """Another column in the block does not make other rows of them."""
    old = "{source: scenes, references: [caption_0, caption_1], id: id, limit: {validation: 22}}"
    new = old.replace("{source: scenes, ", f"{{source: scenes, {change}")
    new = old.replace(" id: id,", "") if change == "id: " else new
    Path("c.yaml").write_text(CONFIG.replace(old, new), encoding="utf-8")
    session = begin()
    tuned = adapter(session, ["validation-00000"])
    predict.predict(session)
    predict.predict(session, tuned)
    assert run.compare(session).result["additional"][1]["rows"]["selection"] == selected


def test_a_set_that_cannot_be_compared_costs_only_itself(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begin()
    predict.predict(session)
    predict.predict(session, adapter(session, []))
    Path("out/lora_predictions.more.jsonl").write_text("")
    with pytest.raises(DataError, match="has no rows"):
        run.compare(session)
    assert json.loads(Path("out/compare.json").read_text())["status"]


def test_what_fell_on_a_set_beside_its_primary_metric_is_said() -> None:
    better, _ = better_and_worse()
    level = judged(lines(60, 0.4), lines(60, 0.4, seed=2))
    fell = replace(level, result={**level.result, "warnings": ["chrf got worse: 60.1 → 50.2"]})
    found = with_additional_sets(better, {"general": fell})
    assert found.result["warnings"] == ["general: chrf got worse: 60.1 → 50.2"]
    assert "No loss shown" not in found.verdict


def test_shards_of_a_set_become_its_file(begin: Begin) -> None:
    from vlmtune.inference import Shard

    predict.predict(begin())
    whole = Path("out/baseline_predictions.questions.jsonl").read_bytes()
    for index in (0, 1):
        predict.predict(begin("output.dir=parts"), shard=Shard(index, 2))
    files = sorted(Path("parts").glob("baseline_predictions.questions.shard-*.jsonl"))
    made = merge_shards.merge(begin("output.dir=parts"), files)
    assert made == Path("parts/baseline_predictions.questions.jsonl")
    assert made.read_bytes() == whole
    with pytest.raises(IntegrityError, match="set 'questions', which evaluation.additional does not name"):
        merge_shards.merge(begin("output.dir=parts", "evaluation.additional=[]"), files)


def test_seeds_and_sets_find_each_others_files(begin: Begin) -> None:
    session = begin("training.seeds=[1, 2]")
    for seeded in session.seeds:
        adapter(seeded, [])
    predict.predict(session)
    for seeded in session.seeds:
        predict.predict(session, seeded.files.adapter)
    questions = run.compare(session).result["additional"][0]
    assert questions["seeds"]["b"] == ["lora_predictions.questions.seed1", "lora_predictions.questions.seed2"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: more", "name: Questions", "is also the name of another baseline or set"),
        ("metrics: [exact_match]", "metrics: [bleu]", "'bleu'"),
        ("question: question, references", "question: question, referenzes", "did you mean 'references'"),
        ("question: question, references: [answer]", "question: question", "names no column with labels"),
        ("split: validation", "split: train", "which the adapter is trained on"),
        ("evaluation:", "output: {adapter: compare.questions.html}\nevaluation:", "another result of the run"),
    ],
)
def test_mistakes_are_named_with_their_place(old: str, new: str, said: str, begin: Begin) -> None:
    Path("c.yaml").write_text(CONFIG.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load("c.yaml")
    assert said in str(caught.value)
    assert re.search(r"c\.yaml:\d+:\d+", str(caught.value))


def better_and_worse() -> tuple[Comparison, Comparison]:
    return judged(lines(60, 0.7), lines(60, 0.2)), judged(lines(60, 0.3), lines(60, 0.6))


def test_the_verdict_says_what_got_worse_elsewhere() -> None:
    better, worse = better_and_worse()
    found = with_additional_sets(better, {"safety": worse, "general": better})
    assert found.status == "improved"
    assert "It got worse on additional evaluation sets: safety (bleu " in found.verdict
    assert "general" not in found.verdict
    fine = with_additional_sets(better, {"general": better, "other": better})
    assert fine.verdict.endswith("No loss shown on general (bleu) and other (bleu).")
    assert with_additional_sets(better, {}) is better


def test_nothing_is_said_of_a_set_too_small_to_tell() -> None:
    better, _ = better_and_worse()
    small = judged(lines(10, 0.3), lines(10, 0.6))
    found = with_additional_sets(better, {"small": small})
    assert "small" not in found.verdict
    assert any(warning.startswith("small: Inconclusive") for warning in found.result["warnings"])


def test_every_report_shows_the_sets() -> None:
    better, worse = better_and_worse()
    plain = with_additional_sets(better, {"safety": worse}).to_json()
    entry = worse.result["metrics"][0]
    for shown in (text.render(plain), markdown.render(plain), html.render(plain, {}, ReportConfig()).text):
        assert "safety" in shown
        assert f"{entry['b']:.4f}" in shown


def parted(count: int, worse: set[str], slices: list[str]) -> Comparison:
    """Rows of several kinds: B is much better but in the kinds `worse`."""
    good, bad = lines(count, 0.05), lines(count, 0.6)
    kinds = [slices[n % len(slices)] for n in range(count)]

    def side(better: bool) -> list[Line]:
        made = []
        for n, kind in enumerate(kinds):
            line = (good if better != (kind in worse) else bad)[n]
            made.append(replace(line, meta={"kind": kind}))
        return made

    return judged(side(False), side(True), QUICK.model_copy(update={"slices": ["kind"]}))


def test_an_average_does_not_hide_the_part_that_got_worse() -> None:
    found = parted(160, {"night"}, ["day", "dusk", "dawn", "night"])
    assert found.status == "improved"
    assert " Worse, however, where kind is 'night' (" in found.verdict
    assert "Worse" not in parted(160, set(), ["day", "night"]).verdict
