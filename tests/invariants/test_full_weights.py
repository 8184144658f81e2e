"""Parts trained in full: as plain torch would train them, stored as plain PEFT loads them; nothing else moves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import Notes, assistant, make_image, ref, user
from interruptions import StopAfter
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from vlmtune.distributed import SINGLE_PROCESS
from vlmtune.engines import hf
from vlmtune.errors import ConfigError, IntegrityError, Interrupted
from vlmtune.modeling.loading import attach_adapter, load_model
from vlmtune.processing.encoder import Encoder, collate
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.training import trainer
from vlmtune.training.config import LoraConfig, TrainingConfig, learning_rate
from vlmtune.training.forward_backward import ForwardBackward
from vlmtune.training.full_weights import learning, whole_modules
from vlmtune.training.lora import add_adapter, optimizer_groups, save_adapter, trainable
from vlmtune.training.sampler import sample_batches
from vlmtune.types import Request

MakeJob = Callable[..., trainer.TrainingJob]
QUIET = Progress(Silent())
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
EVERYTHING = {"language_model": "full", "merger": "full", "vision_tower": "full"}
METHODS: dict[str, dict[str, str]] = {
    "language model": {"language_model": "full"},
    "merger": {"merger": "full"},
    "all": EVERYTHING,
    "mixed": {"language_model": "lora", "merger": "full"},
}
NO_LORA = LoraConfig(parts=[])
TALK = (user(ref(make_image(128, 96)), "Describe."), assistant("A red ball ."))


def plain(encoder: Encoder, precision: torch.dtype = torch.float32) -> Any:
    return AutoModelForImageTextToText.from_pretrained(str(encoder.checkpoint.folder), dtype=precision).eval()


def logits(model: Any, encoder: Encoder, precision: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(
            **collate([encoder.training_example(TALK, "all", 4096)], encoder, "right", "cpu", precision)
        ).logits
    return found.float()


def learnt(folder: Path) -> dict[str, torch.Tensor]:
    """Weights by the names that the model has for them."""
    return {name.removeprefix("base_model.model."): weight for name, weight in load_file(folder / WEIGHTS).items()}


def test_steps_are_those_of_plain_torch(make_job: MakeJob, encoder: Encoder) -> None:
    """AdamW on a model of transformers, one example at a time, without decay of vectors; five steps, clipped."""
    job = make_job(method="full", learning_rate=1e-3, weight_decay=0.1, max_grad_norm=0.5)
    trainer.train(job, QUIET, StopRequest())
    model, settings = plain(encoder), job.settings
    model.requires_grad_(False)
    model.model.language_model.requires_grad_(True)
    model.lm_head.requires_grad_(True)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    matrices = [weight for weight in weights.values() if weight.ndim > 1]
    vectors = [weight for weight in weights.values() if weight.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}])
    batches = sample_batches(job.train.rows, "sample", 1, 8, 42)
    for step, samples in enumerate(batches):
        lessons = [job.train.encode(sample) for sample in samples]
        supervised = sum(lesson.rendered.supervised for lesson in lessons)
        for lesson in lessons:
            found = model(**collate([lesson], encoder, "right", "cpu", torch.float32), use_cache=False).logits[0, :-1]
            every = torch.nn.functional.cross_entropy(found, torch.tensor(lesson.rendered.ids)[1:], reduction="none")
            (every[torch.tensor(lesson.rendered.loss_mask)[1:]].sum() / supervised).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), settings)
        optimizer.step()
        optimizer.zero_grad()
    ours = learnt(job.adapter)
    assert ours.keys() == {*weights, "lm_head.weight"}
    assert torch.equal(ours["lm_head.weight"], ours["model.language_model.embed_tokens.weight"]), "tied"
    for name, weight in weights.items():
        moved = (weight.detach() - before[name]).norm()
        assert moved > 0, name
        assert (ours[name] - weight.detach()).norm() <= 2e-3 * moved, name


@pytest.mark.parametrize("name", METHODS)
def test_what_is_stored_is_what_plain_peft_loads(name: str, make_job: MakeJob, encoder: Encoder) -> None:
    """Attached, merged, and with the adapter off; the parts that are not named keep every byte."""
    job = make_job(method=METHODS[name], learning_rate=1e-3)
    facts = trainer.train(job, QUIET, StopRequest())
    assert facts["trainable_parameters"] == sum(w.numel() for w in learnt(job.adapter).values()) - tied(job.adapter)
    base = logits(plain(encoder), encoder)
    theirs = PeftModel.from_pretrained(plain(encoder), str(job.adapter)).eval()
    ours = attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), job.adapter)
    tuned = logits(ours, encoder)
    assert (tuned - logits(theirs, encoder)).norm() <= 1e-6 * tuned.norm()
    assert (tuned - base).norm() > 1e-3 * base.norm()
    with ours.disable_adapter():
        assert (logits(ours, encoder) - base).norm() <= 1e-6 * base.norm()
    merged: Any = ours.merge_and_unload()
    assert (logits(merged, encoder) - tuned).norm() <= 1e-5 * tuned.norm()
    untouched = {n: w for n, w in plain(encoder).named_parameters() if part_of(n, encoder) not in METHODS[name]}
    after = dict(merged.named_parameters())
    assert len(untouched) >= 2, "the patch embedding is in no part"
    assert all(torch.equal(after[name], weight) for name, weight in untouched.items())


def part_of(name: str, encoder: Encoder) -> str | None:
    return "language_model" if name.startswith("lm_head") else encoder.checkpoint.family.part(name)


def tied(folder: Path) -> int:
    """Numbers that are stored twice."""
    head = learnt(folder).get("lm_head.weight")
    return 0 if head is None else head.numel()


@pytest.mark.parametrize(("precision", "method"), [("bf16", "full"), ("fp16", "full"), ("fp32", METHODS["mixed"])])
def test_interrupted_and_resumed_equals_uninterrupted(precision: str, method: Any, make_job: MakeJob) -> None:
    """Also where the step that does best on the validation rows is kept."""
    settings = {"precision": precision, "method": method, "epochs": 2, "save_every_steps": 3, "learning_rate": 1e-2}
    settings |= {"best_metric": "loss", "evaluate_every_steps": 2}
    straight, broken = make_job("straight", **settings), make_job("broken", **settings)
    trainer.train(straight, QUIET, StopRequest())
    with pytest.raises(Interrupted, match=r"step \d+ .*is saved"):
        trainer.train(broken, QUIET, StopAfter(9))
    trainer.train(broken, QUIET, StopRequest())
    for name in (WEIGHTS, SETTINGS):
        assert (broken.adapter / name).read_bytes() == (straight.adapter / name).read_bytes()
    assert (broken.work / "curve.jsonl").read_text() == (straight.work / "curve.jsonl").read_text()


def test_in_half_precision_small_steps_add_up(make_job: MakeJob, encoder: Encoder) -> None:
    """Rounded after each step, weights around 0.1 would never move by 1e-5; the copies move as far as in fp32."""
    moved = {}
    for precision in ("fp32", "bf16"):
        settings = {"precision": precision, "learning_rate": 1e-5, "schedule": "constant", "warmup_ratio": 0.0}
        job = make_job(precision, method={"merger": "full"}, weight_decay=0.0, save_every_steps=5, **settings)
        trainer.train(job, QUIET, StopRequest())
        kept = load_file(job.work / "step-000005" / "weights.safetensors")
        name = "base_model.model.model.visual.merger.linear_fc1.weight"
        assert kept[name].dtype == torch.float32
        start = plain(encoder).get_parameter("model.visual.merger.linear_fc1.weight")
        moved[precision] = (kept[name] - (start.bfloat16() if precision == "bf16" else start)).norm().item()
        stored = load_file(job.adapter / WEIGHTS)[name]
        assert torch.equal(stored, kept[name].to(stored.dtype)), "rounded once"
        assert stored.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
    assert moved["bf16"] == pytest.approx(moved["fp32"], rel=0.1)


def test_gradients_of_a_batch_add_up_in_fp32(encoder: Encoder) -> None:
    """And nothing in half precision is left over."""
    base = load_model(encoder.checkpoint, "cpu", "bf16")
    model = add_adapter(base, NO_LORA, encoder.checkpoint.family, 0, full=["merger"])
    tensors = collate([encoder.training_example(TALK, "all", 4096)], encoder, "right", "cpu", torch.bfloat16)
    sums = []
    for _ in range(3):
        model(**tensors).logits.float().square().mean().backward()
        sums.append({name: weight.grad.clone() for name, weight in trainable(model).items() if weight.grad is not None})
    assert sums[0].keys() == trainable(model).keys()
    assert all(grad.dtype == torch.float32 for grad in sums[2].values())
    assert all(torch.equal(sums[2][name], grad + grad + grad) for name, grad in sums[0].items())
    assert all(weight.grad is None for weight in model.parameters())
    learning_weights = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(
        weight.dtype == torch.bfloat16 and learning(weight).dtype == torch.float32 for weight in learning_weights
    )


def test_layers_that_are_computed_again_have_the_same_gradients(make_job: MakeJob, encoder: Encoder) -> None:
    found = []
    for layers in (0, 4):
        job = make_job(f"{layers} layers", method=EVERYTHING, checkpoint_layers=layers, learning_rate=1e-3)
        trainer.train(job, QUIET, StopRequest())
        found.append(load_file(job.adapter / WEIGHTS))
    assert all(torch.equal(found[1][name], weight) for name, weight in found[0].items())


def test_a_failed_pass_leaves_no_gradient(make_job: MakeJob, encoder: Encoder) -> None:
    """As if memory had run out between a weight's gradient and its addition to the copy's."""
    job, base = make_job(precision="bf16", method={"merger": "full"}), load_model(encoder.checkpoint, "cpu", "bf16")
    model = add_adapter(base, NO_LORA, encoder.checkpoint.family, 0, full=["merger"])
    weights = list(trainable(model).values())
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad, learning(weight).grad = torch.ones_like(weight), torch.ones_like(learning(weight))
    pieces = (base, weights, encoder, "cpu", job.settings, job.work, SINGLE_PROCESS)
    ForwardBackward(*pieces).zero_grad()
    assert all(weight.grad is None for weight in (*weights, *model.parameters()))


def test_how_fast_whole_parts_learn_is_said_aloud(make_job: MakeJob) -> None:
    notes = Notes()
    trainer.train(make_job(method=METHODS["mixed"], max_steps=1, epochs=None), Progress(notes), StopRequest())
    assert any("merger: all" in text and "at a learning rate of up to 0.002" in text for text in notes.texts)


class SomeImages:
    """Rows of which every n-th has an image; none has with 0."""

    def __init__(self, rows: Any, every: int) -> None:
        self._rows, self._every = rows, every

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def __len__(self) -> int:
        return len(self._rows)

    def with_target(self, row: int, target: int) -> Any:
        example = self._rows.with_target(row, target)
        return example if self._every and row % self._every == 0 else replace(example, images=())


@pytest.mark.parametrize("every", [3, 20], ids=["a third of the rows", "two rows"])
def test_text_alone_does_not_teach_the_merger(every: int, make_job: MakeJob) -> None:
    """Batches without images have no gradient, also the first one; the check for dead weights waits for images."""

    def job(name: str) -> trainer.TrainingJob:
        made = make_job(name, method={"merger": "full"}, batch_size=2, save_every_steps=3)
        return replace(made, train=replace(made.train, rows=SomeImages(made.train.rows, every)))  # type: ignore[arg-type]

    straight, broken = job("straight"), job("broken")
    trainer.train(straight, QUIET, StopRequest())
    with pytest.raises(Interrupted):
        trainer.train(broken, QUIET, StopAfter(12))
    trainer.train(broken, QUIET, StopRequest())
    assert (broken.adapter / WEIGHTS).read_bytes() == (straight.adapter / WEIGHTS).read_bytes()


def test_a_merger_that_saw_no_image_is_named(make_job: MakeJob) -> None:
    made, notes = make_job(method={"merger": "full"}, max_steps=2, epochs=None), Notes()
    job = replace(made, train=replace(made.train, rows=SomeImages(made.train.rows, 0)))  # type: ignore[arg-type]
    trainer.train(job, Progress(notes), StopRequest())
    assert any("no example of these steps had an image" in text for text in notes.texts)


def test_what_equals_the_base_model_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    for method in ("language_model", "merger"):
        untrained = add_adapter(
            load_model(encoder.checkpoint, "cpu", "fp32"), NO_LORA, encoder.checkpoint.family, 0, full=[method]
        )
        save_adapter(untrained, tmp_path / method, "tiny", None)
        attached = attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), tmp_path / method)
        engine = hf.attached(attached, hf.Config(), encoder, "cpu", "fp32")
        with pytest.raises(IntegrityError, match="loads but changes nothing"):
            engine.adapter_delta([Request("one", TALK[:1])])


def test_training_goes_on_from_what_was_trained_in_full(make_job: MakeJob) -> None:
    first = make_job("first", method=METHODS["mixed"], learning_rate=1e-3)
    before = trainer.train(first, QUIET, StopRequest())
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "continue_from": str(first.adapter)}
    after = trainer.train(make_job("longer", method=METHODS["mixed"], **still), QUIET, StopRequest())
    assert after["validation_loss"] == pytest.approx(before["validation_loss"], rel=1e-5)
    for method, said in (
        (EVERYTHING, r"merger.* was trained in full, and in this configuration .*blocks.0"),
        ("lora", "configuration nothing is; set training.method"),
    ):
        with pytest.raises(ConfigError, match=said):
            trainer.train(make_job("other", method=method, **still), QUIET, StopRequest())


def test_every_weight_of_a_part_learns_at_its_rate(encoder: Encoder) -> None:
    """Norms and biases do not decay; the head goes with the language model; what is aloud is what is used."""
    settings = TrainingConfig.model_validate(
        {"method": {**EVERYTHING, "vision_tower": "lora"}, "lora": {"target_modules": ["qkv"]}}
    )
    family = encoder.checkpoint.family
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    model = add_adapter(base, settings.lora, family, 0, full=settings.full)
    rates: dict[tuple[float, float], int] = {}
    for group in optimizer_groups(model, family, settings):
        key = (group["share"] * settings.learning_rate, group["weight_decay"])
        rates[key] = rates.get(key, 0) + sum(weight.numel() for weight in group["params"])
    whole = [weight for module in whole_modules(base, family, settings.full).values() for weight in module.parameters()]
    vectors = sum(weight.numel() for weight in whole if weight.ndim == 1)
    assert rates[1e-5, 0.0] == vectors
    assert rates[1e-5, 0.01] == sum({id(w): w.numel() for w in whole}.values()) - vectors
    assert rates.keys() == {(1e-5, 0.0), (1e-5, 0.01), (2e-4, 0.01)}


def test_defaults_follow_the_method() -> None:
    def of(**settings: Any) -> TrainingConfig:
        return TrainingConfig.model_validate(settings)

    assert (of().full, of().adapted, of().rate("language_model")) == ([], ["language_model"], 2e-4)
    full = of(method="full")
    assert (full.full, full.adapted, full.rate("language_model")) == (["language_model"], [], 1e-5)
    mixed = of(method=METHODS["mixed"])
    assert (mixed.full, mixed.adapted, mixed.lora.parts) == (["merger"], ["language_model"], ["language_model"])
    assert (mixed.rate("language_model"), mixed.rate("merger")) == (2e-4, 1e-5)
    assert of(method="full", learning_rate=3e-5).rate("language_model") == 3e-5
    assert of(method=METHODS["mixed"], learning_rates={"merger": 1e-3}).rate("merger") == 1e-3
    assert TrainingConfig(method="full", lora=LoraConfig(rank=4)).lora.parts == []
    for one in (full, mixed):
        assert TrainingConfig.model_validate(one.model_dump(mode="json")) == one
