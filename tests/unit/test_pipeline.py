"""The steps around engine and training, on an engine without a model: what is kept, redone, moved aside, refused."""

import json
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import Notes
from fakes import engine as fake

from vlmtune.config import load
from vlmtune.errors import ConfigError, DataError, IntegrityError, Interrupted
from vlmtune.files import write_json
from vlmtune.inference import Predictor
from vlmtune.pipeline import predict, run, train
from vlmtune.pipeline.learning_curve import learning_curve
from vlmtune.pipeline.search import search
from vlmtune.pipeline.session import Session
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.tasks import captioning
from vlmtune.types import Example, Failure, Outcomes, Request

CONFIG = """\
model: {name: tiny, device: cpu}
dataset:
  source: scenes
  references: [caption_0, caption_1]
  keywords: keywords
  id: id
  limit: {train: 8, validation: 4, test: 6}
task: {name: captioning}
inference: {engine: fakes.engine}
evaluation: {image_control_rows: 4, statistics: {resamples: 100}}
"""
Begin = Callable[..., Session]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """A session in a folder of its own; what it says once is in its listener's `texts`."""
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def begin(*sets: str, mock: bool = False, notes: Notes | None = None) -> Session:
        return Session(load("c.yaml", ["output.dir=out", *sets]).config, Progress(notes or Notes()), mock=mock)

    return begin


def adapter(folder: Path, origin: dict[str, Any]) -> Path:
    """Files that look like an adapter, as far as the pipeline looks."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    write_json(folder / "vlmtune.json", {"schema_version": 1, "mock": False, "origin": origin})
    return folder


def names() -> set[str]:
    return {file.name for file in Path("out").iterdir()} - {".vlmtune", "thumbnails"}


class Flaky:
    """An engine whose requests fail until it is told otherwise."""

    def __init__(self, failing: set[int]) -> None:
        self.failing, self.asked = failing, 0

    def answer(self, requests: Iterable[Request], done: Container[str]) -> Outcomes:
        plain = fake.open_engine(fake.Config(), None, None, "fp32")  # type: ignore[arg-type]
        for number, request in enumerate(requests):
            if request.id in done:
                continue
            self.asked += 1
            if number in self.failing:
                yield Failure(request.id, "engine", "out of luck")
            else:
                yield from plain.answer([request])


EXAMPLES = [Example(f"row {n}", (), None, {"references": ["a"]}, f"row {n}") for n in range(40)]


def answering(folder: Path, stop: StopRequest | None = None) -> Predictor:
    return Predictor(
        captioning.TASK, captioning.Config(), folder / "pictures", Progress(Silent()), stop or StopRequest()
    )


def test_what_failed_before_an_interruption_is_asked_again(tmp_path: Path) -> None:
    partial, engine = tmp_path / "answers.jsonl", Flaky({3, 5})
    lines = answering(tmp_path).answer("rows", engine, EXAMPLES, partial)  # type: ignore[arg-type]
    assert [line.id for line in lines if line.failure] == ["row 3", "row 5"]
    engine.failing, engine.asked = set(), 0
    again = answering(tmp_path).answer("rows", engine, EXAMPLES, partial)  # type: ignore[arg-type]
    assert engine.asked == 2
    assert [line.id for line in again] == [example.id for example in EXAMPLES]
    assert not any(line.failure for line in again)
    assert [again[n] for n in (0, 39)] == [lines[n] for n in (0, 39)]
    assert len(partial.read_text().splitlines()) == 40


def test_an_engine_that_prepares_all_requests_first_is_stopped_while_it_does(tmp_path: Path) -> None:
    stop, taken = StopRequest(), []

    class Eager(Flaky):
        def answer(self, requests: Iterable[Request], done: Container[str]) -> Outcomes:
            for request in requests:
                taken.append(request)
                if len(taken) == 5:
                    stop.received = 2
            yield from super().answer(taken, done)

    with pytest.raises(Interrupted, match="0 of 40 answers are saved"):
        answering(tmp_path, stop).answer("rows", Eager(set()), EXAMPLES, tmp_path / "answers.jsonl")  # type: ignore[arg-type]
    assert len(taken) == 5


def test_a_deleted_result_is_made_anew(begin: Begin) -> None:
    file = predict.predict(begin())
    whole, metrics = file.read_bytes(), Path("out/metrics_baseline.json").read_bytes()
    assert [path.name for path in Path("out/.vlmtune").iterdir()] == []
    for gone in (["baseline_predictions.jsonl"], ["metrics_baseline.json"], sorted(names())):
        for name in gone:
            Path("out", name).unlink()
        notes = Notes()
        assert predict.predict(begin(notes=notes)) == file
        assert (file.read_bytes(), Path("out/metrics_baseline.json").read_bytes()) == (whole, metrics)
        assert not any("answers exist already" in text for text in notes.texts)
    Path("out/baseline_predictions.jsonl").unlink()
    Path("out/baseline_predictions.manifest.json").unlink()
    Path("out/metrics_baseline.json").write_text('{"bleu": 0.1}')
    with pytest.raises(IntegrityError, match=r"metrics_baseline.json is there, but vlmtune did not make it"):
        predict.predict(begin())


def test_a_mock_run_and_a_real_one_never_mix(begin: Begin) -> None:
    tuned = adapter(Path("tuned"), begin().provenance().parts)
    session = begin(mock=True)
    predict.predict(session)
    predict.predict(session, tuned)
    run.compare(session)
    ours = names()
    assert {"compare.json", "report.html", "metrics_lora.json", "lora_predictions.controls.json"} <= ours
    predict.predict(begin())
    left = names()
    assert {name for name in left if ".mock." not in name} == {
        "baseline_predictions.jsonl", "baseline_predictions.manifest.json", "baseline_predictions.controls.json",
        "metrics_baseline.json",
    }  # fmt: skip
    assert len(left) == len(ours) + 4
    for name in left:
        if name.startswith("metrics"):
            assert json.loads(Path("out", name).read_text())["mock"] == (".mock." in name)
    Path("out/lora_predictions.mock.jsonl").rename("out/lora_predictions.jsonl")
    Path("out/lora_predictions.mock.manifest.json").rename("out/lora_predictions.manifest.json")
    with pytest.raises(ConfigError, match="lora_predictions.jsonl is from a mock run; run the eval step"):
        run.compare(begin())


def test_missing_references_are_found_before_a_model_is_loaded(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*words: object) -> None:
        pytest.fail("the engine was opened")

    session = begin()
    rows = [replace(row, truth={**row.truth, "references": [] if n == 3 else ["a"]}) for n, row in
            enumerate(session.rows("test"))]  # fmt: skip

    class Rows(list[Example]):
        fingerprint = "rows"

    monkeypatch.setattr(fake, "open_engine", never)
    monkeypatch.setattr(Session, "rows", lambda self, role: Rows(rows))
    with pytest.raises(DataError, match=r"row 'test-00003' has no 'references', which bleu compares with"):
        predict.predict(begin("evaluation.metrics=[bleu]"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": {"name": "Org/Same"}}, "model.name: \"Org/Same\" there, \"tiny\" here"),
        ({"model": {"commit": "abc"}}, "model.commit: \"abc\" there, null here"),
    ],
)  # fmt: skip
def test_the_same_checkpoint_under_another_name_is_only_noted(begin: Begin, changed: dict[str, Any], said: str) -> None:
    parts, notes = begin().provenance().parts, Notes()
    folder = adapter(Path("tuned"), {**parts, "model": {**parts["model"], **changed["model"]}})
    predict.predict(begin(notes=notes), folder)
    assert f"tuned fits, though {said}" in notes.texts


@pytest.mark.parametrize(("block", "key"), [("model", "config_hash"), ("model", "family"), ("preprocessing", "pixels")])
def test_another_architecture_or_preprocessing_is_refused(begin: Begin, block: str, key: str) -> None:
    parts = begin().provenance().parts
    folder = adapter(Path("tuned"), {**parts, block: {**parts[block], key: "other"}})
    with pytest.raises(
        IntegrityError, match=f'trained on another model or with other preprocessing:\n.*{key}.*"other"'
    ):
        predict.predict(begin(), folder)


def trained(job: Any, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """As much of a training run as the pipeline sees."""
    job.adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (job.adapter / name).write_text("{}")
    (job.work / "curve.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (job.work / "samples.jsonl").write_text('{"step": 1, "id": "train-00000"}\n')
    (job.work / "step-000001").mkdir()
    return {"steps": 1} | dict.fromkeys(train.OF_THE_PROCESS, 0)


@pytest.mark.parametrize("command", [run.run, search, partial(learning_curve, fractions=[0.5, 1])])
def test_one_process_refuses_a_divided_model_before_rows_are_checked_or_answered(
    command: Callable[[Session], object], begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*words: object) -> None:
        pytest.fail("rows were checked, or the engine was opened")

    monkeypatch.setattr(fake, "open_engine", never)
    monkeypatch.setattr(train, "check_examples", never)
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node N -m vlmtune train"):
        command(begin("training.sharding=fsdp", "search={metric: loss}"))


def test_one_process_evaluates_what_several_with_a_divided_model_have_trained(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmtune.training.trainer.train", trained)
    train.train(begin())
    assert run.run(begin("training.sharding=fsdp")).result["evaluation_set"] is None


def test_training_leaves_the_adapter_its_visits_and_no_checkpoints(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmtune.training.trainer.train", trained)
    [folder] = train.train(begin())
    manifest = json.loads((folder / "vlmtune.json").read_text())
    assert manifest["curve"] == [{"step": 1, "loss": 2.0}]
    assert (folder / "samples.jsonl").read_text() == '{"step": 1, "id": "train-00000"}\n'
    assert list(Path("out/.vlmtune").iterdir()) == []
    notes = Notes()
    sets = ["log_every_steps=3", "save_every_steps=7", "evaluate_every_steps=2", "pack_tokens=512"]
    assert train.train(begin(*(f"training.{one}" for one in sets), notes=notes)) == [folder]
    assert notes.texts == ["adapter: out/lora is finished"]
    with pytest.raises(IntegrityError, match="training.epochs: 1 there, 2 here"):
        train.train(begin("training.epochs=2"))
