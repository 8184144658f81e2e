"""Adapters of every kind and on every part: as PEFT computes them, on fewer bytes; what each may and may not move."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY, assistant, make_image, ref, user
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from vlmtune.engines import hf
from vlmtune.errors import ConfigError, EnvironmentProblem, IntegrityError
from vlmtune.modeling import loading, lora_layers, quantization
from vlmtune.modeling.loading import attach_adapter, find_checkpoint, load_model
from vlmtune.processing.encoder import Encoder, collate
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.training import trainer
from vlmtune.training.attention import enable_packed_attention
from vlmtune.training.config import LearningRates, LoraConfig
from vlmtune.training.forward_backward import token_losses
from vlmtune.training.lora import add_adapter, continue_adapter, optimizer_groups, save_adapter, trainable
from vlmtune.training.packing import Layout, PackedSequence, pack
from vlmtune.types import Prediction, Request

MakeJob = Callable[..., trainer.TrainingJob]
Tensors = Mapping[str, torch.Tensor]
QUIET = Progress(Silent())
LANGUAGE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOWER = ["qkv", "proj", "linear_fc1", "linear_fc2"]
EVERYWHERE = LoraConfig(
    dropout=0.0, target_modules=[*LANGUAGE, *TOWER], parts=["language_model", "merger", "vision_tower"]
)
A, B = (ref(make_image(*size, seed=n), f"picture {n}") for n, size in enumerate([(128, 96), (70, 100)]))
TALKS = [
    (user(A, "Describe."), assistant("A red ball .")),
    (user(A, "and", B, "What is it?"), assistant("A house, behind a tree .")),
    (user(A, "Describe."), assistant("Two boats on the sand .")),
    (user("No picture."), assistant("Yes .")),
]


def adapted(encoder: Encoder, settings: LoraConfig, base: Any = None, precision: str = "fp32") -> Any:
    """With an adapter whose B is not zero, where half of all mistakes could not show."""
    if base is None:
        base = load_model(encoder.checkpoint, "cpu", precision)
        enable_packed_attention(base, encoder.checkpoint.family)
    model = add_adapter(base, settings, encoder.checkpoint.family, 0)
    torch.manual_seed(1)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def row_of(encoder: Encoder) -> PackedSequence:
    layout = Layout.of(encoder)
    (row,) = pack([encoder.training_example(talk, "all", 4096) for talk in TALKS], layout, 4096)
    return row


def gradients_of(model: Any, encoder: Encoder) -> Tensors:
    token_losses(model.base_model.model, row_of(encoder), encoder, "cpu").sum().backward()
    return {name: weight.grad for name, weight in trainable(model).items() if weight.grad is not None}


def as_peft_has_it(model: Any) -> Any:
    """Our adapters with the forward that PEFT gave them."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = True
            layer.__dict__.pop("forward", None)
            for matrix in (*layer.lora_A.values(), *layer.lora_B.values()):
                matrix.__dict__.pop("forward", None)
    return model


def saved_bytes(model: Any, encoder: Encoder) -> tuple[int, Tensors]:
    """Bytes that the forward pass keeps for the backward pass, each storage once; and the gradients."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = gradients_of(model, encoder)
    return sum(kept.values()), found


def test_in_fp32_adapters_are_peft_s_to_the_bit(encoder: Encoder) -> None:
    ours, theirs = adapted(encoder, EVERYWHERE), as_peft_has_it(adapted(encoder, EVERYWHERE))
    one, other = gradients_of(ours, encoder), gradients_of(theirs, encoder)
    assert one.keys() == other.keys() == trainable(ours).keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_in_half_precision_adapters_keep_less_and_learn_in_fp32(encoder: Encoder) -> None:
    settings = LoraConfig(dropout=0.0)
    exact = gradients_of(adapted(encoder, settings), encoder)
    less, narrow = saved_bytes(adapted(encoder, settings, precision="bf16"), encoder)
    more, wide = saved_bytes(as_peft_has_it(adapted(encoder, settings, precision="bf16")), encoder)
    assert {grad.dtype for grad in narrow.values()} == {torch.float32}
    assert less < 0.85 * more

    def error(found: Tensors) -> float:
        # Over all tensors: the worst single one is decided by how a CPU's kernels happen to round.
        apart = sum((found[name] - grad).square().sum().item() for name, grad in exact.items())
        return apart / sum(grad.square().sum().item() for grad in exact.values())

    assert error(narrow) < 1.1 * error(wide), "what bf16 costs is the model's, not the adapter's"


def test_scale_and_sum_in_the_matrix_product_change_no_gradient(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32, where both can be compared exactly; with dropout, which must fall on the same places."""
    settings = LoraConfig(dropout=0.1, parts=EVERYWHERE.parts, target_modules=EVERYWHERE.target_modules)
    found = []
    for widest in (0, 4):
        monkeypatch.setattr(lora_layers, "FUSED_BYTES", widest)
        model = adapted(encoder, settings).train()
        torch.manual_seed(7)
        found.append(gradients_of(model, encoder))
    plain, fused = found
    assert plain.keys() == fused.keys()
    assert any(not torch.equal(fused[name], grad) for name, grad in plain.items()), "it was another computation"
    for name, grad in plain.items():
        assert (fused[name] - grad).norm() <= 1e-5 * grad.norm(), name


def test_weights_are_cast_again_when_they_have_changed(encoder: Encoder) -> None:
    model = adapted(encoder, LoraConfig(dropout=0.0), precision="bf16")
    matrices = [m for layer in model.modules() if isinstance(layer, LoraLayer) for m in layer.lora_B.values()]

    def casts() -> list[torch.Tensor]:
        gradients_of(model, encoder)
        model.zero_grad()
        return [matrix.cast_weight for matrix in matrices]

    first, again = casts(), casts()
    assert all(one is other for one, other in zip(first, again, strict=True))
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=0.1)
    gradients_of(model, encoder)
    optimizer.step()
    for change in (lambda: None, lambda: torch.nn.init.normal_(matrices[0].weight)):
        change()
        now = casts()
        assert all(torch.equal(cast, m.weight.detach().bfloat16()) for cast, m in zip(now, matrices, strict=True))
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert torch.equal(casts()[0], matrices[0].weight.detach().bfloat16())


def test_an_adapter_that_is_off_changes_nothing_in_half_precision(encoder: Encoder) -> None:
    model = adapted(encoder, LoraConfig(dropout=0.0), precision="bf16").eval()
    row, base = row_of(encoder), load_model(encoder.checkpoint, "cpu", "bf16")
    enable_packed_attention(base, encoder.checkpoint.family)
    with torch.no_grad():
        plain = token_losses(base, row, encoder, "cpu")
        on = token_losses(model.base_model.model, row, encoder, "cpu")
        with model.disable_adapter():
            off = token_losses(model.base_model.model, row, encoder, "cpu")
    assert torch.equal(off, plain)
    assert not torch.allclose(on, plain)


@pytest.mark.parametrize(
    "settings",
    [
        LoraConfig(rank=4, use_rslora=True),
        LoraConfig(rank=4, use_dora=True),
        EVERYWHERE,
    ],
    ids=["rsLoRA", "DoRA", "every part"],
)
def test_every_kind_learns_and_is_read_by_plain_peft(settings: LoraConfig, encoder: Encoder, tmp_path: Path) -> None:
    model = adapted(encoder, settings).eval()
    assert {layer.scaling["default"] for layer in model.modules() if isinstance(layer, LoraLayer)} == {settings.scale}
    found = gradients_of(model, encoder)
    assert found.keys() == trainable(model).keys()
    assert all(grad.any() for grad in found.values())
    assert settings.use_dora == any("magnitude" in name for name in found)
    save_adapter(model, tmp_path, "tiny", None)
    plain = PeftModel.from_pretrained(load_model(encoder.checkpoint, "cpu", "fp32"), str(tmp_path)).eval()
    ours = attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), tmp_path)
    tensors = collate([encoder.training_example(TALKS[1], "all", 4096)], encoder, "right", "cpu", torch.float32)
    with torch.no_grad():
        untouched = load_model(encoder.checkpoint, "cpu", "fp32")(**tensors).logits
        logits = ours(**tensors).logits
        assert torch.equal(logits, plain(**tensors).logits)
        assert not torch.allclose(logits, untouched, atol=1e-2)
        merged = ours.merge_and_unload()(**tensors).logits  # type: ignore[operator]  # the model itself
        assert (merged - logits).norm() <= 1e-5 * logits.norm()


def test_adapters_on_the_tower_learn_what_transformers_own_would(encoder: Encoder) -> None:
    """A packed row with a shared picture through our tower, against one lesson at a time through theirs."""
    ours = gradients_of(adapted(encoder, EVERYWHERE), encoder)
    base = AutoModelForImageTextToText.from_pretrained(str(encoder.checkpoint.folder), dtype=torch.float32)
    theirs = adapted(encoder, EVERYWHERE, base.requires_grad_(False).eval())
    for talk in TALKS:
        lesson = encoder.training_example(talk, "all", 4096)
        logits = theirs(**collate([lesson], encoder, "right", "cpu", torch.float32), use_cache=False).logits[0, :-1]
        targets = torch.tensor(lesson.rendered.ids)[1:]
        every = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        every[torch.tensor(lesson.rendered.loss_mask)[1:]].sum().backward()
    assert ours.keys() == trainable(theirs).keys()
    for name, weight in trainable(theirs).items():
        assert weight.grad is not None
        assert (ours[name] - weight.grad).norm() <= 1e-5 * weight.grad.norm(), name


@pytest.mark.parametrize(
    ("parts", "modules", "pattern"),
    [
        (["language_model"], ["q_proj"], r"language_model\.layers\.\d\.self_attn\.q_proj"),
        (["merger"], ["linear_fc1"], r"visual\.(merger|deepstack_merger_list\.\d)\.linear_fc1"),
        (["vision_tower"], ["proj", "linear_fc1"], r"visual\.blocks\.\d\.(attn\.proj|mlp\.linear_fc1)"),
        (["merger", "language_model"], ["q_proj", "linear_fc2"], r"(visual\.(merger|deep)|language_model).*"),
    ],
)
def test_only_the_chosen_parts_learn(parts: Any, modules: list[str], pattern: str, encoder: Encoder) -> None:
    """The convolution that cuts patches is called `proj`, too, and gets no adapter: it would have no effect."""
    model = adapted(encoder, LoraConfig(parts=parts, target_modules=modules))
    names = [name.removeprefix("base_model.model.model.") for name in trainable(model)]
    assert all(re.match(pattern + r"\.lora_[AB]", name) for name in names), names
    assert {encoder.checkpoint.family.part(f"model.{name}") for name in names} == set(parts)


def test_a_frozen_tower_leaves_nothing_for_the_backward_pass(encoder: Encoder) -> None:
    seen: list[Any] = []
    for settings in (LoraConfig(dropout=0.0), EVERYWHERE):
        model = adapted(encoder, settings).train()
        tower = model.base_model.model.model.visual
        for module in (tower.merger, *tower.blocks, *tower.deepstack_merger_list):
            module.register_forward_hook(lambda _, __, out: seen.append(out.grad_fn))
        token_losses(model.base_model.model, row_of(encoder), encoder, "cpu")
    assert len(seen) == 12
    assert seen[:6] == [None] * 6
    assert None not in seen[6:]


def test_parts_learn_at_their_own_rate(make_job: MakeJob) -> None:
    rates = LearningRates(merger=1e-12, vision_tower=1e-4)
    job = make_job(lora=EVERYWHERE, learning_rate=2e-3, learning_rates=rates, weight_decay=0.0)
    model = add_adapter(
        load_model(job.encoder.checkpoint, "cpu", "fp32"), EVERYWHERE, job.encoder.checkpoint.family, 42
    )
    groups = optimizer_groups(model, job.encoder.checkpoint.family, job.settings)
    assert {round(group["share"], 12) for group in groups} == {1.0, 5e-10, 0.05}
    assert sum(len(group["params"]) for group in groups) == len(trainable(model))
    trainer.train(job, QUIET, StopRequest())
    moved: dict[str, float] = {}
    for name, weight in load_file(job.adapter / "adapter_model.safetensors").items():
        part = job.encoder.checkpoint.family.part(name.removeprefix("base_model.model."))
        if "lora_B" in name:
            moved[str(part)] = max(moved.get(str(part), 0), weight.abs().max().item())
    assert moved["merger"] < 1e-10
    assert 1e-5 < moved["vision_tower"] < 0.1 * moved["language_model"]


def test_training_goes_on_from_an_adapter(make_job: MakeJob) -> None:
    first = make_job("first")
    before = trainer.train(first, QUIET, StopRequest())
    longer = make_job("longer", continue_from=str(first.adapter), learning_rate=1e-12, weight_decay=0.0)
    after = trainer.train(longer, QUIET, StopRequest())
    assert after["validation_loss"] == pytest.approx(before["validation_loss"], rel=1e-5)
    for name, weight in load_file(longer.adapter / "adapter_model.safetensors").items():
        assert torch.allclose(weight, load_file(first.adapter / "adapter_model.safetensors")[name], atol=1e-9), name
    wrong: list[tuple[LoraConfig, str]] = [
        (LoraConfig(rank=8), "has rank 16, this configuration 8; set training.lora.rank"),
        (LoraConfig(alpha=8), "has alpha 32"),
        (LoraConfig(use_dora=True), "has use_dora False, this configuration True"),
        (LoraConfig(target_modules=["q_proj"]), "other layers .* weights do not fit, first base_model"),
    ]
    for lora, said in wrong:
        base = load_model(first.encoder.checkpoint, "cpu", "fp32")
        fresh = add_adapter(base, lora, first.encoder.checkpoint.family, 0)
        with pytest.raises(ConfigError, match=said):
            continue_adapter(fresh, first.adapter)
    with pytest.raises(IntegrityError, match="continue_from: .*work is not an adapter"):
        continue_adapter(fresh, first.work)


@pytest.mark.parametrize(
    ("parts", "modules", "said"),
    [
        (["vision_tower"], ["linear_fcl1"], "matches no linear layer of the vision tower; did you mean 'linear_fc1'"),
        (["merger"], ["qkv"], "'qkv' matches no linear layer of the merger. There are: linear_fc1, linear_fc2"),
        (["language_model", "vision_tower"], ["q_proj"], "parts names vision_tower, but none .* proj, qkv"),
        (["language_model"], ["q_proj", "qkv"], "'qkv' matches no linear layer of the language model"),
    ],
)
def test_a_layer_that_is_not_there_is_named(parts: Any, modules: list[str], said: str, encoder: Encoder) -> None:
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    with pytest.raises(ConfigError, match=said):
        add_adapter(base, LoraConfig(parts=parts, target_modules=modules), encoder.checkpoint.family, 0)


def quantized(encoder: Encoder) -> Encoder:
    config = TINY.model_copy(update={"quantization": "nf4"})
    return Encoder(find_checkpoint(config), config)


def test_four_bits_that_cannot_be_had_end_with_how_to_get_them(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r'nf4 needs the package bitsandbytes: pip install "vlmtune\[quant\]"'):
        load_model(quantized(encoder).checkpoint, "cpu", "bf16")
    assert encoder.checkpoint.facts() != quantized(encoder).checkpoint.facts()


def test_a_base_in_four_bits_trains_and_answers(encoder: Encoder, make_job: MakeJob) -> None:
    """Nothing but the language model's layers is quantised, nothing is widened, and both sides load the same."""
    bnb = pytest.importorskip("bitsandbytes")
    small = quantized(encoder)
    base = load_model(small.checkpoint, "cpu", "bf16")
    layers = {name for name, module in base.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    assert len(layers) == 28
    assert all(name.startswith("model.language_model.layers") for name in layers)
    kept = {p.dtype for name, p in base.named_parameters() if name.removesuffix(".weight") not in layers}
    assert kept == {torch.bfloat16}
    states = [base.get_submodule(name).weight.quant_state for name in layers]
    assert {(state.quant_type, state.nested, state.dtype) for state in states} == {("nf4", True, torch.bfloat16)}
    enable_packed_attention(base, small.checkpoint.family)
    exact = gradients_of(adapted(encoder, LoraConfig(dropout=0.0)), encoder)
    model = adapted(small, LoraConfig(dropout=0.0), base)
    found = gradients_of(model, small)
    assert {grad.dtype for grad in found.values()} == {torch.float32}
    both = [torch.cat([some[name].flatten() for name in sorted(exact)]) for some in (found, exact)]
    assert torch.cosine_similarity(*both, dim=0) > 0.8
    job = make_job(precision="bf16", checkpoint_layers=2)
    object.__setattr__(job, "encoder", small)
    trainer.train(job, QUIET, StopRequest())
    engine = hf.open_engine(
        hf.Config(max_new_tokens=8), loading.ModelConfig(**TINY.model_dump()), small, "bf16", job.adapter
    )
    (answer,) = engine.answer([Request("one", (user(A, "Describe."),))])
    assert isinstance(answer, Prediction)
    assert engine.adapter_delta([Request("one", (user(A, "Describe."),))])
