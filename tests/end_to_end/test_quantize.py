"""`export --quantize`: what llm-compressor is given and what becomes of its result, with a stand-in; and the real one
where an environment with it is named."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import warm_vlmtune
from safetensors.torch import load_file
from tiny_models import make_qwen3_vl_moe, warm_adapter

from vlmtune.config import load
from vlmtune.data import open_role
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.pipeline.session import Session, training_examples
from vlmtune.processing.encoder import Encoder, collate
from vlmtune.run_folder import hash_adapter, read_manifest

CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, references: [caption_0], id: id, limit: {train: 9, test: 3}}
task: {name: captioning}
training: {precision: fp32}
evaluation: {image_control_rows: 0}
"""
STAND_IN = """\
import json, pathlib, shutil, sys
_, isolated, script, file = sys.argv
job = json.loads(pathlib.Path(file).read_text())
here = pathlib.Path(__file__).parent
print("working", file=sys.stderr)
if (here / "fails").exists():
    sys.exit("no room left on the GPU")
shutil.copytree(pathlib.Path(file).parent / "samples", here / "samples", dirs_exist_ok=True)
(here / "job.json").write_text(json.dumps({**job, "isolated": isolated, "script": pathlib.Path(script).name}))
target = pathlib.Path(job["target"])
shutil.copy(pathlib.Path(job["source"]) / "model.safetensors", target)
config = json.loads((target / "config.json").read_text())
config["quantization_config"] = {"quant_method": "compressed-tensors"}
(target / "config.json").write_text(json.dumps(config))
print("done")
print((here / "result").read_text())
"""


@pytest.fixture
def run(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config, an adapter with a strong effect where it would train one, and an environment that seems to have it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)
    warm_adapter(encoder, tmp_path / "outputs" / "lora", std=0.1)
    package = tmp_path / "env/lib/python3.11/site-packages/llmcompressor"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "env/bin").mkdir()
    (tmp_path / "env/bin/stand_in.py").write_text(STAND_IN)
    (tmp_path / "env/bin/result").write_text('{"tokens": 80, "same": 78, "finite": true}')
    python = tmp_path / "env/bin/python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {tmp_path / "env/bin/stand_in.py"} "$@"\n')
    python.chmod(0o755)
    return tmp_path


def export(run: Path, scheme: str, *more: str) -> Any:
    return warm_vlmtune(
        *("export", "c.yaml", "-o", "out", "--quantize", scheme, "--compressor", "env/bin/python", *more), cwd=run
    )


def test_what_is_quantized_is_the_merged_model_with_train_rows(run: Path, encoder: Encoder) -> None:
    ended = export(run, "gptq", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {"schema_version": 1, "checkpoint": "out"}
    assert "gptq: the most likely token is the same at 97.5% of 80 positions" in ended.stderr
    merged, base = load_file(run / "out/model.safetensors"), load_file(encoder.checkpoint.folder / "model.safetensors")
    changed = {name for name, weight in merged.items() if not weight.equal(base[name].to(weight.dtype))}
    assert changed
    assert all("language_model" in name for name in changed)
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "processor_config.json", "vlmtune.json"} <= {
        file.name for file in (run / "out").iterdir()
    }
    assert not [file.name for file in (run / "out").iterdir() if file.is_dir() or file.name == "job.json"]
    manifest = read_manifest(run / "out")
    assert manifest is not None
    assert manifest["origin"]["quantized"] == {"scheme": "gptq", "calibration_rows": 9}
    assert manifest["origin"]["adapter"] == hash_adapter(run / "outputs/lora")
    job = json.loads((run / "env/bin/job.json").read_text())
    assert (job["isolated"], job["script"], job["calibrates"]) == ("-I", "_llm_compressor.py", True)
    assert set(job["ignore"]) == {"re:.*lm_head", r"re:model\.visual.*"} | {
        f"re:{name.replace('.', chr(92) + '.')}.*" for name in encoder.checkpoint.family.mergers
    }


def test_samples_are_the_train_rows_as_training_sees_them(run: Path) -> None:
    assert export(run, "gptq").returncode == 0
    session = Session(load("c.yaml", []).config)
    rows = open_role(session.config.dataset, "train")
    examples = training_examples(session, rows)
    samples = [load_file(run / f"env/bin/samples/{n}.safetensors") for n in range(9)]
    assert len({sample["input_ids"].numpy().tobytes() for sample in samples}) > 1
    for row, sample in zip(rows, samples, strict=True):
        encoded = examples.encode_example(row)
        for name, value in collate([encoded], session.encoder, "right", "cpu", torch.float32).items():
            assert sample[name].equal(value), name
        pairs = zip(encoded.rendered.ids, encoded.rendered.loss_mask, strict=True)
        answers = [token for token, trained in pairs if trained]
        targets = sample["targets"][0]
        assert targets[targets != -100].tolist() == answers
        at = int((targets != -100).nonzero()[0])
        assert encoded.rendered.ids[at + 1] == answers[0], "of the position before it"


def test_the_base_model_is_quantized_without_an_adapter(run: Path, encoder: Encoder) -> None:
    ended = export(run, "fp8", "--no-merge")
    assert ended.returncode == 0, ended.stderr
    job = json.loads((run / "env/bin/job.json").read_text())
    assert (job["source"], job["calibrates"]) == (str(encoder.checkpoint.folder), False)
    assert len(job["samples"]) == job["probes"] == 8, "what is not calibrated needs no more"
    manifest = read_manifest(run / "out")
    assert manifest is not None
    assert (manifest["origin"]["adapter"], manifest["origin"]["quantized"]["calibration_rows"]) == (None, 0)


def test_nothing_is_left_of_what_failed(run: Path) -> None:
    (run / "env/bin/result").write_text('{"tokens": 80, "same": 20, "finite": true}')
    broken = export(run, "int8")
    assert broken.returncode == 9
    assert "at only 25% of the answers' positions: it is broken" in broken.stderr
    (run / "env/bin/result").write_text('{"tokens": 80, "same": 78, "finite": false}')
    assert "the logits of the int8 model are not finite numbers" in export(run, "int8").stderr
    (run / "env/bin/fails").touch()
    failed = export(run, "int8")
    assert failed.returncode == 4
    assert "llm-compressor failed (exit 1):" in failed.stderr
    assert "no room left on the GPU" in failed.stderr
    assert not [path.name for path in run.iterdir() if "out" in path.name and path.name != "outputs"]
    (run / "out").mkdir()
    assert "already exists" in export(run, "int8").stderr


def test_what_cannot_be_quantized_is_said_first(run: Path, tmp_path: Path) -> None:
    missing = warm_vlmtune("export", "c.yaml", "-o", "out", "--quantize", "fp8", cwd=run)
    assert missing.returncode == 4
    assert "does not exist: llm-compressor needs a separate environment. Run: uv venv --python 3.11 " in missing.stderr
    assert "AWQ needs a GPU; --quantize gptq" in export(run, "awq").stderr
    assert "quantized already" in export(run, "fp8", "--set", "model.quantization=nf4").stderr
    make_qwen3_vl_moe(tmp_path / "moe")
    assert "stacked experts" in export(run, "fp8", "--no-merge", "--set", f"model.name={tmp_path / 'moe'}").stderr
    plain = warm_vlmtune("export", "c.yaml", "-o", "out", "--no-merge", cwd=run)
    assert "an adapter needs no export" in plain.stderr
    assert "leave out one of the two" in export(run, "fp8", "--no-merge", "--adapter", "outputs/lora").stderr
    alone = warm_vlmtune("export", "c.yaml", "-o", "out", "--compressor", "env/bin/python", cwd=run)
    assert "--compressor does nothing without --quantize" in alone.stderr


@pytest.mark.parametrize("scheme", ["fp8", "int8", "gptq"])
def test_the_real_one_keeps_what_the_model_says(scheme: str, run: Path) -> None:
    python = os.environ.get("VLMTUNE_LLMCOMPRESSOR")
    if not python:
        pytest.skip("VLMTUNE_LLMCOMPRESSOR names no Python that has llmcompressor and torchvision")
    ended = export(run, scheme, "--compressor", python)
    assert ended.returncode == 0, ended.stderr
    manifest = read_manifest(run / "out")
    assert manifest is not None
    assert manifest["same_tokens"] > 0.8
    weights = load_file(run / "out/model.safetensors")
    kinds = {weight.dtype for name, weight in weights.items() if "language_model.layers" in name and "proj" in name}
    assert kinds & {torch.float8_e4m3fn, torch.int8, torch.int32}
    assert not any("scale" in name for name in weights if "visual" in name or "lm_head" in name)
    assert find_checkpoint(load("c.yaml", [f"model.name={run / 'out'}"]).config.model).stored == "compressed-tensors"
