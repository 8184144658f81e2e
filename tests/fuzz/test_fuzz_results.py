"""Mutated results of earlier commands: of `data check`, of training's log, of merged models and of the Hub's cache.

By itself, with more rounds and another seed: PYTHONPATH=tests python tests/fuzz/test_fuzz_results.py ROUNDS SEED.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import huggingface_hub.constants
import numpy as np
import pytest
import typer
from builders import encoded, make_image
from fuzzing import hunt, mutated, mutated_json
from safetensors.numpy import save_file
from sources import PACKAGE

from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.errors import AdapterRefused, Exit
from vlmtune.modeling.loading import ModelConfig, find_checkpoint
from vlmtune.pipeline.export import merged_session
from vlmtune.pipeline.session import Session
from vlmtune.processing.encoder import Encoder
from vlmtune.scaffold.settings import token_counter

ROUNDS, SOAKED = 25, 2500
CODES = (Exit.USAGE, Exit.DATA, Exit.ENVIRONMENT, Exit.INTEGRITY)
CONFIG = """\
model: {name: tiny}
task: {name: captioning}
dataset:
  source: jsonl
  path: .
  id: id
  references: [captions]
  target: each
  splits: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
  max_bad_fraction: 0.5
output: {dir: out}
"""
CHECK = ("data", "check", "c.yaml", "--progress", "none")
COMMANDS = (CHECK, (*CHECK, "--json"), ("data", "label-errors", "c.yaml", "-n", "3"), ("plan", "c.yaml"))
COMMIT = "3f" * 20


def run(*words: str) -> None:
    typer.main.get_command(app)(list(words), standalone_mode=False)


def make() -> None:
    """In the current folder: a dataset with a row that cannot be read, its check, and the log of a training."""
    rows = [{"id": f"row {n}", "image": f"{n}.png", "captions": [f"a scene {n}", f"scene {n}"]} for n in range(9)]
    for n in range(8):
        Path(f"{n}.png").write_bytes(encoded(make_image(40, 32, n)))
    for name, part in (("train", rows[4:]), ("validation", rows[:2]), ("test", rows[2:4])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    Path("c.yaml").write_text(CONFIG)
    run(*CHECK)
    facts = [(n, f"row {4 + n % 4}", n % 2, n // 8, 1 + 0.1 * (n % 5)) for n in range(16)]
    log = [dict(zip(("step", "id", "target", "epoch", "loss"), one, strict=True)) for one in facts]
    Path("out/lora").mkdir()
    Path("out/lora/samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in log))


def broken_results(place: Path, made: Path) -> Callable[[random.Random], None]:
    """A case of a hunt: change a result of a check or of a training, and run a command that reads it."""
    files = [Path("out", name) for name in ("data_check.json", "quarantine.json", "lora/samples.jsonl")]

    def case(rng: random.Random) -> None:
        for old in place.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.copytree(made, place, dirs_exist_ok=True)
        file = place / rng.choice(files)
        file.write_bytes(mutated_json(file.read_bytes(), rng))
        run(*rng.choice(COMMANDS))

    return case


def broken_merged(session: Session, adapter: Path) -> Callable[[random.Random], None]:
    """A case of a hunt: change the manifest of a merged model, which names the effect of its adapter."""
    provenance = session.provenance(
        adapter=session.verify_adapter(adapter), precision=session.config.training.precision
    )
    folder, _ = session.folder.merged(provenance)
    folder.mkdir(parents=True)
    manifest = {"schema_version": 1, "mock": False, "adapter_delta": 1.5, "origin": {"model": {"name": "tiny"}}}

    def case(rng: random.Random) -> None:
        (folder / "vlmtune.json").write_bytes(mutated_json(json.dumps(manifest, indent=1).encode(), rng))
        with merged_session(session, adapter, AdapterRefused("no adapters. Why")) as (_, delta):
            assert isinstance(delta, float)

    return case


def broken_cache(cache: Path) -> Callable[[random.Random], None]:
    """A case of a hunt: change the file that names the commit of a cached model, and find the model."""
    repository = cache / "models--team--tiny"
    shutil.copytree(PACKAGE / "assets/tiny_qwen3_vl", repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    ref = repository / "refs/main"
    paths = (
        *[COMMIT] * 5,
        "..",
        "../..",
        f"../snapshots/{COMMIT}",
        "/etc",
        "",
        COMMIT.upper(),
        f"{COMMIT}\n",
        "a" * 5000,
        "\0",
        ".",
    )

    def case(rng: random.Random) -> None:
        ref.write_bytes(rng.choice(paths).encode() if rng.random() < 0.4 else mutated(COMMIT.encode(), rng))
        token_counter("team/tiny")
        config = ModelConfig(
            name="team/tiny", device="cpu", revision=rng.choice([None, "main", "refs/pr/1", "../main"])
        )
        with patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True):
            checkpoint = find_checkpoint(config)
        assert checkpoint.commit == COMMIT
        Encoder(checkpoint, config).facts()

    return case


@pytest.mark.parametrize("part", range(2))
def test_broken_results_are_made_again_or_named(
    part: int, tmp_path: Path, soak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("made", "place"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "made")
    make()
    monkeypatch.chdir(tmp_path / "place")
    case = broken_results(tmp_path / "place", tmp_path / "made")
    ends = hunt(f"results {part}", SOAKED if soak else ROUNDS, case, codes=CODES)
    assert min(ends["fine"], ends["error"]) >= 5, "the damage is too heavy or too light to say anything"


def merged_case(place: Path) -> Callable[[random.Random], None]:
    """`broken_merged` with an adapter and a session in a folder."""
    adapter = place / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "base_model_name_or_path": "tiny"}')
    save_file({"a": np.zeros(2, np.float32)}, adapter / "adapter_model.safetensors")
    return broken_merged(Session(load("demo", [f"output.dir={place}/out"]).config), adapter)


def test_broken_manifests_of_merged_models_are_named(tmp_path: Path, soak: bool) -> None:
    ends = hunt("merged", SOAKED if soak else ROUNDS, merged_case(tmp_path), codes=CODES)
    assert min(ends["fine"], ends["error"]) >= 5, "the damage is too heavy or too light to say anything"


def test_broken_names_of_commits_are_named(tmp_path: Path, soak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    ends = hunt("commits", SOAKED if soak else 2 * ROUNDS, broken_cache(tmp_path), codes=CODES)
    assert min(ends["fine"], ends["error"]) >= 2, "the damage is too heavy or too light to say anything"


if __name__ == "__main__":
    import os
    import tempfile

    rounds, seed = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as root:
        made, place, cache = (Path(root, name) for name in ("made", "place", "cache"))
        for folder in (made, place, cache):
            folder.mkdir()
        os.chdir(made)
        make()
        os.chdir(place)
        print("results", dict(hunt("results", rounds, broken_results(place, made), seed, CODES)), flush=True)
        print("merged", dict(hunt("merged", rounds, merged_case(cache), seed, CODES)), flush=True)
        with patch.object(huggingface_hub.constants, "HF_HUB_CACHE", str(cache)):
            print("commits", dict(hunt("commits", rounds, broken_cache(cache), seed, CODES)), flush=True)
        os.chdir("/")
