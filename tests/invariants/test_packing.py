"""Packed rows and shared prefixes change nothing: against transformers' own forward, one lesson at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pieces import assistant, picture, ref, user
from transformers import AttentionInterface, AutoModelForImageTextToText

from vlmtune.errors import IntegrityError
from vlmtune.inputs import Encoded, Inputs, collate
from vlmtune.models import load_model
from vlmtune.training import attention
from vlmtune.training.attention import SEGMENTS, attend_in_segments, use_segments
from vlmtune.training.isolation import check_isolation
from vlmtune.training.lora import add_adapter, trainable
from vlmtune.training.losses import token_losses
from vlmtune.training.segments import Layout, Row, Segment, rows_of
from vlmtune.training.settings import LoraConfig

Losses = list[torch.Tensor]
A, B, C = (ref(picture(*size, seed=n), f"picture {n}") for n, size in enumerate([(128, 96), (70, 100), (96, 160)]))
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
]
"""Captions of one picture, questions about one, several pictures, none, several turns."""


@pytest.fixture(scope="module")
def layout(inputs: Inputs) -> Layout:
    return Layout(inputs.checkpoint.family, inputs.renderer.image_id, inputs.patcher.limits.merge)


@pytest.fixture(scope="module")
def lessons(inputs: Inputs) -> list[Encoded]:
    return [inputs.lesson(talk, "all", 4096) for talk in TALKS]


def adapted(base: Any, inputs: Inputs) -> Any:
    """With an adapter whose B is not zero, where half of all mistakes could not show."""
    model = add_adapter(base, LoraConfig(dropout=0.0), inputs.checkpoint.family, 0)
    torch.manual_seed(1)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


@pytest.fixture(scope="module")
def segmented(inputs: Inputs) -> Any:
    base = load_model(inputs.checkpoint, "cpu", "fp32")
    use_segments(base, inputs.checkpoint.family)
    return adapted(base, inputs)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    taken = {name: weight.grad.clone() for name, weight in trainable(model).items() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return taken


@pytest.fixture(scope="module")
def separate(inputs: Inputs, lessons: Sequence[Encoded]) -> tuple[Losses, Mapping[str, torch.Tensor]]:
    """Losses and gradients of one lesson at a time, by transformers alone: its tower, attention, positions, head."""
    base = AutoModelForImageTextToText.from_pretrained(str(inputs.checkpoint.folder), dtype=torch.float32)
    model, losses = adapted(base.requires_grad_(False).eval(), inputs), []
    for lesson in lessons:
        logits = model(**collate([lesson], inputs, "right", "cpu", torch.float32), use_cache=False).logits[0, :-1]
        targets = torch.tensor(lesson.rendered.ids)[1:]
        every = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        losses.append(every[torch.tensor(lesson.rendered.trained)[1:]])
        losses[-1].sum().backward()
    return [each.detach() for each in losses], gradients(model)


@pytest.mark.parametrize("most_tokens", [1, 60, 150, 4096])
@pytest.mark.parametrize("share", [False, True], ids=["packed", "shared prefix"])
def test_rows_equal_lessons_one_at_a_time(
    share: bool,
    most_tokens: int,
    inputs: Inputs,
    layout: Layout,
    lessons: Sequence[Encoded],
    segmented: Any,
    separate: tuple[Losses, Mapping[str, torch.Tensor]],
) -> None:
    rows = rows_of(lessons, layout, most_tokens, share)
    for row in rows:
        losses = token_losses(segmented.base_model.model, row, inputs, "cpu")
        losses.sum().backward()
        owners = torch.tensor(row.owners)
        for owner in set(row.owners):
            wanted = separate[0][owner]
            assert (losses.detach()[owners == owner] - wanted).norm() <= 1e-5 * wanted.norm()
    for name, grad in gradients(segmented).items():
        assert (grad - separate[1][name]).norm() <= 1e-5 * separate[1][name].norm(), name


def test_five_captions_cost_one_picture(layout: Layout, inputs: Inputs) -> None:
    captions = ["A red ball .", "Two boats on the sand .", "A ball .", "There is a ball .", "Some boats ."]
    lessons = [inputs.lesson((user(A, "Describe."), assistant(text)), "all", 4096) for text in captions]
    (row,) = rows_of(lessons, layout, 4096)
    assert len(row.pictures) == 1
    prefix = len(inputs.prompt((user(A, "Describe."),)))
    assert len(row) <= prefix + sum(len(lesson) - prefix for lesson in lessons)
    assert len(row) < 0.6 * sum(map(len, lessons))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 400))
def test_every_learnt_token_stands_in_exactly_one_row(
    layout: Layout, lessons: Sequence[Encoded], chosen: list[int], most_tokens: int
) -> None:
    some = [lessons[n] for n in chosen]
    rows = rows_of(some, layout, most_tokens)
    learnt = sorted((owner, target) for row in rows for owner, target in zip(row.owners, row.targets, strict=True))
    assert learnt == sorted(
        (n, token)
        for n, lesson in enumerate(some)
        for token, trained in zip(lesson.rendered.ids, lesson.rendered.trained, strict=True)
        if trained
    )
    for row in rows:
        assert len(row) <= most_tokens or len(set(row.owners)) == 1
        assert [place for s in row.segments for place in range(s.start, s.end)] == list(range(len(row)))
        tokens = sum(id == layout.image_token for id in row.ids)
        assert tokens == sum(p.grid[1] * p.grid[2] // layout.merge**2 for p in row.pictures)
    assert [row.ids for row in rows] == [row.ids for row in rows_of(some, layout, most_tokens)]


def leaks_everywhere(module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: Any, **_: Any) -> Any:
    """One causal attention over the whole row: what a packed row gets without its bounds."""
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, is_causal=True, scale=scaling, enable_gqa=True).transpose(1, 2), None


def forgets_parents(*tensors: Any, segments: Sequence[Segment], **named: Any) -> Any:
    return attend_in_segments(*tensors, segments=[Segment(s.start, s.end) for s in segments], **named)


def one_parent_for_all(*tensors: Any, segments: Sequence[Segment], **named: Any) -> Any:
    first = segments[0]
    wrong = [Segment(s.start, s.end, first.start, first.end) if s.start else s for s in segments]
    return attend_in_segments(*tensors, segments=wrong, **named)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_check_before_step_one_sees_every_leak(
    precision: str, inputs: Inputs, layout: Layout, lessons: Sequence[Encoded]
) -> None:
    base = load_model(inputs.checkpoint, "cpu", precision)
    family = inputs.checkpoint.family
    use_segments(base, family)

    def check(row: Row) -> None:
        check_isolation(base, family, row, lambda each: token_losses(base, each, inputs, "cpu"))

    (plain,) = rows_of(lessons[:3], layout, 4096, share=False)
    (shared,) = rows_of([lessons[2], lessons[0], lessons[1]], layout, 4096)
    check(plain)
    check(shared)
    leaks: list[tuple[Callable[..., Any], Row]] = [
        (leaks_everywhere, plain),
        (leaks_everywhere, shared),
        (forgets_parents, shared),
        (one_parent_for_all, plain),
    ]
    try:
        for leak, row in leaks:
            AttentionInterface.register(SEGMENTS, leak)
            with pytest.raises(IntegrityError, match="packed rows leak"):
                check(row)
    finally:
        AttentionInterface.register(SEGMENTS, attention.attend_in_segments)


@pytest.mark.parametrize("share", [False, True], ids=["packed", "shared prefix"])
def test_one_call_for_a_row_gathers_what_the_loop_sees(
    share: bool, layout: Layout, lessons: Sequence[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU's route, with a plain loop in the place of its kernel: queries and keys of a part end together."""
    from torch.nn.attention import varlen

    def varlen_attn(
        query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *, scale: Any,
        window_size: tuple[int, int], enable_gqa: bool,
    ) -> torch.Tensor:  # fmt: skip
        assert window_size == (-1, 0)
        assert (max_q, max_k) == (cu_seq_q.diff().max().item(), cu_seq_k.diff().max().item())
        done = []
        for n in range(len(cu_seq_q) - 1):
            q, k = (slice(bounds[n], bounds[n + 1]) for bounds in (cu_seq_q, cu_seq_k))
            length, seen = q.stop - q.start, k.stop - k.start
            mask = torch.ones(length, seen, dtype=torch.bool).tril(seen - length)
            parts = [x.transpose(0, 1)[None] for x in (query[q], key[k], value[k])]
            attend = torch.nn.functional.scaled_dot_product_attention
            done.append(attend(*parts, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)[0].transpose(0, 1))
        return torch.cat(done)

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    (row,) = rows_of(lessons, layout, 4096, share)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, len(row), 32, requires_grad=True) for heads in (4, 2, 2))
    whole = attention._at_once(query, key, value, row.segments, 0.2)
    loop = attention._one_by_one(query, key, value, row.segments, 0.2)[0]
    assert torch.allclose(whole, loop, atol=1e-6)
    weights = torch.randn_like(loop)
    for one, other in zip(
        *(torch.autograd.grad((x * weights).sum(), (query, key, value)) for x in (whole, loop)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)
