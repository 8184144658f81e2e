"""Training on rewards: the gradient is that of the objective, answers are drawn from the model that learns, and an
interrupted run ends in the same bytes."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from builders import Notes, assistant, make_image, ref, user
from commands import vlmtune_in_process
from interruptions import StopAfter, adapter_bytes
from transformers import AutoModelForImageTextToText

from vlmtune.engines import hf
from vlmtune.errors import ConfigError, Diverged, IntegrityError, Interrupted
from vlmtune.metrics import Metric
from vlmtune.metrics._custom import mean
from vlmtune.metrics._ngram_counts import per_row
from vlmtune.modeling.loading import load_model
from vlmtune.predictions import Line
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.progress import Progress, Silent
from vlmtune.run_folder import hash_adapter, read_manifest
from vlmtune.scoring.rewards import Rewards
from vlmtune.signals import StopRequest
from vlmtune.tasks import captioning
from vlmtune.training import trainer
from vlmtune.training.attention import enable_packed_attention, plain_attention
from vlmtune.training.config import GrpoConfig, LoraConfig, TrainingConfig
from vlmtune.training.forward_backward import ForwardBackward
from vlmtune.training.grpo import GrpoStep, Rollouts, answered
from vlmtune.training.lora import add_adapter, trainable

MakeJob = Callable[..., trainer.TrainingJob]
QUIET = Progress(Silent())
ANSWERS = 3
PICTURES = [ref(make_image(*size, seed=n), f"picture {n}") for n, size in enumerate([(64, 48), (48, 70)])]


def per_answer(name: str, value: Callable[[str], float]) -> Metric:
    def measure(answers: Sequence[Any], truths: Sequence[Any]) -> Any:
        return per_row(value(answer or "") for answer in answers)

    return Metric(name, measure, mean, name)


LETTERS = per_answer("letters", lambda text: sum(letter in "aeiou" for letter in text) / 100)
LENGTH = per_answer("length", lambda text: len(text) / 50)
ALIKE = per_answer("alike", lambda text: 0.5)


def rewards(*metrics: Metric) -> Rewards:
    return Rewards(captioning.TASK, captioning.Config(), [(metric, 1.0 + n) for n, metric in enumerate(metrics)])


def rollouts(encoder: Encoder, scored: Rewards, answers: int, tokens: int = 12) -> Rollouts:
    """Those of the pipeline, with short answers."""
    decoding = hf.Config(max_new_tokens=tokens)

    def sample(model: Any, prompts: Sequence[Encoded], step: int) -> list[list[int]]:
        engine = hf.attached(model, decoding, encoder, "cpu", "fp32")
        return [answer.ids for answer in engine.sample(prompts, answers, str(step))]

    return Rollouts(sample, scored)


@pytest.fixture
def make_grpo(make_job: MakeJob, tmp_path: Path, encoder: Encoder) -> Callable[..., trainer.TrainingJob]:
    """Jobs that go on from an adapter whose B is not zero."""

    def make(name: str, scored: Rewards, tokens: int = 12, **settings: Any) -> trainer.TrainingJob:
        first = make_job("first", max_steps=1, epochs=None, learning_rate=0.05, dropout=0.0)
        if not first.adapter.exists():
            trainer.train(first, QUIET, StopRequest())
        chosen: dict[str, Any] = {"max_steps": 6, "epochs": None, "batch_size": 2, "log_every_steps": 1, **settings}
        grpo = GrpoConfig(answers=ANSWERS, **chosen.pop("grpo", {}))
        job = make_job(name, continue_from=str(first.adapter), dropout=0.0, objective="grpo", grpo=grpo, **chosen)
        return replace(job, rollouts=rollouts(encoder, scored, ANSWERS, tokens), target=None)

    return make


def started(
    encoder: Encoder, tmp_path: Path, beta: float, packed: bool = True, precision: Literal["fp32", "bf16"] = "fp32"
) -> tuple[GrpoStep, Any]:
    """A step of a run whose weights have left the reference."""
    settings = TrainingConfig(
        objective="grpo",
        precision=precision,
        pack_tokens=4096 if packed else 8,
        grpo=GrpoConfig(answers=ANSWERS, kl=beta),
        lora=LoraConfig(rank=4, dropout=0.0),
    )
    base = load_model(encoder.checkpoint, "cpu", precision)
    enable_packed_attention(base, encoder.checkpoint.family)
    model = add_adapter(base, settings.lora, encoder.checkpoint.family, 0)
    moved(model, 1)
    packs = ForwardBackward(
        base, list(trainable(model).values()), encoder, "cpu", settings, tmp_path, trainer.SINGLE_PROCESS
    )
    scored = rollouts(encoder, rewards(LETTERS, LENGTH), ANSWERS)
    step = GrpoStep(scored, settings, encoder, model, packs, steps=9)
    moved(model, 2)
    return step, model


def moved(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in trainable(model).values():
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator)


def prompts_of(encoder: Encoder) -> list[Encoded]:
    return [encoder.prompt((user(picture, "Describe."),)) for picture in PICTURES]


def plain_logprobs(model: Any, encoder: Encoder, example: Encoded) -> torch.Tensor:
    """Log-probabilities of an example's answer, by transformers alone: one example, no packing."""
    ids = torch.tensor([example.rendered.ids])
    (image,) = example.images
    assert image.patches is not None
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == encoder.renderer.image_id).int(),
        pixel_values=encoder.image_processor.normalised(image.patches, torch.float32),
        image_grid_thw=torch.tensor([image.grid]),
        use_cache=False,
    ).logits[0, :-1]
    told = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return told[torch.tensor(example.rendered.loss_mask[1:])]


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_gradient_is_that_of_the_objective_by_plain_transformers(
    encoder: Encoder, tmp_path: Path, beta: float
) -> None:
    step, model = started(encoder, tmp_path, beta)
    prompts = prompts_of(encoder)
    loss, logged = step.accumulate(prompts, [{"references": ["x"]}] * 2, step=0)
    found = {name: weight.grad.clone() for name, weight in trainable(model).items() if weight.grad is not None}

    with plain_attention(model.base_model.model, encoder.checkpoint.family):
        drawn = step.rollouts.sample(model, prompts, 0)
    plain = AutoModelForImageTextToText.from_pretrained(encoder.checkpoint.folder, dtype=torch.float32)
    plain = add_adapter(plain, step.settings.lora, encoder.checkpoint.family, 0)
    moved(plain, 1)
    values = [2 * (n / 50) + v for n, v in ((len(text), count(text)) for text in texts_of(encoder, drawn))]
    grouped = np.array(values).reshape(2, ANSWERS)
    advantage = ((grouped - grouped.mean(1, keepdims=True)) / (grouped.std(1, keepdims=True) + 1e-4)).ravel()
    examples = [answered(prompts[n // ANSWERS], ids) for n, ids in enumerate(drawn)]
    with torch.no_grad():
        reference = [plain_logprobs(plain, encoder, example) for example in examples]
    moved(plain, 2)
    objective, tokens = torch.zeros(()), sum(map(len, drawn))
    for one, before, example in zip(advantage, reference, examples, strict=True):
        logprob = plain_logprobs(plain, encoder, example)
        ratio, ahead = (logprob - logprob.detach()).exp(), before - logprob
        objective = objective + (-one * ratio + beta * (ahead.exp() - ahead - 1)).sum()
    (objective / tokens).backward()
    assert loss == pytest.approx((objective / tokens).item(), abs=2e-6)
    for name, weight in trainable(plain).items():
        assert weight.grad is not None
        assert (weight.grad - found[name]).norm() <= 1e-5 * weight.grad.norm(), name
    assert [row["tokens"] for row in logged] == [[len(ids) for ids in drawn[n : n + 3]] for n in (0, 3)]


def texts_of(encoder: Encoder, drawn: Sequence[Sequence[int]]) -> list[str]:
    return [encoder.renderer.text([token for token in ids if token not in encoder.stop_ids]) for ids in drawn]


def count(text: str) -> float:
    return sum(letter in "aeiou" for letter in text.strip()) / 100


def test_in_half_precision_drawing_takes_no_gradient_away(encoder: Encoder, tmp_path: Path) -> None:
    """The weights of every step are first cast while answers are drawn, where no gradients are recorded."""
    drawn: list[Sequence[Sequence[int]]] = []

    def gradients() -> list[list[torch.Tensor]]:
        step, model = started(encoder, tmp_path, 0.3, precision="bf16")
        draw, weights, found = step.rollouts.sample, list(trainable(model).values()), []

        def sample(model: Any, prompts: Sequence[Encoded], number: int) -> Sequence[Sequence[int]]:
            if number == len(drawn):
                drawn.append(draw(model, prompts, number))
            return drawn[number]

        step.rollouts, optimizer = replace(step.rollouts, sample=sample), torch.optim.AdamW(weights, lr=1e-3)
        for number in range(3):
            step.accumulate(prompts_of(encoder), [{"references": ["x"]}] * 2, number)
            found.append([weight.grad.clone() for weight in weights if weight.grad is not None])
            assert [gradient.any().item() for gradient in found[-1]] == [True] * len(weights), f"step {number}"
            optimizer.step()
            step.forward_backward.zero_grad()
        return found

    for one, other in zip(gradients(), gradients(), strict=True):  # nothing is drawn in the second run
        assert all(map(torch.equal, one, other))


def test_losses_without_a_gradient_end_the_run(encoder: Encoder, tmp_path: Path) -> None:
    step, model = started(encoder, tmp_path, 0.0)
    model.requires_grad_(requires_grad=False)
    with pytest.raises(IntegrityError, match="a packed sequence of step 3 has no gradient"):
        step.accumulate(prompts_of(encoder), [{"references": ["x"]}] * 2, step=2)


def test_packing_changes_no_gradient(encoder: Encoder, tmp_path: Path) -> None:
    found = []
    for packed in (True, False):
        step, model = started(encoder, tmp_path, 0.3, packed)
        step.accumulate(prompts_of(encoder), [{"references": ["x"]}] * 2, step=0)
        found.append(torch.cat([w.grad.ravel() for w in trainable(model).values() if w.grad is not None]))
    assert (found[0] - found[1]).norm() <= 1e-5 * found[0].norm()


def test_answers_are_drawn_with_the_probabilities_that_are_learnt(encoder: Encoder, tmp_path: Path) -> None:
    step, model = started(encoder, tmp_path, 0.0)
    prompts = prompts_of(encoder)
    model.eval()
    engine = hf.attached(model, hf.Config(max_new_tokens=12), encoder, "cpu", "fp32")
    with plain_attention(model.base_model.model, encoder.checkpoint.family):
        drawn = engine.sample(prompts, ANSWERS, "0")
        again = engine.sample(prompts, ANSWERS, "0")
        other = engine.sample(prompts, ANSWERS, "1")
    assert drawn == again != other
    assert len({tuple(answer.ids) for answer in drawn[:ANSWERS]}) > 1, "answers to one prompt differ"
    examples = [answered(prompts[n // ANSWERS], answer.ids) for n, answer in enumerate(drawn)]
    for sequence in step.forward_backward.pack(examples):
        with torch.no_grad():
            told = -step.forward_backward.token_losses(sequence)
        for owner in set(sequence.example_indices):
            mine = told[torch.tensor(sequence.example_indices) == owner]
            assert mine.tolist() == pytest.approx(drawn[owner].logprobs, abs=2e-5)


def test_no_token_without_a_text_is_drawn(encoder: Encoder, tmp_path: Path) -> None:
    """But for those that end an answer. Here the model itself wants little else: both of their logits are raised."""
    _, model = started(encoder, tmp_path, 0.0)
    base = model.base_model.model
    head = base.get_output_embeddings()
    size = head.weight.shape[0]
    banned = set(encoder.renderer.never_written(size)) - set(encoder.stop_ids)
    assert encoder.renderer.image_id in banned
    wanted = torch.tensor([encoder.renderer.image_id, encoder.stop_ids[0]])
    head.register_forward_hook(lambda *args: args[2].index_add(-1, wanted, torch.full((*args[2].shape[:-1], 2), 50.0)))
    engine = hf.attached(model.eval(), hf.Config(max_new_tokens=6), encoder, "cpu", "fp32")
    with plain_attention(base, encoder.checkpoint.family):
        drawn = engine.sample(prompts_of(encoder), ANSWERS, "0")
    assert {tuple(answer.ids) for answer in drawn} == {(encoder.stop_ids[0],)}


def test_killed_and_resumed_equals_uninterrupted(make_grpo: Callable[..., trainer.TrainingJob]) -> None:
    scored, settings = rewards(LETTERS, LENGTH), {"save_every_steps": 2, "max_steps": 4}
    straight = make_grpo("straight", scored, **settings)
    facts = trainer.train(straight, QUIET, StopRequest())
    broken = make_grpo("broken", scored, **settings)
    with pytest.raises(Interrupted, match=r"step 3 of 4 is saved"):
        trainer.train(broken, QUIET, StopAfter(6))
    shutil.rmtree(broken.work / "step-000003")  # as if it was killed, after what it logged of the step
    trainer.train(broken, QUIET, StopRequest())
    assert adapter_bytes(broken.adapter) == adapter_bytes(straight.adapter)
    for file in ("curve.jsonl", "samples.jsonl"):
        assert (broken.work / file).read_bytes() == (straight.work / file).read_bytes()
    first, *_, last = map(json.loads, (straight.work / "curve.jsonl").read_text().splitlines())
    assert {"reward", "reward_letters", "reward_length", "kl", "words", "even_groups", "loss"} <= first.keys()
    assert first["kl"] == pytest.approx(0, abs=1e-9), "the run begins at its reference"
    assert "validation_loss" in last
    assert facts["steps"] == 4


def test_a_constant_reward_ends_the_run(make_grpo: Callable[..., trainer.TrainingJob]) -> None:
    job = make_grpo("constant", rewards(ALIKE), max_steps=3)
    with pytest.raises(ConfigError, match="alike gave all 3 answers to every row of the first 3 steps the same value"):
        trainer.train(job, QUIET, StopRequest())
    notes = Notes()
    trainer.train(make_grpo("one", rewards(ALIKE, LENGTH), max_steps=3), Progress(notes), StopRequest())
    assert [text for text in notes.texts if "alike is constant" in text]


def test_answers_that_double_in_length_end_the_run(
    make_grpo: Callable[..., trainer.TrainingJob], encoder: Encoder
) -> None:
    """The answers here get a token longer in every step: 4 in the first three steps on average, then 5, 6 and 7."""
    job = make_grpo("long", rewards(LETTERS, LENGTH), max_steps=12, save_every_steps=1, grpo={"max_growth": 1.6})
    word = encoder.renderer.training_example((user("?"), assistant("red")), []).ids[-2]

    def sample(model: Any, prompts: Sequence[Encoded], step: int) -> list[list[int]]:
        return [[word] * (step + n % ANSWERS + 1) + [encoder.stop_ids[0]] for n in range(ANSWERS * len(prompts))]

    job = replace(job, rollouts=Rollouts(sample, rewards(LETTERS, LENGTH)))
    with pytest.raises(Diverged, match=r"step 6: answers have grown from 4.0 tokens to 7.0, more than .*by length"):
        trainer.train(job, QUIET, StopRequest())
    assert [*job.work.glob("step-000005")], "the last checkpoint is kept"
    assert not job.adapter.exists()


def test_rewards_are_the_metrics_of_the_task_row_by_row() -> None:
    rows = [Line(str(n), None, {"references": [f"a {w} dog runs", f"one {w} dog"], "keywords": [w, "dog"]})
            for n, w in enumerate(["red", "blue", "big"])]  # fmt: skip
    weights = {"keyword_recall": 1.0, "cider_d": 2.0, "sacrebleu": 0.5}
    scored = Rewards.of(captioning.TASK, captioning.Config(), weights, rows)
    texts = ["a red dog runs", "a cat", "a big dog runs"]
    values = scored.score(texts, [row.truth for row in rows])
    assert values["keyword_recall"].tolist() == [1.0, 0.0, 1.0]
    assert scored.total(values) == pytest.approx(sum(weights[name] * values[name] for name in weights))
    known = {metric.name: metric for metric in captioning.TASK.metrics}
    stats = known["cider_d"].measure(texts, [row.truth["references"] for row in rows])
    assert values["cider_d"] == pytest.approx(known["cider_d"].summarise(stats) / 10), "the pool is the set itself"
    alone = scored.score(texts[:1] * 4, [rows[0].truth] * 4)
    assert alone["cider_d"] == pytest.approx([values["cider_d"][0]] * 4), "a row's value depends on no other row"


def test_the_tokenizer_of_a_reward_is_that_of_the_pool() -> None:
    """Among rows in English, Chinese was one long word, and alone it was split."""
    chinese = {"references": ["一只狗在绿色的草地上奔跑"], "keywords": ["草地"]}
    english = {"references": ["a dog runs over the green grass"], "keywords": ["grass"]}
    rows = [Line(str(n), None, chinese if n < 9 else english) for n in range(12)]
    weights = dict.fromkeys(("sacrebleu", "bleu", "bleu_1", "rouge_l", "keyword_recall", "cider_d"), 1.0)
    scored = Rewards.of(captioning.TASK, captioning.Config(), weights, rows)
    answer = "一只狗在草地上奔跑"
    alone = scored.score([answer], [chinese])
    among = scored.score([answer] + ["a dog runs"] * 15, [chinese] + [english] * 15)
    assert {name: values[0] for name, values in among.items()} == {name: values[0] for name, values in alone.items()}
    assert all(values[0] > 0 for values in alone.values())


CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, references: [caption_0, caption_1], keywords: keywords, id: id,
  limit: {train: 6, validation: 2}}
task: {name: captioning}
inference: {max_new_tokens: 12}
output: {dir: first}
training: {precision: fp32, epochs: null, max_steps: 1}
"""
SECOND = """\
extends: c.yaml
output: {dir: second}
training:
  objective: grpo
  continue_from: first/lora
  max_steps: 2
  batch_size: 2
  grpo: {rewards: {keyword_recall: 1, cider_d: 1}, answers: 3}
"""


def test_the_command_goes_on_from_a_finished_adapter_and_says_what_it_learnt(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    (tmp_path / "d.yaml").write_text(SECOND)
    missing = vlmtune_in_process("train", "d.yaml", cwd=tmp_path)
    assert (missing.returncode, "first/lora: no such folder" in missing.stderr) == (9, True)
    assert vlmtune_in_process("train", "c.yaml", cwd=tmp_path).returncode == 0
    ended = vlmtune_in_process("train", "d.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    manifest = read_manifest(tmp_path / "second/lora")
    assert manifest is not None
    assert manifest["rewards"] == {"keyword_recall": 1.0, "cider_d": 1.0}
    assert [point["step"] for point in manifest["curve"] if "reward_cider_d" in point] == [1, 2]
    settings = manifest["origin"]["training"]
    assert settings["grpo"]["drawn"]["max_new_tokens"] == 12, "other answers would be another training"
    assert settings["continue_from"] == hash_adapter(tmp_path / "first/lora")
    samples = [json.loads(line) for line in (tmp_path / "second/lora/samples.jsonl").read_text().splitlines()]
    assert [len(row["rewards"]["cider_d"]) for row in samples] == [3] * 4
    refused = vlmtune_in_process("data", "label-errors", "d.yaml", cwd=tmp_path)
    assert (refused.returncode, "was trained on rewards and has no losses of rows" in refused.stderr) == (3, True)
    several = vlmtune_in_process("plan", "d.yaml", "--gpu", "h200", "--cards", "2", cwd=tmp_path)
    assert (several.returncode, "grpo trains in one process" in several.stderr) == (2, True)
    shown = vlmtune_in_process("runs", "show", "second", cwd=tmp_path)
    assert "  curve       reward " in shown.stdout
    planned = vlmtune_in_process("plan", "d.yaml", "--json", cwd=tmp_path)
    assert "3 answers to each row are drawn" in " ".join(json.loads(planned.stdout)["notes"])
