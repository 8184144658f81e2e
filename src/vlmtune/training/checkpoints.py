"""The state of a run after an optimizer step, on disk: weights, optimizer moments, position. Safetensors and JSON only.

A checkpoint is a folder `step-000050` that counts once its `complete.json` is there with the hashes of the others; it
is written under another name and renamed last. A crash at any moment leaves the newest complete one.

Which step's adapter is kept: the last one, or the best by a judgement on the validation rows.

What was judged stands in the curve, so a resumed run knows what the interrupted one knew.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmtune import fault_injection
from vlmtune.files import fsync_folder, os_errors_named, read_json, write_atomic, write_bytes
from vlmtune.training.lora import trainable

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
from collections.abc import Callable, Iterable, Mapping
from typing import Any

KEPT = 2
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(folder: Path, step: int, model: "PeftModel", optimizer: "torch.optim.Optimizer") -> None:
    """Publish the state after `step` optimizer steps and forget all but the newest `KEPT`.

    Raises:
        EnvironmentProblem: the disk is full; older checkpoints are untouched.
    """
    weights = trainable(model)
    with os_errors_named(folder, 3 * sum(value.nbytes for value in weights.values())):
        building = folder / f"building-{step:06d}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        _write(building, step, weights, optimizer)
        target = folder / f"step-{step:06d}"
        shutil.rmtree(target, ignore_errors=True)
        building.rename(target)
        fsync_folder(folder)
        fault_injection.hit("checkpoint.published")
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def _write(
    building: Path, step: int, weights: "dict[str, torch.nn.Parameter]", optimizer: "torch.optim.Optimizer"
) -> None:
    import torch
    from safetensors.torch import save as to_bytes

    write_bytes(
        building / "weights.safetensors", to_bytes({name: value.detach().cpu() for name, value in weights.items()})
    )
    fault_injection.hit("checkpoint.weights")
    states = {name: optimizer.state[value] for name, value in weights.items()}
    moments = {f"{kind}.{name}": state[kind].cpu() for name, state in states.items() for kind in MOMENTS}
    write_bytes(building / "moments.safetensors", to_bytes(moments))
    fault_injection.hit("checkpoint.moments")
    taken = {int(torch.as_tensor(state["step"]).item()) for state in states.values()}
    hashes = {file.name: _hash(file) for file in sorted(building.iterdir())}
    complete = {"step": step, "optimizer_steps": max(taken), "files": hashes}
    write_atomic(building / "complete.json", json.dumps(complete, indent=2))
    fault_injection.hit("checkpoint.complete")


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is complete, None where there is none."""
    return next((c for c in sorted(folder.glob("step-*"), reverse=True) if _complete(c)), None)


@dataclass(frozen=True, slots=True)
class State:
    """A checkpoint that was read."""

    step: int
    optimizer_steps: int
    weights: "dict[str, torch.Tensor]"
    moments: "dict[str, torch.Tensor]"


def read(checkpoint: Path) -> State:
    """A checkpoint's tensors on the CPU."""
    from safetensors.torch import load_file

    complete = read_json(checkpoint / "complete.json")
    weights, moments = load_file(checkpoint / "weights.safetensors"), load_file(checkpoint / "moments.safetensors")
    return State(complete["step"], complete["optimizer_steps"], weights, moments)


def restore(state: State, model: "PeftModel", optimizer: "torch.optim.Optimizer") -> None:
    """Put weights and optimizer back as they were."""
    import torch

    for name, parameter in trainable(model).items():
        parameter.data.copy_(state.weights[name])
        optimizer.state[parameter] = {
            "step": torch.tensor(float(state.optimizer_steps)),
            **{kind: state.moments[f"{kind}.{name}"].to(parameter.device) for kind in MOMENTS},
        }


def _complete(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / "complete.json").read_text())["files"]
        return all(_hash(checkpoint / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


LOSS = "validation_loss"


@dataclass(frozen=True, slots=True)
class Judge:
    """A number for a model after a step; None where nothing could be measured. `name` is its key in the curve."""

    name: str
    higher_is_better: bool
    score: Callable[[Any, int], float | None]


class Selection:
    """Keeps the adapter of the best step in `work/best-<step>`.

    Args:
        work: of the run.
        by: key of the curve that decides; None keeps the last step.
        higher_is_better: which way.
        patience: judgements without a better one after which training ends; None never ends it.
    """

    def __init__(self, work: Path, by: str | None, higher_is_better: bool, patience: int | None) -> None:
        self._work, self._by, self._patience = work, by, patience
        self._sign = 1.0 if higher_is_better else -1.0
        self.step: int | None = None
        self._best = float("-inf")
        self._since = 0

    @property
    def exhausted(self) -> bool:
        """Whether training may end early."""
        return self._patience is not None and self._since >= self._patience

    @property
    def folder(self) -> Path | None:
        """The best adapter so far."""
        return self._folder(self.step) if self.step is not None else None

    def restore(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Know again what the curve says."""
        for point in points:
            self._hear(point["step"], point)

    def offer(self, step: int, values: Mapping[str, float], save: Callable[[Path], None] | None) -> None:
        """Judge a step; `save` writes its adapter where it is the best so far, None where another process does."""
        if self._hear(step, values) and save is not None:
            target, building = self._folder(step), self._work / "building-best"
            for old in (target, building):
                shutil.rmtree(old, ignore_errors=True)
            save(building)
            building.rename(target)

    def tidy(self) -> None:
        """Forget adapters that were best once."""
        for old in self._work.glob("best-*"):
            if old != self.folder:
                shutil.rmtree(old)

    def _hear(self, step: int, values: Mapping[str, float]) -> bool:
        if self._by is None or self._by not in values:
            return False
        value = self._sign * values[self._by]
        better = value > self._best
        self._since = 0 if better else self._since + 1
        if better:
            self._best, self.step = value, step
        return better

    def _folder(self, step: int) -> Path:
        return self._work / f"best-{step:06d}"
