"""Checkpoints in FP8: trained on, answered with and merged as the weights that they stand for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import assistant, make_image, ref, user
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from vlmtune.cli.app import app
from vlmtune.modeling.loading import ModelConfig, find_checkpoint, load_model
from vlmtune.processing.encoder import Encoder, collate
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.training import trainer

MakeJob = Callable[..., trainer.TrainingJob]
SIDES = (32, 48, 128)
"""Of blocks: those of 32 divide the tiny model's matrices, the others leave a rest; published ones have 128."""
TALK = (user(ref(make_image(128, 96), "picture"), "Describe."), assistant("A red ball ."))


def in_fp8(weight: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(weights in FP8, scale of each block, the weights that they stand for), by the definition of the format."""
    stored, exact = torch.zeros_like(weight).to(torch.float8_e4m3fn), torch.zeros_like(weight)
    scales = torch.zeros(-(-weight.shape[0] // side), -(-weight.shape[1] // side))
    for row in range(scales.shape[0]):
        for column in range(scales.shape[1]):
            at = (slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
            scales[row, column] = weight[at].abs().max() / 448
            stored[at] = (weight[at] / scales[row, column]).to(torch.float8_e4m3fn)
            exact[at] = stored[at].float() * scales[row, column]
    return stored, scales, exact


@pytest.fixture(params=SIDES)
def both(encoder: Encoder, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A checkpoint in FP8 and the same weights plain."""
    source, side = encoder.checkpoint.folder, request.param
    weights = load_file(source / "model.safetensors")
    small, plain = dict(weights), dict(weights)
    for name, weight in weights.items():
        if "language_model.layers" in name and name.endswith("proj.weight"):
            small[name], small[f"{name}_scale_inv"], plain[name] = in_fp8(weight.float(), side)
    config = json.loads((source / "config.json").read_text())
    quantized = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [side, side],
        "modules_to_not_convert": ["lm_head", "model.visual"],
    }
    for name, tensors, settings in (("fp8", small, {"quantization_config": quantized}), ("plain", plain, {})):
        folder = tmp_path / name
        shutil.copytree(source, folder)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return tmp_path / "fp8", tmp_path / "plain"


def encoder_of(folder: Path) -> Encoder:
    config = ModelConfig(name=str(folder), device="cpu")
    return Encoder(find_checkpoint(config), config)


def job_on(job: trainer.TrainingJob, folder: Path) -> trainer.TrainingJob:
    """The job with another base."""
    object.__setattr__(job, "encoder", encoder_of(folder))
    object.__setattr__(job, "model", ModelConfig(name=str(folder), device="cpu"))
    return job


def logits(model: Any, encoder: Encoder) -> torch.Tensor:
    batch = collate([encoder.training_example(TALK, "all", 4096)], encoder, "right", "cpu", torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits
    return found


def test_an_fp8_base_is_the_weights_that_it_stands_for(both: tuple[Path, Path], make_job: MakeJob) -> None:
    models = [load_model(encoder_of(folder).checkpoint, "cpu", "fp32") for folder in both]
    found, expected = (dict(model.named_parameters()) for model in models)
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        assert weight.dtype == torch.float32, name
        assert weight.equal(expected[name]), name
    assert not any("scale" in name for name, _ in models[0].named_buffers())
    facts = [trainer.train(job_on(make_job(folder.name), folder), Progress(Silent()), StopRequest()) for folder in both]
    assert facts[0]["validation_loss"] == facts[1]["validation_loss"]


@pytest.mark.parametrize("both", SIDES[1:2], indirect=True)
def test_what_is_saved_is_plain(both: tuple[Path, Path], tmp_path: Path) -> None:
    """As a merge saves it: no trace of FP8, which its loader would look for."""
    encoder = encoder_of(both[0])
    model = load_model(encoder.checkpoint, "cpu", "bf16")
    model.save_pretrained(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "quantization_config" not in settings
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert torch.allclose(logits(again, encoder), logits(model.float(), encoder), atol=1e-5)


@pytest.mark.parametrize("both", SIDES[:1], indirect=True)
def test_config_check_says_what_a_merge_writes(
    both: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    dataset = "dataset: {source: jsonl, path: d, references: [a]}"
    file.write_text(f"model: {{name: {both[0]}, device: cpu}}\n{dataset}\ntask: {{name: captioning}}\n")
    app(["config", "check", str(file)], standalone_mode=False)
    assert "! the base model is stored in fp8: it is dequantized to training.precision" in capsys.readouterr().out
