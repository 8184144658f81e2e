"""The state of a run after an optimizer step, on disk: weights, optimizer moments, position. Safetensors and JSON only.

A checkpoint is a folder `step-000050` that counts once its `complete.json` is there with the hashes of the others; it
is written under another name and renamed last. A crash at any moment leaves the newest complete one.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmtune import faults
from vlmtune.files import fsync_folder, os_errors_named, read_json, write_atomic, write_bytes
from vlmtune.training.lora import trainable

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

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
        faults.hit("checkpoint.published")
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
    faults.hit("checkpoint.weights")
    states = {name: optimizer.state[value] for name, value in weights.items()}
    moments = {f"{kind}.{name}": state[kind].cpu() for name, state in states.items() for kind in MOMENTS}
    write_bytes(building / "moments.safetensors", to_bytes(moments))
    faults.hit("checkpoint.moments")
    taken = {int(torch.as_tensor(state["step"]).item()) for state in states.values()}
    hashes = {file.name: _hash(file) for file in sorted(building.iterdir())}
    complete = {"step": step, "optimizer_steps": max(taken), "files": hashes}
    write_atomic(building / "complete.json", json.dumps(complete, indent=2))
    faults.hit("checkpoint.complete")


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
