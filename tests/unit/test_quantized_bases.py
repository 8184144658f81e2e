"""Checkpoints whose weights are quantized: read before anything is loaded, then trained on, or refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY

from vlmtune.cli.app import app
from vlmtune.errors import ConfigError, EnvironmentProblem, VlmtuneError
from vlmtune.families import PartName
from vlmtune.modeling.loading import ModelConfig, find_checkpoint, load_model
from vlmtune.modeling.quantization import full_training_problem, keep_layout_on_cpu, merging_problem, stored_format

BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def stored(folder: Path, settings: dict[str, Any]) -> ModelConfig:
    target = folder / "model"
    shutil.copytree(find_checkpoint(TINY).folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return ModelConfig(name=str(target), device="cpu")


REFUSED: dict[str, tuple[dict[str, Any], type[VlmtuneError], str]] = {
    "awq": (
        {"quant_method": "awq", "bits": 4},
        EnvironmentProblem,
        "stored in awq, which needs gptqmodel: pip install",
    ),
    "gptq": ({"quant_method": "gptq", "bits": 4}, EnvironmentProblem, "stored in gptq, which needs gptqmodel"),
    "other": ({"quant_method": "compressed-tensors"}, ConfigError, "stored in compressed-tensors, on which adapters"),
    "unnamed": ({"bits": 3}, ConfigError, "stored in a format without a quant_method"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_loaded_is_refused_before_the_weights(name: str, tmp_path: Path) -> None:
    settings, error, said = REFUSED[name]
    with pytest.raises(error, match=said):  # there are no weights to load
        load_model(find_checkpoint(stored(tmp_path, settings)), "cpu", "fp32")


@pytest.mark.parametrize(
    ("parts", "found", "quantization", "trainable"),
    [
        (["language_model"], None, None, True),
        (["language_model"], "fp8", None, True),
        (["language_model"], "fp8", "nf4", False),
        (["language_model"], "awq", None, False),
        (["merger", "language_model"], None, "nf4", False),
        (["merger", "vision_tower"], None, "nf4", True),
    ],
)
def test_quantized_weights_are_not_trained_in_full(
    parts: list[PartName], found: str | None, quantization: Any, trainable: bool
) -> None:
    assert (full_training_problem(parts, found, quantization) is None) == trainable


def test_config_check_refuses_to_train_a_quantized_model_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmtune.modeling.quantization.find_spec", lambda _: True)
    model = stored(tmp_path, BNB)
    (tmp_path / "c.yaml").write_text(
        f"model: {{name: {model.name}}}\ndataset: {{source: scenes, references: [caption_0], id: id}}\n"
        "task: {name: captioning}\ntraining: {method: full}\n"
    )
    with pytest.raises(ConfigError, match=r"training.method: the language model is stored in bitsandbytes"):
        app(["config", "check", str(tmp_path / "c.yaml")], standalone_mode=False)


@pytest.mark.parametrize("where", ["of the language model", "of MLX", "of ModelOpt"])
def test_a_format_is_found_wherever_tools_write_it(where: str, tmp_path: Path) -> None:
    model = stored(tmp_path, {})
    folder = Path(model.name)
    config = json.loads((folder / "config.json").read_text())
    if where == "of the language model":
        config["text_config"]["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    elif where == "of MLX":
        config["quantization"] = {"group_size": 64, "bits": 4}
    else:
        (folder / "hf_quant_config.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(VlmtuneError, match=r"stored in (gptq|a format without a quant_method|ModelOpt)"):
        load_model(find_checkpoint(model), "cpu", "fp32")


def test_layers_of_bitsandbytes_keep_their_weights_on_a_cpu() -> None:
    """Rows of 96 are no multiple of a block of 64; without this, bitsandbytes fails on CPUs with bf16 instructions."""
    bnb = pytest.importorskip("bitsandbytes")
    layer = torch.nn.Sequential(bnb.nn.Linear4bit(96, 64, quant_type="nf4", compute_dtype=torch.bfloat16)).to("cpu")
    keep_layout_on_cpu(layer)
    with torch.no_grad():
        first = layer.eval()(torch.ones(2, 96, dtype=torch.bfloat16))
        assert layer(torch.ones(2, 96, dtype=torch.bfloat16)).equal(first)
    assert not layer[0].support_avx512bf16_for_cpu


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"q4.gguf is a file; name the folder"):
        find_checkpoint(ModelConfig(name=str(tmp_path / "q4.gguf")))


def test_a_quantized_checkpoint_is_not_quantized_again(tmp_path: Path) -> None:
    model = stored(tmp_path, BNB).model_copy(update={"quantization": "nf4"})
    with pytest.raises(ConfigError, match="stored in bitsandbytes already; set model.quantization to null"):
        load_model(find_checkpoint(model), "cpu", "fp32")


@pytest.mark.parametrize(
    ("settings", "mergeable"),
    [({}, True), (BNB, False), ({"load_in_8bit": True}, False), ({"quant_method": "fp8"}, True)],
)
def test_whether_adapters_can_be_merged_is_known_from_the_config(settings: dict[str, Any], mergeable: bool) -> None:
    found = stored_format({"quantization_config": settings} if settings else {})
    assert (merging_problem(found, None) is None) == mergeable
    assert merging_problem(None, "nf4") is not None


def test_config_check_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = stored(tmp_path, BNB)
    file = tmp_path / "c.yaml"
    dataset = "dataset: {source: jsonl, path: d, references: [a]}"
    file.write_text(f"model: {{name: {model.name}, device: cpu}}\n{dataset}\ntask: {{name: captioning}}\n")
    app(["config", "check", str(file)], standalone_mode=False)
    assert "! the base model is stored in bitsandbytes: an adapter can be trained on it, but not merged" in (
        capsys.readouterr().out
    )
