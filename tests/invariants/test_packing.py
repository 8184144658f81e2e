"""Packed rows and shared prefixes change nothing: against transformers' own forward, one lesson at a time."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import assistant, make_image, ref, user
from clips import drawn_frames, video
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import varlen
from transformers import AttentionInterface, AutoModelForImageTextToText

from vlmtune.errors import EnvironmentProblem, IntegrityError
from vlmtune.families import Family
from vlmtune.modeling import varlen as kernels
from vlmtune.modeling.loading import load_model
from vlmtune.processing.encoder import Encoded, Encoder, collate, image_tensors
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.training import attention, trainer
from vlmtune.training.attention import PACKED_ATTENTION, enable_packed_attention, packed_attention, pick_kernel
from vlmtune.training.config import LoraConfig
from vlmtune.training.forward_backward import check_packing_leakage, token_losses
from vlmtune.training.lora import add_adapter, trainable
from vlmtune.training.packing import Layout, PackedSequence, Segment, pack

Losses = list[torch.Tensor]
A, B, C = (ref(make_image(*size, seed=n), f"picture {n}") for n, size in enumerate([(128, 96), (70, 100), (96, 160)]))
FILM = video(drawn_frames(9, (64, 48)), 3.0, "film")
TALKS = [
    (user(A, "Describe."), assistant("A red ball .")),
    (user(A, "Describe."), assistant("A red ball on the green grass, and two boats .")),
    (user(B, "What is it?"), assistant("A car .")),
    (user(A, "Describe."), assistant("Two balls .")),
    (user(A, "and", C, "What is it?"), assistant("A house, behind a tree .")),
    (user(A, "and", C, "How many are there?"), assistant("two")),
    (user("No picture at all."), assistant("Yes .")),
    (user(C, "Describe."), assistant("A fish ."), user("How many?"), assistant("One fish .")),
    (user(A, "What color is the ball?"), assistant("red")),
    (user("No picture at all."), assistant("No .")),
    (user(FILM, "What happens?"), assistant("A ball rolls to the left .")),
    (user("First", B, "then", FILM, "What happens?"), assistant("It rolls .")),
    (user("First", B, "and", FILM, "What happens?"), assistant("A ball rolls .")),
    (user(FILM, "What happens?"), assistant("Nothing .")),
]
"""Captions of one picture, questions about one, several pictures, none, several turns, videos."""


@pytest.fixture(scope="module")
def layout(encoder: Encoder) -> Layout:
    return Layout.of(encoder)


@pytest.fixture(scope="module")
def lessons(encoder: Encoder) -> list[Encoded]:
    return [encoder.training_example(talk, "all", 4096) for talk in TALKS]


def adapted(base: Any, encoder: Encoder) -> Any:
    """With an adapter whose B is not zero, where half of all mistakes could not show."""
    model = add_adapter(base, LoraConfig(dropout=0.0), encoder.checkpoint.family, 0)
    torch.manual_seed(1)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


@pytest.fixture(scope="module")
def segmented(encoder: Encoder) -> Any:
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    enable_packed_attention(base, encoder.checkpoint.family)
    return adapted(base, encoder)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    taken = {name: weight.grad.clone() for name, weight in trainable(model).items() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return taken


@pytest.fixture(scope="module")
def separate(encoder: Encoder, lessons: Sequence[Encoded]) -> tuple[Losses, Mapping[str, torch.Tensor]]:
    """Losses and gradients of one lesson at a time, by transformers alone: its tower, attention, positions, head."""
    base = AutoModelForImageTextToText.from_pretrained(str(encoder.checkpoint.folder), dtype=torch.float32)
    model, losses = adapted(base.requires_grad_(False).eval(), encoder), []
    for lesson in lessons:
        logits = model(**collate([lesson], encoder, "right", "cpu", torch.float32), use_cache=False).logits[0, :-1]
        targets = torch.tensor(lesson.rendered.ids)[1:]
        every = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        losses.append(every[torch.tensor(lesson.rendered.loss_mask)[1:]])
        losses[-1].sum().backward()
    return [each.detach() for each in losses], gradients(model)


@pytest.mark.parametrize("most_tokens", [1, 60, 150, 4096])
@pytest.mark.parametrize("share", [False, True], ids=["packed", "shared prefix"])
def test_rows_equal_lessons_one_at_a_time(
    share: bool,
    most_tokens: int,
    encoder: Encoder,
    layout: Layout,
    lessons: Sequence[Encoded],
    segmented: Any,
    separate: tuple[Losses, Mapping[str, torch.Tensor]],
) -> None:
    rows = pack(lessons, layout, most_tokens, share)
    for row in rows:
        losses = token_losses(segmented.base_model.model, row, encoder, "cpu")
        losses.sum().backward()
        example_indices = torch.tensor(row.example_indices)
        for owner in set(row.example_indices):
            wanted = separate[0][owner]
            assert (losses.detach()[example_indices == owner] - wanted).norm() <= 1e-5 * wanted.norm()
    for name, grad in gradients(segmented).items():
        assert (grad - separate[1][name]).norm() <= 1e-5 * separate[1][name].norm(), name


def test_five_captions_cost_one_picture(layout: Layout, encoder: Encoder) -> None:
    captions = ["A red ball .", "Two boats on the sand .", "A ball .", "There is a ball .", "Some boats ."]
    lessons = [encoder.training_example((user(A, "Describe."), assistant(text)), "all", 4096) for text in captions]
    (row,) = pack(lessons, layout, 4096)
    assert len(row.images) == 1
    prefix = len(encoder.prompt((user(A, "Describe."),)))
    assert len(row) <= prefix + sum(len(lesson) - prefix for lesson in lessons)
    assert len(row) < 0.6 * sum(map(len, lessons))


@given(st.lists(st.integers(0, len(TALKS) - 1), min_size=1, max_size=12), st.integers(1, 400))
def test_every_learnt_token_stands_in_exactly_one_row(
    layout: Layout, lessons: Sequence[Encoded], chosen: list[int], most_tokens: int
) -> None:
    some = [lessons[n] for n in chosen]
    rows = pack(some, layout, most_tokens)
    learnt = sorted(
        (owner, target) for row in rows for owner, target in zip(row.example_indices, row.targets, strict=True)
    )
    assert learnt == sorted(
        (n, token)
        for n, lesson in enumerate(some)
        for token, trained in zip(lesson.rendered.ids, lesson.rendered.loss_mask, strict=True)
        if trained
    )
    for row in rows:
        assert len(row) <= most_tokens or len(set(row.example_indices)) == 1
        assert [place for s in row.segments for place in range(s.start, s.end)] == list(range(len(row)))
        tokens = sum(id in layout.vision_tokens for id in row.ids)
        assert tokens == sum(math.prod(p.grid) // layout.merge**2 for p in row.images)
    assert [row.ids for row in rows] == [row.ids for row in pack(some, layout, most_tokens)]


def leaks_everywhere(module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: Any, **_: Any) -> Any:
    """One causal attention over the whole row: what a packed row gets without its bounds."""
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, is_causal=True, scale=scaling, enable_gqa=True).transpose(1, 2), None


def forgets_parents(*tensors: Any, segments: Sequence[Segment], **named: Any) -> Any:
    return packed_attention(*tensors, segments=[Segment(s.start, s.end) for s in segments], **named)


def one_parent_for_all(*tensors: Any, segments: Sequence[Segment], **named: Any) -> Any:
    first = segments[0]
    wrong = [Segment(s.start, s.end, first.start, first.end) if s.start else s for s in segments]
    return packed_attention(*tensors, segments=wrong, **named)


def aligned_with_the_first_keys(
    module: Any, query: Any, key: Any, value: Any, mask: Any, *, segments: Sequence[Segment], scaling: Any, **_: Any
) -> Any:
    """Causal from the top left: the n-th query of a branch sees the first n keys of its parent, and not itself."""
    done = []
    for s in segments:
        seen = [*range(s.prefix_start, s.prefix_end), *range(s.start, s.end)]
        parts = query[:, :, s.start : s.end], key[:, :, seen], value[:, :, seen]
        mask = torch.ones(s.end - s.start, len(seen), dtype=torch.bool).tril()
        attend = torch.nn.functional.scaled_dot_product_attention
        done.append(attend(*parts, attn_mask=mask, scale=scaling, enable_gqa=True))
    return torch.cat(done, 2).transpose(1, 2), None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_check_before_step_one_sees_every_leak(
    precision: str, encoder: Encoder, layout: Layout, lessons: Sequence[Encoded]
) -> None:
    base = load_model(encoder.checkpoint, "cpu", precision)
    family = encoder.checkpoint.family
    enable_packed_attention(base, family)

    def check(row: PackedSequence) -> None:
        check_packing_leakage(base, family, row, lambda each: token_losses(base, each, encoder, "cpu"))

    (plain,) = pack(lessons[:3], layout, 4096, share_prefixes=False)
    (shared,) = pack([lessons[2], lessons[0], lessons[1]], layout, 4096)
    check(plain)
    check(shared)
    leaks: list[tuple[Callable[..., Any], PackedSequence]] = [
        (leaks_everywhere, plain),
        (leaks_everywhere, shared),
        (forgets_parents, shared),
        (one_parent_for_all, plain),
        (aligned_with_the_first_keys, shared),
    ]
    try:
        for leak, row in leaks:
            AttentionInterface.register(PACKED_ATTENTION, leak)
            with pytest.raises(IntegrityError, match="packed sequences leak"):
                check(row)
    finally:
        AttentionInterface.register(PACKED_ATTENTION, attention.packed_attention)


@pytest.mark.parametrize(("target", "branches"), [("sample", 0), ("each", 2)])
def test_a_run_checks_rows_as_it_will_pack_them(
    target: str, branches: int, make_job: Callable[..., trainer.TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception): ...

    def watched(model: Any, family: Family, row: PackedSequence, losses: Any) -> None:
        checked.append(row)
        raise Enough

    checked: list[PackedSequence] = []
    monkeypatch.setattr(trainer, "check_packing_leakage", watched)
    with pytest.raises(Enough):
        trainer.train(replace(make_job(), target=target), Progress(Silent()), StopRequest())
    (row,) = checked
    assert len(row.images) == (2 if branches else 3)
    assert sum(s.prefix_end > s.prefix_start for s in row.segments) == branches


@pytest.mark.parametrize(
    ("route", "leaks"),
    [
        ({"use_cache": False}, False),
        ({}, True),
        ({"use_cache": False, "attention_mask": "ones"}, True),
        ({"use_cache": False, "position_ids": "three rows"}, True),
    ],
    ids=["as it must be", "cache at its default", "a mask of ones", "positions without the text's own"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_check_before_step_one_sees_how_transformers_would_leak(
    precision: str, route: dict[str, Any], leaks: bool, encoder: Encoder, layout: Layout, lessons: Sequence[Encoded]
) -> None:
    """Packed rows through the model's own attention keep apart when called in one way, and silently leak in others."""
    base, family = load_model(encoder.checkpoint, "cpu", precision), encoder.checkpoint.family
    (row,) = pack(lessons[:3], layout, 4096, share_prefixes=False)

    def losses(each: PackedSequence) -> torch.Tensor:
        own = torch.cat([torch.arange(s.end - s.start) for s in each.segments])
        every = torch.cat([own[None], torch.from_numpy(each.positions)])[:, None]
        given = {"attention_mask": torch.ones(1, len(each))} if "attention_mask" in route else {}
        hidden = base.model(
            input_ids=torch.tensor([each.ids]),
            position_ids=every[1:] if "position_ids" in route else every,
            **({"use_cache": False} if "use_cache" in route else {}),
            **given,
            **image_tensors(each.images, encoder, "cpu", base.dtype),
        ).last_hidden_state[0]
        logits = base.lm_head(hidden[list(each.predictors)]).float()
        return torch.nn.functional.cross_entropy(logits, torch.tensor(each.targets), reduction="none")

    if not leaks:
        check_packing_leakage(base, family, row, losses)
        return
    with pytest.raises(IntegrityError, match="packed sequences leak"):
        check_packing_leakage(base, family, row, losses)


def part_by_part(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, scale: float
) -> torch.Tensor:
    """What a variable-length kernel computes: parts of their own, each causal, queries and keys ending together."""
    assert (max_q, max_k) == (cu_seq_q.diff().max().item(), cu_seq_k.diff().max().item())
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    done = []
    for n in range(len(cu_seq_q) - 1):
        q, k = (slice(bounds[n], bounds[n + 1]) for bounds in (cu_seq_q, cu_seq_k))
        length, seen = q.stop - q.start, k.stop - k.start
        mask = torch.ones(length, seen, dtype=torch.bool).tril(seen - length)
        parts = [x.transpose(0, 1)[None] for x in (query[q], key[k], value[k])]
        attend = torch.nn.functional.scaled_dot_product_attention
        done.append(attend(*parts, attn_mask=mask, scale=scale, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(done)


def torch_s_own(*tensors: Any, scale: float, window_size: tuple[int, int], enable_gqa: bool) -> torch.Tensor:
    assert (window_size, enable_gqa) == ((-1, 0), True)
    return part_by_part(*tensors, scale)


def flash_attn_varlen_func(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
) -> torch.Tensor:  # fmt: skip
    assert causal
    assert dropout_p == 0
    assert softmax_scale is not None
    return part_by_part(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale)


@pytest.mark.parametrize("share", [False, True], ids=["packed", "shared prefix"])
@pytest.mark.parametrize("kernel", ["varlen", "flash"])
def test_one_call_for_a_row_gathers_what_the_loop_sees(
    kernel: attention.Kernel, share: bool, layout: Layout, lessons: Sequence[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU's routes, with a plain loop in the place of their kernels, called as the packages declare them."""
    monkeypatch.setattr(varlen, "varlen_attn", torch_s_own)
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func))
    (row,) = pack(lessons, layout, 4096, share)
    torch.manual_seed(0)
    tensors = [torch.randn(1, heads, len(row), 32, requires_grad=True) for heads in (4, 2, 2)]
    given: dict[str, Any] = {"segments": row.segments, "scaling": 0.2}
    whole, loop = (
        packed_attention(torch.nn.Module(), *tensors, None, kernel=each, **given)[0] for each in (kernel, "loop")
    )
    assert torch.allclose(whole, loop, atol=1e-6)
    weights = torch.randn_like(loop)
    for one, other in zip(*(torch.autograd.grad((x * weights).sum(), tensors) for x in (whole, loop)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_kernel_that_does_not_work_is_not_replaced_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    half = torch.bfloat16
    assert pick_kernel("auto", "cpu", half, 128) == "loop"
    assert pick_kernel("auto", "cuda", torch.float32, 128) == "loop"
    with pytest.raises(EnvironmentProblem, match="flash needs a GPU and half precision .here: cpu, bfloat16"):
        pick_kernel("flash", "cpu", half, 128)
    problems: dict[str, str | None] = {"varlen": None, "flash": "No module named 'flash_attn'"}
    monkeypatch.setattr(kernels, "problem", lambda kernel, *_, **__: problems[kernel])
    assert pick_kernel("auto", "cuda", half, 128) == "varlen"
    with pytest.raises(EnvironmentProblem, match="No module named .flash_attn.*pip install flash-attn --no-build-iso"):
        pick_kernel("flash", "cuda", half, 128)
    problems["varlen"] = "differs by 0.3"
    assert pick_kernel("auto", "cuda", half, 128) == "loop"
    with pytest.raises(EnvironmentProblem, match="does not work here .differs by 0.3.; it needs torch 2.10"):
        pick_kernel("varlen", "cuda", half, 128)
    problems["flash"] = None
    assert pick_kernel("auto", "cuda", half, 128) == "flash"
