"""What must not change the result of training: micro-batches, interruption. And what must stop it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pieces import TINY

from vlmtune.errors import ConfigError, DataError, Diverged, IntegrityError, Interrupted
from vlmtune.models import load_model
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.training import checkpoints, loop
from vlmtune.training.lora import add_adapter, check_first_gradients, trainable
from vlmtune.training.settings import LoraConfig, TrainingConfig
from vlmtune.training.visits import Visit, plan

MakeJob = Callable[..., loop.Job]
QUIET = Progress(Silent())


class StopAfter(StopRequest):
    """As if Ctrl-C came during the n-th question."""

    def __init__(self, questions: int) -> None:
        self._left = questions
        self._signal: int | None = None

    @property
    def received(self) -> int | None:  # type: ignore[override]
        self._left -= 1
        return 2 if self._left < 0 else None


def adapter_bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def seen(job: loop.Job) -> Any:
    base = load_model(job.inputs.checkpoint, "cpu", "fp32")
    model = add_adapter(base, job.settings.lora, job.inputs.checkpoint.family, 0)
    torch.manual_seed(1)
    for name, weight in trainable(model).items():
        if "lora_B" in name:  # B starts at zero, where half of all mistakes cannot show
            torch.nn.init.normal_(weight, std=0.05)
    return model


def gradients(job: loop.Job, micro: int) -> Mapping[str, torch.Tensor]:
    model = seen(job)
    visits = [Visit(row, row % 5, 0) for row in range(8)]
    lessons = [job.train.encode(visit) for visit in visits]
    supervised = sum(lesson.rendered.supervised for lesson in lessons)
    for start in range(0, 8, micro):
        part = lessons[start : start + micro]
        (loop.summed_loss(model.base_model.model, part, job.inputs, "cpu") / supervised).backward()
    return {name: weight.grad for name, weight in trainable(model).items()}  # type: ignore[misc]


def test_micro_batches_do_not_change_the_gradient(make_job: MakeJob) -> None:
    job = make_job(dropout=0.0)
    lengths = {job.train.encode(Visit(row, row % 5, 0)).rendered.supervised for row in range(8)}
    assert len(lengths) > 2, "captions of equal length could not show a loss averaged per micro-batch"
    whole = gradients(job, 8)
    for micro in (1, 2, 4):
        for name, grad in gradients(job, micro).items():
            assert (grad - whole[name]).norm() <= 1e-5 * whole[name].norm(), f"micro-batches of {micro}: {name}"


def test_the_loss_is_what_the_model_itself_computes(make_job: MakeJob) -> None:
    """Against the head at all positions and labels made by hand, one lesson at a time."""
    job = make_job(dropout=0.0)
    model, total = seen(job), 0.0
    lessons = [job.train.encode(Visit(row, 0, 0)) for row in range(3)]
    for lesson in lessons:
        tensors = loop.collate([lesson], job.inputs, "right", "cpu", torch.float32)
        learnt = torch.tensor([lesson.rendered.trained])
        labels = tensors["input_ids"].masked_fill(~learnt, -100)
        with torch.no_grad():
            total += model(**tensors, labels=labels, use_cache=False).loss.item() * lesson.rendered.supervised
    together = loop.summed_loss(model.base_model.model, lessons, job.inputs, "cpu").item()
    assert together == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("questions", [45, 47], ids=["between checkpoints", "later"])
def test_interrupted_and_resumed_equals_uninterrupted(make_job: MakeJob, questions: int) -> None:
    straight = make_job("straight", epochs=2, save_every_steps=3)
    loop.train(straight, QUIET, StopRequest())
    broken = make_job("broken", epochs=2, save_every_steps=3)
    with pytest.raises(Interrupted, match=r"step \d+ of 10 is saved"):
        loop.train(broken, QUIET, StopAfter(questions))
    assert not broken.adapter.exists()
    loop.train(broken, QUIET, StopRequest())
    assert adapter_bytes(broken.adapter) == adapter_bytes(straight.adapter)
    assert (broken.work / "curve.jsonl").read_text() == (straight.work / "curve.jsonl").read_text()


def test_a_damaged_checkpoint_is_passed_over(make_job: MakeJob) -> None:
    job = make_job(epochs=2, save_every_steps=3)
    loop.train(job, QUIET, StopRequest())
    newest = checkpoints.newest(job.work)
    assert newest is not None
    assert newest.name == "step-000009"
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    older = checkpoints.newest(job.work)
    assert older is not None
    assert older.name == "step-000006"


def test_order_depends_on_seed_and_epoch_alone(make_job: MakeJob) -> None:
    rows = make_job().train.rows
    steps = plan(rows, "sample", 2, 8, 42)
    assert steps == plan(rows, "sample", 2, 8, 42)
    assert steps != plan(rows, "sample", 2, 8, 43)
    for epoch in (0, 1):
        assert sorted(v.row for batch in steps for v in batch if v.epoch == epoch) == list(range(40))
    assert [v.row for batch in steps[:5] for v in batch] != [v.row for batch in steps[5:] for v in batch]
    assert len({v.choice for batch in steps for v in batch}) == 5
    each = plan(rows, "each", 1, 8, 42)
    assert sorted((v.row, v.choice) for batch in each for v in batch) == [(r, c) for r in range(40) for c in range(5)]


def test_nan_stops_before_the_optimizer_step(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = loop.summed_loss, []

    def poisoned(*args: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args) * (float("nan") if len(calls) == 9 else 1.0)

    monkeypatch.setattr(loop, "summed_loss", poisoned)
    job = make_job(epochs=2, save_every_steps=2)
    with pytest.raises(Diverged, match=r"step 5: loss nan"):
        loop.train(job, QUIET, StopRequest())
    assert '"rows"' in (job.work / "diverged.json").read_text()
    newest = checkpoints.newest(job.work)
    assert newest is not None
    assert newest.name == "step-000004"


def test_an_adapter_without_gradient_is_refused(make_job: MakeJob) -> None:
    model = seen(make_job())
    with pytest.raises(IntegrityError, match="28 adapter layers got no gradient"):
        check_first_gradients(model)


def test_unknown_target_module_names_the_closest(make_job: MakeJob) -> None:
    job = make_job()
    base = load_model(job.inputs.checkpoint, "cpu", "fp32")
    with pytest.raises(ConfigError, match="'q_porj' matches no linear layer .* did you mean 'q_proj'"):
        add_adapter(base, LoraConfig(target_modules=["q_porj"]), job.inputs.checkpoint.family, 0)


def test_a_row_too_long_stops_before_the_model_is_loaded(make_job: MakeJob) -> None:
    job = make_job(max_tokens=30)
    with pytest.raises(DataError, match=r"train-00000: \d+ tokens, more than training.max_tokens \(30\)"):
        loop.train(job, QUIET, StopRequest())


def test_learning_rate_rises_then_falls_to_zero() -> None:
    settings = TrainingConfig(learning_rate=1.0, warmup_ratio=0.1)
    rates = [loop.learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001
    linear = replace_schedule(settings, "linear")
    assert loop.learning_rate(55, 100, linear) == pytest.approx(0.5)
    assert loop.learning_rate(99, 100, replace_schedule(settings, "constant")) == 1.0


def replace_schedule(settings: TrainingConfig, schedule: str) -> TrainingConfig:
    return settings.model_copy(update={"schedule": schedule})


def test_only_the_language_model_learns(make_job: MakeJob) -> None:
    job = replace(make_job(), model=TINY)
    names = list(trainable(seen(job)))
    assert names
    assert all("language_model" in name and "lora_" in name for name in names)
