"""Checkpoints of a training run, and the adapter of its best step.

A checkpoint is a folder like `step-000050` with weights, optimizer moments and the step, in safetensors and JSON only.
It is complete once its `complete.json` holds the hashes of the other files. It is written under a temporary name and
renamed last, so a crash at any moment leaves the newest complete one intact. Training waits for a copy of the state
only; a thread hashes and writes it while training goes on.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from vlmtune import fault_injection
from vlmtune.distributed import SINGLE_PROCESS, ProcessGroup
from vlmtune.errors import ConfigError, EnvironmentProblem, IntegrityError
from vlmtune.files import read_json, replace_folder, translate_os_errors, write_atomic, write_bytes
from vlmtune.run_layout import (
    COMPLETE,
    best_adapter_path,
    best_adapter_paths,
    checkpoint_path,
    checkpoint_paths,
    checkpoint_step,
)
from vlmtune.training.full_weights import round_into_model
from vlmtune.training.lora import trainable
from vlmtune.training.sharding import gathered, rows_of, shape_of

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

KEPT = 2
"""Checkpoints kept on disk."""
MOMENTS = ("exp_avg", "exp_avg_sq")
TENSORS = ("weights.safetensors", "moments.safetensors")
VALIDATION_LOSS = "validation_loss"
"""Key of the loss on the validation rows in the training curve."""


class Scaling(TypedDict):
    """The loss scale of a training in fp16: its value, steps since it changed, and steps that were skipped."""

    scale: Annotated[float, Field(gt=0, lt=2**128)]
    growth_tracker: Annotated[int, Field(ge=0, lt=2**53)]
    skipped: Annotated[int, Field(ge=0, lt=2**53)]


@dataclass(frozen=True, slots=True)
class State:
    """The contents of a checkpoint: copies on the CPU."""

    step: int
    optimizer_steps: int
    weights: "dict[str, torch.Tensor]"
    moments: "dict[str, torch.Tensor]"
    versions: Mapping[str, str]
    """Of the libraries that it was made with; empty where an earlier version of vlmtune wrote it."""
    scaling: Scaling | None = None


class _Complete(TypedDict):
    """Types of the fields of `complete.json`."""

    step: Annotated[int, Field(gt=0)]
    optimizer_steps: Annotated[int, Field(ge=0, lt=2**53)]
    files: dict[str, str]
    versions: NotRequired[dict[str, str]]
    scaling: NotRequired[Scaling]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a training's result depends on."""
    return {name: version(name) for name in ("torch", "transformers", "peft")}


def snapshot(
    step: int, model: "PeftModel", optimizer: "torch.optim.Optimizer", scaling: Scaling | None = None
) -> State:
    """A copy of the state after `step` optimizer steps."""
    import torch

    weights, moments = {}, {}
    for kind, name, value in whole_tensors(model, optimizer):
        copied = value.detach().to("cpu", copy=True)
        if kind is None:
            weights[name] = copied
        else:
            moments[f"{kind}.{name}"] = copied
    steps = [int(torch.as_tensor(state["step"]).item()) for state in optimizer.state.values()]
    return State(step, max(steps, default=0), weights, moments, library_versions(), scaling)


def whole_tensors(
    model: "PeftModel", optimizer: "torch.optim.Optimizer"
) -> "Iterator[tuple[str | None, str, torch.Tensor]]":
    """Each moment (its kind and the weight's name), and each trained weight (None and its name).

    What is divided among processes is gathered, one after the other: all of them must take all.
    """
    import torch

    for name, value in trainable(model).items():
        # The optimizer knows nothing of a weight before its first step, which fp16 may skip.
        state = optimizer.state.get(value) or {kind: torch.zeros_like(value) for kind in MOMENTS}
        yield None, name, gathered(value, value)
        for kind in MOMENTS:
            yield kind, name, gathered(state[kind], value)


def write(folder: Path, state: State) -> None:
    """Write a checkpoint and delete all but the newest `KEPT`.

    Raises:
        EnvironmentProblem: the disk is full; older checkpoints are untouched.
    """
    hashes = {}
    with translate_os_errors(folder, 3 * sum(value.nbytes for value in state.weights.values())):
        with replace_folder(checkpoint_path(folder, state.step)) as building:
            hashes[TENSORS[0]] = _write(building / TENSORS[0], state.weights)
            fault_injection.hit("checkpoint.weights")
            hashes[TENSORS[1]] = _write(building / TENSORS[1], state.moments)
            fault_injection.hit("checkpoint.moments")
            complete = {
                "step": state.step,
                "optimizer_steps": state.optimizer_steps,
                "versions": dict(state.versions),
                **({"scaling": state.scaling} if state.scaling is not None else {}),
                "files": dict(sorted(hashes.items())),
            }
            write_atomic(building / COMPLETE, json.dumps(complete, indent=2))
            fault_injection.hit("checkpoint.complete")
        fault_injection.hit("checkpoint.published")
    for old in checkpoint_paths(folder)[:-KEPT]:
        shutil.rmtree(old)


def _write(file: Path, tensors: "dict[str, torch.Tensor]") -> str:
    """Write a file of tensors; returns its hash."""
    from safetensors.torch import save as to_bytes

    data = to_bytes(tensors)
    write_bytes(file, data)
    return hashlib.sha256(data).hexdigest()


class Writer:
    """Writes checkpoints into a folder in a thread of its own, one after the other; to be used in a `with` block.

    At most one is being written, so at most one copy of the state is in memory. What fails in the thread is raised by
    the next `save` or `wait`, and at the end of the block unless that ends with another error.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "vlmtune-checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()

    def save(
        self, step: int, model: "PeftModel", optimizer: "torch.optim.Optimizer", scaling: Scaling | None = None
    ) -> None:
        """Copy the state after `step` optimizer steps and begin to write it, when the one before is written.

        With weights that are divided, all other processes take `whole_tensors` meanwhile.

        Raises:
            EnvironmentProblem: the one before could not be written: the disk is full; older checkpoints are untouched.
        """
        self.wait()
        self._pending = self._thread.submit(write, self._folder, snapshot(step, model, optimizer, scaling))

    def wait(self) -> None:
        """Return when everything is on disk; errors as in `save`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint; None if there is none."""
    return next((c for c in reversed(checkpoint_paths(folder)) if _complete(c) is not None), None)


def newest_state(folder: Path, model: "PeftModel", steps: int) -> State | None:
    """The newest complete checkpoint that is one of this model and of a training of so many steps; None without one."""
    shapes = {name: shape_of(weight) for name, weight in trainable(model).items()}
    wanted = shapes | {f"{kind}.{name}": shape for kind in MOMENTS for name, shape in shapes.items()}
    for checkpoint in reversed(checkpoint_paths(folder)):
        state = read(checkpoint)
        if state is None or state.step > steps:
            continue
        tensors = state.weights | state.moments
        finite = all(value.isfinite().all() for value in tensors.values())
        if finite and {name: value.shape for name, value in tensors.items()} == wanted:
            return state
    return None


def read(checkpoint: Path) -> State | None:
    """Read a checkpoint; its tensors are on the CPU. None if it is not complete, or not one of vlmtune's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    complete = _complete(checkpoint)
    if complete is None:
        return None
    try:
        weights, moments = (load_file(checkpoint / name) for name in TENSORS)
    except (SafetensorError, OSError):
        return None
    versions, scaling = complete.get("versions") or {}, complete.get("scaling")
    return State(complete["step"], complete["optimizer_steps"], weights, moments, versions, scaling)


def restore(
    state: State,
    model: "PeftModel",
    optimizer: "torch.optim.Optimizer",
    processes: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Restore weights and optimizer in place; only the main process needs the tensors of the state."""
    import torch

    fused = any(group["fused"] for group in optimizer.param_groups)
    for name, parameter in trainable(model).items():

        def own(tensor: torch.Tensor | None, like: torch.nn.Parameter = parameter) -> torch.Tensor:
            whole = torch.empty(shape_of(like)) if tensor is None else tensor
            return rows_of(processes.broadcast_tensor(whole), like)

        with torch.no_grad():
            parameter.copy_(own(state.weights.get(name)))
        optimizer.state[parameter] = {
            "step": torch.tensor(float(state.optimizer_steps), device=parameter.device if fused else None),
            **{kind: own(state.moments.get(f"{kind}.{name}")).to(parameter.device, copy=True) for kind in MOMENTS},
        }
    round_into_model(model)


def _complete(checkpoint: Path) -> _Complete | None:
    """What `complete.json` says, if it says it about this folder as it is; it chooses no path."""
    files = [checkpoint / name for name in (COMPLETE, *TENSORS)]
    if not all(file.is_file() for file in files):
        return None
    try:
        complete: _Complete = read_json(files[0], _Complete)
        hashes = {file.name: _hash(file) for file in files[1:]}
    except (IntegrityError, EnvironmentProblem, ConfigError, OSError):
        return None
    return complete if complete["files"] == hashes and complete["step"] == checkpoint_step(checkpoint) else None


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Evaluator:
    """A metric for selecting the best step. `name` is its key in the training curve.

    `score(model, step)` evaluates the model as it is after that step; None where the metric is undefined.
    """

    name: str
    higher_is_better: bool
    score: Callable[[Any, int], float | None]


class BestAdapter:
    """Keeps the adapter of the best step so far in `work/best-<step>`, and decides on early stopping.

    All evaluations are in the training curve, from which a resumed run restores them.

    Args:
        work: the run's work folder.
        key: of the curve, by which steps are compared; None keeps the last step.
        higher_is_better: whether a higher value of it is an improvement.
        patience: evaluations without improvement after which training stops; None disables early stopping.
    """

    def __init__(self, work: Path, key: str | None, higher_is_better: bool, patience: int | None) -> None:
        self._work, self._key, self._patience = work, key, patience
        self._sign = 1.0 if higher_is_better else -1.0
        self.step: int | None = None
        self._best = float("-inf")
        self._without_improvement = 0

    @property
    def should_stop(self) -> bool:
        """Whether `patience` is exhausted."""
        return self._patience is not None and self._without_improvement >= self._patience

    @property
    def folder(self) -> Path | None:
        """Folder of the best adapter so far; None before the first evaluation."""
        return best_adapter_path(self._work, self.step) if self.step is not None else None

    def restore(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Replay the evaluations of a curve."""
        for point in points:
            self._improves(point["step"], point)

    def update(self, step: int, values: Mapping[str, float], save: Callable[[Path], None] | None) -> bool:
        """Record an evaluation, and save the adapter if it is the best so far; returns whether it is.

        Earlier best adapters stay until `prune`, so that the curve on disk never refers to a deleted one.

        Args:
            step: optimizer steps taken.
            values: the evaluation's results by key of the curve.
            save: writes the adapter into a folder; None if another process does.
        """
        improves = self._improves(step, values)
        if improves and save is not None:
            with replace_folder(best_adapter_path(self._work, step)) as building:
                save(building)
        return improves

    def prune(self) -> None:
        """Delete adapters that are no longer the best."""
        for old in best_adapter_paths(self._work):
            if old != self.folder:
                shutil.rmtree(old)

    def _improves(self, step: int, values: Mapping[str, float | None]) -> bool:
        if self._key is None or self._key not in values:
            return False
        measured = values[self._key]  # None where it was no number
        value = float("-inf") if measured is None else self._sign * measured
        better = value > self._best
        self._without_improvement = 0 if better else self._without_improvement + 1
        if better:
            self._best, self.step = value, step
        return better
