"""Mutated checkpoints: a damaged one is passed over whatever its shape, and never raises."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from fuzzing import hunt, mutated, mutated_json

from vlmtune.training import checkpoints

ROUNDS, SOAKED = 50, 3000
STEPS = 5


def trained() -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
    checkpoints.write(folder, checkpoints.snapshot(step, model, optimizer))


def broken(work: Path, made: Path, model: Any) -> Callable[[random.Random], None]:
    """A case of a hunt: damage one file of the newest checkpoint; the older one is found, or it is still the newest."""
    kept = {file.name: file.read_bytes() for file in (made / "step-000004").iterdir()}

    def case(rng: random.Random) -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(made, work)
        newest = work / "step-000004"
        file = newest / rng.choice(sorted(kept))
        fate = rng.random()
        if fate < 0.05:
            file.unlink()
        elif fate < 0.1:
            file.unlink()
            file.mkdir()
        elif fate < 0.15:
            newest.rename(work / f"step-{rng.choice(['9' * 30, 'x', '-1', '000003', ''])}")
        else:
            mutate = mutated_json if file.suffix == ".json" else mutated
            file.write_bytes(mutate(kept[file.name], rng))
            if file.suffix != ".json" and rng.random() < 0.7:  # as somebody would who repairs the hashes, too
                complete = json.loads((newest / "complete.json").read_bytes())
                complete["files"][file.name] = checkpoints._hash(file)
                (newest / "complete.json").write_text(json.dumps(complete))
        state = checkpoints.newest_state(work, model, STEPS)
        assert state is not None
        assert state.step in (2, 4)
        checkpoints.newest(work)

    return case


@pytest.mark.parametrize("part", range(2))
def test_broken_checkpoints_are_passed_over(part: int, tmp_path: Path, soak: bool) -> None:
    model, optimizer = trained()
    for step in (2, 4):
        save(tmp_path / "made", step, model, optimizer)
    case = broken(tmp_path / "work", tmp_path / "made", model)
    assert hunt(f"checkpoints {part}", SOAKED if soak else ROUNDS, case)["error"] == 0


def test_a_checkpoint_of_another_model_or_a_longer_training_is_passed_over(tmp_path: Path) -> None:
    model, optimizer = trained()
    for step in (2, 4):
        save(tmp_path, step, model, optimizer)
    assert checkpoints.newest_state(tmp_path, model, 5).step == 4  # type: ignore[union-attr]
    assert checkpoints.newest_state(tmp_path, model, 3).step == 2  # type: ignore[union-attr]
    assert checkpoints.newest_state(tmp_path, model, 3).versions == checkpoints.library_versions()  # type: ignore[union-attr]
    assert checkpoints.newest_state(tmp_path, cast(Any, torch.nn.Linear(3, 3)), 5) is None
    with torch.no_grad():
        model.bias[0] = float("nan")
    save(tmp_path, 5, model, optimizer)
    assert checkpoints.newest_state(tmp_path, model, 5).step == 4  # type: ignore[union-attr]
