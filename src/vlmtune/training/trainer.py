"""The training loop: sample a global batch, accumulate its gradient, take one optimizer step, log and checkpoint.

The loss of a step is the sum over all supervised tokens of the global batch divided by their number, however the batch
is packed. Everything random is a function of (seed, step, sequence), so a resumed run equals an uninterrupted one.
"""

import itertools
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from vlmtune.distributed import SINGLE_PROCESS, ProcessGroup
from vlmtune.errors import Diverged, DoesNotFit, IntegrityError
from vlmtune.files import read_json, write_json
from vlmtune.modeling.loading import ModelConfig, load_model, pick_device
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.progress import Progress
from vlmtune.run_folder import is_adapter
from vlmtune.signals import StopRequest
from vlmtune.training import checkpoints
from vlmtune.training.activation_checkpointing import ActivationCheckpointing
from vlmtune.training.attention import enable_packed_attention, kernel_facts, plain_attention
from vlmtune.training.checkpoints import VALIDATION_LOSS, BestAdapter, Evaluator
from vlmtune.training.config import TrainingConfig, learning_rate
from vlmtune.training.dataset import ExampleLengths, TrainingExamples, check_examples
from vlmtune.training.forward_backward import (
    PACK_TOKENS_FILE,
    ForwardBackward,
    check_packing_leakage,
    too_large,
)
from vlmtune.training.full_weights import give_copies, round_into_model
from vlmtune.training.grpo import GrpoStep, LoggedRow, Rollouts
from vlmtune.training.log import TrainingLog, read_steps
from vlmtune.training.lora import (
    add_adapter,
    check_first_gradients,
    in_full,
    optimizer_groups,
    save_adapter,
    trainable,
    weights_in_full,
)
from vlmtune.training.lora_init import begin_with_rounding_errors, changes_base, keep_initial
from vlmtune.training.sampler import Sample, Share, sample_batches, shard_batch
from vlmtune.training.sharding import clip_gradients, is_rows, shape_of, shard

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """The inputs of a training run, the same in all `processes`; only the main process writes.

    `work` is the folder of checkpoints and logs, `adapter` the folder of the result. `target` is `dataset.target`, and
    `shares` are the further datasets of a mixture, whose rows follow in `train`.
    `lengths` are those of the train rows if both splits have been checked already. `log(step, values)` mirrors the
    curve to trackers. `evaluator` scores the validation rows in addition to their loss. `rollouts` draws and scores
    answers where the objective is `grpo`.
    """

    settings: TrainingConfig
    model: ModelConfig
    encoder: Encoder
    train: TrainingExamples
    validation: TrainingExamples
    target: str | None
    work: Path
    adapter: Path
    log: Callable[[int, Mapping[str, float]], None]
    lengths: ExampleLengths | None = None
    evaluator: Evaluator | None = None
    rollouts: Rollouts | None = None
    processes: ProcessGroup = SINGLE_PROCESS
    shares: tuple[Share, ...] = ()


def train(job: TrainingJob, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """Train, or resume an interrupted run, and write the adapter.

    Returns:
        Fields of the adapter's manifest: steps, tokens, losses, seconds, device, versions.

    Raises:
        DataError: a row cannot be trained on; raised before the first step.
        ConfigError, IntegrityError: the adapter does not fit the model, or packed examples leak.
        EnvironmentProblem: no GPU, no weights, a full disk, or one example alone does not fit into memory.
        Diverged: a loss or gradient was not finite; that optimizer step was not taken.
        Interrupted, Terminated: a signal was received; the state is saved.
    """
    import torch

    job.processes.refuse_differences(checkpoints.library_versions() | _own_version())
    # Tokenizing and decoding need no model: bad rows are reported before the weights are loaded.
    lengths = job.lengths or job.processes.broadcast(lambda: check_examples(job.train, job.validation, progress, stop))
    family, settings = job.encoder.checkpoint.family, job.settings
    device = pick_device(job.model)
    # Of a sharded model, no GPU ever has more than its share and a layer.
    base = load_model(job.encoder.checkpoint, device if settings.sharding == "none" else "cpu", settings.precision)
    started = time.monotonic()
    try:
        model, initial, loaded_bytes = _adapted(job, base, device)
        for note in in_full(model, family, settings):
            progress.note(note)
        kernel = enable_packed_attention(base, family, settings.attention)
        trainer = Trainer(job, model, device, lengths, initial)
        with job.processes.translated_errors():
            trainer.run(progress, stop)
            trainer.write_adapter()
    except torch.OutOfMemoryError:
        raise DoesNotFit(too_large(job.encoder, settings)) from None
    tokens, supervised = trainer.tokens_per_epoch()
    return {
        "steps": trainer.step,
        "tokens_per_epoch": tokens,
        "supervised_tokens_per_epoch": supervised,
        "trainable_parameters": sum(shape_of(p).numel() for p in trainable(model).values()),
        "device": device,
        **kernel_facts(base, family, kernel),
        **trainer.checkpointing.facts(),
        "pack_tokens": trainer.forward_backward.pack_tokens,
        "peak_bytes_over_model": torch.cuda.max_memory_allocated() - loaded_bytes if device == "cuda" else None,
        "world_size": job.processes.world_size,
        "versions": {"torch": torch.__version__},
        **trainer.facts(time.monotonic() - started),
    }


def _adapted(
    job: TrainingJob, base: "PreTrainedModel", device: str
) -> "tuple[PeftModel, dict[str, torch.Tensor] | None, int]":
    """The model with what learns, sharded if that is requested; weights taken out of the base; the base's GPU bytes."""
    import torch

    settings, family, processes = job.settings, job.encoder.checkpoint.family, job.processes
    loaded_bytes = torch.cuda.memory_allocated() if device == "cuda" else 0
    continued = None if settings.continue_from is None else Path(settings.continue_from)
    is_whole = settings.sharding == "none"
    model = add_adapter(base, settings.lora, family, settings.seed, continued, settings.full, is_whole)
    taken = changes_base(settings.lora.init_lora_weights)
    initial = keep_initial(model, job.work, processes.is_main) if taken else None
    if not is_whole:
        shard(model, family, device, processes)
        adapters = sum(weight.nbytes for name, weight in model.named_parameters() if ".lora_" in name)
        loaded_bytes = torch.cuda.memory_allocated() - adapters if device == "cuda" else 0
        give_copies(model)
    return model, initial, loaded_bytes


def _own_version() -> dict[str, str]:
    try:
        return {"vlmtune": version("vlmtune")}
    except PackageNotFoundError:  # the sources are only on the path
        return {}


def _take_part(tensors: Iterable[Any]) -> None:
    """Take part in the gathering of tensors that another process keeps."""
    deque(tensors, maxlen=0)


class Trainer:
    """A training run: the state between two optimizer steps, and what happens in one.

    Args:
        job: its inputs.
        model: with its adapter.
        device: of the model.
        lengths: of the train rows.
        initial: weights that were taken out of the base model (`lora_init`), if any were.
    """

    def __init__(
        self,
        job: TrainingJob,
        model: "PeftModel",
        device: str,
        lengths: ExampleLengths,
        initial: "Mapping[str, torch.Tensor] | None" = None,
    ) -> None:
        import torch

        self._job, self._model, self._device = job, model, device
        self._lengths = lengths
        self._base: Any = model.base_model.model
        settings, family = job.settings, job.encoder.checkpoint.family
        self._weights, self._initial = list(trainable(model).values()), initial
        self._has_rows = any(is_rows(weight) for weight in self._weights)
        # The fused kernel makes no copies of the moments, which are large where parts are trained in full.
        fused = bool(settings.full)
        self._optimizer = torch.optim.AdamW(
            optimizer_groups(model, family, settings), weight_decay=settings.weight_decay, fused=fused
        )
        self._optimizer.register_step_post_hook(lambda *_: round_into_model(model))
        self._batches = sample_batches(
            *(job.train.rows, job.target, settings.passes, settings.batch_size, settings.seed, job.shares),
            settings.max_steps,
        )
        self.forward_backward = ForwardBackward(
            self._base, self._weights, job.encoder, device, settings, job.work, job.processes
        )
        self._grpo = None
        if job.rollouts is not None:
            self._grpo = GrpoStep(
                *(job.rollouts, settings, job.encoder, model, self.forward_backward), steps=len(self._batches)
            )
        self.checkpointing = ActivationCheckpointing(
            self._base, family, self.forward_backward, settings.checkpoint_layers, job.work
        )
        self._log = TrainingLog(job.work, job.log)
        higher = job.evaluator is not None and job.evaluator.higher_is_better and settings.best_metric != "loss"
        key = None if settings.best_metric is None else f"validation_{settings.best_metric}"
        self._best = BestAdapter(job.work, key, higher, settings.early_stopping)
        self._writer = checkpoints.Writer(job.work)
        self._evaluations: dict[int, dict[str, float]] = {}
        self._waited_s = self._stepped_s = 0.0
        self._samples = self._skipped = 0
        self._all_connected = self._all_stop = False
        self.step = 0

    def run(self, progress: Progress, stop: StopRequest) -> None:
        """Take all remaining steps."""
        self._resume(progress)
        if self.step == 0 and self._job.settings.lora.init_lora_weights == "loftq":
            # A checkpoint has what the adapter became of it: a second model is only loaded for a fresh start.
            original = load_model(replace(self._job.encoder.checkpoint, quantization=None), "cpu", "bf16")
            begin_with_rounding_errors(self._model, original)
            del original
        self._try_longest_sequence()
        self._check_packing()
        with self._writer:
            self._take_steps(progress, stop)
        if self._samples and self._skipped < self.step and not self._all_connected:
            progress.note(
                "no example of these steps had an image, so the merger and the vision tower got no gradient; leave "
                "them out of training.method and training.lora.parts"
            )
        if self._skipped:
            progress.note(
                f"{self._skipped} of {self.step} steps were skipped: their gradients exceeded the range of fp16, and "
                "the loss scale was halved each time"
            )

    def _take_steps(self, progress: Progress, stop: StopRequest) -> None:
        remaining = (self._shard(self._batches[step]) for step in range(self.step, len(self._batches)))
        encode = self._job.train.encode if self._grpo is None else self._job.train.prompt
        with (
            Prefetch(encode, remaining, self._job.settings.workers) as batches,
            progress.step("train", len(self._batches)) as shown,
        ):
            shown.advance(self.step)
            while True:
                if self._is_evaluated(self.step) and self.step not in self._evaluations:
                    self._evaluate(stop)
                if self.step == len(self._batches) or self._best.should_stop:
                    break
                samples = self._batches[self.step]
                began, waited = time.monotonic(), batches.waited_s
                loss, norm = self._optimizer_step(samples, next(batches), stop)
                took, self._waited_s = time.monotonic() - began, batches.waited_s
                self._stepped_s += took
                self._samples += len(samples)
                self.step += 1
                waiting = f"{(batches.waited_s - waited) / took:.0%}"
                facts: dict[str, float | str] = {"samples/s": len(samples) / took, "waiting for data": waiting}
                if self._grpo is not None:
                    facts["reward"] = self._grpo.facts["reward"]
                    for name in self._grpo.constant():
                        progress.note(f"the reward {name} is constant within every group so far: it teaches nothing")
                shown.advance(1, loss=loss, **facts)
                self._after_step(loss, norm, stop)

    def _after_step(self, loss: float, norm: float, stop: StopRequest) -> None:
        """Log and checkpoint where due; raise if a signal was received."""
        settings, step = self._job.settings, self.step
        # A signal behind the reduction counts in the next step: the other processes have not heard of it.
        stopping = self._all_stop if self._job.processes.world_size > 1 else stop.received is not None
        is_main, is_logged = self._job.processes.is_main, step % settings.log_every_steps == 0
        if is_main and (is_logged or step in (1, len(self._batches))):
            more = {} if self._grpo is None else self._grpo.facts
            self._log.point(step, {"loss": loss, "grad_norm": norm, "learning_rate": self._rate(step - 1), **more})
        if stopping or step % settings.save_every_steps == 0 or self._is_evaluated(step):
            if is_main:
                self._log.flush()
                self._writer.save(step, self._model, self._optimizer, self._scaling())
            elif self._has_rows:
                _take_part(checkpoints.whole_tensors(self._model, self._optimizer))
        if stopping:
            self._writer.wait()
            stop.raise_if_requested(f"step {step} of {len(self._batches)} is saved")

    def _scaling(self) -> checkpoints.Scaling | None:
        """The state of fp16's loss scale."""
        scaler = self.forward_backward.scaler
        if not scaler.is_enabled():
            return None
        state = scaler.state_dict()
        return {"scale": state["scale"], "growth_tracker": state["_growth_tracker"], "skipped": self._skipped}

    def _is_evaluated(self, step: int) -> bool:
        """Whether the validation rows are evaluated after a step."""
        every = self._job.settings.evaluate_every_steps
        return step == len(self._batches) or (every is not None and step > 0 and step % every == 0)

    def _evaluate(self, stop: StopRequest) -> None:
        """Compute the loss on the validation rows, and the task's metric if requested; keep the best adapter so far."""
        # Whatever an evaluation deletes or decides, the checkpoint that a killed run continues from is on disk before.
        self._writer.wait()
        values = {VALIDATION_LOSS: self.validation_loss(stop)}
        evaluator, job = self._job.evaluator, self._job
        if evaluator is not None:
            with plain_attention(self._base, job.encoder.checkpoint.family):
                score = job.processes.broadcast(lambda: evaluator.score(self._model, self.step))
            values |= {evaluator.name: score} if score is not None else {}
        self._evaluations[self.step] = values
        if job.processes.is_main:
            self._best.update(self.step, values, self._save_adapter)
            self._log.point(self.step, values)
            self._best.prune()
        elif self._best.update(self.step, values, None):
            _take_part(weights_in_full(self._model))

    def _save_adapter(self, folder: Path) -> None:
        checkpoint = self._job.encoder.checkpoint
        save_adapter(self._model, folder, checkpoint.name, checkpoint.commit, self._initial)

    def write_adapter(self) -> None:
        """Write the adapter of the chosen step into the job's adapter folder; all processes take part."""
        if not self._job.processes.is_main:
            if self._best.folder is None:
                _take_part(weights_in_full(self._model))
        elif self._best.folder is None:
            self._save_adapter(self._job.adapter)
        elif not is_adapter(self._best.folder):
            raise IntegrityError(f"{self._best.folder} is not the adapter that it was; move {self._job.work} away")
        else:
            shutil.rmtree(self._job.adapter, ignore_errors=True)
            shutil.copytree(self._best.folder, self._job.adapter)

    def tokens_per_epoch(self) -> tuple[int, int]:
        """(tokens, supervised tokens) of one pass over the rows with their first targets; of a mixture, of its first
        epoch, in which further datasets are drawn by their shares.
        """
        if not self._job.shares:
            return self._lengths.first_targets()
        samples = itertools.chain.from_iterable(self._first_epoch())
        indices = self._lengths.indices(list(samples))
        return int(self._lengths.tokens[indices].sum()), int(self._lengths.supervised[indices].sum())

    def _first_epoch(self) -> Iterator[list[Sample]]:
        return itertools.takewhile(lambda samples: samples[0].epoch == 0, self._batches)

    def facts(self, seconds: float) -> dict[str, Any]:
        """Results and timings, for the manifest."""
        return {
            **self._evaluations.get(self.step, {}),
            "chosen_step": self._best.step or self.step,
            "stopped_early": self.step < len(self._batches),
            **({"skipped_steps": self._skipped} if self.forward_backward.scaler.is_enabled() else {}),
            "seconds_since_start_or_resume": round(seconds, 1),
            "seconds_in_steps": round(self._stepped_s, 3),
            "samples_in_steps": self._samples,
            "seconds_waited_for_data": round(self._waited_s, 1),
        }

    def validation_loss(self, stop: StopRequest) -> float:
        """Mean loss per supervised token over the validation rows with their first targets, in nats."""
        import torch

        self._model.eval()
        forward_backward = self.forward_backward
        processes, rows, size = self._job.processes, len(self._job.validation.rows), self._job.settings.batch_size
        batches = [[Sample(n, 0, 0) for n in range(at, min(at + size, rows))] for at in range(0, rows, size)]
        rounds, shard = -(-rows // (size * processes.world_size)), batches[processes.rank :: processes.world_size]
        total = torch.zeros(2, dtype=torch.float64)
        encode, workers = self._job.validation.encode, self._job.settings.workers
        with torch.no_grad(), Prefetch(encode, shard, workers) as encoded:
            for _ in range(rounds):
                if processes.world_size == 1:  # several processes stop together, after their next step
                    stop.raise_if_requested(f"step {self.step} is saved")
                for sequence in forward_backward.in_step(forward_backward.pack(next(encoded, []))):
                    losses = forward_backward.token_losses(sequence)
                    if sequence is not forward_backward.filler:
                        total += torch.tensor([losses.double().sum().item(), len(sequence.targets)])
        processes.all_reduce([total])
        return (total[0] / total[1]).item()

    def _shard_indices(self, samples: Sequence[Sample]) -> list[int]:
        """Indices of this process's samples in a global batch."""
        tokens = [int(self._lengths.tokens[index]) for index in self._lengths.indices(samples)]
        return shard_batch(samples, tokens, self._job.processes.rank, self._job.processes.world_size)

    def _shard(self, samples: Sequence[Sample]) -> list[Sample]:
        """This process's samples of a global batch."""
        return [samples[index] for index in self._shard_indices(samples)]

    def _optimizer_step(
        self, samples: Sequence[Sample], examples: Sequence[Encoded], stop: StopRequest
    ) -> tuple[float, float]:
        """One optimizer step over a global batch, of which `examples` are this process's share.

        Returns the batch's loss and the gradient norm before clipping.
        """
        loss, logged = self._gradient(samples, examples, stop)
        scaler = self.forward_backward.scaler
        scaler.unscale_(self._optimizer)
        norm = clip_gradients(self._weights, self._job.settings.max_grad_norm, self._job.processes).item()
        # A lower scale may bring gradients back into fp16's range, down to none at all.
        is_skipped = scaler.is_enabled() and not math.isfinite(norm) and scaler.get_scale() > 1
        if not math.isfinite(loss) or not (math.isfinite(norm) or is_skipped):
            self._raise_diverged(samples, loss, norm)
        learns = not is_skipped and (self._grpo is None or self._grpo.has_gradient)
        if learns and not self._all_connected:  # in the first step that is taken, or that has an image
            family = self._job.encoder.checkpoint.family
            self._all_connected = check_first_gradients(self._model, family, self._job.processes)
        self._skipped += is_skipped
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.step) * group["share"]
        scaler.step(self._optimizer)
        scaler.update()
        self.forward_backward.zero_grad()
        if self._job.processes.is_main:
            self._log_samples(samples, logged)
        return loss, norm

    def _gradient(
        self, samples: Sequence[Sample], examples: Sequence[Encoded], stop: StopRequest
    ) -> tuple[float, list[dict[str, Any]]]:
        """Accumulate the gradient of a global batch; its loss, and what is logged of each sample."""
        import torch

        summed = torch.zeros(len(samples), dtype=torch.float64)
        if self._grpo is not None:
            truths = [self._job.train.truth(sample) for sample in samples]
            loss, logged = self._grpo.accumulate(examples, truths, self.step)
            self._all_reduce(summed, stop)
            return loss, logged
        self._model.train()
        supervised = self._supervised(samples, examples)
        summed[self._shard_indices(samples)] = self.forward_backward.accumulate(examples, sum(supervised), self.step)
        self._all_reduce(summed, stop)
        pairs = zip(summed.tolist(), supervised, strict=True)
        return summed.sum().item() / sum(supervised), [{"loss": loss / n, "tokens": n} for loss, n in pairs]

    def _supervised(self, samples: Sequence[Sample], examples: Sequence[Encoded]) -> list[int]:
        """Supervised tokens of every sample of a global batch; augmentation may change those of boxes."""
        import torch

        processes = self._job.processes
        if not self._job.settings.augmentation.active:
            return [int(self._lengths.supervised[index]) for index in self._lengths.indices(samples)]
        counts = torch.zeros(len(samples), dtype=torch.float64)
        own = [example.rendered.supervised for example in examples]
        counts[self._shard_indices(samples)] = torch.tensor(own, dtype=torch.float64)
        if processes.world_size > 1:
            processes.all_reduce([counts])
        return [int(count) for count in counts.tolist()]

    def _all_reduce(self, summed: "torch.Tensor", stop: StopRequest) -> None:
        """Sum gradients and losses over all processes; a signal that one of them received stops all."""
        import torch

        processes = self._job.processes
        for weight in self._weights:
            if weight.grad is None:  # no examples of this batch in this process, or none with an image
                weight.grad = torch.zeros_like(weight)
        if processes.world_size == 1:
            return
        whole = (weight for weight in self._weights if not is_rows(weight))
        processes.all_reduce([weight.grad for weight in whole if weight.grad is not None])
        signal = torch.tensor([float(stop.received or 0) / processes.world_size], dtype=torch.float64)
        processes.all_reduce([summed, signal])
        self._all_stop = bool(signal.item())
        if self._all_stop and stop.received is None:
            stop.received = Signals.SIGTERM

    def _check_packing(self) -> None:
        """Test for packing leakage on this process's first two examples of the first batch and its last one.

        They are part of a batch whose longest sequence is known to fit with the layers that are now checkpointed.
        """
        first = self._shard(self._batches[0])
        if not first and self._job.settings.sharding == "none":
            return  # fewer examples than processes
        examples = [self._job.train.encode(sample) for sample in dict.fromkeys([*first[:2], *first[-1:]])]
        packed = self.forward_backward.pack(examples)
        sequence = max(packed, key=lambda each: len(each.segments), default=self.forward_backward.filler)
        self._model.eval()
        family = self._job.encoder.checkpoint.family
        check_packing_leakage(self._base, family, sequence, self.forward_backward.token_losses)
        self.forward_backward.zero_grad()

    def _try_longest_sequence(self) -> None:
        """Before the first step, try the longest sequence of this process's first epoch.

        Of answers that are drawn, the targets stand for as many to each row.
        """
        copies = 1 if self._grpo is None else self._job.settings.grpo.answers
        shards = map(self._shard, self._first_epoch())
        tokens = [self._lengths.tokens[self._lengths.indices(shard)].tolist() * copies for shard in shards]
        self._model.train()
        encode, batches = self._job.train.encode, self._batches
        self.checkpointing.choose(
            *(tokens, lambda n: [encode(sample) for sample in self._shard(batches[n])] * copies),
            *(self._job.processes.is_main, self._job.settings.sharding != "none"),
        )

    def _log_samples(self, samples: Sequence[Sample], logged: Sequence[Mapping[str, Any]]) -> None:
        """Log every sample's loss, or its rewards: an example whose loss stays high may be mislabelled."""
        for sample, more in zip(samples, logged, strict=True):
            facts = {"step": self.step + 1, "id": self._job.train.rows.id(sample.row), "target": sample.target}
            self._log.sample(**facts, epoch=sample.epoch, **more)

    def _rate(self, step: int) -> float:
        return learning_rate(step, len(self._batches), self._job.settings)

    def _resume(self, progress: Progress) -> None:
        read: list[checkpoints.State] = []

        def without_tensors() -> tuple[checkpoints.State | None, list[dict[str, Any]], int | None]:
            state, points, pack_tokens = self._read_state()
            if state is not None:
                read.append(state)
                state = replace(state, weights={}, moments={})
            return state, points, pack_tokens

        state, points, pack_tokens = self._job.processes.broadcast(without_tensors)
        if state is not None:
            whole = read[0] if read else state
            checkpoints.restore(whole, self._model, self._optimizer, self._job.processes)
            if state.scaling is not None:
                self.forward_backward.restore_scale(state.scaling["scale"], state.scaling["growth_tracker"])
                self._skipped = state.scaling["skipped"]
            self.step = state.step
            progress.note(f"resuming after step {self.step} of {len(self._batches)}")
            here = checkpoints.library_versions()
            for name, there in state.versions.items():
                if there != here.get(name):
                    progress.note(f"the first steps ran with {name} {there}, the next ones run with {here.get(name)}")
        if self._grpo is not None:
            self._grpo.resume(read_steps(self._log.samples, LoggedRow))
        self._best.restore(points)
        self._evaluations = {point.pop("step"): point for point in points if VALIDATION_LOSS in point}
        self.forward_backward.pack_tokens = pack_tokens or self.forward_backward.pack_tokens

    def _read_state(self) -> tuple[checkpoints.State | None, list[dict[str, Any]], int | None]:
        """The newest checkpoint of an interrupted run, the curve up to it, and a reduced `pack_tokens`."""
        state = checkpoints.newest_state(self._job.work, self._model, len(self._batches))
        self._log.resume(state.step if state is not None else 0)
        shortened = self._job.work / PACK_TOKENS_FILE
        return state, list(self._log.points()), read_json(shortened, PositiveInt) if shortened.is_file() else None

    def _raise_diverged(self, samples: Sequence[Sample], loss: float, norm: float) -> None:
        rows = [self._job.train.rows.id(sample.row) for sample in samples]
        dump = self._job.work / "diverged.json"
        if self._job.processes.is_main:
            write_json(dump, {"step": self.step + 1, "loss": str(loss), "grad_norm": str(norm), "rows": rows})
        raise Diverged(
            f"step {self.step + 1}: loss {loss}, gradient norm {norm}; the step was not taken and the last checkpoint "
            f"is untouched. The rows of the step are listed in {dump}: check them, or try --set training.learning_rate="
            f"{self._job.settings.learning_rate / 4:g}"
        )
