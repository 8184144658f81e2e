"""A model that is divided among processes trains as a whole one: gradients, steps, checkpoints, what is published."""

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_image
from commands import Ended, warm_ranks
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import warm_adapter

from vlmtune.distributed import ProcessGroup
from vlmtune.errors import EnvironmentProblem
from vlmtune.modeling.loading import load_model
from vlmtune.planning.costs import base_bytes
from vlmtune.planning.plan import shapes_of
from vlmtune.processing.encoder import Encoder

CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: jsonl, path: ., images: images, question: question, target: answer, references: [answer], id: id}
task: {name: vqa}
training:
  {precision: fp32, batch_size: 4, max_steps: 3, save_every_steps: 1, log_every_steps: 1, workers: 0, pack_tokens: 64}
output: {dir: out}
"""
SHARDED = "training.sharding=fsdp"
METHODS = {
    "lora": ("training.lora.dropout=0.0", "training.continue_from=warm"),
    "full": ("training.method={language_model: full, merger: full}", "training.checkpoint_layers=1"),
}
ANSWERS = ["yes", "no", "a red ball and two cars on the green grass", "red"]


@pytest.fixture(scope="module")
def data(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One row in four has a picture; the third batch is a single row, so that other processes have none."""
    folder = tmp_path_factory.mktemp("sharded")
    rows = []
    for n in range(9):
        if n % 4 == 0:
            make_image(96, 128, seed=n).save(folder / f"{n}.png")
        images = [f"{n}.png"] if n % 4 == 0 else []
        rows.append({"id": f"row {n}", "images": images, "question": f"Number {n}?", "answer": ANSWERS[n % 4]})
    for split, kept in {"train": rows, "validation": rows[:5], "test": rows[1:3]}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (folder / "c.yaml").write_text(CONFIG)
    warm_adapter(encoder, folder / "warm")
    return folder


def watched() -> None:
    """In a child: whole gradients that the optimizer is about to see, and the bytes of weights that this rank has."""
    from vlmtune.training import sharding, trainer

    name = next(word for word in sys.argv if word.startswith("output.dir=")).removeprefix("output.dir=")
    me, seen = f"{name}-{os.environ['RANK']}", list[int]()
    clip, begin = sharding.clip_gradients, trainer.Trainer.__init__

    def clip_and_keep(weights: list[torch.nn.Parameter], *rest: Any) -> torch.Tensor:
        whole = {str(n): sharding.gathered(w.grad, w) for n, w in enumerate(weights) if w.grad is not None}
        save_file({n: gradient.clone() for n, gradient in whole.items()}, f"gradients-{me}-{len(seen)}.safetensors")
        seen.append(1)
        return clip(weights, *rest)

    def count(self: Any, job: Any, model: Any, *rest: Any) -> None:
        held = {n: sharding.own_rows(w).nbytes for n, w in model.named_parameters() if ".lora_" not in n}
        language = sum(size for n, size in held.items() if "language_model" in n or "lm_head" in n)
        Path(f"bytes-{me}").write_text(json.dumps([language, sum(held.values())]))
        begin(self, job, model, *rest)

    trainer.clip_gradients, trainer.Trainer.__init__ = clip_and_keep, count  # type: ignore[assignment, method-assign]


def killed_in_the_second_step() -> None:
    """In a child: SIGKILL to the last rank, behind what is saved of the second step."""
    from vlmtune.training import trainer

    after = trainer.Trainer._after_step

    def end(self: Any, *given: Any) -> None:
        after(self, *given)
        if self.step == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.Trainer._after_step = end  # type: ignore[method-assign]


def signalled_behind_the_first_reduction() -> None:
    """In a child: SIGTERM to the last rank, when all have already agreed that nobody stops in this step."""
    from vlmtune.training import trainer

    clip, calls = trainer.clip_gradients, itertools.count()

    def signal_and_clip(*given: Any) -> torch.Tensor:
        if next(calls) == 0 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return clip(*given)

    trainer.clip_gradients = signal_and_clip


def train(
    folder: Path,
    name: str,
    world: int,
    *sets: str,
    before: Callable[[], None] = watched,
    codes: tuple[int, ...] = (),
) -> list[Ended]:
    words = ["train", "c.yaml", "--set", f"output.dir={name}", *(word for one in sets for word in ("--set", one))]
    ended = warm_ranks(words, folder, [before] * world)
    assert [one.returncode for one in ended] == list(codes or [0] * world), "".join(one.stderr for one in ended)
    return ended


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "lora" / "adapter_model.safetensors")


def curve(folder: Path, name: str) -> list[dict[str, float]]:
    points: list[dict[str, float]] = json.loads((folder / name / "lora" / "vlmtune.json").read_text())["curve"]
    return points


def assert_near(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float) -> None:
    far = {n: float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs}
    assert ours.keys() == theirs.keys()
    assert {n: distance for n, distance in far.items() if not distance <= tolerance} == {}


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest, data: Path) -> str:
    """Trained by one process, which has the whole model, and by two, which have half of it each."""
    name: str = request.param
    train(data, f"one-{name}", 1, *METHODS[name])
    train(data, f"two-{name}", 2, SHARDED, *METHODS[name])
    return name


def test_two_processes_with_half_of_the_model_are_one_with_all(method: str, data: Path) -> None:
    """Gradients of three steps in every weight, though most ranks have no picture, and one has no row in the last."""
    for step in range(3):
        one = load_file(data / f"gradients-one-{method}-0-{step}.safetensors")
        assert len(one) == (56 if method == "lora" else 64)
        for rank in (0, 1):
            assert_near(load_file(data / f"gradients-two-{method}-{rank}-{step}.safetensors"), one, 1e-5)
    assert_near(weights(data, f"two-{method}"), weights(data, f"one-{method}"), 1e-5)
    ours, theirs = curve(data, f"two-{method}"), curve(data, f"one-{method}")
    assert [point.keys() for point in ours] == [point.keys() for point in theirs]
    assert "validation_loss" in theirs[-1]
    for here, there in zip(ours, theirs, strict=True):
        assert here == pytest.approx(there, rel=1e-5)


def test_each_process_has_half_of_the_language_model(method: str, data: Path, encoder: Encoder) -> None:
    """And as many bytes as the plan counts."""
    planned = [base_bytes(shapes_of(encoder.checkpoint), "fp32", None, shards) for shards in (1, 2)]
    (language, everything), *both = (
        json.loads((data / f"bytes-{name}-{method}-{rank}").read_text())
        for name, rank in (("one", 0), ("two", 0), ("two", 1))
    )
    assert [half for half, _ in both] == [language // 2] * 2
    assert [all_ for _, all_ in both] == [everything - language // 2] * 2, "the rest is whole in both"
    assert [everything, both[0][1]] == planned


def test_the_adapter_is_one_for_plain_peft(method: str, data: Path, encoder: Encoder) -> None:
    """The same model as the one that a single process trained, to plain PEFT."""
    ids = torch.arange(20)[None]
    found = []
    for name in ("one", "two"):
        base = load_model(encoder.checkpoint, "cpu", "fp32")
        with torch.no_grad():
            tuned: Any = PeftModel.from_pretrained(base, str(data / f"{name}-{method}" / "lora")).eval()
            found.append(tuned(input_ids=ids).logits)
    assert (found[1] - found[0]).norm() <= 1e-5 * found[0].norm()


@pytest.mark.parametrize("method", ["full"], indirect=True)
def test_killed_and_resumed_by_as_many_processes_or_by_more(method: str, data: Path, tmp_path: Path) -> None:
    """By two, the same bytes; by four, which divide every weight otherwise, the same to rounding; by one, as well."""
    shutil.copytree(data, tmp_path / "two")
    sets = (SHARDED, *METHODS[method])
    first, _ = train(tmp_path / "two", "run", 2, *sets, before=killed_in_the_second_step, codes=(4, -9))
    assert "another process has ended" in first.stderr
    assert "Traceback" not in first.stderr
    for world in ("four", "one"):
        shutil.copytree(tmp_path / "two", tmp_path / world)
    resumed = train(tmp_path / "two", "run", 2, *sets)
    assert "resuming after step" in resumed[0].stderr
    for file in ("adapter_model.safetensors", "samples.jsonl"):
        assert (tmp_path / "two/run/lora" / file).read_bytes() == (data / f"two-{method}" / "lora" / file).read_bytes()
    train(tmp_path / "four", "run", 4, *sets)
    train(tmp_path / "one", "run", 1, *METHODS[method])
    for world in ("four", "one"):
        assert_near(weights(tmp_path / world, "run"), weights(data, f"two-{method}"), 1e-5)


def test_a_signal_to_one_process_within_a_step_stops_all_after_the_next(data: Path) -> None:
    sets = (SHARDED, *METHODS["full"], "training.save_every_steps=100")
    before = signalled_behind_the_first_reduction
    first, second = train(data, "signalled", 2, *sets, before=before, codes=(75, 75))
    assert "step 2 of 3 is saved" in first.stderr
    assert "Traceback" not in first.stderr + second.stderr


def test_an_adapter_with_dropout_is_the_same_byte_for_byte(data: Path) -> None:
    """As many processes draw the same masks, whether or not they divide the model."""
    for name, sharding in (("dropped-whole", "none"), ("dropped-divided", "fsdp")):
        train(data, name, 2, "training.lora.dropout=0.2", "training.max_steps=2", f"training.sharding={sharding}")
    file = "lora/adapter_model.safetensors"
    assert (data / "dropped-divided" / file).read_bytes() == (data / "dropped-whole" / file).read_bytes()


def test_one_process_alone_is_told_how_to_start_several(data: Path) -> None:
    [ended] = train(data, "alone", 1, SHARDED, codes=(2,))
    assert "torchrun --nproc-per-node" in ended.stderr


def test_processes_with_different_versions_are_named() -> None:
    class Three(ProcessGroup):
        def gather(self, value: Any) -> list[Any]:
            return [value, value, value | {"torch": "2.0"}]

    with pytest.raises(EnvironmentProblem, match=r"process 2 has torch 2\.0, and process 0 has torch 2\.11"):
        Three(0, 3).refuse_differences({"torch": "2.11", "peft": "0.21"})
