"""One adapter from one process or two, from no worker or two, whatever the row length: same samples, same gradients."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_image
from commands import Ended, warm_ranks, warm_vlmtune
from safetensors.torch import load_file, save_file
from tiny_models import warm_adapter

from vlmtune.processing.encoder import Encoder
from vlmtune.training.sampler import Sample, shard_batch

CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: jsonl, path: ., images: images, question: question, target: answer, references: [answer], id: id}
task: {name: vqa}
training:
  {precision: fp32, batch_size: 4, epochs: 2, save_every_steps: 1, continue_from: warm, lora: {dropout: 0.0}}
output: {dir: out}
"""
MIXED = (
    "datasets=[{name: more, weight: 0.4, evaluate: false, task: {name: vqa}, dataset: {source: jsonl, path: ., "
    "images: images, question: question, references: [answer], id: id, splits: {train: validation.jsonl}}}]"
)
AUGMENTED = "training.augmentation={crop: 0.3, flip: true}"
ANSWERS = ["yes", "no", "a red ball and two cars on the green grass", "red"]


@pytest.fixture
def run(encoder: Encoder, tmp_path: Path) -> Path:
    """A picture's row and three of text alone in every batch: of two ranks, one has text alone."""
    rows = []
    for n in range(4):
        if n == 0:
            make_image(96, 128, seed=n).save(tmp_path / f"{n}.png")
        rows.append({"id": f"row {n}", "images": [f"{n}.png"] if n == 0 else [], "question": f"Number {n}?"})
    for split in ("train", "validation", "test"):
        kept = {"train": rows, "validation": rows[:2], "test": rows[1:3]}[split]
        lines = [json.dumps({**row, "answer": answer}) + "\n" for row, answer in zip(kept, ANSWERS, strict=False)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    (tmp_path / "c.yaml").write_text(CONFIG)
    warm_adapter(encoder, tmp_path / "warm")
    return tmp_path


def keep_gradients() -> None:
    """In a child: what the optimizer is about to see at each step, in a file of its rank."""
    real = torch.nn.utils.clip_grad_norm_
    seen: list[int] = []

    def clip(weights: list[torch.nn.Parameter], largest: float) -> torch.Tensor:
        taken = {str(n): weight.grad.clone() for n, weight in enumerate(weights) if weight.grad is not None}
        save_file(taken, f"gradients-{os.environ['WORLD_SIZE']}-{os.environ['RANK']}-{len(seen)}.safetensors")
        seen.append(1)
        return real(weights, largest)

    torch.nn.utils.clip_grad_norm_ = clip  # type: ignore[assignment]


def train(run: Path, name: str, world: int, *sets: str, before: Callable[[], None] = keep_gradients) -> list[Ended]:
    """The train command in every rank, as torchrun would start it."""
    words = ["train", "c.yaml", "--set", f"output.dir={name}", *(word for one in sets for word in ("--set", one))]
    return warm_ranks(words, run, [before] * world)


def met(run: Path, name: str) -> list[tuple[int, str]]:
    lines = (run / name / "lora" / "samples.jsonl").read_text().splitlines()
    return [(line["step"], line["id"]) for line in map(json.loads, lines)]


@pytest.mark.parametrize("sets", [(), (MIXED, AUGMENTED)], ids=["plain", "mixed and augmented"])
def test_two_ranks_are_one(run: Path, sets: tuple[str, ...]) -> None:
    """Gradients at every adapter weight, with a rank that has text alone; both ranks step alike, one speaks."""
    [alone] = train(run, "alone", 1, *sets)
    both = train(run, "both", 2, *sets)
    assert [ended.returncode for ended in (alone, *both)] == [0, 0, 0], both[0].stderr + both[1].stderr
    assert "adapter: " in both[0].stdout
    assert both[1].stdout + both[1].stderr == ""
    assert met(run, "alone") == met(run, "both")
    assert any(row.startswith("more/") for _, row in met(run, "alone")) == bool(sets)
    one = load_file(run / "gradients-1-0-0.safetensors")
    assert all(gradient.norm() > 0 for gradient in one.values())
    for rank in (0, 1):
        two = load_file(run / f"gradients-2-{rank}-0.safetensors")
        assert {n: (two[n] - one[n]).norm() <= 1e-5 * one[n].norm() for n in one} == dict.fromkeys(two, True)
    last = [load_file(run / f"gradients-2-{rank}-1.safetensors") for rank in (0, 1)]
    assert all(torch.equal(last[0][n], last[1][n]) for n in one)


IN_FULL = "method: {language_model: full, merger: full}"


def test_two_ranks_are_one_where_parts_are_trained_in_full(run: Path) -> None:
    """Every gradient, though the merger has none in a rank with text alone; small messages are many."""
    (run / "c.yaml").write_text(CONFIG.replace("continue_from: warm, lora: {dropout: 0.0}", IN_FULL))
    [alone], both = train(run, "alone", 1), train(run, "both", 2, before=in_small_messages)
    assert [ended.returncode for ended in (alone, *both)] == [0, 0, 0], both[0].stderr + both[1].stderr
    one = load_file(run / "gradients-1-0-0.safetensors")
    assert len(one) > 60
    for rank in (0, 1):
        two = load_file(run / f"gradients-2-{rank}-0.safetensors")
        assert {n: (two[n] - one[n]).norm() <= 1e-5 * one[n].norm() for n in one} == dict.fromkeys(two, True)


def in_small_messages() -> None:
    """In a child: no more than a weight or two in a message."""
    from vlmtune import distributed

    distributed.MESSAGE_BYTES = 10_000
    keep_gradients()


def test_a_mistake_that_the_first_rank_finds_ends_all(run: Path) -> None:
    first, second = train(run, "both", 2, "training.max_tokens=20")
    assert (first.returncode, second.returncode) == (3, 3)
    assert "row 0: " in first.stderr
    assert second.stderr == ""


def poison() -> None:
    """In a child: every loss is not a number from the third pass on, behind the two that try the rows."""
    from vlmtune.training import forward_backward

    real, calls = forward_backward.token_losses, itertools.count()

    def poisoned(*given: Any) -> torch.Tensor:
        return real(*given) * (float("nan") if next(calls) >= 2 else 1.0)

    forward_backward.token_losses = poisoned


def test_all_ranks_end_where_the_loss_is_no_number(run: Path) -> None:
    ended = train(run, "both", 2, before=poison)
    assert [one.returncode for one in ended] == [7, 7], ended[0].stderr
    [dump] = (run / "both" / ".vlmtune").glob("*/diverged.json")
    assert sorted(json.loads(dump.read_text())["rows"]) == [f"row {n}" for n in range(4)]
    assert not (run / "both" / "lora").exists()


def test_torchrun_starts_the_train_step_alone(run: Path) -> None:
    ended = warm_vlmtune("run", "c.yaml", cwd=run, WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    assert ended.returncode == 2
    assert "torchrun is for the train step alone" in ended.stderr


def test_parts_are_the_whole_batch_and_a_row_stays_in_one() -> None:
    visits = [Sample(row, choice, 0) for row in range(5) for choice in range(3)]
    tokens = [10 * (visit.row + 1) for visit in visits]
    parts = [shard_batch(visits, tokens, rank, 3) for rank in range(3)]
    assert sorted(number for part in parts for number in part) == list(range(15))
    assert all(len({n for n, part in enumerate(parts) for v in part if visits[v].row == row}) == 1 for row in range(5))
    assert max(sum(tokens[v] for v in part) for part in parts) <= 180
    assert shard_batch(visits[:1], tokens[:1], 1, 2) == []
