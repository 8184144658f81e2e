"""A merged checkpoint is the adapter's model, or it is not called done; and one picture is answered at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_image
from commands import warm_vlmtune
from safetensors.torch import load_file
from tiny_models import warm_adapter

from vlmtune.config import load
from vlmtune.errors import IntegrityError
from vlmtune.modeling.loading import load_model
from vlmtune.pipeline import export
from vlmtune.pipeline.session import Session
from vlmtune.processing.encoder import Encoder
from vlmtune.run_folder import read_manifest
from vlmtune.training.config import LoraConfig
from vlmtune.training.lora import add_adapter, save_adapter, trainable

CONFIG = """\
model: {name: tiny, device: cpu, max_pixels: 10000}
dataset:
  {source: scenes, references: [caption_0, caption_1], id: id, limit: {train: 8, validation: 4, test: 6}}
task: {name: captioning}
training: {precision: fp32}
inference: {max_new_tokens: 16}
evaluation: {image_control_rows: 0, statistics: {resamples: 100}}
"""


@pytest.fixture
def run(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config, and an adapter with a strong effect where the config would train one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)
    warm_adapter(encoder, tmp_path / "outputs" / "lora", std=0.1)
    return tmp_path


def texts(file: Path) -> list[str]:
    return [json.loads(line)["prediction"] for line in file.read_text().splitlines()]


def test_a_merged_checkpoint_answers_as_the_adapter_does(run: Path) -> None:
    exported = warm_vlmtune("export", "c.yaml", "--merge", "-o", "merged", cwd=run)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout == "checkpoint: merged\n"
    ends = [
        warm_vlmtune("predict", "c.yaml", "--adapter", "outputs/lora", cwd=run),
        warm_vlmtune("predict", "c.yaml", "--set", "model.name=merged", "--set", "output.dir=own", cwd=run),
        warm_vlmtune("predict", "c.yaml", "--set", "output.dir=base", cwd=run),
    ]
    assert [end.returncode for end in ends] == [0, 0, 0], [end.stderr for end in ends]
    tuned, merged, base = (
        texts(run / name)
        for name in (
            "outputs/lora_predictions.jsonl",
            "own/baseline_predictions.jsonl",
            "base/baseline_predictions.jsonl",
        )
    )
    assert merged == tuned != base
    made = read_manifest(run / "own" / "baseline_predictions.jsonl")
    assert made is not None
    assert made["origin"]["preprocessing"]["pixels"]["max_pixels"] == 10_000
    limits = json.loads((run / "merged" / "processor_config.json").read_text())["image_processor"]["size"]
    assert limits["longest_edge"] == 10_000, "other programs resize as training did"
    assert {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"} <= {
        f.name for f in (run / "merged").iterdir()
    }
    again = warm_vlmtune("export", "c.yaml", "-o", "merged", cwd=run)
    assert again.returncode == 2
    assert "merged already exists" in again.stderr


def test_a_model_trained_in_full_stays_tied_and_answers_alike(
    encoder: Encoder, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    model = add_adapter(base, LoraConfig(parts=[]), encoder.checkpoint.family, 0, full=["language_model"])
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in trainable(model).values():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    save_adapter(model, run / "outputs" / "lora", "tiny", None)
    monkeypatch.setattr(export, "_teacher_force_in_fresh_process", export.teacher_force_folder)
    export.export(Session(load("c.yaml", ["training.method=full"]).config), run / "merged")
    assert json.loads((run / "merged" / "config.json").read_text())["tie_word_embeddings"]
    merged = load_file(run / "merged" / "model.safetensors")
    trained = load_file(run / "outputs" / "lora" / "adapter_model.safetensors")
    assert "lm_head.weight" not in merged
    assert all(
        torch.equal(merged[name.removeprefix("base_model.model.")], weight)
        for name, weight in trained.items()
        if "lm_head" not in name
    )


def test_a_checkpoint_that_lost_the_adapter_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if merging did nothing; the process that would look is this one."""
    from peft import PeftModel

    def lose(model: PeftModel) -> Any:
        return model.unload()

    def here(config: Any, folder: Path, told: Any) -> Any:
        return export.teacher_force_folder(config, folder, told)

    monkeypatch.setattr(PeftModel, "merge_and_unload", lose, raising=False)
    monkeypatch.setattr(export, "_teacher_force_in_fresh_process", here)
    with pytest.raises(IntegrityError, match="answers differently from the adapter: probe 1, token"):
        export.export(Session(load("c.yaml").config), run / "merged")
    assert not list(run.glob("*merged*")), "nothing is left that could be taken for a checkpoint"


def test_one_picture_is_answered_by_base_and_tuned(run: Path) -> None:
    make_image(96, 128).save(run / "photo.png")
    words = ("predict", "c.yaml", "--image", "photo.png")
    shown = warm_vlmtune(*words, "--adapter", "outputs/lora", cwd=run)
    assert shown.returncode == 0, shown.stderr
    base, tuned = shown.stdout.splitlines()
    assert base.startswith("base   ")
    assert tuned.startswith("tuned  ")
    assert base[7:] != tuned[7:]
    plain = json.loads(warm_vlmtune(*words, "--json", cwd=run).stdout)
    assert plain["base"]["prediction"] == base[7:]
    assert "tuned" not in plain
    (run / "torn.png").write_bytes((run / "photo.png").read_bytes()[:200])
    torn = warm_vlmtune("predict", "c.yaml", "--image", "torn.png", cwd=run)
    assert "(no answer: torn.png: cannot be decoded" in torn.stdout
    assert warm_vlmtune("predict", "c.yaml", "--image", "none.png", cwd=run).returncode == 3


def test_parity_needs_another_engine(run: Path) -> None:
    refused = warm_vlmtune("predict", "c.yaml", "--parity", "2", cwd=run)
    assert refused.returncode == 2
    assert "reports no token ids" in refused.stderr
