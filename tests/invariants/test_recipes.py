"""One recipe, several adapters; and steps chosen by the task's own metric, on the live model."""

import json
import re
from pathlib import Path

import pytest

from vlmtune.config import load
from vlmtune.errors import ConfigError
from vlmtune.pipeline import predict, run, train
from vlmtune.pipeline.session import Session
from vlmtune.planning.plan import compare_with_measured
from vlmtune.progress import Progress, Silent
from vlmtune.run_folder import read_manifest

CONFIG = """\
model: {name: tiny, device: cpu}
dataset:
  source: scenes
  references: [caption_0, caption_1]
  target: caption_0
  keywords: keywords
  id: id
  limit: {train: 16, validation: 4, test: 24}
task: {name: captioning}
training: {precision: fp32, learning_rate: 2e-3, batch_size: 4, workers: 0}
inference: {max_new_tokens: 16}
evaluation: {image_control_rows: 4, statistics: {resamples: 100}}
output: {dir: out}
"""


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG)
    return begin()


def begin(*sets: str) -> Session:
    return Session(load("c.yaml", list(sets)).config)


def test_the_metric_that_chooses_is_the_one_the_adapter_scores(session: Session) -> None:
    """The live model's score at the chosen step is that of the adapter, loaded anew and asked as any evaluation is."""
    session = begin("training.best_metric=bleu", "training.evaluate_every_steps=1", "evaluation.split=validation")
    [adapter] = train.train(session)
    made = read_manifest(adapter)
    assert made is not None
    judged = {point["step"]: point["validation_bleu"] for point in made["curve"] if "validation_bleu" in point}
    assert list(judged) == [1, 2, 3, 4]
    assert made["chosen_step"] == max(judged, key=lambda step: judged[step])
    assert len(set(judged.values())) > 1, "steps that score alike choose nothing"
    file = predict.predict(session, adapter)
    found = predict.score(session, file)
    assert found is not None
    scored = found.to_json()["metrics"]["bleu"]
    assert scored == pytest.approx(judged[made["chosen_step"]], abs=1e-9)
    facts = {**made, **json.loads((adapter / "measured.json").read_text())}
    said = compare_with_measured(
        session.config, session.encoder.checkpoint, [session.rows("train")], facts, Progress(Silent())
    )
    assert re.fullmatch(r"planned 0\.\d TFLOP an epoch; reached 0\.\d+ TFLOP/s", said)
    on_gpu = {**facts, "peak_bytes_over_model": 50_000_000}
    said = compare_with_measured(
        session.config, session.encoder.checkpoint, [session.rows("train")], on_gpu, Progress(Silent())
    )
    assert re.search(r"planned 0\.\d\d GB over the model, took 0\.05 \([+-]\d+%\)$", said)
    rows = session.rows("validation")
    assert made["selection_ids"] == [rows.id(row) for row in range(len(rows))]
    answers = read_manifest(file)
    assert answers is not None
    assert answers["selection_ids"] == made["selection_ids"]


def test_every_seed_has_its_adapter_and_all_are_one_side(session: Session) -> None:
    session = begin("training.seeds=[1, 2]")
    comparison = run.run(session).result
    adapters = [Path("out") / f"lora.seed{seed}" for seed in (1, 2)]
    weights = [(adapter / "adapter_model.safetensors").read_bytes() for adapter in adapters]
    assert weights[0] != weights[1]
    files = [Path("out") / f"lora_predictions.seed{seed}.jsonl" for seed in (1, 2)]
    assert all(file.is_file() for file in files)
    bleu = next(metric for metric in comparison["metrics"] if metric["name"] == "bleu")
    apart = [json.loads((Path("out") / f"metrics_lora.seed{seed}.json").read_text())["bleu"] for seed in (1, 2)]
    assert bleu["b"] == pytest.approx(sum(apart) / 2)
    # The second seed alone is the same adapter: which others there were does not matter.
    alone = begin("training.seeds=[2]", "output.dir=alone")
    [adapter] = train.train(alone)
    assert (adapter / "adapter_model.safetensors").read_bytes() == weights[1]
    assert train.train(session) == adapters, "finished adapters are found"


def test_what_cannot_choose_is_refused(session: Session) -> None:
    with pytest.raises(ConfigError, match="early_stopping.* needs .*best_metric"):
        begin("training.early_stopping=2")
    with pytest.raises(ConfigError, match="compares evaluations, but .*evaluate_every_steps"):
        begin("training.best_metric=loss")
    with pytest.raises(ConfigError, match="contains a seed twice"):
        begin("training.seeds=[1, 1]")
    with pytest.raises(ConfigError, match="no metric 'blue'.*did you mean 'bleu'"):
        train.train(begin("training.best_metric=blue", "training.evaluate_every_steps=1"))
