"""The stages that measure on a GPU: one that fails, hangs or prints nonsense loses nothing but itself."""

import argparse
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import assistant, make_image, ref, user

SOURCE = Path(__file__).parents[2] / "benchmarks" / "training" / "stages.py"
STAND_IN = """
import json, sys, time
if sys.argv[1] == "hang": print("began", file=sys.stderr, flush=True); time.sleep(600)
if sys.argv[1] == "fail": sys.exit("no memory left")
print("a warning")
print("nonsense" if sys.argv[1] == "nonsense" else json.dumps({"words": sys.argv[1:]}))
"""


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With a process that does what it is told in the place of the one that measures."""
    spec = importlib.util.spec_from_file_location("gpu_stages", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_stages", module)
    spec.loader.exec_module(module)
    (tmp_path / "gpu.py").write_text(STAND_IN)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def test_one_stage_that_fails_loses_nothing_else(stages: Any, tmp_path: Path) -> None:
    output = tmp_path / "lines.jsonl"
    chosen = [stages.Stage(word, 60, f"{word} --model 8b") for word in ("fail", "nonsense", "measure")]
    assert stages.measure([*chosen, stages.Stage("hang", 0.5, "hang"), chosen[2]], output, tiny=True) == 3
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["fail", "nonsense", "measure", "hang", "measure"]
    assert "no memory left" in lines[0]["failed"]
    assert "nonsense" in lines[1]["failed"]
    assert lines[2]["result"] == {"words": ["measure", "--model", "tiny"]}
    assert "not finished within its limit; it said: " in lines[3]["failed"]
    assert lines[4]["result"]


def test_no_stage_begins_when_the_time_is_up(stages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "WHOLE_S", 0.0)
    output = tmp_path / "lines.jsonl"
    assert stages.measure([stages.Stage("measure", 60, "measure")], output, tiny=False) == 1
    assert json.loads(output.read_text()) == {"stage": "measure", "failed": "no time was left"}


def test_the_stages_fit_into_eight_minutes_if_all_take_their_usual_time(stages: Any) -> None:
    names = [stage.name for stage in stages.STAGES]
    assert names[0] == "probe"
    assert len(set(names)) == len(names)
    assert stages.WHOLE_S <= 480
    listed = (SOURCE.parent / "gpu_wheels.txt").read_text()
    assert all(package in listed for package in ("pydantic", "rapidfuzz", "ruamel.yaml", "bitsandbytes"))


def test_a_model_in_four_bits_is_made_matrix_by_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a model that bitsandbytes quantizes while it loads: the same layers, and an adapter on it learns."""
    pytest.importorskip("bitsandbytes")
    import torch

    from vlmtune.modeling.loading import TINY, ModelConfig, find_checkpoint, load_model
    from vlmtune.processing.encoder import Encoder
    from vlmtune.training.attention import enable_packed_attention
    from vlmtune.training.config import LoraConfig
    from vlmtune.training.lora import add_adapter, trainable

    monkeypatch.syspath_prepend(SOURCE.parent)
    gpu = importlib.import_module("gpu")
    source = tmp_path / "model"
    shutil.copytree(find_checkpoint(ModelConfig(name=TINY)).folder, source)
    config = ModelConfig(name=str(source), quantization="nf4")
    encoder = Encoder(find_checkpoint(config), config)
    loaded = load_model(encoder.checkpoint, "cpu", "bf16")
    for weights in source.glob("*.safetensors"):
        weights.unlink()
    made = gpu.random_model(source, "cpu", "bf16", True, encoder)

    def layers(model: Any) -> dict[str, Any]:
        found = {name: (type(part).__name__, str(part.weight.dtype)) for name, part in linears(model)}
        assert not any(weight.is_meta for weight in [*model.parameters(), *model.buffers()])
        return found

    def linears(model: Any) -> list[tuple[str, Any]]:
        return [(name, part) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]

    assert layers(made) == layers(loaded)
    enable_packed_attention(made, encoder.checkpoint.family)
    adapted = add_adapter(made, LoraConfig(), encoder.checkpoint.family, 0)
    assert len(trainable(adapted)) == len(trainable(add_adapter(loaded, LoraConfig(), encoder.checkpoint.family, 0)))
    losses = trained_on_one_example(made, encoder)
    assert losses.isfinite().all()
    losses.sum().backward()
    assert all(w.grad is not None and w.grad.any() for n, w in trainable(adapted).items() if "lora_B" in n)


def test_a_training_stage_measures_speed_and_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SOURCE.parent)
    gpu = importlib.import_module("gpu")
    sizes = {"samples": 4, "batch": 2, "pack_tokens": 2048, "checkpoint_layers": "auto", "workers": 0, "dropout": 0.0}
    given = argparse.Namespace(model="tiny", target="caption", quantization=None, profile=False, **sizes)
    found = gpu.train(given, tmp_path, "cpu")
    assert found["samples_per_s"] > 0
    assert len(found["gradients_apart"]) == 3
    assert max(found["gradients_apart"].values()) <= 1e-5


def trained_on_one_example(model: Any, encoder: Any) -> Any:
    from vlmtune.training.forward_backward import token_losses
    from vlmtune.training.packing import Layout, pack

    talk = (user(ref(make_image(96, 64), "one"), "Describe."), assistant("A red ball ."))
    layout = Layout.of(encoder)
    (row,) = pack([encoder.training_example(talk, "all", 4096)], layout, 4096)
    return token_losses(model, row, encoder, "cpu")
