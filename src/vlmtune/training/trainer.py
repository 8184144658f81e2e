"""The training loop: batches of visits, gradients over the global batch, one optimizer step, curves, checkpoints.

The loss of a step is the sum of all supervised tokens' losses over their number in the whole global batch, however it
is packed into rows. Everything random is a function of (seed, step, row): a resumed run is the same run.
"""

import itertools
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from vlmtune.distributed import ALONE, Ranks
from vlmtune.errors import Diverged, EnvironmentProblem
from vlmtune.files import read_json, write_json
from vlmtune.modeling.loading import ModelConfig, load_model, pick_device
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, Inputs
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest
from vlmtune.training import checkpoints
from vlmtune.training.activation_checkpointing import Memory
from vlmtune.training.attention import unsegmented, use_segments
from vlmtune.training.checkpoints import LOSS, Judge, Selection
from vlmtune.training.config import TrainingConfig, learning_rate
from vlmtune.training.dataset import Lessons, Sizes
from vlmtune.training.forward_backward import SHORTER, TOO_LARGE, Gradients, check_isolation
from vlmtune.training.log import History
from vlmtune.training.lora import add_adapter, check_first_gradients, optimizer_groups, save_adapter, trainable
from vlmtune.training.sampler import Visit, part_of, plan

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


@dataclass(frozen=True, slots=True)
class Job:
    """One training run.

    `work` keeps checkpoints and the curve; `adapter` is the folder the result is written to. `target` is
    `dataset.target`. `log(step, values)` mirrors the curve to trackers. `judge` measures the validation rows beside
    their loss. The job is the same on all `ranks`; the first one alone writes.
    """

    settings: TrainingConfig
    model: ModelConfig
    inputs: Inputs
    train: Lessons
    validation: Lessons
    target: str | None
    work: Path
    adapter: Path
    log: Callable[[int, Mapping[str, float]], None]
    judge: Judge | None = None
    ranks: Ranks = ALONE


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
    sizes, _ = job.ranks.share(
        lambda: (job.train.check("train", progress, stop), job.validation.check("validation", progress, stop))
    )
    device = pick_device(job.model)
    base = load_model(job.inputs.checkpoint, device, job.settings.precision)
    loaded = torch.cuda.memory_allocated() if device == "cuda" else 0
    kernel = use_segments(base, job.inputs.checkpoint.family, job.settings.attention)
    going_on = None if job.settings.continue_from is None else Path(job.settings.continue_from)
    model = add_adapter(base, job.settings.lora, job.inputs.checkpoint.family, job.settings.seed, going_on)
    trainer = _Trainer(job, model, device, sizes)
    started = time.monotonic()
    try:
        trainer.run(progress, stop)
    except torch.OutOfMemoryError:
        raise EnvironmentProblem(TOO_LARGE) from None
    if job.ranks.first:
        trainer.write_adapter()
    tokens, supervised = sizes.first_targets()
    return {
        "steps": trainer.step,
        "tokens_per_epoch": tokens,
        "supervised_tokens_per_epoch": supervised,
        "trainable_parameters": sum(p.numel() for p in trainable(model).values()),
        "device": device,
        "attention": kernel,
        **trainer.memory.facts(),
        "pack_tokens": trainer.gradients.pack_tokens,
        "peak_bytes_over_model": torch.cuda.max_memory_allocated() - loaded if device == "cuda" else None,
        "ranks": job.ranks.world,
        "versions": {"torch": torch.__version__},
        **trainer.facts(time.monotonic() - started),
    }


class _Trainer:
    """The state of a run between two optimizer steps."""

    def __init__(self, job: Job, model: "PeftModel", device: str, sizes: Sizes) -> None:
        import torch

        self._job, self._model, self._device = job, model, device
        self._sizes = sizes
        self._base: Any = model.base_model.model
        settings = job.settings
        self._weights = list(trainable(model).values())
        self._optimizer = torch.optim.AdamW(
            optimizer_groups(model, job.inputs.checkpoint.family, settings), weight_decay=settings.weight_decay
        )
        self._plan = plan(job.train.rows, job.target, settings.epochs, settings.batch_size, settings.seed)
        self.gradients = Gradients(self._base, self._weights, job.inputs, device, settings, job.work, job.ranks)
        family, asked = job.inputs.checkpoint.family, settings.checkpoint_layers
        self.memory = Memory(self._base, family, self.gradients, asked, job.work)
        self._history = History(job.work, job.log)
        higher = job.judge is not None and job.judge.higher_is_better and settings.best_metric != "loss"
        by = None if settings.best_metric is None else f"validation_{settings.best_metric}"
        self._selection = Selection(job.work, by, higher, settings.early_stopping)
        self._judged: dict[int, dict[str, float]] = {}
        self._waited_s = self._stepped_s = 0.0
        self._answers = 0
        self.step = 0

    def run(self, progress: Progress, stop: StopRequest) -> None:
        """All steps that are still to be taken."""
        self._resume(progress)
        self._check_rows()
        self._try_longest_row()
        left = (self._own(self._plan[step]) for step in range(self.step, len(self._plan)))
        with (
            Prefetch(self._job.train.encode, left, self._job.settings.workers) as feed,
            progress.step("train", len(self._plan)) as shown,
        ):
            shown.advance(self.step)
            while True:
                if self._is_due(self.step) and self.step not in self._judged:
                    self._judge(stop)
                if self.step == len(self._plan) or self._selection.exhausted:
                    break
                began, waited = time.monotonic(), feed.waited_s
                loss, norm = self._one_step(self._plan[self.step], next(feed), stop)
                took, self._waited_s = time.monotonic() - began, feed.waited_s
                self._stepped_s += took
                self._answers += len(self._plan[self.step])
                speed, waits = len(self._plan[self.step]) / took, (feed.waited_s - waited) / took
                self.step += 1
                facts: dict[str, float | str] = {"samples/s": speed, "waiting for data": f"{waits:.0%}"}
                shown.advance(1, loss=loss, **facts)
                self._keep(loss, norm, stop)

    def _keep(self, loss: float, norm: float, stop: StopRequest) -> None:
        """After a step: its point of the curve and a checkpoint where they are due; ends where a signal came."""
        settings, step = self._job.settings, self.step
        stopping = stop.received is not None
        if self._job.ranks.first:
            if step % settings.log_every_steps == 0 or step in (1, len(self._plan)):
                self._history.point(step, {"loss": loss, "grad_norm": norm, "learning_rate": self._rate(step - 1)})
            if stopping or step % settings.save_every_steps == 0 or self._is_due(step):
                self._history.save()
                checkpoints.save(self._job.work, step, self._model, self._optimizer)
        if stopping:
            stop.obey(f"step {step} of {len(self._plan)} is saved")

    def _is_due(self, step: int) -> bool:
        """Whether a judgement on the validation rows follows a step."""
        every = self._job.settings.evaluate_every_steps
        return step == len(self._plan) or (every is not None and step > 0 and step % every == 0)

    def _judge(self, stop: StopRequest) -> None:
        """Loss, and the task's metric where asked for, on the validation rows; the best adapter so far is kept."""
        values = {LOSS: self.validation_loss(stop)}
        judge, job = self._job.judge, self._job
        if judge is not None:
            with unsegmented(self._base, job.inputs.checkpoint.family):
                score = job.ranks.share(lambda: judge.score(self._model, self.step))
            values |= {judge.name: score} if score is not None else {}
        self._judged[self.step] = values
        if job.ranks.first:
            self._selection.offer(self.step, values, self._save_adapter)
            self._history.point(self.step, values)
            self._selection.tidy()
        else:
            self._selection.offer(self.step, values, None)

    def _save_adapter(self, folder: Path) -> None:
        checkpoint = self._job.inputs.checkpoint
        save_adapter(self._model, folder, checkpoint.name, checkpoint.commit)

    def write_adapter(self) -> None:
        """The adapter of the chosen step in its folder."""
        if self._selection.folder is None:
            self._save_adapter(self._job.adapter)
        else:
            shutil.rmtree(self._job.adapter, ignore_errors=True)
            shutil.copytree(self._selection.folder, self._job.adapter)

    def facts(self, seconds: float) -> dict[str, Any]:
        """How the run went, for the manifest."""
        return {
            **self._judged.get(self.step, {}),
            "chosen_step": self._selection.step or self.step,
            "stopped_early": self.step < len(self._plan),
            "seconds_since_start_or_resume": round(seconds, 1),
            "seconds_in_steps": round(self._stepped_s, 3),
            "answers_in_steps": self._answers,
            "seconds_waited_for_data": round(self._waited_s, 1),
        }

    def validation_loss(self, stop: StopRequest) -> float:
        """Mean loss per supervised token over the validation rows, first targets."""
        import torch

        self._model.eval()
        ranks, rows, size = self._job.ranks, len(self._job.validation.rows), self._job.settings.batch_size
        every = [[Visit(n, 0, 0) for n in range(at, min(at + size, rows))] for at in range(0, rows, size)]
        mine = every[ranks.rank :: ranks.world]
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad(), Prefetch(self._job.validation.encode, mine, self._job.settings.workers) as feed:
            for _ in mine:
                if ranks.world == 1:  # several stop together, after their next step
                    stop.obey(f"step {self.step} is saved")
                for row in self.gradients.rows(next(feed)):
                    total += torch.tensor([self.gradients.losses(row).double().sum().item(), len(row.targets)])
        ranks.add_up([total])
        return (total[0] / total[1]).item()

    def _part(self, visits: Sequence[Visit]) -> list[int]:
        """Numbers of this rank's visits of a global batch."""
        tokens = [int(self._sizes.tokens[place]) for place in self._sizes.places(visits)]
        return part_of(visits, tokens, self._job.ranks.rank, self._job.ranks.world)

    def _own(self, visits: Sequence[Visit]) -> list[Visit]:
        """This rank's visits of a global batch."""
        return [visits[number] for number in self._part(visits)]

    def _one_step(self, visits: Sequence[Visit], lessons: Sequence[Encoded], stop: StopRequest) -> tuple[float, float]:
        """One optimizer step over a global batch, of which `lessons` are this rank's.

        Returns the batch's loss and the gradient's norm before clipping.
        """
        import torch

        self._model.train()
        supervised = [int(self._sizes.supervised[place]) for place in self._sizes.places(visits)]
        summed = torch.zeros(len(visits), dtype=torch.float64)
        summed[self._part(visits)] = self.gradients.add(lessons, sum(supervised), self.step)
        self._add_up(summed, stop)
        total = summed.sum().item() / sum(supervised)
        norm = torch.nn.utils.clip_grad_norm_(self._weights, self._job.settings.max_grad_norm).item()
        if not math.isfinite(total) or not math.isfinite(norm):
            self._refuse(visits, total, norm)
        if self.step == 0:
            check_first_gradients(self._model)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.step) * group["share"]
        self._optimizer.step()
        self.gradients.forget()
        if self._job.ranks.first:
            self._log_visits(visits, supervised, summed.tolist())
        return total, norm

    def _add_up(self, summed: "torch.Tensor", stop: StopRequest) -> None:
        """Gradients and losses over all ranks; a signal that reached one of them reaches all."""
        import torch

        ranks = self._job.ranks
        if ranks.world == 1:
            return
        for weight in self._weights:
            if weight.grad is None:  # a rank without a part in this batch
                weight.grad = torch.zeros_like(weight)
        ranks.add_up([weight.grad for weight in self._weights if weight.grad is not None])
        signal = torch.tensor([float(stop.received or 0) / ranks.world], dtype=torch.float64)
        ranks.add_up([summed, signal])
        if signal.item() and stop.received is None:
            stop.received = Signals.SIGTERM

    def _check_rows(self) -> None:
        """That lessons of a row do not feel each other, tried on two of the first batch and its last."""
        first = self._plan[0]
        lessons = [self._job.train.encode(visit) for visit in dict.fromkeys([*first[:2], first[-1]])]
        row = self.gradients.rows(lessons)[0]
        self._model.eval()
        check_isolation(self._base, self._job.inputs.checkpoint.family, row, self.gradients.losses)
        self.gradients.forget()

    def _try_longest_row(self) -> None:
        """The longest row of this rank's first epoch, before the first step."""
        first = itertools.takewhile(lambda visits: visits[0].epoch == 0, self._plan)
        tokens = [self._sizes.tokens[self._sizes.places(self._own(visits))].tolist() for visits in first]
        self._model.train()
        encode, steps = self._job.train.encode, self._plan
        self.memory.settle(tokens, lambda n: [encode(visit) for visit in self._own(steps[n])], self._job.ranks.first)

    def _log_visits(self, visits: Sequence[Visit], supervised: Sequence[int], summed: Sequence[float]) -> None:
        """Every example's loss each time it is met: what is always hard to learn may be labelled wrongly."""
        for visit, tokens, loss in zip(visits, supervised, summed, strict=True):
            seen = {"step": self.step + 1, "id": self._job.train.rows.id(visit.row), "choice": visit.choice}
            self._history.visit(**seen, epoch=visit.epoch, loss=loss / tokens, tokens=tokens)

    def _rate(self, step: int) -> float:
        return learning_rate(step, len(self._plan), self._job.settings)

    def _resume(self, progress: Progress) -> None:
        state, points, tokens = self._job.ranks.share(self._left_behind)
        if state is not None:
            checkpoints.restore(state, self._model, self._optimizer)
            self.step = state.step
            progress.note(f"going on after step {self.step} of {len(self._plan)}")
        self._selection.restore(points)
        self._judged = {point.pop("step"): point for point in points if LOSS in point}
        self.gradients.pack_tokens = tokens or self.gradients.pack_tokens

    def _left_behind(self) -> tuple[checkpoints.State | None, list[dict[str, Any]], int | None]:
        """What an interrupted run left: its newest checkpoint, the curve up to there, and how short rows had to be."""
        newest = checkpoints.newest(self._job.work)
        state = checkpoints.read(newest) if newest is not None else None
        # It may have written lines behind its last checkpoint; they are made again.
        self._history.go_on(state.step if state is not None else 0)
        shorter = self._job.work / SHORTER
        return state, list(self._history.points()), read_json(shorter, int) if shorter.is_file() else None

    def _refuse(self, visits: Sequence[Visit], loss: float, norm: float) -> None:
        rows = [self._job.train.rows.id(visit.row) for visit in visits]
        dump = self._job.work / "diverged.json"
        if self._job.ranks.first:
            write_json(dump, {"step": self.step + 1, "loss": str(loss), "grad_norm": str(norm), "rows": rows})
        raise Diverged(
            f"step {self.step + 1}: loss {loss}, gradient norm {norm}; the step was not taken and the last checkpoint "
            f"is untouched. Its rows are in {dump}. Look at them, or try --set training.learning_rate="
            f"{self._job.settings.learning_rate / 4:g}"
        )
