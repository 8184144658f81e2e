"""The system refuses to make a file larger: exit 4 with the file and its bytes, nothing lost, the same command goes on.

The limit of a process on the size of its files stands in for a full disk; the refusal comes from the kernel.
"""

import functools
import hashlib
import re
import resource
from pathlib import Path

import pytest
from commands import warm_vlmtune

CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, references: [caption_0], id: id, limit: {train: 8, validation: 4, test: 12}}
task: {name: captioning}
training: {batch_size: 4, epochs: 1, log_every_steps: 1, save_every_steps: 1}
evaluation: {image_control_rows: 2, statistics: {resamples: 100}}
inference: {max_new_tokens: 12}
output: {dir: out}
"""
FULL = [
    ("predict", 2_000, "thumbnails/.*webp"),
    ("predict", 5_000, "answers.jsonl"),
    ("train", 100_000, "weights.safetensors"),
    ("train", 800_000, "moments.safetensors"),
    ("train", 400_000, "adapter_model.safetensors"),
    ("run", 5_000, "answers.jsonl"),
    ("run", 20_000, "compare.json"),
    ("run", 100_000, "report.html"),
]
"""One after the other in one folder: step, most bytes of a file, and which file is too large for that. An adapter is
smaller than the checkpoint before it, so its training is killed when its last checkpoint is there."""

RESULTS = ["baseline_predictions.jsonl", "lora_predictions.jsonl", "lora/adapter_model.safetensors"]


def limited(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def published(folder: Path) -> dict[str, str]:
    """Results and checkpoints that are there, with their hashes."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    kept = [file for file in files if ".vlmtune" not in file.parts or file.parent.name.startswith("step-")]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in kept}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("roomy")
    (folder / "c.yaml").write_text(CONFIG, encoding="utf-8")
    ended = warm_vlmtune("run", "c.yaml", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return {name: (folder / "out" / name).read_bytes() for name in RESULTS}


def test_no_writer_tears_or_loses_anything(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    for number, (step, most, file) in enumerate(FULL):
        if file == "adapter_model.safetensors":
            killed = warm_vlmtune("train", "c.yaml", cwd=tmp_path, VLMTUNE_FAULT="checkpoint.published:kill:2")
            assert killed.returncode == -9
        before = published(tmp_path)
        ended = warm_vlmtune(step, "c.yaml", cwd=tmp_path, before=functools.partial(limited, most))
        assert ended.returncode == 4, (file, ended.stderr)
        found = re.search(rf"no space left for \S*{file} \(([\d,]+) bytes\)", ended.stderr)
        assert found, (file, ended.stderr)
        assert int(found[1].replace(",", "")) > 0
        assert "run the same command again" in ended.stderr
        after = published(tmp_path)
        assert {name: after.get(name) for name in before} == before, f"{file}: what was there is untouched"
        assert not [name for name in after if "building" in name and ".vlmtune" not in name], file
        if [step] != [following for following, _, _ in FULL[number + 1 : number + 2]]:
            ended = warm_vlmtune(step, "c.yaml", cwd=tmp_path)
            assert ended.returncode == 0, ended.stderr
    assert {name: (tmp_path / "out" / name).read_bytes() for name in RESULTS} == undisturbed
    assert (tmp_path / "out/report.html").is_file()
