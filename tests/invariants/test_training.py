"""What must not change the result of training: interruption, too little memory. And what must stop it."""

import errno
import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY
from clips import clip_file, drawn_frames
from interruptions import StopAfter, adapter_bytes
from safetensors.torch import load_file

from vlmtune.config.schema import MixedDatasetConfig
from vlmtune.data import Rows, jsonl, scenes
from vlmtune.errors import ConfigError, DataError, Diverged, EnvironmentProblem, IntegrityError, Interrupted
from vlmtune.modeling.loading import load_model
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.tasks import grounding, vqa
from vlmtune.training import checkpoints, forward_backward, trainer
from vlmtune.training.attention import enable_packed_attention
from vlmtune.training.config import AugmentationConfig, LoraConfig, TrainingConfig, learning_rate
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.lora import add_adapter, check_first_gradients, continue_adapter, trainable
from vlmtune.training.mixture import mix
from vlmtune.training.sampler import sample_batches

MakeJob = Callable[..., trainer.TrainingJob]
QUIET = Progress(Silent())


def seen(job: trainer.TrainingJob) -> Any:
    base = load_model(job.encoder.checkpoint, "cpu", "fp32")
    model = add_adapter(base, job.settings.lora, job.encoder.checkpoint.family, 0)
    torch.manual_seed(1)
    for name, weight in trainable(model).items():
        if "lora_B" in name:  # B starts at zero, where half of all mistakes cannot show
            torch.nn.init.normal_(weight, std=0.05)
    return model


@pytest.mark.parametrize("questions", [9, 11], ids=["between checkpoints", "later"])
def test_interrupted_and_resumed_equals_uninterrupted(make_job: MakeJob, questions: int) -> None:
    straight = make_job("straight", epochs=2, save_every_steps=3)
    trainer.train(straight, QUIET, StopRequest())
    broken = make_job("broken", epochs=2, save_every_steps=3)
    with pytest.raises(Interrupted, match=r"step \d+ of 10 is saved"):
        trainer.train(broken, QUIET, StopAfter(questions))
    assert not broken.adapter.exists()
    trainer.train(broken, QUIET, StopRequest())
    assert adapter_bytes(broken.adapter) == adapter_bytes(straight.adapter)
    assert (broken.work / "curve.jsonl").read_text() == (straight.work / "curve.jsonl").read_text()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_change_nothing(make_job: MakeJob, workers: int) -> None:
    usual, other = make_job("usual"), make_job("other", workers=workers)
    for job in (usual, other):
        trainer.train(job, QUIET, StopRequest())
    assert adapter_bytes(usual.adapter) == adapter_bytes(other.adapter)
    assert (usual.work / "samples.jsonl").read_text() == (other.work / "samples.jsonl").read_text()


def test_what_a_worker_finds_stops_training(make_job: MakeJob) -> None:
    """A picture that vanished after the check."""
    job = make_job()
    with_target = job.train.rows.with_target

    class Vanishing:
        def __getattr__(self, name: str) -> Any:
            return getattr(job.train.rows, name)

        def __len__(self) -> int:
            return len(job.train.rows)

        def with_target(self, row: int, target: int) -> Any:
            seen.append(row)
            if len(seen) > 230:  # the check meets 40 rows with five captions each
                raise DataError(f"row {row} vanished")
            return with_target(row, target)

    seen: list[int] = []
    with pytest.raises(DataError, match=r"row \d+ vanished"):
        trainer.train(replace(job, train=replace(job.train, rows=Vanishing())), QUIET, StopRequest())  # type: ignore[arg-type]


CHOOSING = {"best_metric": "loss", "evaluate_every_steps": 1, "learning_rate": 0.05, "epochs": 2, "save_every_steps": 3}
"""Steps so long that the loss goes up and down."""


def judged(job: trainer.TrainingJob) -> dict[int, float]:
    curve = [json.loads(line) for line in (job.work / "curve.jsonl").read_text().splitlines()]
    return {point["step"]: point["validation_loss"] for point in curve if "validation_loss" in point}


def test_the_adapter_of_the_best_step_is_kept(make_job: MakeJob) -> None:
    job = make_job(**CHOOSING)
    facts = trainer.train(job, QUIET, StopRequest())
    losses = judged(job)
    assert list(losses) == list(range(1, 11))
    best = min(losses, key=lambda step: losses[step])
    assert facts["chosen_step"] == best < 10
    model = seen(job)
    continue_adapter(model, job.adapter)
    again = make_job("again", epochs=1)
    enable_packed_attention(model.base_model.model, job.encoder.checkpoint.family)
    sizes = job.train.check("train", QUIET, StopRequest())
    evaluated = trainer.Trainer(again, model, "cpu", sizes)
    assert evaluated.validation_loss(StopRequest()) == pytest.approx(losses[best], rel=1e-6)
    assert sorted(file.name for file in job.work.glob("best-*")) == [f"best-{best:06d}"]


def test_training_ends_when_nothing_gets_better(make_job: MakeJob) -> None:
    job = make_job(**CHOOSING, early_stopping=1)
    facts = trainer.train(job, QUIET, StopRequest())
    losses = judged(job)
    steps = list(losses)
    assert facts["stopped_early"]
    assert facts["steps"] == steps[-1] < 10
    assert losses[steps[-1]] > losses[steps[-2]]
    assert all(losses[a] > losses[b] for a, b in itertools.pairwise(steps[:-1]))


@pytest.mark.parametrize("questions", [6, 8, 10, 12])
def test_choosing_survives_interruptions(make_job: MakeJob, questions: int) -> None:
    straight = make_job("straight", **CHOOSING, early_stopping=4)
    facts = trainer.train(straight, QUIET, StopRequest())
    broken = make_job("broken", **CHOOSING, early_stopping=4)
    with pytest.raises(Interrupted):
        trainer.train(broken, QUIET, StopAfter(questions))
    again = trainer.train(broken, QUIET, StopRequest())
    assert again["chosen_step"] == facts["chosen_step"]
    assert adapter_bytes(broken.adapter) == adapter_bytes(straight.adapter)
    for file in ("curve.jsonl", "samples.jsonl"):
        assert (broken.work / file).read_text() == (straight.work / file).read_text()


def test_training_goes_on_while_a_checkpoint_is_written(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer finishes only after a later step has begun, and the checkpoint holds the state before that step."""
    begun, stepped, submitted = threading.Event(), threading.Event(), threading.Event()
    real_bytes, real_losses, real_save = checkpoints.write_bytes, forward_backward.token_losses, checkpoints.Writer.save

    def slow(path: Path, data: bytes) -> None:
        begun.set()
        in_time.append(stepped.wait(60))
        real_bytes(path, data)

    def losses(*args: Any) -> torch.Tensor:
        if submitted.is_set() and begun.wait(60):
            stepped.set()
        return real_losses(*args)

    def save(self: Any, step: int, *state: Any) -> None:
        real_save(self, step, *state)
        submitted.set()

    in_time: list[bool] = []
    straight, slowed = make_job("straight", save_every_steps=2), make_job("slowed", save_every_steps=2)
    trainer.train(straight, QUIET, StopRequest())
    monkeypatch.setattr(checkpoints, "write_bytes", slow)
    monkeypatch.setattr(forward_backward, "token_losses", losses)
    monkeypatch.setattr(checkpoints.Writer, "save", save)
    trainer.train(slowed, QUIET, StopRequest())
    assert in_time
    assert all(in_time)
    for name in ("step-000004", "step-000005"):
        assert adapter_bytes(slowed.work / name) == adapter_bytes(straight.work / name)


def test_a_checkpoint_that_cannot_be_written_ends_training(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        if "000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    real, job = checkpoints.write_bytes, make_job(save_every_steps=2)
    monkeypatch.setattr(checkpoints, "write_bytes", full)
    with pytest.raises(EnvironmentProblem, match="no space left"):
        trainer.train(job, QUIET, StopRequest())
    newest = checkpoints.newest(job.work)
    assert newest is not None
    assert newest.name == "step-000002"


def test_a_damaged_checkpoint_is_passed_over(make_job: MakeJob) -> None:
    job = make_job(epochs=2, save_every_steps=3)
    trainer.train(job, QUIET, StopRequest())
    newest = checkpoints.newest(job.work)
    assert newest is not None
    assert newest.name == "step-000010"
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    older = checkpoints.newest(job.work)
    assert older is not None
    assert older.name == "step-000009"


def test_order_depends_on_seed_and_epoch_alone(make_job: MakeJob) -> None:
    rows = make_job().train.rows
    steps = sample_batches(rows, "sample", 2, 8, 42)
    assert steps == sample_batches(rows, "sample", 2, 8, 42)
    assert steps != sample_batches(rows, "sample", 2, 8, 43)
    for epoch in (0, 1):
        assert sorted(v.row for batch in steps for v in batch if v.epoch == epoch) == list(range(40))
    assert [v.row for batch in steps[:5] for v in batch] != [v.row for batch in steps[5:] for v in batch]
    assert len({v.target for batch in steps for v in batch}) == 5
    each = sample_batches(rows, "each", 1, 8, 42)
    assert sorted((v.row, v.target) for batch in each for v in batch) == [(r, c) for r in range(40) for c in range(5)]
    assert len(each) == 25
    assert {len(batch) for batch in each} == {5, 10}
    assert all(len({n for n, batch in enumerate(each) for v in batch if v.row == row}) == 1 for row in range(40))


def test_out_of_memory_shortens_rows_and_keeps_the_batch(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same global batches, so the same adapter up to the order in which gradients are added."""
    roomy = make_job("roomy", dropout=0.0)
    trainer.train(roomy, QUIET, StopRequest())
    real = forward_backward.token_losses

    def small_card(model: Any, row: Any, *more: Any) -> torch.Tensor:
        if len(row) > 250:
            raise torch.OutOfMemoryError
        return real(model, row, *more)

    tight = make_job("tight", dropout=0.0, pack_tokens=2048)
    monkeypatch.setattr(forward_backward, "token_losses", small_card)  # the check for leaks must fit, too
    facts = trainer.train(tight, QUIET, StopRequest())
    assert facts["pack_tokens"] <= 250
    met = [
        [(line["step"], line["id"]) for line in map(json.loads, (job.work / "samples.jsonl").read_text().splitlines())]
        for job in (roomy, tight)
    ]
    assert met[0] == met[1]
    for name, weight in load_file(tight.adapter / "adapter_model.safetensors").items():
        other = load_file(roomy.adapter / "adapter_model.safetensors")[name]
        assert (weight - other).norm() <= 1e-3 * other.norm(), name
    impossible = make_job("impossible")
    monkeypatch.setattr(forward_backward, "token_losses", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(EnvironmentProblem, match="one example alone does not fit .* --set model.max_pixels"):
        trainer.train(impossible, QUIET, StopRequest())


def test_every_visit_is_logged_once_with_its_own_loss(make_job: MakeJob) -> None:
    job = make_job(epochs=2, save_every_steps=3, dropout=0.0)
    with pytest.raises(Interrupted):
        trainer.train(job, QUIET, StopAfter(9))
    trainer.train(job, QUIET, StopRequest())
    visits = [json.loads(line) for line in (job.work / "samples.jsonl").read_text().splitlines()]
    met = [(visit["epoch"], visit["id"]) for visit in visits]
    assert sorted(met) == sorted((epoch, job.train.rows.id(n)) for epoch in (0, 1) for n in range(40))
    curve = [json.loads(line) for line in (job.work / "curve.jsonl").read_text().splitlines()]
    first = [visit for visit in visits if visit["step"] == 1]
    mean = sum(visit["loss"] * visit["tokens"] for visit in first) / sum(visit["tokens"] for visit in first)
    assert mean == pytest.approx(curve[0]["loss"], rel=1e-5)


def test_nan_stops_before_the_optimizer_step(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = forward_backward.token_losses, []

    def poisoned(*args: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args) * (float("nan") if len(calls) == 7 else 1.0)  # the first two calls try the rows

    monkeypatch.setattr(forward_backward, "token_losses", poisoned)
    job = make_job(epochs=2, save_every_steps=2)
    with pytest.raises(Diverged, match=r"step 5: loss nan"):
        trainer.train(job, QUIET, StopRequest())
    assert '"rows"' in (job.work / "diverged.json").read_text()
    newest = checkpoints.newest(job.work)
    assert newest is not None
    assert newest.name == "step-000004"


def test_an_adapter_without_gradient_is_refused(make_job: MakeJob) -> None:
    job = make_job()
    model = seen(job)
    with pytest.raises(IntegrityError, match="28 adapter layers got no gradient"):
        check_first_gradients(model, job.encoder.checkpoint.family)


def test_unknown_target_module_names_the_closest(make_job: MakeJob) -> None:
    job = make_job()
    base = load_model(job.encoder.checkpoint, "cpu", "fp32")
    with pytest.raises(ConfigError, match="'q_porj' matches no linear layer .* did you mean 'q_proj'"):
        add_adapter(base, LoraConfig(target_modules=["q_porj"]), job.encoder.checkpoint.family, 0)


def test_a_row_too_long_stops_before_the_model_is_loaded(make_job: MakeJob) -> None:
    job = make_job(max_tokens=30)
    with pytest.raises(DataError, match=r"train-00000: \d+ tokens, more than training.max_tokens \(30\)"):
        trainer.train(job, QUIET, StopRequest())


def test_learning_rate_rises_then_falls_to_zero() -> None:
    settings = TrainingConfig(learning_rate=1.0, warmup_ratio=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001
    linear = replace_schedule(settings, "linear")
    assert learning_rate(55, 100, linear) == pytest.approx(0.5)
    assert learning_rate(99, 100, replace_schedule(settings, "constant")) == 1.0


def replace_schedule(settings: TrainingConfig, schedule: str) -> TrainingConfig:
    return settings.model_copy(update={"schedule": schedule})


def test_only_the_language_model_learns(make_job: MakeJob) -> None:
    job = replace(make_job(), model=TINY)
    names = list(trainable(seen(job)))
    assert names
    assert all("language_model" in name and "lora_" in name for name in names)


def mixed(job: trainer.TrainingJob) -> trainer.TrainingJob:
    """The job with questions about six scenes as a quarter of all samples."""
    block: Any = {"source": "scenes", "question": "question", "references": ["answer"], "id": "id"}
    settings = {"name": "questions", "weight": 0.25, "dataset": block, "task": {"name": "vqa"}}
    rows = scenes.open(scenes.Config(**block), "train", 6)
    questions = TrainingExamples(rows, vqa.TASK, vqa.Config(), job.encoder, job.settings)
    chosen = mix(job.train, job.target, [(MixedDatasetConfig.model_validate(settings), questions)])
    return replace(job, train=chosen.examples, shares=chosen.shares)


def test_a_mixture_interrupted_and_resumed_equals_uninterrupted(make_job: MakeJob) -> None:
    straight, broken = (mixed(make_job(name, save_every_steps=3)) for name in ("straight", "broken"))
    facts = trainer.train(straight, QUIET, StopRequest())
    with pytest.raises(Interrupted, match=r"step \d+ of 7 is saved"):
        trainer.train(broken, QUIET, StopAfter(9))
    trainer.train(broken, QUIET, StopRequest())
    assert adapter_bytes(broken.adapter) == adapter_bytes(straight.adapter)
    samples = (straight.work / "samples.jsonl").read_text()
    assert (broken.work / "samples.jsonl").read_text() == samples
    ids = [json.loads(line)["id"] for line in samples.splitlines()]
    assert (len(ids), sum(row.startswith("questions/") for row in ids)) == (53, 13)
    lengths = broken.train.check("train", QUIET, StopRequest())
    assert facts["tokens_per_epoch"] < lengths.first_targets()[0] * 53 / 46 * 1.1


MUCH = AugmentationConfig(crop=0.5, rotation=10, color=0.3, jpeg=40)


def boxes(job: trainer.TrainingJob) -> trainer.TrainingJob:
    """The job with twelve boxes to find instead of captions."""
    config = scenes.Config(identifiable=True, question="phrase", boxes="box", id="id")
    parts: Any = (grounding.TASK, grounding.Config(), job.encoder, job.settings)
    train, validation = (
        TrainingExamples(scenes.open(config, split, count), *parts)
        for split, count in (("train", 12), ("validation", 2))
    )
    return replace(job, train=train, validation=validation, target=None)


def test_an_augmented_training_interrupted_and_resumed_equals_uninterrupted(make_job: MakeJob) -> None:
    settings = {"augmentation": MUCH, "batch_size": 4, "epochs": 2, "save_every_steps": 2}
    straight, broken = (boxes(make_job(name, **settings)) for name in ("straight", "broken"))
    trainer.train(straight, QUIET, StopRequest())
    with pytest.raises(Interrupted, match=r"step \d+ of 6 is saved"):
        trainer.train(broken, QUIET, StopAfter(6))
    trainer.train(broken, QUIET, StopRequest())
    assert adapter_bytes(broken.adapter) == adapter_bytes(straight.adapter)
    samples = [json.loads(line) for line in (straight.work / "samples.jsonl").read_text().splitlines()]
    tokens: dict[str, set[int]] = {}
    for sample in samples:
        tokens.setdefault(sample["id"], set()).add(sample["tokens"])
    assert any(len(counts) > 1 for counts in tokens.values()), "moved boxes have other numbers of digits"


def test_augmentation_that_is_off_changes_nothing(make_job: MakeJob) -> None:
    usual, off, on = (
        make_job(name, augmentation=settings)
        for name, settings in (("usual", AugmentationConfig()), ("off", AugmentationConfig(crop=0)), ("on", MUCH))
    )
    for job in (usual, off, on):
        trainer.train(job, QUIET, StopRequest())
    assert adapter_bytes(usual.adapter) == adapter_bytes(off.adapter) != adapter_bytes(on.adapter)
    losses = [json.loads((job.work / "curve.jsonl").read_text().splitlines()[0])["loss"] for job in (usual, on)]
    assert losses[0] != losses[1]


def test_rows_that_say_left_stop_a_mirroring_training_before_the_model(make_job: MakeJob) -> None:
    job = boxes(make_job(augmentation=AugmentationConfig(flip=True)))
    with_target = job.train.rows.with_target

    class Sided:
        def __getattr__(self, name: str) -> Any:
            return getattr(job.train.rows, name)

        def __len__(self) -> int:
            return len(job.train.rows)

        def with_target(self, row: int, target: int) -> Any:
            return replace(with_target(row, target), question="the ball on the left" if row == 3 else "the ball")

    with pytest.raises(DataError, match=r"train-\d+: says 'left', which is wrong in a mirrored image"):
        trainer.train(replace(job, train=replace(job.train, rows=Sided())), QUIET, StopRequest())  # type: ignore[arg-type]


def clip_rows(folder: Path) -> Rows:
    """Four files and four folders of frames, each twice."""
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.mp4").write_bytes(clip_file(drawn_frames(9, (64, 48), n), 5))
        (folder / str(n)).mkdir()
        for number, frame in enumerate(drawn_frames(5, (48, 64), n)):
            frame.save(folder / str(n) / f"{number}.png")
    clips = [name for n in range(4) for name in (f"{n}.mp4", str(n))]
    lines = [{"clip": clip, "caption": f"Row {n} of {clip} ."} for n in range(2) for clip in clips]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = jsonl.Config(path=str(folder), video="clip", references=["caption"], target="sample")
    return jsonl.open(config, "t.jsonl")


def test_training_on_videos_resumes_byte_equal(make_job: MakeJob, tmp_path: Path) -> None:
    rows = clip_rows(tmp_path / "clips")
    straight, broken = (make_job(name, rows, save_every_steps=2, epochs=2) for name in ("straight", "broken"))
    trainer.train(straight, QUIET, StopRequest())
    with pytest.raises(Interrupted, match=r"step \d+ of 4 is saved"):
        trainer.train(broken, QUIET, StopAfter(4))
    trainer.train(broken, QUIET, StopRequest())
    assert adapter_bytes(straight.adapter) == adapter_bytes(broken.adapter)


def test_a_broken_clip_names_its_rows(make_job: MakeJob, tmp_path: Path) -> None:
    rows = clip_rows(tmp_path / "clips")
    (tmp_path / "clips" / "2.mp4").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"2 train rows cannot be trained on:\n.*2\.mp4.*: not a video of a known"):
        trainer.train(make_job("job", rows), QUIET, StopRequest())
    assert DataError.exit_code == 3
