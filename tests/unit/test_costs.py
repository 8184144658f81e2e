"""FLOPs and bytes of training: against figures found apart from them, a counter, and a watch on every live tensor."""

import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText

from vlmtune.data import scenes
from vlmtune.distributed import SINGLE_PROCESS
from vlmtune.families import ATTENTION_AND_MLP, Shapes, qwen3_vl
from vlmtune.modeling import varlen
from vlmtune.modeling.loading import load_model
from vlmtune.planning.costs import NF4_BYTES, Setup, activation_bytes, base_bytes, flops, memory, trained_weights
from vlmtune.planning.lengths import Epoch, Work, first_epoch
from vlmtune.planning.plan import shapes_of
from vlmtune.processing.encoder import Encoded, Encoder, ImageHeaders
from vlmtune.progress import Progress, Silent
from vlmtune.tasks import captioning
from vlmtune.training.activation_checkpointing import ActivationCheckpointing
from vlmtune.training.attention import enable_packed_attention
from vlmtune.training.config import LoraConfig, TrainingConfig
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.forward_backward import ForwardBackward
from vlmtune.training.lora import add_adapter, trainable
from vlmtune.training.sampler import sample_batches

CONFIGS = Path(__file__).parents[1] / "data" / "qwen3_vl"
SAMPLE = Work(tokens=230, pairs=230 * 231 // 2, supervised=15, patches=768, patch_pairs=768**2)
KNOWN = {"8b": (769, 3231, 3274, 37), "4b": (566, 1702, 1741, 23), "2b": (563, 662, 679, 19)}
"""GFLOP of that sample with LoRA on all layers, found apart from this code: tower, language model forward and backward,
head both ways."""

EVERYWHERE = [*ATTENTION_AND_MLP, "qkv", "proj", "linear_fc1", "linear_fc2"]
ALL_PARTS = LoraConfig(dropout=0.0, parts=["language_model", "merger", "vision_tower"], target_modules=EVERYWHERE)


LAYERS = LoraConfig().for_family(qwen3_vl.FAMILY)


def shapes_like(size: str) -> Shapes:
    return qwen3_vl.FAMILY.shapes(json.loads((CONFIGS / f"{size}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("size", KNOWN)
def test_flops_of_a_sample_are_those_known(size: str) -> None:
    terms = {term.name: term for term in flops(shapes_like(size), LAYERS, SAMPLE)}
    language = [terms[name] for name in ("language model", "its adapters", "attention")]
    found = (
        terms["vision tower"].flops,
        sum(term.forward for term in language),
        sum(term.backward for term in language),
        terms["head"].flops,
    )
    assert [flop / 1e9 for flop in found] == pytest.approx(KNOWN[size], rel=0.02)


@pytest.mark.parametrize("size", KNOWN)
def test_weights_are_those_of_the_architecture(size: str) -> None:
    with torch.device("meta"):
        config = AutoConfig.for_model(**json.loads((CONFIGS / f"{size}.json").read_text(encoding="utf-8")))
        model: Any = AutoModelForImageTextToText.from_config(config)
    shapes = shapes_like(size)
    assert shapes.parameters == sum(weight.numel() for weight in model.parameters())
    assert shapes.tower.parameters == sum(weight.numel() for weight in model.model.visual.parameters())


@pytest.mark.parametrize(("dropout", "megabytes"), [(0.05, 9.3), (0.0, 6.8)])
def test_activations_of_the_8b_are_those_known(dropout: float, megabytes: float) -> None:
    shapes = shapes_like("8b")
    layer = activation_bytes(
        shapes, shapes.decoder.kinds[0], Setup("bf16", LAYERS.model_copy(update={"dropout": dropout}))
    )
    assert 36 * layer / 1e6 == pytest.approx(megabytes, rel=0.01)


def test_key_value_heads_that_torch_repeats_are_counted() -> None:
    """At 8B, 32 heads instead of 8 for keys and values: (2 x 4096 - 2 x 1024) numbers of 2 bytes, in half precision."""
    plain, repeated = (Setup("bf16", LAYERS, repeated_keys=each) for each in (False, True))
    shapes = shapes_like("8b")
    layer = shapes.decoder.kinds[0]
    assert activation_bytes(shapes, layer, repeated) - activation_bytes(shapes, layer, plain) == 12_288
    whole = replace(repeated, precision="fp32")
    assert activation_bytes(shapes, layer, whole) == activation_bytes(shapes, layer, replace(plain, precision="fp32"))


@pytest.mark.parametrize(
    ("version", "repeats"), [("2.11.0+cu130", True), ("2.12.0", False), ("2.15.0+cu132", False), ("3.0", False)]
)
def test_old_torch_repeats_them(version: str, repeats: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen.metadata, "version", lambda name: version)
    assert varlen.repeats_keys() is repeats


def test_weights_in_four_bits_are_those_of_the_layers_alone() -> None:
    shapes = shapes_like("8b")
    saved = base_bytes(shapes, "bf16", None) - base_bytes(shapes, "bf16", "nf4")
    assert saved == pytest.approx((2 - NF4_BYTES) * 6_945_767_424)  # 36 x 192,937,984


class LiveBytes(TorchDispatchMode):
    """Counts bytes of every storage that an operation makes, until it is gone; views share their storage.

    Saved-tensor hooks would see what is kept for the backward pass alone: neither the gradients on their way nor what
    the frozen tower needs, of which a peak is made, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: set[int] = set()
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return made

    def ignore(self, tensors: Sequence[torch.Tensor]) -> None:
        """What is there already."""
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def _see(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name not in self._known:
            self._known.add(name)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, name, size)

    def _forget(self, name: int, size: int) -> None:
        self._known.discard(name)
        self._now -= size


Trained = Callable[..., tuple[Any, Epoch]]


@pytest.fixture
def train_an_epoch(encoder: Encoder, tmp_path: Path) -> Trained:
    """Real steps over 16 rows, or 8 with five captions each, under a watch; returns the same rows by their headers."""

    def run(
        watch: Any,
        lora: LoraConfig,
        precision: str = "fp32",
        layers: int = 0,
        target: str = "sample",
        method: Any = "lora",
    ) -> Any:
        settings = TrainingConfig(precision=precision, pack_tokens=512, lora=lora, method=method)  # type: ignore[arg-type]
        columns = [f"caption_{n}" for n in range(5)]
        rows = scenes.open(
            scenes.Config(references=columns, target=target, id="id"), "train", 8 if target == "each" else 16
        )
        parts = (rows, captioning.TASK, captioning.Config())
        base: Any = load_model(encoder.checkpoint, "cpu", precision)
        enable_packed_attention(base, encoder.checkpoint.family)
        lessons = TrainingExamples(*parts, encoder, settings)
        steps = sample_batches(rows, target, 1, settings.batch_size, settings.seed)
        batches = [[lessons.encode(visit) for visit in visits] for visits in steps]
        if isinstance(watch, LiveBytes):
            watch.ignore([*base.parameters(), *base.buffers()])
        with watch:
            take_steps(base, encoder, settings, batches, tmp_path, layers)
        small = TrainingExamples(*parts, Encoder(encoder.checkpoint, TINY, ImageHeaders), settings)
        return first_epoch(small, target, Progress(Silent()))

    return run


def take_steps(
    base: Any, encoder: Encoder, settings: TrainingConfig, batches: Sequence[Sequence[Encoded]], work: Path, layers: int
) -> None:
    model = add_adapter(base, settings.lora, encoder.checkpoint.family, 0, full=settings.full).train()
    weights = list(trainable(model).values())
    optimizer = torch.optim.AdamW(weights)
    gradients = ForwardBackward(model.base_model.model, weights, encoder, "cpu", settings, work, SINGLE_PROCESS)
    ActivationCheckpointing(model.base_model.model, encoder.checkpoint.family, gradients, layers, work)
    for step, lessons in enumerate(batches):
        gradients.accumulate(lessons, sum(lesson.rendered.supervised for lesson in lessons), step)
        optimizer.step()
        gradients.zero_grad()


@pytest.mark.parametrize(
    ("lora", "layers", "target"),
    [
        (LAYERS, 0, "sample"),
        (LoraConfig(target_modules=["q_proj", "down_proj"], rank=4), 3, "each"),
        (ALL_PARTS, 0, "sample"),
    ],
    ids=["all layers", "two of them, 3 checkpointed, shared prefixes", "tower and merger, too"],
)
def test_flops_of_an_epoch_are_those_counted(
    train_an_epoch: Trained, encoder: Encoder, lora: LoraConfig, layers: int, target: str
) -> None:
    """The counter takes attention without its mask, so ours is a little below it."""
    counter = FlopCounterMode(display=False)
    epoch: Any = train_an_epoch(counter, lora, layers=layers, target=target)
    ours = sum(term.flops for term in flops(shapes_of(encoder.checkpoint), lora, epoch.work, layers))
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.05)


IN_FULL: list[Any] = ["full", {"merger": "full"}, dict.fromkeys(["language_model", "merger", "vision_tower"], "full")]


@pytest.mark.parametrize("method", IN_FULL, ids=["language model", "merger", "all"])
def test_flops_of_training_in_full_are_those_counted(train_an_epoch: Trained, encoder: Encoder, method: Any) -> None:
    counter = FlopCounterMode(display=False)
    settings = TrainingConfig(method=method)
    lora = settings.lora.for_family(encoder.checkpoint.family)
    epoch: Any = train_an_epoch(counter, lora, layers=2, method=method)
    ours = sum(term.flops for term in flops(shapes_of(encoder.checkpoint), lora, epoch.work, 2, settings.full))
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", IN_FULL, ids=["language model", "merger", "all"])
def test_memory_of_training_in_full_is_that_of_all_live_tensors(
    train_an_epoch: Trained, encoder: Encoder, method: Any, precision: str
) -> None:
    live, settings = LiveBytes(), TrainingConfig(method=method)
    lora = settings.lora.for_family(encoder.checkpoint.family)
    epoch: Any = train_an_epoch(live, lora, precision, method=method)
    setup = Setup(precision, lora, on_cpu=True, full=tuple(settings.full))
    planned = memory(shapes_of(encoder.checkpoint), setup, epoch.distinct, 0)
    print(planned, planned.peak, live.peak, planned.peak / live.peak)
    assert planned.peak == pytest.approx(live.peak, rel=0.2)


@pytest.mark.parametrize(
    ("lora", "precision", "layers"),
    [
        (LAYERS, "fp32", 0),
        (LAYERS.model_copy(update={"dropout": 0.0}), "fp32", 2),
        (LAYERS, "bf16", 0),
        (LAYERS, "bf16", 4),
        (ALL_PARTS, "fp32", 0),
    ],
    ids=["fp32", "fp32, no dropout, 2 checkpointed", "bf16", "bf16, all checkpointed", "tower and merger, too"],
)
def test_memory_over_the_loaded_model_is_that_of_all_live_tensors(
    train_an_epoch: Trained, encoder: Encoder, lora: LoraConfig, precision: str, layers: int
) -> None:
    live = LiveBytes()
    epoch: Any = train_an_epoch(live, lora, precision, layers)
    setup = Setup(precision, lora, on_cpu=True)
    assert memory(shapes_of(encoder.checkpoint), setup, epoch.distinct, layers).peak == pytest.approx(
        live.peak, rel=0.2
    )


def test_trained_weights_are_those_of_the_adapter(encoder: Encoder) -> None:
    shapes = shapes_of(encoder.checkpoint)
    for lora in (
        LAYERS.model_copy(update={"rank": 4}),
        ALL_PARTS,
        LoraConfig(use_dora=True, target_modules=["k_proj", "up_proj"]),
    ):
        base = load_model(encoder.checkpoint, "cpu", "fp32")
        adapter = trainable(add_adapter(base, lora, encoder.checkpoint.family, 0))
        assert trained_weights(shapes, lora) == sum(weight.numel() for weight in adapter.values())
