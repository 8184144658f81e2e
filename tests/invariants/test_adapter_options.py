"""Which layers get an adapter, how its weights begin and how fast they learn: as PEFT has it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from builders import TINY, assistant, make_image, ref, user
from interruptions import StopAfter, adapter_bytes
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora import LoraLayer

from vlmtune.errors import ConfigError, Interrupted
from vlmtune.families import PartName
from vlmtune.modeling.loading import attach_adapter, find_checkpoint, load_model
from vlmtune.planning.costs import trained_weights as planned_weights
from vlmtune.planning.plan import selected_layers, shapes_of
from vlmtune.processing.encoder import Encoder, collate
from vlmtune.progress import Progress, Silent
from vlmtune.run_folder import read_adapter_config
from vlmtune.signals import StopRequest
from vlmtune.training import trainer
from vlmtune.training.config import LoraConfig, TrainingConfig
from vlmtune.training.lora import add_adapter, optimizer_groups, trainable
from vlmtune.training.lora_init import INITIAL, begin_with_rounding_errors, keep_initial

MakeJob = Callable[..., trainer.TrainingJob]
QUIET = Progress(Silent())
PARTS: list[PartName] = ["language_model", "merger", "vision_tower"]
EVERYWHERE = r"model\.(language_model\.layers|visual)\..*(proj|qkv|linear_fc[12])"
PICTURE = ref(make_image(128, 96, seed=0), "picture")
TALK = (user(PICTURE, "Describe."), assistant("A red ball ."))


def base_of(encoder: Encoder) -> Any:
    return load_model(encoder.checkpoint, "cpu", "fp32")


def chosen(model: Any) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def logits(model: Any, encoder: Encoder) -> torch.Tensor:
    batch = collate([encoder.training_example(TALK, "all", 4096)], encoder, "right", "cpu", torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits
    return found


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("all-linear", PARTS),
        (r".*language_model.*\.(q_proj|down_proj)", ["language_model"]),
        (r"model\.language_model\.layers\.[01]\.self_attn\.\w_proj", ["language_model"]),
        (r".*visual\.blocks\.\d+\.attn\.(qkv|proj)", ["vision_tower"]),
    ],
)
def test_text_chooses_the_layers_that_peft_chooses(text: str, parts: list[PartName], encoder: Encoder) -> None:
    ours = add_adapter(base_of(encoder), LoraConfig(target_modules=text, parts=parts), encoder.checkpoint.family, 0)
    theirs = peft.get_peft_model(base_of(encoder), peft.LoraConfig(r=16, target_modules=text))
    assert chosen(ours) == chosen(theirs)


def test_all_linear_layers_are_those_of_the_parts(encoder: Encoder) -> None:
    model = add_adapter(base_of(encoder), LoraConfig(target_modules="all-linear"), encoder.checkpoint.family, 0)
    assert {name.rpartition(".")[2] for name in chosen(model)} == set(encoder.checkpoint.family.lora_targets)
    assert all("language_model" in name for name in chosen(model))


@pytest.mark.parametrize(
    ("text", "parts", "said"),
    [
        (r".*(q_proj|qkv)", ["language_model"], "a layer of the vision tower, but training.lora.parts names language"),
        (r".*self_attn", ["language_model"], "which is no linear layer but a Qwen3VLTextAttention"),
        (
            r"q_proj",
            ["language_model"],
            r"matches no linear layer of the language model; .* such as model.lang",
        ),
        (r".*lm_head", ["language_model"], "lm_head, a layer of no part that can have an adapter"),
    ],
)
def test_text_that_chooses_something_else_is_named(
    text: str, parts: list[PartName], said: str, encoder: Encoder
) -> None:
    with pytest.raises(ConfigError, match=said):
        add_adapter(base_of(encoder), LoraConfig(target_modules=text, parts=parts), encoder.checkpoint.family, 0)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "olora", "pissa", "pissa_niter_4"])
def test_initial_weights_are_peft_s_and_change_no_answer(init: Any, encoder: Encoder) -> None:
    model = add_adapter(base_of(encoder), LoraConfig(init_lora_weights=init), encoder.checkpoint.family, 3)
    targets = list(encoder.checkpoint.family.lora_targets)
    torch.manual_seed(3)
    config = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets, init_lora_weights=init)
    theirs = trainable(peft.get_peft_model(base_of(encoder), config))
    for name, weight in trainable(model).items():
        assert weight.equal(theirs[name]), name
    torch.testing.assert_close(logits(model.eval(), encoder), logits(base_of(encoder), encoder), rtol=0, atol=1e-4)


@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_saved_adapter_is_one_of_the_original_model(
    init: Any, use_rslora: bool, make_job: MakeJob, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained, attached by plain PEFT and merged answer alike on a base that nobody touched."""
    trained = []
    monkeypatch.setattr(trainer, "add_adapter", lambda *a: trained.append(add_adapter(*a)) or trained[0])
    job = make_job(lora=LoraConfig(rank=4, alpha=8, init_lora_weights=init, use_rslora=use_rslora))
    trainer.train(job, QUIET, StopRequest())
    untouched = logits(base_of(encoder), encoder)
    plain = peft.PeftModel.from_pretrained(base_of(encoder), str(job.adapter)).eval()
    found = logits(plain, encoder)
    assert (found - untouched).abs().max() > 0.05
    monkeypatch.undo()
    torch.testing.assert_close(found, logits(attach_adapter(base_of(encoder), job.adapter), encoder))
    torch.testing.assert_close(found, logits(plain.merge_and_unload(), encoder), rtol=0, atol=1e-3)
    model = trained[0].eval()
    weights = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    exact = dict(base_of(encoder).named_parameters())
    attached = attach_adapter(base_of(encoder), job.adapter)
    for name, layer in weights.items():
        ours = layer.get_base_layer().weight + layer.get_delta_weight("default")
        original = exact[name.removeprefix("base_model.model.") + ".weight"]
        delta = attached.get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(ours, original + delta, rtol=0, atol=1e-5)
    config = read_adapter_config(job.adapter)
    assert (config["init_lora_weights"], config["r"]) == (True, 4 if init == "orthogonal" else 8)


def test_a_resumed_run_goes_on_with_the_weights_it_began_with(make_job: MakeJob) -> None:
    lora = LoraConfig(rank=4, init_lora_weights="pissa")
    straight, broken = (make_job(name, lora=lora, save_every_steps=2) for name in ("straight", "broken"))
    trainer.train(straight, QUIET, StopRequest())
    with pytest.raises(Interrupted):
        trainer.train(broken, QUIET, StopAfter(8))
    assert (broken.work / INITIAL).is_file()
    trainer.train(broken, QUIET, StopRequest())
    for file in straight.adapter.iterdir():
        assert file.read_bytes() == (broken.adapter / file.name).read_bytes()


def test_a_base_is_corrected_where_the_initial_weights_come_out_otherwise(
    make_job: MakeJob, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the run were resumed on another GPU, whose decomposition has other signs and order."""
    job = make_job()
    pissa, olora = (
        add_adapter(base_of(encoder), LoraConfig(init_lora_weights=init), encoder.checkpoint.family, 0)
        for init in ("pissa", "olora")
    )
    first = keep_initial(pissa, job.work, True)
    again = keep_initial(olora, job.work, True)
    assert first.keys() == again.keys()
    assert all(weight.equal(again[name]) for name, weight in first.items())
    theirs = dict(pissa.named_parameters())
    for name, weight in olora.named_parameters():
        if name.endswith("base_layer.weight"):
            torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-5)


def test_the_rank_must_fit_the_smallest_matrix(encoder: Encoder) -> None:
    settings = LoraConfig(rank=512, init_lora_weights="pissa")
    with pytest.raises(ConfigError, match=r"pissa takes 512 directions .* set training.lora.rank to at most \d+"):
        add_adapter(base_of(encoder), settings, encoder.checkpoint.family, 0)


def test_loftq_makes_up_for_the_rounding_to_four_bits(
    encoder: Encoder, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    config = TINY.model_copy(update={"quantization": "nf4"})
    checkpoint = find_checkpoint(config)
    model = add_adapter(load_model(checkpoint, "cpu", "fp32"), LoraConfig(rank=32), checkpoint.family, 0).eval()
    begin_with_rounding_errors(model, base_of(encoder))  # before any forward pass, which repacks weights on a CPU
    exact, rounded = logits(base_of(encoder), encoder), logits(load_model(checkpoint, "cpu", "fp32"), encoder)
    assert (logits(model, encoder) - exact).norm() < 0.7 * (rounded - exact).norm()
    begun: list[bool] = []

    def begin(model: Any, original: Any) -> None:
        begun.append(True)
        begin_with_rounding_errors(model, original)

    monkeypatch.setattr(trainer, "begin_with_rounding_errors", begin)
    settings = LoraConfig(rank=8, init_lora_weights="loftq")
    jobs = [make_job(name, lora=settings, precision="bf16") for name in ("straight", "broken")]
    straight, broken = (replace(job, encoder=Encoder(checkpoint, config)) for job in jobs)
    trainer.train(straight, QUIET, StopRequest())
    with pytest.raises(Interrupted):
        trainer.train(broken, QUIET, StopAfter(8))
    assert len(begun) == 2
    trainer.train(broken, QUIET, StopRequest())
    assert len(begun) == 2, "a resumed run has its weights"
    assert adapter_bytes(broken.adapter) == adapter_bytes(straight.adapter)


@pytest.mark.parametrize("use_dora", [False, True])
def test_lora_plus_speeds_up_what_peft_speeds_up(use_dora: bool, encoder: Encoder) -> None:
    lora, family = LoraConfig(use_dora=use_dora), encoder.checkpoint.family
    model = add_adapter(base_of(encoder), lora, family, 0)
    ours = optimizer_groups(model, family, TrainingConfig(learning_rate=1e-3, lora_plus_ratio=16, lora=lora))
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    rates = {id(weight): group["lr"] for group in theirs.param_groups for weight in group["params"]}
    for group in ours:
        assert group["share"] in (1, 16)
        assert all(rates[id(weight)] == pytest.approx(group["lr"]) for weight in group["params"])
    assert sum(len(group["params"]) for group in ours) == len(rates)


def test_the_plan_counts_the_layers_that_text_chooses(encoder: Encoder) -> None:
    for text, parts in (("all-linear", PARTS), (r".*language_model.*\.(q_proj|up_proj)", ["language_model"])):
        lora = LoraConfig(target_modules=text, parts=parts)  # type: ignore[arg-type]
        model = add_adapter(base_of(encoder), lora, encoder.checkpoint.family, 0)
        named = lora.model_copy(update={"target_modules": selected_layers(text, lora, encoder.checkpoint)})
        count = sum(weight.numel() for weight in trainable(model).values())
        assert planned_weights(shapes_of(encoder.checkpoint), named) == count
