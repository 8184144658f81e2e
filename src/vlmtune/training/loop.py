"""The training loop: batches of visits, gradients over the global batch, one optimizer step, curves, checkpoints.

The loss of a step is the sum of all supervised tokens' losses over their number in the whole global batch, however it
is cut into micro-batches. Everything random is a function of (seed, step, micro-batch): a resumed run is the same run.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.errors import Diverged
from vlmtune.files import append_lines, read_whole_lines, write_atomic, write_json
from vlmtune.inputs import Encoded, Inputs, collate
from vlmtune.models import ModelConfig, load_model, pick_device
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest
from vlmtune.training import checkpoints
from vlmtune.training.lessons import Lessons
from vlmtune.training.lora import add_adapter, check_first_gradients, save_adapter, trainable
from vlmtune.training.settings import TrainingConfig
from vlmtune.training.visits import Visit, plan

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


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
    model = add_adapter(base, job.settings.lora, job.inputs.checkpoint.family, job.settings.seed)
    trainer = _Trainer(job, model, device)
    started = time.monotonic()
    trainer.run(progress, stop)
    select_loss = trainer.select_loss()
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
        self._curve = job.work / "curve.jsonl"
        self.step = 0

    def run(self, progress: Progress, stop: StopRequest) -> None:
        """All steps that are still to be taken."""
        self._resume(progress)
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
                    self.record({"select_loss": self.select_loss()})
                    self._model.train()
                if stop.received is not None or self.step % settings.save_every_steps == 0:
                    checkpoints.save(self._job.work, self.step, self._model, self._optimizer)
                    stop.obey(f"step {self.step} of {len(self._plan)} is saved")

    def record(self, values: Mapping[str, float]) -> None:
        """One point of the curve: to the local file first, then to trackers."""
        append_lines(self._curve, [json.dumps({"step": self.step, **values})])
        self._job.log(self.step, values)

    def select_loss(self) -> float:
        """Mean loss per supervised token over the select rows, first targets."""
        import torch

        self._model.eval()
        total, count = 0.0, 0
        visits = [Visit(row, 0, 0) for row in range(len(self._job.select.rows))]
        with torch.no_grad():
            for part in self._micro(visits):
                encoded = [self._job.select.encode(visit) for visit in part]
                total += self._summed_loss(encoded).item()
                count += sum(item.rendered.supervised for item in encoded)
        return total / count

    def _one_step(self, visits: Sequence[Visit]) -> tuple[float, float]:
        """One optimizer step over a global batch; returns its loss and the gradient's norm before clipping."""
        import torch

        lessons = {visit: self._job.train.encode(visit) for visit in visits}
        supervised = sum(item.rendered.supervised for item in lessons.values())
        total = 0.0
        for number, part in enumerate(self._micro(visits)):
            torch.manual_seed(_seed(self._job.settings.seed, self.step, number))
            loss = self._summed_loss([lessons[visit] for visit in part]) / supervised
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self._weights, self._job.settings.max_grad_norm).item()
        if not math.isfinite(total) or not math.isfinite(norm):
            self._refuse(visits, total, norm)
        if self.step == 0:
            check_first_gradients(self._model)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total, norm

    def _summed_loss(self, lessons: Sequence[Encoded]) -> "torch.Tensor":
        return summed_loss(self._base, lessons, self._job.inputs, self._device)

    def _micro(self, visits: Sequence[Visit]) -> list[Sequence[Visit]]:
        size = self._job.settings.micro_batch_size
        return [visits[start : start + size] for start in range(0, len(visits), size)]

    def _rate(self, step: int) -> float:
        return learning_rate(step, len(self._plan), self._job.settings)

    def _resume(self, progress: Progress) -> None:
        checkpoint = checkpoints.newest(self._job.work)
        if checkpoint is not None:
            self.step = checkpoints.restore(checkpoint, self._model, self._optimizer)
            progress.note(f"going on after step {self.step} of {len(self._plan)}")
        # The interrupted run may have written points behind its last checkpoint; they are made again.
        points = [line for line in read_whole_lines(self._curve) if json.loads(line)["step"] <= self.step]
        write_atomic(self._curve, "".join(line + "\n" for line in points))

    def _refuse(self, visits: Sequence[Visit], loss: float, norm: float) -> None:
        rows = [self._job.train.rows[visit.row].id for visit in visits]
        dump = self._job.work / "diverged.json"
        write_json(dump, {"step": self.step + 1, "loss": str(loss), "grad_norm": str(norm), "rows": rows})
        raise Diverged(
            f"step {self.step + 1}: loss {loss}, gradient norm {norm}; the step was not taken and the last checkpoint "
            f"is untouched. Its rows are in {dump}. Look at them, or try --set training.learning_rate="
            f"{self._job.settings.learning_rate / 4:g}"
        )


def summed_loss(model: Any, lessons: Sequence[Encoded], inputs: Inputs, device: str) -> "torch.Tensor":
    """Cross-entropy summed over the supervised tokens of a micro-batch (nats).

    The head runs at the supervised positions alone: at 8B and 1,840 tokens that is 0.1 GB of logits instead of 4.2.
    """
    import torch

    tensors = collate(lessons, inputs, "right", device, model.dtype)
    hidden = model.base_model(**tensors, use_cache=False).last_hidden_state
    learnt = torch.zeros_like(tensors["input_ids"], dtype=torch.bool)
    for row, item in enumerate(lessons):
        learnt[row, : len(item)] = torch.tensor(item.rendered.trained, device=learnt.device)
    # Position t predicts token t + 1.
    logits = model.get_output_embeddings()(hidden[:, :-1][learnt[:, 1:]]).float()
    return torch.nn.functional.cross_entropy(logits, tensors["input_ids"][:, 1:][learnt[:, 1:]], reduction="sum")


def learning_rate(step: int, steps: int, settings: TrainingConfig) -> float:
    """Rate of the optimizer step after `step` others: linear warm-up from 0, then the chosen shape down to 0."""
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = (step - warmup) / max(1, steps - warmup)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * left)), "linear": 1 - left, "constant": 1.0}
    return settings.learning_rate * shape[settings.schedule]


def _seed(seed: int, step: int, micro: int) -> int:
    return (seed * 1_000_003 + step) * 1_000_003 + micro & 0x7FFF_FFFF_FFFF_FFFF
