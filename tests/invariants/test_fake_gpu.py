"""What a training step would do on a GPU, counted without one: waits, launches, memory. And the counts are right."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY
from fake_gpu import FakeGpu, phases
from fake_training import photos, prepared, working_kernels
from torch.nn.attention.varlen import varlen_attn

from vlmtune.modeling.loading import ModelConfig, find_checkpoint
from vlmtune.planning.costs import Setup, memory
from vlmtune.planning.lengths import work_of
from vlmtune.planning.plan import shapes_of
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.training.config import TrainingConfig

LAYERS, BLOCKS = 4, 6
"""Of 36 layers and 27 blocks of the 8B, whose widths are kept."""
WAITS_ONCE = 3
"""For the losses of a batch; in the first one also for the mean and the standard deviation of pixels."""
LAUNCHES_ONCE = 2 * 7 * LAYERS
"""To cast A and B of seven adapters in each layer, once a step."""
LAUNCHES_PER_ROW = 1_400
WAITS_PER_ROW = 13
"""How often a packed sequence makes the CPU wait, whatever the number of layers: in transformers, to place images."""


def test_what_is_known_is_counted() -> None:
    with FakeGpu(total=1e9, flops_per_s=1e9, bytes_per_s=1e9) as gpu:
        a, b = torch.zeros(100, 200, device="cuda"), torch.zeros(200, 300, device="cuda")
        assert gpu.alive == 80_384 + 240_128  # rounded up to 512 bytes
        gpu.reset()
        c = (a @ b).relu().t()
        assert (dict(gpu.launches), gpu.flops, dict(gpu.waits)) == ({"mm": 1, "relu": 1}, 2 * 100 * 200 * 300, {})
        assert dict(gpu.traffic) == {"mm": 4 * (100 * 200 + 200 * 300 + 100 * 300), "relu": 2 * 4 * 100 * 300}
        assert gpu.seconds["mm"] == 2 * 100 * 200 * 300 / 1e9, "limited by its products"
        assert gpu.seconds["relu"] == 2 * 4 * 100 * 300 / 1e9, "limited by memory"
        assert gpu.alive == 80_384 + 240_128 + 120_320, "the product is gone"
        assert gpu.peak == 80_384 + 240_128 + 2 * 120_320
        del c
        assert gpu.alive == 80_384 + 240_128
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(10**9, device="cuda")


def test_every_kind_of_waiting_is_counted() -> None:
    with FakeGpu() as gpu:
        ids = torch.tensor([3, 1, 2]).pin_memory().to("cuda", non_blocking=True)
        assert not gpu.waits
        assert ids.tolist() == [3, 1, 2]
        assert ids.max().item() == 3
        assert (ids == 1).nonzero().tolist() == [[1]]
        table = torch.zeros(5, 7, device="cuda")
        assert ids[ids > 1].tolist() == [3, 2]
        assert table[torch.tensor([0, 4])].shape == (2, 7)
        assert torch.tensor([1.0], device="cuda").shape == (1,)
        assert table.cpu().device.type == "cpu"
        kinds = [how.split(" in ")[0] for how in gpu.waits.elements()]
        assert sorted(kinds) == sorted(
            ["copy", "copy", "index by mask", "index on the CPU", "item", "nonzero", "tolist", "tolist", "tolist"]
        )


@pytest.mark.parametrize(("window", "pairs"), [((-1, 0), 3 * 4 // 2 + 2 * 5 - 1), ((-1, -1), 9 + 10)])
def test_attention_counts_the_pairs_that_its_mask_allows(window: tuple[int, int], pairs: int) -> None:
    """A part of 3 queries and keys, and one of 2 queries at the end of 5 keys; backward recomputes the scores."""
    with FakeGpu() as gpu:
        query, key, value = (
            torch.zeros(size, 4, 16, dtype=torch.bfloat16, device="cuda", requires_grad=True) for size in (5, 8, 8)
        )
        bounds = [torch.tensor(each, dtype=torch.int32, device="cuda") for each in ([0, 3, 5], [0, 3, 8])]
        gpu.reset()
        out = varlen_attn(query, key, value, *bounds, 3, 5, window_size=window)
        assert isinstance(out, torch.Tensor)
        assert gpu.flops == 4 * pairs * 4 * 16
        out.sum().backward()
        assert gpu.flops == 4 * pairs * 4 * 16 * 7 // 2


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The widths of the 8B on fewer layers, with the tiny model's tokenizer; no weights."""
    source = find_checkpoint(TINY).folder
    folder = tmp_path_factory.mktemp("8b") / "model"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    real = json.loads((Path(__file__).parents[1] / "data" / "qwen3_vl" / "8b.json").read_text())
    real["text_config"]["num_hidden_layers"], real["vision_config"]["depth"] = LAYERS, BLOCKS
    real["vision_config"]["deepstack_visual_indexes"] = [1, 2, 3]
    config = json.loads((folder / "config.json").read_text())
    config |= {key: real[key] for key in ("text_config", "vision_config", "tie_word_embeddings") if key in real}
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["image_processor"]["size"] = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    model = ModelConfig(name=str(folder))
    return Encoder(find_checkpoint(model), model)


@pytest.fixture(scope="module")
def batches(large: Encoder) -> dict[int, list[Encoded]]:
    """Eight photos with so many captions each; made outside of the GPU, which would leave them without pixels."""
    return {captions: photos(large, 8, captions) for captions in (1, 5)}


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with working_kernels(), FakeGpu() as gpu:
        yield gpu


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("captions", [1, 5], ids=["one caption each", "five captions of each"])
def test_a_batch_waits_little_and_takes_what_is_planned(
    captions: int, large: Encoder, batches: dict[int, list[Encoded]], gpu: FakeGpu, tmp_path: Path
) -> None:
    settings, examples = TrainingConfig(), batches[captions]
    forward_backward, base, loaded = prepared(large, gpu, tmp_path, settings)
    rows = forward_backward.pack(examples)
    supervised = sum(example.rendered.supervised for example in examples)
    gpu.reset()
    tower = base.get_submodule(large.checkpoint.family.vision_tower)
    with phases(gpu, {"tower": tower, "head": base.get_output_embeddings()}):
        forward_backward.accumulate(examples, supervised, 1)
    planned = memory(
        shapes_of(large.checkpoint),
        Setup("bf16", settings.lora.for_family(large.checkpoint.family)),
        map(work_of, rows),
        0,
    )
    waits = gpu.waits.total() - WAITS_ONCE
    assert waits <= WAITS_PER_ROW * len(rows), gpu.waits
    assert gpu.launches.total() - LAUNCHES_ONCE <= LAUNCHES_PER_ROW * len(rows), gpu.launches
    assert gpu.at_peak["tower"] < 0.05 * (gpu.peak - loaded), "a frozen tower keeps nothing but its features"
    assert planned.peak == pytest.approx(gpu.peak - loaded, rel=0.05)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "method",
    ["full", {"merger": "full"}, dict.fromkeys(["language_model", "merger", "vision_tower"], "full")],
    ids=["language model", "merger", "all"],
)
def test_training_in_full_takes_what_is_planned(
    method: Any, tied: bool, large: Encoder, batches: dict[int, list[Encoded]], gpu: FakeGpu, tmp_path: Path
) -> None:
    """16 bytes a weight beside the model, gradients on their way, and what they are computed from."""
    settings, family = TrainingConfig.model_validate({"method": method}), large.checkpoint.family
    forward_backward, _, loaded = prepared(large, gpu, tmp_path, settings, tied)
    rows, examples = forward_backward.pack(batches[1]), batches[1]
    gpu.reset()
    forward_backward.accumulate(examples, sum(example.rendered.supervised for example in examples), 1)
    shapes = shapes_of(large.checkpoint)
    shapes = replace(shapes, decoder=replace(shapes.decoder, tied=tied))
    setup = Setup("bf16", settings.lora.for_family(family), full=tuple(settings.full))
    planned = memory(shapes, setup, map(work_of, rows), 0)
    assert planned.states == 16 * sum(shapes.parameters_of(part) for part in settings.full)
    print(planned, planned.peak / (gpu.peak - loaded), gpu.peak - loaded)
    assert planned.peak == pytest.approx(gpu.peak - loaded, rel=0.05)
