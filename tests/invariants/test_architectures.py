"""Architectures beyond Qwen3-VL on random checkpoints: packing, decoding, resuming, merging and planning are exact.

What is expected comes from transformers' own forward and `generate`, one example at a time.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY, assistant, make_image, ref, user
from clips import drawn_frames, video
from interruptions import StopAfter
from peft import PeftModel
from tiny_models import TINY_MODELS
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from vlmtune.engines import hf
from vlmtune.engines._vllm_server import served
from vlmtune.errors import AdapterRefused, ConfigError, IntegrityError, Interrupted
from vlmtune.families import PartName
from vlmtune.generation import Penalised, decode, greedy
from vlmtune.modeling.loading import ModelConfig, attach_adapter, find_checkpoint, load_model
from vlmtune.planning.costs import flops, trained_weights
from vlmtune.planning.lengths import total, work_of
from vlmtune.planning.plan import shapes_of
from vlmtune.processing.encoder import Encoded, Encoder, collate
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.training import trainer
from vlmtune.training.attention import enable_packed_attention
from vlmtune.training.config import LoraConfig
from vlmtune.training.forward_backward import check_packing_leakage, token_losses
from vlmtune.training.linear_attention import CONVOLUTION, DELTA_RULE
from vlmtune.training.lora import add_adapter, save_adapter, trainable
from vlmtune.training.packing import Layout, PackedSequence, pack
from vlmtune.types import Prediction, Request

QUIET = Progress(Silent())
LINEAR = ["qwen3_5", "qwen3_5_moe"]
"""Families with linear attention."""
EXPERTS = ["qwen3_5_moe", "qwen3_vl_moe"]
"""Families with a mixture of experts."""
A, B, C = (ref(make_image(*size, seed=n), f"picture {n}") for n, size in enumerate([(128, 96), (70, 100), (96, 160)]))
LONG = "What is on the grass near the house and the two trees , and which color has the small boat there ? " * 3
TALKS = [
    (user(A, LONG), assistant("A red ball .")),
    (user(A, LONG), assistant("A red ball on the green grass, and two boats . " * 6)),
    (user(A, LONG), assistant("Two")),
    (user(B, "What is it?"), assistant("A car .")),
    (user(C, "Describe."), assistant("A fish ."), user("How many?"), assistant("One fish .")),
    (user("No picture at all."), assistant("Yes .")),
    (user(B, "What is it?"), assistant("A boat near a tree .")),
]
"""Prefixes and answers of less and of more than the 64 tokens that linear attention computes at once."""

FILM, OTHER = video(drawn_frames(9, (64, 48)), 3.0, "film"), video(drawn_frames(12, (48, 70), 1), 8.0, "other")
FILMS = [
    (user(FILM, "What happens?"), assistant("A ball rolls .")),
    (user(FILM, "What happens?"), assistant("Nothing")),
    (user(OTHER, "and", A, "Which is longer?"), assistant("The first one .")),
]
"""For families that read videos."""

ALL_PARTS: list[PartName] = ["language_model", "merger", "vision_tower"]
Losses = list[torch.Tensor]
Gradients = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module", params=list(TINY_MODELS))
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp(request.param)
    TINY_MODELS[request.param](folder)
    config = ModelConfig(name=str(folder), device="cpu")
    return Encoder(find_checkpoint(config), config)


@pytest.fixture
def family(encoder: Encoder) -> str:
    return encoder.checkpoint.family.name


@pytest.fixture(scope="module")
def layout(encoder: Encoder) -> Layout:
    return Layout.of(encoder)


@pytest.fixture(scope="module")
def examples(encoder: Encoder) -> list[Encoded]:
    films = FILMS if encoder.checkpoint.family.video is not None else []
    return [encoder.training_example(talk, "all", 4096) for talk in (*TALKS, *films)]


def everywhere(encoder: Encoder) -> LoraConfig:
    """All layers of the language model that can have an adapter, stacked experts included."""
    stacked = {one.name for one, _ in shapes_of(encoder.checkpoint).adapted("language_model") if one.copies > 1}
    names = [*encoder.checkpoint.family.lora_targets, *sorted(stacked)]
    return LoraConfig(dropout=0.0, rank=4, target_modules=names)


def adapted(base: Any, encoder: Encoder) -> Any:
    """With an adapter whose B is not zero, where half of all mistakes could not show."""
    model = add_adapter(base, everywhere(encoder), encoder.checkpoint.family, 0)
    torch.manual_seed(1)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def plain_model(encoder: Encoder) -> Any:
    """As transformers loads it."""
    model = AutoModelForImageTextToText.from_pretrained(str(encoder.checkpoint.folder), dtype=torch.float32)
    return model.requires_grad_(False).eval()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    taken = {name: weight.grad.clone() for name, weight in trainable(model).items() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return taken


@pytest.fixture(scope="module")
def packing_model(encoder: Encoder) -> Any:
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    enable_packed_attention(base, encoder.checkpoint.family)
    return adapted(base, encoder)


@pytest.fixture(scope="module")
def separate(encoder: Encoder, examples: Sequence[Encoded]) -> tuple[Losses, Gradients]:
    """Losses and gradients by transformers alone, one example at a time."""
    return one_at_a_time(adapted(plain_model(encoder), encoder), encoder, examples)


def one_at_a_time(model: Any, encoder: Encoder, examples: Sequence[Encoded]) -> tuple[Losses, Gradients]:
    losses = []
    for example in examples:
        output = model(**collate([example], encoder, "right", "cpu", torch.float32), use_cache=False)
        logits, targets = output.logits[0, :-1], torch.tensor(example.rendered.ids)[1:]
        every = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        losses.append(every[torch.tensor(example.rendered.loss_mask)[1:]] + unbalanced(output, model))
        losses[-1].sum().backward()
    return [each.detach() for each in losses], gradients(model)


def unbalanced(output: Any, model: Any) -> Any:
    """What transformers adds to the loss of this example alone; 0 unless the checkpoint asks for it."""
    extra = getattr(output, "aux_loss", None)
    return 0 if extra is None else extra * model.config.get_text_config().router_aux_loss_coef


def worst_errors(
    model: Any, rows: Sequence[PackedSequence], encoder: Encoder, separate: tuple[Losses, Gradients]
) -> tuple[float, float]:
    """Largest relative error of an example's losses, and of a gradient."""
    errors = []
    for row in rows:
        losses = token_losses(model.base_model.model, row, encoder, "cpu")
        losses.sum().backward()
        owners = torch.tensor(row.example_indices)
        for owner in set(row.example_indices):
            wanted = separate[0][owner]
            errors.append(((losses.detach()[owners == owner] - wanted).norm() / wanted.norm()).item())
    found = gradients(model)
    assert found.keys() == separate[1].keys()
    return max(errors), max(((found[n] - g).norm() / g.norm()).item() for n, g in separate[1].items())


@pytest.mark.parametrize("share", [False, True], ids=["packed", "shared prefix"])
def test_packed_examples_equal_separate_ones(
    share: bool,
    encoder: Encoder,
    layout: Layout,
    examples: Sequence[Encoded],
    packing_model: Any,
    separate: tuple[Losses, Gradients],
) -> None:
    rows = pack(examples, layout, 4096, share)
    assert len(rows) == 1
    loss, gradient = worst_errors(packing_model, rows, encoder, separate)
    assert max(loss, gradient) <= 1e-5


def test_packed_examples_equal_separate_ones_where_every_part_is_trained_in_full(
    encoder: Encoder, layout: Layout, examples: Sequence[Encoded]
) -> None:
    """Every weight, norms, biases, routers, convolutions and embeddings included; prefixes are shared."""
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    enable_packed_attention(base, encoder.checkpoint.family)
    ours, theirs = (whole(each, encoder) for each in (base, plain_model(encoder)))
    expected = one_at_a_time(theirs, encoder, examples)
    assert expected[1].keys() == trainable(ours).keys()
    loss, gradient = worst_errors(ours, pack(examples, layout, 4096), encoder, expected)
    assert max(loss, gradient) <= 1e-5


def test_what_is_trained_in_full_is_loaded_by_plain_peft_and_merged(
    encoder: Encoder, examples: Sequence[Encoded], tmp_path: Path
) -> None:
    trained = whole(load_model(encoder.checkpoint, "cpu", "fp32"), encoder)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in trainable(trained).values():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    save_adapter(trained, tmp_path, "model", None)
    tensors = collate([examples[0]], encoder, "right", "cpu", torch.float32)
    theirs = PeftModel.from_pretrained(plain_model(encoder), str(tmp_path)).eval()
    ours = attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), tmp_path)
    engine = hf.attached(ours, hf.Config(max_new_tokens=8), encoder, "cpu", "fp32")
    request = Request("one", TALKS[0][:1])
    with torch.no_grad():
        wanted, base = trained(**tensors).logits, plain_model(encoder)(**tensors).logits
        assert (wanted - base).norm() > 1e-2 * base.norm()
        for model in (theirs, ours):
            assert (model(**tensors).logits - wanted).norm() <= 1e-5 * wanted.norm()
        assert engine.adapter_delta([request])
        [answer] = engine.answer([request])
        merged: Any = ours.merge_and_unload()  # type: ignore[operator]  # the model itself
        assert (merged(**tensors).logits - wanted).norm() <= 1e-5 * wanted.norm()
        [same] = hf.HfEngine(hf.Config(max_new_tokens=8), encoder, merged, "cpu", "fp32", adapted=False).answer(
            [request]
        )
    assert answer == same
    with pytest.raises(AdapterRefused, match="modules_to_save"):
        served(tmp_path)


def whole(base: Any, encoder: Encoder) -> Any:
    """With every part trained in full."""
    return add_adapter(base, LoraConfig(parts=[]), encoder.checkpoint.family, 0, full=ALL_PARTS)


@contextmanager
def broken(model: Any, *functions: str) -> Iterator[None]:
    """Inside, the Gated DeltaNets compute these functions over the whole row, as transformers does."""
    mixer = next(m for m in model.modules() if type(m).__name__.endswith("GatedDeltaNet"))
    module = sys.modules[type(mixer).__module__]
    packed = {name: getattr(module, name) for name in functions}

    def whole(original: Any) -> Callable[..., Any]:
        def forgetting(*tensors: Any, segments: Any = None, **more: Any) -> Any:
            return original(*tensors, **more)

        return forgetting

    try:
        for name, function in packed.items():
            setattr(module, name, whole(function.args[0]))
        yield
    finally:
        for name, function in packed.items():
            setattr(module, name, function)


def only(families: Sequence[str]) -> pytest.MarkDecorator:
    """Only these families, in place of all of them."""
    return pytest.mark.parametrize("encoder", families, indirect=True, scope="module")


@only(LINEAR)
@pytest.mark.parametrize(
    "functions", [(CONVOLUTION,), (DELTA_RULE,), (CONVOLUTION, DELTA_RULE)], ids=["convolution", "state", "both"]
)
def test_naive_packing_is_wrong_by_orders_of_magnitude(
    functions: tuple[str, ...],
    family: str,
    encoder: Encoder,
    layout: Layout,
    examples: Sequence[Encoded],
    packing_model: Any,
    separate: tuple[Losses, Gradients],
) -> None:
    """What docs/packing.md shows: the same layers, of which one part runs over the whole row."""
    rows = pack(examples, layout, 4096, share_prefixes=False)
    right = worst_errors(packing_model, rows, encoder, separate)
    with broken(packing_model, *functions):
        naive = worst_errors(packing_model, rows, encoder, separate)
    leaking = " and ".join(functions)
    print(f"\n{family}, {leaking} leaking: loss {naive[0]:.2g} instead of {right[0]:.2g}, ", end="")
    print(f"gradient {naive[1]:.2g} instead of {right[1]:.2g}")
    assert min(naive) > 1e-2
    assert min(naive) > 1000 * max(right)


@only(LINEAR)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_check_before_step_one_sees_a_leak_of_state_and_of_convolution(
    precision: str, family: str, encoder: Encoder, layout: Layout, examples: Sequence[Encoded]
) -> None:
    base = load_model(encoder.checkpoint, "cpu", precision)
    enable_packed_attention(base, encoder.checkpoint.family)

    def check(row: PackedSequence) -> None:
        check_packing_leakage(
            base, encoder.checkpoint.family, row, lambda each: token_losses(base, each, encoder, "cpu")
        )

    (plain,) = pack(examples[3:], layout, 4096, share_prefixes=False)
    (shared,) = pack(examples, layout, 4096)
    for row in (plain, shared):
        check(row)
        for function in (CONVOLUTION, DELTA_RULE):
            with broken(base, function), pytest.raises(IntegrityError, match="packed sequences leak"):
                check(row)


@only(LINEAR)
def test_one_call_of_a_kernel_computes_what_calls_per_length_do(
    family: str, encoder: Encoder, layout: Layout, examples: Sequence[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The route of flash-linear-attention, with the original in its place, called once per sequence of a row."""
    from vlmtune.training import linear_attention

    mixer = next(m for m in load_model(encoder.checkpoint, "cpu", "fp32").modules() if hasattr(m, "in_proj_qkv"))
    original = getattr(sys.modules[type(mixer).__module__], DELTA_RULE)
    original = getattr(original, "args", [original])[0]
    calls = []

    def kernel(query: Any, key: Any, value: Any, g: Any, beta: Any, initial_state: Any, **more: Any) -> Any:
        bounds = more.pop("cu_seqlens", None)
        if bounds is None:
            return original(query, key, value, g=g, beta=beta, initial_state=initial_state, **more)
        assert len(query) == 1
        calls.append(len(bounds) - 1)
        done = []
        for n, (start, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            parts = [x[:, start:end] for x in (query, key, value, g, beta)]
            state = None if initial_state is None else initial_state[n : n + 1]
            done.append(original(*parts[:3], g=parts[3], beta=parts[4], initial_state=state, **more))
        last = torch.cat([state for _, state in done]) if more["output_final_state"] else None
        return torch.cat([out for out, _ in done], 1), last

    (row,) = pack(examples, layout, 4096)
    torch.manual_seed(0)
    size = len(row)
    q, k, v = (torch.randn(1, size, heads, 16, requires_grad=True) for heads in (2, 2, 4))
    g, beta = -torch.rand(1, size, 4), torch.rand(1, size, 4)
    layouts = linear_attention._delta_layout

    def run() -> torch.Tensor:
        out, last = linear_attention.packed_delta_rule(kernel, q, k, v, g, beta, row.segments)
        assert last is None
        return out

    grouped = run()
    monkeypatch.setattr(linear_attention, "_delta_layout", lambda segments, _, device: layouts(segments, True, device))
    joined = run()
    assert len(calls) == 2, "segments without a prefix, then those with one"
    assert torch.allclose(grouped, joined, atol=1e-6)
    weights = torch.randn_like(grouped)
    for one, other in zip(
        *(torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (grouped, joined)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_answers_equal_those_of_generate(encoder: Encoder) -> None:
    """Of a batch with padding, from which answers leave at different times."""
    asked = [(user(A, "What?"),), (user(C, "What is this picture about?"),), (user("No picture."),), (user(B, LONG),)]
    if encoder.checkpoint.family.video is not None:
        asked += [(user(FILM, "What happens?"),), (user(OTHER, "and", A, "Which is longer?"),)]
    requests = [Request(str(n), conversation) for n, conversation in enumerate(asked)]
    engine = hf.open_engine(hf.Config(batch_size=6, max_new_tokens=24), TINY, encoder, "fp32")
    ours = {o.id: o.text for o in engine.answer(requests) if isinstance(o, Prediction)}
    model = plain_model(encoder)
    model.generation_config = type(model.generation_config)()
    for request in requests:
        given = collate([encoder.prompt(request.conversation)], encoder, "left", "cpu", torch.float32)
        stops = encoder.stop_ids
        ids = model.generate(**given, max_new_tokens=24, do_sample=False, eos_token_id=stops, pad_token_id=stops[0])
        answer = ids[0, given["input_ids"].shape[1] :].tolist()
        assert ours[request.id] == encoder.renderer.text([token for token in answer if token not in stops])
    assert len(set(ours.values())) >= 4


def test_several_answers_behind_one_pass_are_those_of_repeated_prompts(encoder: Encoder) -> None:
    prompts = [encoder.prompt(talk[:1]) for talk in (TALKS[3], TALKS[0])]
    model = load_model(encoder.checkpoint, "cpu", "fp32")
    decoded = (model, prompts, encoder, "cpu", 6)
    with torch.inference_mode():
        once = decode(*decoded, Penalised(greedy, 1.3), copies=3)
        (one, other) = decode(*decoded, Penalised(greedy, 1.3))
    assert [answer.ids for answer in once] == [one.ids] * 3 + [other.ids] * 3


def test_interrupted_and_resumed_equals_uninterrupted(make_job: Callable[..., trainer.TrainingJob]) -> None:
    straight, broken_off = (make_job(name, save_every_steps=2) for name in ("straight", "broken"))
    trainer.train(straight, QUIET, StopRequest())
    with pytest.raises(Interrupted, match=r"step \d+ of 5 is saved"):
        trainer.train(broken_off, QUIET, StopAfter(6))
    trainer.train(broken_off, QUIET, StopRequest())
    for file in straight.adapter.iterdir():
        assert file.read_bytes() == (broken_off.adapter / file.name).read_bytes(), file.name


@only(EXPERTS)
def test_the_router_never_learns(family: str, encoder: Encoder, packing_model: Any) -> None:
    routers = [name for name, _ in packing_model.named_parameters() if ".mlp.gate." in name]
    assert routers
    assert not set(routers) & set(trainable(packing_model))
    assert any(".experts." in name for name in trainable(packing_model))
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    for name, message in (("gate", "'gate' matches no linear layer"), ("up_proj", "PEFT takes up_proj of a mixture")):
        with pytest.raises(ConfigError, match=message):
            add_adapter(base, LoraConfig(target_modules=[name]), encoder.checkpoint.family, 0)


def test_a_saved_and_a_merged_adapter_are_the_trained_one(encoder: Encoder, tmp_path: Path, family: str) -> None:
    model = adapted(load_model(encoder.checkpoint, "cpu", "fp32"), encoder).eval()
    tensors = collate([encoder.prompt((user(A, "What?"),))], encoder, "left", "cpu", torch.float32)
    with torch.no_grad():
        with model.disable_adapter():
            base = model(**tensors).logits
        tuned = model(**tensors).logits
        save_adapter(model, tmp_path, "test", None)
        again = attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), tmp_path)(**tensors).logits
        merged = model.merge_and_unload()(**tensors).logits
    assert torch.equal(again, tuned)
    assert (merged - tuned).norm() <= 1e-5 * tuned.norm()
    assert (base - tuned).norm() > 1e-2 * tuned.norm()
    if family in EXPERTS:
        with pytest.raises(AdapterRefused, match="stacked experts. Merge it into the model"):
            served(tmp_path)


def _solve_flops(matrix: Any, right: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """n equations with k right-hand sides: n * n * k, of which torch's counter knows nothing."""
    *batch, size, columns = right
    return int(torch.tensor(batch).prod()) * size * size * columns


def _convolution_gradient_flops(gradient: Any, _: Any, weight: Any, *more: Any, **__: Any) -> int:
    """As many as forward for each gradient that is needed; torch's counter takes no notice of groups."""
    needed = more[-1]
    outputs, weights = (int(torch.tensor(shape).prod()) for shape in (gradient, weight[1:]))
    return 2 * outputs * weights * (needed[0] + needed[1])


@pytest.mark.parametrize(
    ("checkpoint_layers", "full"), [(0, []), (2, []), (2, ALL_PARTS)], ids=["adapters", "2 checkpointed", "in full"]
)
def test_planned_flops_are_those_counted(
    checkpoint_layers: int, full: list[PartName], encoder: Encoder, layout: Layout, examples: Sequence[Encoded]
) -> None:
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    enable_packed_attention(base, encoder.checkpoint.family)
    lora = LoraConfig(parts=[]).for_family(encoder.checkpoint.family) if full else everywhere(encoder)
    model = add_adapter(base, lora, encoder.checkpoint.family, 0, full=full)
    layers = base.get_submodule(encoder.checkpoint.family.language_model).layers
    for layer in layers[:checkpoint_layers]:
        layer.forward = checkpointed(layer.forward)
    if encoder.checkpoint.family.name in EXPERTS:
        base.set_experts_implementation("eager")  # the counter knows no grouped products
    rows = pack(examples[1:5], layout, 512)
    formulas = {
        torch.ops.aten.linalg_solve_triangular: _solve_flops,
        torch.ops.aten.convolution_backward: _convolution_gradient_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        for row in rows:
            token_losses(base, row, encoder, "cpu").sum().backward()
    shapes = shapes_of(encoder.checkpoint)
    # The counter takes attention without its mask.
    pairs = sum((s.end - s.start) * (s.prefix_end - s.prefix_start + s.end - s.start) for r in rows for s in r.segments)
    terms = flops(shapes, lora, replace(total(map(work_of, rows)), pairs=pairs), checkpoint_layers, full)
    assert sum(term.flops for term in terms) == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert trained_weights(shapes, lora, full) == sum(weight.numel() for weight in trainable(model).values())


def checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    return lambda *tensors, **more: checkpoint(forward, *tensors, use_reentrant=False, **more)


def test_planned_parameters_are_those_of_the_model(encoder: Encoder) -> None:
    shapes, model = shapes_of(encoder.checkpoint), plain_model(encoder)
    family = encoder.checkpoint.family
    vision = tuple(f"{module}." for module in (family.vision_tower, *family.mergers))
    assert shapes.tower.parameters == sum(p.numel() for n, p in model.named_parameters() if n.startswith(vision))
    assert shapes.parameters == sum(p.numel() for p in model.parameters())
    idle = 0  # of 8 experts, 6 see no given token
    if family.name in EXPERTS:
        stacked = [p.numel() for n, p in model.named_parameters() if ".experts." in n]
        idle = sum(stacked) * 6 // 8
        assert idle > 0
    assert shapes.active_parameters == shapes.parameters - idle


def test_four_bits_hold_the_weights_that_are_planned(encoder: Encoder) -> None:
    """Not those with a row per head or expert; and a passage through the model works."""
    bnb = pytest.importorskip("bitsandbytes")
    config = ModelConfig(name=str(encoder.checkpoint.folder), device="cpu", quantization="nf4")
    small = Encoder(find_checkpoint(config), config)
    model = load_model(small.checkpoint, "cpu", "bf16")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    weights = sum(module.in_features * module.out_features for module in layers.values())
    assert weights == shapes_of(small.checkpoint).decoder.quantizable
    assert not any(name.endswith(("in_proj_a", "in_proj_b")) for name in layers)
    [answer] = hf.attached(model, hf.Config(max_new_tokens=3), small, "cpu", "bf16").answer(
        [Request("0", TALKS[0][:1])]
    )
    assert isinstance(answer, Prediction)
