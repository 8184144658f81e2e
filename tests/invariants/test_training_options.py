"""How long a training is, its noise and its precision: what they mean, and that resuming changes nothing."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import Notes
from interruptions import StopAfter, adapter_bytes

from vlmtune.errors import Diverged, Interrupted
from vlmtune.modeling.loading import load_model
from vlmtune.processing.encoder import Encoded
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.training import checkpoints, trainer
from vlmtune.training.attention import enable_packed_attention
from vlmtune.training.forward_backward import ForwardBackward, embedding_noise
from vlmtune.training.lora import add_adapter, trainable
from vlmtune.training.sampler import sample_batches

MakeJob = Callable[..., trainer.TrainingJob]
QUIET = Progress(Silent())


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [(0.5, None, 3), (1.2, None, 6), (2.1, None, 11), (2, None, 10), (None, 3, 3), (None, 12, 12), (0.01, None, 1)],
)
def test_a_training_is_the_beginning_of_a_longer_one(
    epochs: float | None, max_steps: int | None, steps: int, make_job: MakeJob
) -> None:
    """40 rows in batches of 8 are 5 steps an epoch."""
    rows = make_job().train.rows
    whole = sample_batches(rows, "sample", 3, 8, 42)
    part = sample_batches(rows, "sample", epochs, 8, 42, max_steps=max_steps)
    assert list(part) == whole[:steps]
    assert len(part.rows) == sum(map(len, whole[:steps]))


def test_the_learning_rate_falls_over_the_steps_there_are(make_job: MakeJob) -> None:
    job = make_job(max_steps=7, log_every_steps=1, warmup_ratio=0.0, schedule="linear")
    assert trainer.train(job, QUIET, StopRequest())["steps"] == 7
    rates = [json.loads(line).get("learning_rate") for line in (job.work / "curve.jsonl").read_text().splitlines()]
    assert [rate for rate in rates if rate] == pytest.approx([2e-3 * (7 - n) / 7 for n in range(7)])


def parts_of(job: trainer.TrainingJob) -> tuple[Any, ForwardBackward, list[Encoded]]:
    base = load_model(job.encoder.checkpoint, "cpu", "fp32")
    enable_packed_attention(base, job.encoder.checkpoint.family)
    model = add_adapter(base, job.settings.lora, job.encoder.checkpoint.family, 0)
    weights = list(trainable(model).values())
    batch = sample_batches(job.train.rows, "sample", 1, 8, 42)[0]
    made = ForwardBackward(base, weights, job.encoder, "cpu", job.settings, job.work, job.processes)
    return base, made, [job.train.encode(sample) for sample in batch]


def test_noise_is_an_example_s_own_however_the_batch_is_packed(make_job: MakeJob) -> None:
    job = make_job(neftune_alpha=5.0, dropout=0.0)
    _, made, examples = parts_of(job)
    supervised = sum(example.rendered.supervised for example in examples)
    together = made.accumulate(examples, supervised, 3)
    gradients = [weight.grad.clone() for weight in made._weights if weight.grad is not None]
    made.zero_grad()
    assert len(made.pack(examples)) < len(examples)
    made.pack_tokens = 1
    assert len(made.pack(examples)) == len(examples)
    alone = made.accumulate(examples, supervised, 3)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=0)
    for weight, gradient in zip(made._weights, gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-6)
    other_step = made.accumulate(examples, supervised, 4)
    assert (other_step - alone).abs().min() > 1e-4


def test_noise_is_uniform_up_to_its_bound_and_only_in_training(make_job: MakeJob) -> None:
    job = make_job(neftune_alpha=5.0)
    base, made, examples = parts_of(job)
    (sequence, *_) = made.pack(examples[:3])
    table = base.get_input_embeddings()
    ids = torch.tensor(sequence.ids)[None]
    exact = table(ids)
    with embedding_noise(base, sequence, 5.0, lambda n: n):
        noise = table(ids) - exact
    assert table(ids).equal(exact)
    assert len(sequence.segments) == 3
    for segment in sequence.segments:
        own = noise[0, segment.start : segment.end]
        bound = 5.0 / math.sqrt(own.numel())
        assert 0.99 * bound < own.abs().max() <= bound * 1.001
        assert own.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    plain = make_job("plain")
    for one in (job, plain):
        one.settings.__dict__["learning_rate"] = 1e-12
        trainer.train(one, QUIET, StopRequest())
    losses = [json.loads((one.work / "curve.jsonl").read_text().splitlines()[-1]) for one in (job, plain)]
    assert losses[0]["validation_loss"] == pytest.approx(losses[1]["validation_loss"], rel=1e-6)


@pytest.mark.parametrize("settings", [{"neftune_alpha": 5.0}, {"precision": "fp16"}, {"epochs": 1.6}])
def test_resumed_equals_uninterrupted(settings: dict[str, Any], make_job: MakeJob) -> None:
    straight, broken = (make_job(name, save_every_steps=2, **settings) for name in ("straight", "broken"))
    facts = trainer.train(straight, QUIET, StopRequest())
    with pytest.raises(Interrupted):
        trainer.train(broken, QUIET, StopAfter(8))
    again = trainer.train(broken, QUIET, StopRequest())
    assert adapter_bytes(broken.adapter) == adapter_bytes(straight.adapter)
    assert again.get("skipped_steps") == facts.get("skipped_steps")


def test_fp16_learns_what_fp32_learns(make_job: MakeJob) -> None:
    half, whole = make_job("half", precision="fp16"), make_job("whole")
    facts = [trainer.train(job, QUIET, StopRequest()) for job in (half, whole)]
    assert facts[0]["validation_loss"] == pytest.approx(facts[1]["validation_loss"], rel=0.01)
    assert "skipped_steps" not in facts[1]


def test_steps_beyond_the_range_of_fp16_are_skipped_counted_and_said(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale of 2**22 makes gradients infinite; halved at each such step, the run goes on where they fit."""
    monkeypatch.setattr(torch.amp.GradScaler, "__init__", _started_at(2.0**22))
    straight, broken = (make_job(name, precision="fp16", epochs=6, save_every_steps=1) for name in ("one", "two"))
    shown = Notes()
    facts = trainer.train(straight, Progress(shown), StopRequest())
    skipped = facts["skipped_steps"]
    assert 0 < skipped < facts["steps"]
    assert any(f"{skipped} of {facts['steps']} steps were skipped" in note for note in shown.texts)
    with pytest.raises(Interrupted):
        trainer.train(broken, QUIET, StopAfter(5))
    state = checkpoints.read(checkpoints.newest(broken.work))  # type: ignore[arg-type]
    assert state is not None
    assert state.scaling is not None
    assert state.scaling["skipped"] >= 1
    assert trainer.train(broken, QUIET, StopRequest())["skipped_steps"] == skipped
    assert adapter_bytes(broken.adapter) == adapter_bytes(straight.adapter)


def _started_at(scale: float) -> Callable[..., None]:
    begin = torch.amp.GradScaler.__init__

    def started(self: Any, device: str, **settings: Any) -> None:
        begin(self, device, init_scale=scale, **settings)

    return started


def test_gradients_that_no_scale_brings_back_end_the_run(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.amp.GradScaler, "__init__", _started_at(4.0))
    job = make_job(precision="fp16")
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a: clip(*a) * math.inf)

    def skip(self: Any, optimizer: Any) -> None:
        self._scale.mul_(0.5)

    monkeypatch.setattr(torch.amp.GradScaler, "step", skip)
    with pytest.raises(Diverged, match="step 3: loss .* gradient norm inf"):
        trainer.train(job, QUIET, StopRequest())
