"""Layers that are computed again change memory and time alone; how many is decided by the longest row, tried once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import assistant, make_image, ref, user
from hypothesis import given
from hypothesis import strategies as st

from vlmtune.errors import ConfigError, EnvironmentProblem
from vlmtune.modeling.loading import load_model
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.training import forward_backward, trainer
from vlmtune.training.activation_checkpointing import (
    LAYERS_FILE,
    MAX_MEMORY_SHARE,
    OPTIMIZER_BYTES,
    ActivationCheckpointing,
    fewest_layers,
    longest_sequence,
)
from vlmtune.training.attention import enable_packed_attention
from vlmtune.training.config import LoraConfig, TrainingConfig
from vlmtune.training.forward_backward import token_losses
from vlmtune.training.lora import add_adapter, trainable
from vlmtune.training.packing import Layout, pack

MakeJob = Callable[..., trainer.TrainingJob]
QUIET = Progress(Silent())
LAYERS = 4


def training_examples(encoder: Encoder) -> list[Encoded]:
    image = ref(make_image(128, 96), "one")
    talks = [(user(image, "Describe."), assistant(text)) for text in ("A red ball .", "Two boats on the sand .")]
    return [encoder.training_example(talk, "all", 4096) for talk in [*talks, (user("No picture."), assistant("Yes ."))]]


def layout_of(encoder: Encoder) -> Layout:
    return Layout.of(encoder)


def test_checkpointed_layers_change_no_gradient(encoder: Encoder) -> None:
    """With dropout, which must fall on the same places again, and pictures, whose features enter between the layers."""
    base: Any = load_model(encoder.checkpoint, "cpu", "fp32")
    enable_packed_attention(base, encoder.checkpoint.family)
    model = add_adapter(base, LoraConfig(dropout=0.1), encoder.checkpoint.family, 0).train()
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    memory = ActivationCheckpointing(base, encoder.checkpoint.family, SimpleNamespace(), "auto", Path())  # type: ignore[arg-type]
    (row,) = pack(training_examples(encoder), layout_of(encoder), 4096)
    calls: list[int] = []
    for number, layer in enumerate(base.model.language_model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: calls.append(number))

    def gradients_with(count: int) -> dict[str, torch.Tensor]:
        memory.checkpoint(count)
        calls.clear()
        torch.manual_seed(3)
        token_losses(base, row, encoder, "cpu").sum().backward()
        assert sorted(calls) == sorted([*range(LAYERS), *range(count)]), "computed again: the first, and no others"
        taken = {name: weight.grad for name, weight in trainable(model).items() if weight.grad is not None}
        model.zero_grad(set_to_none=True)
        return taken

    plain = gradients_with(0)
    assert len(plain) == len(trainable(model))
    for count in (1, LAYERS, 2, 0):
        for name, grad in gradients_with(count).items():
            assert (grad - plain[name]).norm() <= 1e-5 * plain[name].norm(), (count, name)


@given(st.integers(1, 80), st.integers(0, 100))
def test_the_fewest_layers_that_fit_are_found(layers: int, needed: int) -> None:
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count >= needed

    assert fewest_layers(layers, fits) == (needed if needed <= layers else None)
    assert len(tried) <= 2 + layers.bit_length()


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(1, 300))
def test_no_row_is_longer_than_expected(encoder: Encoder, chosen: list[int], most: int) -> None:
    lessons = [training_examples(encoder)[n] for n in chosen]
    longest = longest_sequence([len(lesson) for lesson in lessons], most)
    apart = max(len(row) for row in pack(lessons, layout_of(encoder), most, share_prefixes=False))
    assert max(len(row) for row in pack(lessons, layout_of(encoder), most)) <= longest
    assert apart <= longest
    if sum(map(len, lessons)) <= most:
        assert apart == longest


class Card:
    """A GPU of so many bytes. A row of S tokens keeps 1,000 bytes a token in a layer, 10 in a checkpointed one."""

    def __init__(self, total: int, fraction: float = 1.0) -> None:
        self.total, self.fraction, self.resting, self.peak = total, fraction, 500_000, 0
        self.device, self.layers = torch.device("cuda"), [torch.nn.Linear(1, 1) for _ in range(LAYERS)]

    def get_submodule(self, name: str) -> Any:
        return SimpleNamespace(layers=self.layers)

    def parameters(self) -> Iterator[torch.Tensor]:
        yield torch.zeros(50_000, requires_grad=True)

    def needed(self, tokens: int, count: int) -> int:
        return self.resting + tokens * (10 * count + 1000 * (LAYERS - count))

    def losses(self, row: Sequence[int]) -> torch.Tensor:
        self.peak = self.needed(len(row), sum("forward" in layer.__dict__ for layer in self.layers))
        if self.peak > self.total * self.fraction:
            raise torch.OutOfMemoryError
        return torch.zeros(1, requires_grad=True)


@pytest.fixture
def put_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Card], None]:
    def put(card: Card) -> None:
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: card.peak)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: card.resting)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: card.resting)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (card.total - card.resting, card.total))
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: card.fraction)

    return put


@pytest.mark.parametrize(("millions", "fraction"), [(9, 1), (4.2, 1), (3.9, 1), (9, 0.328), (1.1, 1), (0.7, 1)])
def test_a_gpu_is_filled_and_not_more(
    millions: float, fraction: float, encoder: Encoder, put_in: Callable[[Card], None]
) -> None:
    card = Card(int(millions * 1e6), fraction)
    put_in(card)
    lessons = [list(range(400)), list(range(400))]  # 800 tokens together, 700 where they share a beginning
    packed = [1000]

    class Rows:
        pack_tokens = property(lambda self: packed[-1])

        def pack(self, some: Sequence[Sequence[int]]) -> list[range]:
            return [range(700)] if packed[-1] >= 800 else [range(400), range(400)]

        def token_losses(self, row: Sequence[int]) -> torch.Tensor:
            return card.losses(row)

        def zero_grad(self) -> None: ...

        def halve_pack_tokens(self, some: Sequence[Any]) -> None:
            if packed[-1] < 800:
                raise EnvironmentProblem(forward_backward.too_large(encoder, TrainingConfig()))
            packed.append(packed[-1] // 2)

    memory: Any = ActivationCheckpointing(card, encoder.checkpoint.family, Rows(), "auto", Path())  # type: ignore[arg-type]
    room = MAX_MEMORY_SHARE * card.total * fraction - OPTIMIZER_BYTES * 50_000
    fitting = [(n, count) for n in (800, 400) for count in range(LAYERS + 1) if card.needed(n, count) <= room]
    if not fitting:
        with pytest.raises(EnvironmentProblem, match="--set model.quantization=nf4"):
            memory.try_longest(lessons)
        return
    memory.try_longest(lessons)
    tokens = fitting[0][0]
    assert len(packed) == (1 if tokens == 800 else 2), "rows get shorter only where no number of layers is enough"
    assert memory.checkpoint_layers == fitting[0][1]
    assert sum("forward" in layer.__dict__ for layer in card.layers) == memory.checkpoint_layers


def test_more_layers_than_there_are_is_refused(encoder: Encoder) -> None:
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    with pytest.raises(ConfigError, match="checkpoint_layers is 5, but this model has 4 layers"):
        ActivationCheckpointing(base, encoder.checkpoint.family, SimpleNamespace(), 5, Path())  # type: ignore[arg-type]


def test_the_longest_row_is_tried_once_before_anything_is_learnt(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = forward_backward.token_losses, []

    def watched(model: Any, row: Any, *more: Any) -> torch.Tensor:
        tried.append(len(row))
        return real(model, row, *more)

    monkeypatch.setattr(forward_backward, "token_losses", watched)
    job = make_job(batch_size=7, checkpoint_layers=1, save_every_steps=2)
    facts = trainer.train(job, QUIET, StopRequest())
    assert facts["checkpoint_layers"] == 1
    assert tried[0] == max(tried), "before the check for leaks, which needs to know what fits"
    assert (job.work / LAYERS_FILE).read_text().strip() == "1"
    before = len(tried)
    trainer.train(job, QUIET, StopRequest())
    assert len(tried) - before == 1, "whoever goes on takes what was chosen: only the check for leaks is made again"
    otherwise = replace(job, settings=job.settings.model_copy(update={"checkpoint_layers": 2}))
    assert trainer.train(otherwise, QUIET, StopRequest())["checkpoint_layers"] == 2
    assert len(tried) - before == 3, "another number is tried anew"

    def small_card(model: Any, row: Any, *more: Any) -> torch.Tensor:
        if model.training:
            raise torch.OutOfMemoryError
        return real(model, row, *more)

    monkeypatch.setattr(forward_backward, "token_losses", small_card)
    impossible = make_job("impossible")
    with pytest.raises(EnvironmentProblem, match="one example alone does not fit .* --set model.quantization=nf4"):
        trainer.train(impossible, QUIET, StopRequest())
    assert not (impossible.work / "samples.jsonl").read_text(), "no step was taken"


def test_what_does_not_fit_names_only_what_can_still_be_changed(encoder: Encoder) -> None:
    def said(layers: int | str, quantization: str | None, rank: int) -> str:
        checkpoint = SimpleNamespace(quantization=quantization)
        limited: Any = SimpleNamespace(checkpoint=checkpoint, image_processor=encoder.image_processor)
        settings = TrainingConfig.model_validate({"checkpoint_layers": layers, "lora": {"rank": rank}})
        return forward_backward.too_large(limited, settings)

    pixels = min(forward_backward.SMALL_PIXELS, encoder.image_processor.limits.max_pixels // 2)
    for layers, quantization, rank in ((3, None, 16), ("auto", None, 4), ("auto", "nf4", 8), ("auto", "nf4", 2)):
        message = said(layers, quantization, rank)
        assert f"--set model.max_pixels={pixels}" in message
        assert ("checkpoint_layers=auto" in message) == (layers != "auto")
        assert ("quantization=nf4" in message) == (quantization is None)
        assert (f"lora.rank={rank // 2}" in message) == (rank > 4)
        assert "vlmtune plan" in message
