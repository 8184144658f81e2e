"""The hash of a checkpoint's weights: of their content, read once, and part of every result's provenance."""

import os
import shutil
from pathlib import Path

import pytest
from builders import TINY
from commands import ROOT, vlmtune_in_process
from safetensors.torch import load_file, save_file

from vlmtune.hub import cache_file
from vlmtune.modeling import weight_files
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.modeling.weight_files import hash_weights

CONFIG = """\
model: {name: model, device: cpu}
dataset: {source: scenes, references: [caption_0], id: id, limit: {test: 4}}
task: {name: captioning}
inference: {max_new_tokens: 4}
evaluation: {image_control_rows: 0}
output: {dir: out}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(weight_files, "cache_file", lambda *key: folder / cache_file(*key).name)
    return folder


def test_the_hash_is_of_the_content_and_not_of_its_age(tmp_path: Path, cache: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "model-1.safetensors").write_bytes(b"a")
        (folder / "model-2.safetensors").write_bytes(b"b")
    first = hash_weights(one)
    assert first == hash_weights(other)
    assert len(list(cache.iterdir())) == 4
    os.utime(one / "model-1.safetensors", (1, 1))
    assert hash_weights(one) == first
    (one / "model-1.safetensors").write_bytes(b"b")
    assert hash_weights(one) != first
    assert hash_weights(tmp_path) is None


def test_an_unchanged_file_is_read_once(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a")
    first = hash_weights(tmp_path)
    (entry,) = cache.iterdir()
    entry.write_text(entry.read_text().replace('"sha256": "', '"sha256": "known'))
    assert hash_weights(tmp_path) != first, "it was not taken from the cache"
    entry.write_text("{")
    assert hash_weights(tmp_path) == first, "a damaged cache is read"


def test_exchanged_weights_are_noticed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src/vlmtune/assets/tiny_qwen3_vl", tmp_path / "model")
    (tmp_path / "c.yaml").write_text(CONFIG)
    assert vlmtune_in_process("predict", "c.yaml", cwd=tmp_path).returncode == 0
    (file,) = (tmp_path / "model").glob("*.safetensors")
    weights = {name: value * 0.5 for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    ended = vlmtune_in_process("predict", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 9
    assert "model.weights: " in ended.stderr


def test_the_tiny_models_weights_are_in_its_facts() -> None:
    facts = find_checkpoint(TINY).facts()
    assert facts["commit"] is None
    assert len(facts["weights"]) == 16
