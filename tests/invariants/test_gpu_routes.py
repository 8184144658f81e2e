"""What training does on a GPU and not on a CPU, as far as a CPU can show it: kernels, placement, waiting."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.attention import varlen as torch_varlen

from vlmtune.errors import IntegrityError
from vlmtune.modeling import varlen, vision_tower
from vlmtune.modeling.loading import load_model
from vlmtune.processing.encoder import Encoder
from vlmtune.training import attention
from vlmtune.training.config import LoraConfig
from vlmtune.training.lora import add_adapter, check_first_gradients, trainable
from vlmtune.training.packing import Segment


def in_parts(
    query: Any, key: Any, value: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, *,
    scale: float, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """What torch's kernel computes."""
    done = []
    for n in range(len(cu_q) - 1):
        q, k = (slice(bounds[n], bounds[n + 1]) for bounds in (cu_q, cu_k))
        mask = torch.ones(q.stop - q.start, k.stop - k.start, dtype=torch.bool)
        mask = mask.tril((k.stop - k.start) - (q.stop - q.start)) if window_size == (-1, 0) else mask
        parts = [x.transpose(0, 1)[None] for x in (query[q], key[k], value[k])]
        attend = torch.nn.functional.scaled_dot_product_attention
        done.append(attend(*parts, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)[0].transpose(0, 1))
    return torch.cat(done)


@wraps(in_parts)
def without_scale(*tensors: Any, **options: Any) -> torch.Tensor:
    return in_parts(*tensors, **{**options, "scale": 1.0})


@wraps(in_parts)
def aligned_at_the_start(query: Any, key: Any, value: Any, cu_q: Any, cu_k: Any, *more: Any, **options: Any) -> Any:
    """As cuDNN: the first queries see the first keys, whatever comes behind."""
    seen = torch.cat([torch.arange(a, a + n) for a, n in zip(cu_k[:-1].tolist(), cu_q.diff().tolist(), strict=True)])
    return in_parts(query, key[seen], value[seen], cu_q, cu_q, *more, **options)


@wraps(in_parts)
def wrong_backward(query: Any, *more: Any, **options: Any) -> torch.Tensor:
    return in_parts(query.detach() + 0.5 * (query - query.detach()), *more, **options)


@wraps(in_parts)
def refuses_large_heads(query: Any, *more: Any, **options: Any) -> torch.Tensor:
    if query.shape[-1] > 128:
        raise RuntimeError("head dimension must be at most 128\nsecond line")
    return in_parts(query, *more, **options)


@pytest.fixture
def fresh_probe() -> Any:
    varlen.problem.cache_clear()
    yield
    varlen.problem.cache_clear()


@pytest.mark.parametrize("head_size", varlen.HEAD_SIZES)
@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (in_parts, None),
        (without_scale, "differs from scaled_dot_product_attention by"),
        (aligned_at_the_start, "differs from scaled_dot_product_attention by"),
        (wrong_backward, "differs from scaled_dot_product_attention by"),
        (refuses_large_heads, "RuntimeError: head dimension must be at most 128"),
    ],
)
@pytest.mark.usefixtures("fresh_probe")
def test_a_kernel_is_tried_before_it_is_used(
    kernel: Any, said: str | None, head_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_varlen, "varlen_attn", kernel)
    problem = varlen.problem("varlen", head_size, torch.bfloat16, torch.device("cpu"), causal=True)
    if kernel is refuses_large_heads and head_size <= 128:
        said = None
    assert (problem is None) if said is None else problem is not None and problem.startswith(said)
    with torch.inference_mode():
        assert varlen.problem("varlen", head_size, torch.float32, torch.device("cpu"), causal=True) == problem or said


@pytest.mark.usefixtures("fresh_probe")
def test_a_package_built_for_another_torch_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "for_another_torch.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(varlen.MODULES, "flash", "for_another_torch")
    problem = varlen.problem("flash", 128, torch.bfloat16, torch.device("cpu"), causal=True)
    assert problem == "undefined symbol: _ZN3c10"


def test_the_manifest_names_the_kernels(encoder: Encoder) -> None:
    base, family = load_model(encoder.checkpoint, "cpu", "fp32"), encoder.checkpoint.family
    kernel = attention.enable_packed_attention(base, family)
    facts = attention.kernel_facts(base, family, kernel)
    assert facts == {"attention": "loop", "vision_attention": "grouped", "refused_kernels": {}}


def test_without_prefixes_nothing_is_gathered_and_bounds_are_shared() -> None:
    device = torch.device("cpu")
    index, (queries, keys), longest = attention._varlen_layout((Segment(0, 3), Segment(3, 5)), device)
    assert index is None, "gathering all keys in their own order costs a sorting backward pass in every layer"
    assert queries is keys, "cuDNN takes causal attention only if it sees that both are the same"
    assert (queries.tolist(), longest) == ([0, 3, 5], (3, 3))
    index, (queries, keys), longest = attention._varlen_layout((Segment(0, 3), Segment(3, 5, 0, 3)), device)
    assert index is not None
    assert index.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert (queries.tolist(), keys.tolist(), longest) == ([0, 3, 5], [0, 3, 8], (3, 5))


def test_every_rank_loads_the_weights_onto_its_own_gpu(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(BaseException): ...

    def loading(*_: Any, **options: Any) -> Any:
        placed.append(options["device_map"])
        raise Enough

    placed: list[Any] = []
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", loading)
    for rank in (0, 3):
        monkeypatch.setattr(torch.cuda, "current_device", lambda rank=rank: rank)  # as init_process_group selects it
        with pytest.raises(Enough):
            load_model(encoder.checkpoint, "cuda", "bf16")
    with pytest.raises(Enough):
        load_model(encoder.checkpoint, "cpu", "bf16")
    assert placed == [{"": 0}, {"": 3}, None]


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Counts calls of methods that wait for a GPU."""

    def counting(*names: str) -> list[Any]:
        calls: list[Any] = []
        for name in names:
            real = getattr(torch.Tensor, name)
            monkeypatch.setattr(torch.Tensor, name, lambda x, *a, real=real: (calls.append(1), real(x, *a))[1])
        return calls

    return counting


def test_the_tower_reads_its_bounds_once_a_forward_pass(count: Callable[..., list[Any]]) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1, 2, 12, 8) for _ in range(3)]
    bounds = torch.tensor([0, 4, 8, 12], dtype=torch.int32)
    read = count("tolist")
    first = [vision_tower.grouped_attention(torch.nn.Module(), *tensors, None, cu_seq_lens_q=bounds) for _ in range(27)]
    assert len(read) == 1
    other = torch.tensor([0, 12], dtype=torch.int32)
    last = vision_tower.grouped_attention(torch.nn.Module(), *tensors, None, cu_seq_lens_q=other)
    assert len(read) == 2
    assert not torch.equal(first[0][0], last[0])
    assert torch.equal(first[0][0], first[26][0])


def test_features_enter_where_transformers_puts_them(encoder: Encoder, count: Callable[..., list[Any]]) -> None:
    language: Any = load_model(encoder.checkpoint, "cpu", "fp32").get_submodule(
        encoder.checkpoint.family.language_model
    )
    torch.manual_seed(0)
    mask = torch.rand(2, 9) > 0.5
    places, found = count("nonzero"), []
    for process in (language._deepstack_process, lambda *given: type(language)._deepstack_process(language, *given)):
        hidden = torch.linspace(-1, 1, 2 * 9 * 4).reshape(2, 9, 4).requires_grad_()
        features = torch.linspace(3, 7, int(mask.sum()) * 4).reshape(-1, 4).requires_grad_()
        out = process(process(hidden, mask, features), mask, 2 * features)
        found.append([out, *torch.autograd.grad(out.square().sum(), (hidden, features))])
    assert len(places) == 1
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_the_first_gradients_are_read_at_once(encoder: Encoder, count: Callable[..., list[Any]]) -> None:
    model = add_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), LoraConfig(), encoder.checkpoint.family, 0)
    weights = trainable(model)
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    waits = count("tolist", "item", "__bool__")
    check_first_gradients(model, encoder.checkpoint.family)
    assert len(waits) == 1
    dead = next(name for name in weights if "lora_B" in name)
    for gradient in (None, torch.zeros_like(weights[dead])):
        weights[dead].grad = gradient
        with pytest.raises(IntegrityError, match=f"1 adapter layers got no gradient .* {dead}"):
            check_first_gradients(model, encoder.checkpoint.family)


def test_shapes_of_heads_are_those_of_the_released_models() -> None:
    folder = Path(__file__).parents[1] / "data" / "qwen3_vl"
    for file in folder.glob("*.json"):
        settings = json.loads(file.read_text())
        text, vision = settings["text_config"], settings["vision_config"]
        assert attention.head_size(transformers.PretrainedConfig(**text)) in varlen.HEAD_SIZES
        assert vision["hidden_size"] // vision["num_heads"] in (*varlen.HEAD_SIZES, 64)
