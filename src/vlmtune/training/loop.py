"""The training loop: batches of visits, gradients over the global batch, one optimizer step, curves, checkpoints.

The loss of a step is the sum of all supervised tokens' losses over their number in the whole global batch, however it
is packed into rows. Everything random is a function of (seed, step, row): a resumed run is the same run.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.errors import Diverged, EnvironmentProblem
from vlmtune.files import append_lines, read_json, read_whole_lines, write_atomic, write_json
from vlmtune.inputs import Encoded, Inputs
from vlmtune.models import ModelConfig, load_model, pick_device
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest
from vlmtune.training import checkpoints
from vlmtune.training.attention import use_segments
from vlmtune.training.isolation import check_isolation
from vlmtune.training.lessons import Lessons
from vlmtune.training.lora import add_adapter, check_first_gradients, save_adapter, trainable
from vlmtune.training.losses import token_losses
from vlmtune.training.segments import Layout, Row, rows_of
from vlmtune.training.settings import TrainingConfig
from vlmtune.training.visits import Visit, plan

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

TOO_LARGE = (
    "one example alone does not fit into this GPU's memory. Try one of: --set model.max_pixels=401408, "
    "--set training.row_tokens=1024, --set training.lora.target_modules=[q_proj,v_proj]"
)


@dataclass(frozen=True, slots=True)
class Job:
    """One training run.

    `work` keeps checkpoints and the curve; `adapter` is the folder the result is written to. `target` is
    `dataset.target`. `log(step, values)` mirrors the curve to trackers.
    """

    settings: TrainingConfig
    model: ModelConfig
    inputs: Inputs
    train: Lessons
    select: Lessons
    target: str | None
    work: Path
    adapter: Path
    log: Callable[[int, Mapping[str, float]], None]


def train(job: Job, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """Train, or go on where an interrupted run stopped, and write the adapter.

    Returns:
        Facts for the manifest: steps, tokens, losses, seconds, device, versions.

    Raises:
        DataError: a row cannot be taught; before the first step.
        Diverged: a loss or gradient was not finite; before that optimizer step.
        Interrupted, Terminated: a signal came; the state is saved.
    """
    import torch

    # Tokenizing and decoding need no model: bad rows are named before the weights are loaded.
    tokens, supervised = job.train.check("train", progress, stop)
    job.select.check("select", progress, stop)
    device = pick_device(job.model)
    base = load_model(job.inputs.checkpoint, device, job.settings.precision)
    use_segments(base, job.inputs.checkpoint.family)
    model = add_adapter(base, job.settings.lora, job.inputs.checkpoint.family, job.settings.seed)
    trainer = _Trainer(job, model, device)
    started = time.monotonic()
    try:
        trainer.run(progress, stop)
        select_loss = trainer.select_loss(stop)
    except torch.OutOfMemoryError:
        raise EnvironmentProblem(TOO_LARGE) from None
    trainer.record({"select_loss": select_loss})
    save_adapter(model, job.adapter, job.inputs.checkpoint.name, job.inputs.checkpoint.commit)
    return {
        "steps": trainer.step,
        "tokens_per_epoch": tokens,
        "supervised_tokens_per_epoch": supervised,
        "trainable_parameters": sum(p.numel() for p in trainable(model).values()),
        "select_loss": select_loss,
        "seconds_since_start_or_resume": round(time.monotonic() - started, 1),
        "device": device,
        "row_tokens": trainer.row_tokens,
        "versions": {"torch": torch.__version__},
    }


class _Trainer:
    """The state of a run between two optimizer steps."""

    def __init__(self, job: Job, model: "PeftModel", device: str) -> None:
        import torch

        self._job, self._model, self._device = job, model, device
        self._base: Any = model.base_model.model
        settings = job.settings
        self._weights = list(trainable(model).values())
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._plan = plan(job.train.rows, job.target, settings.epochs, settings.batch_size, settings.seed)
        self._curve, self._visits = job.work / "curve.jsonl", job.work / "visits.jsonl"
        self._unwritten: list[str] = []
        self.row_tokens = settings.row_tokens
        self.step = 0

    def run(self, progress: Progress, stop: StopRequest) -> None:
        """All steps that are still to be taken."""
        self._resume(progress)
        self._check_rows()
        settings = self._job.settings
        self._model.train()
        with progress.step("train", len(self._plan)) as shown:
            shown.advance(self.step)
            while self.step < len(self._plan):
                before = time.monotonic()
                loss, norm = self._one_step(self._plan[self.step])
                speed = len(self._plan[self.step]) / (time.monotonic() - before)
                self.step += 1
                shown.advance(1, loss=loss, **{"samples/s": speed})
                if self.step % settings.log_every_steps == 0 or self.step in (1, len(self._plan)):
                    self.record({"loss": loss, "grad_norm": norm, "learning_rate": self._rate(self.step - 1)})
                every = settings.evaluate_every_steps
                if every is not None and self.step % every == 0 and self.step < len(self._plan):
                    self.record({"select_loss": self.select_loss(stop)})
                    self._model.train()
                if (
                    stop.received is not None
                    or self.step % settings.save_every_steps == 0
                    or self.step == len(self._plan)
                ):
                    append_lines(self._visits, self._unwritten)
                    self._unwritten.clear()
                    checkpoints.save(self._job.work, self.step, self._model, self._optimizer)
                    stop.obey(f"step {self.step} of {len(self._plan)} is saved")

    def record(self, values: Mapping[str, float]) -> None:
        """One point of the curve: to the local file first, then to trackers."""
        append_lines(self._visits, self._unwritten)
        self._unwritten.clear()
        append_lines(self._curve, [json.dumps({"step": self.step, **values})])
        self._job.log(self.step, values)

    def select_loss(self, stop: StopRequest) -> float:
        """Mean loss per supervised token over the select rows, first targets."""
        import torch

        self._model.eval()
        total, count, size = 0.0, 0, self._job.settings.batch_size
        with torch.no_grad():
            for start in range(0, len(self._job.select.rows), size):
                stop.obey("all steps up to the last checkpoint are saved")
                numbers = range(start, min(start + size, len(self._job.select.rows)))
                for row in self._rows([self._job.select.encode(Visit(number, 0, 0)) for number in numbers]):
                    total += self._losses(row).sum().item()
                    count += len(row.targets)
        return total / count

    def _one_step(self, visits: Sequence[Visit]) -> tuple[float, float]:
        """One optimizer step over a global batch; returns its loss and the gradient's norm before clipping."""
        import torch

        lessons = [self._job.train.encode(visit) for visit in visits]
        summed = self._gradients(lessons)
        total = sum(summed) / sum(lesson.rendered.supervised for lesson in lessons)
        norm = torch.nn.utils.clip_grad_norm_(self._weights, self._job.settings.max_grad_norm).item()
        if not math.isfinite(total) or not math.isfinite(norm):
            self._refuse(visits, total, norm)
        if self.step == 0:
            check_first_gradients(self._model)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._log_visits(visits, lessons, summed)
        return total, norm

    def _gradients(self, lessons: Sequence[Encoded]) -> list[float]:
        """Gradients of the mean token loss of a global batch; returns each lesson's summed loss.

        Where a row does not fit into memory, all rows are made half as long and the batch is tried again: the same
        batch, the same gradient.
        """
        import torch

        while True:
            with contextlib.suppress(torch.OutOfMemoryError):
                return self._backward(lessons, self._rows(lessons))
            # Out here the failed pass is really gone: inside `except` its traceback would keep it alive.
            self._optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self._shorten_rows(lessons)

    def _backward(self, lessons: Sequence[Encoded], rows: Sequence[Row]) -> list[float]:
        import torch

        supervised = sum(lesson.rendered.supervised for lesson in lessons)
        summed = torch.zeros(len(lessons), dtype=torch.float64)
        for number, row in enumerate(rows):
            torch.manual_seed(_seed(self._job.settings.seed, self.step, number))
            losses = self._losses(row)
            (losses.sum() / supervised).backward()
            summed.index_add_(0, torch.tensor(row.owners), losses.detach().double().cpu())
        return summed.tolist()

    def _shorten_rows(self, lessons: Sequence[Encoded]) -> None:
        if len(self._rows(lessons)) == len(lessons):
            raise EnvironmentProblem(TOO_LARGE)
        self.row_tokens = max(map(len, self._rows(lessons))) // 2
        write_json(self._job.work / "row_tokens.json", self.row_tokens)

    def _rows(self, lessons: Sequence[Encoded]) -> list[Row]:
        inputs = self._job.inputs
        layout = Layout(inputs.checkpoint.family, inputs.renderer.image_id, inputs.patcher.limits.merge)
        return rows_of(lessons, layout, self.row_tokens)

    def _losses(self, row: Row) -> "torch.Tensor":
        return token_losses(self._base, row, self._job.inputs, self._device)

    def _check_rows(self) -> None:
        """That lessons of a row do not feel each other, tried on this run's first ones."""
        count = min(3, len(self._job.train.rows))
        lessons = [self._job.train.encode(Visit(number, 0, 0)) for number in range(count)]
        row = self._rows(lessons)[0]
        self._model.eval()
        check_isolation(self._base, self._job.inputs.checkpoint.family, row, self._losses)
        self._optimizer.zero_grad(set_to_none=True)

    def _log_visits(self, visits: Sequence[Visit], lessons: Sequence[Encoded], summed: Sequence[float]) -> None:
        """Every example's loss each time it is met: what is always hard to learn may be labelled wrongly."""
        for visit, lesson, loss in zip(visits, lessons, summed, strict=True):
            tokens = lesson.rendered.supervised
            seen = {"step": self.step + 1, "id": self._job.train.rows.id(visit.row), "choice": visit.choice}
            self._unwritten.append(json.dumps({**seen, "epoch": visit.epoch, "loss": loss / tokens, "tokens": tokens}))

    def _rate(self, step: int) -> float:
        return learning_rate(step, len(self._plan), self._job.settings)

    def _resume(self, progress: Progress) -> None:
        checkpoint = checkpoints.newest(self._job.work)
        if checkpoint is not None:
            self.step = checkpoints.restore(checkpoint, self._model, self._optimizer)
            progress.note(f"going on after step {self.step} of {len(self._plan)}")
        # The interrupted run may have written lines behind its last checkpoint; they are made again.
        for file in (self._curve, self._visits):
            kept = [line for line in read_whole_lines(file) if self._is_done(json.loads(line))]
            write_atomic(file, "".join(line + "\n" for line in kept))
        shorter = self._job.work / "row_tokens.json"
        if shorter.is_file():
            self.row_tokens = read_json(shorter, int)

    def _is_done(self, point: Mapping[str, Any]) -> bool:
        """Whether a written line will not be written again: the last select loss is, when only that was missing."""
        last = point["step"] == len(self._plan) and "select_loss" in point
        return point["step"] <= self.step and not last

    def _refuse(self, visits: Sequence[Visit], loss: float, norm: float) -> None:
        rows = [self._job.train.rows.id(visit.row) for visit in visits]
        dump = self._job.work / "diverged.json"
        write_json(dump, {"step": self.step + 1, "loss": str(loss), "grad_norm": str(norm), "rows": rows})
        raise Diverged(
            f"step {self.step + 1}: loss {loss}, gradient norm {norm}; the step was not taken and the last checkpoint "
            f"is untouched. Its rows are in {dump}. Look at them, or try --set training.learning_rate="
            f"{self._job.settings.learning_rate / 4:g}"
        )


def learning_rate(step: int, steps: int, settings: TrainingConfig) -> float:
    """Rate of the optimizer step after `step` others: linear warm-up from 0, then the chosen shape down to 0."""
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = (step - warmup) / max(1, steps - warmup)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * left)), "linear": 1 - left, "constant": 1.0}
    return settings.learning_rate * shape[settings.schedule]


def _seed(seed: int, step: int, row: int) -> int:
    return (seed * 1_000_003 + step) * 1_000_003 + row & 0x7FFF_FFFF_FFFF_FFFF
