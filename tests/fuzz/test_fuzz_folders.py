"""Mutated run folders through compare, score and runs: a result, or an error that names the damage.

By itself, with more rounds and another seed: PYTHONPATH=tests python tests/fuzz/test_fuzz_folders.py ROUNDS SEED.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from builders import judged, lines
from fuzzing import hunt, mutated, mutated_json
from training_leftovers import leave_checkpoint

from vlmtune.cli.app import app
from vlmtune.compare_files import write_comparison
from vlmtune.errors import Exit
from vlmtune.files import write_json
from vlmtune.progress import Progress, Silent, StatusFile
from vlmtune.run_folder import Provenance, RunFolder, hash_adapter

ROUNDS, SOAKED = 40, 2500
CODES = (Exit.USAGE, Exit.DATA, Exit.ENVIRONMENT, Exit.LOCKED, Exit.INTEGRITY)

PREPROCESSING = {"pixels": {"patch": 16, "mean": [0.5, 0.5, 0.5]}, "template": "7cf326674dcc9cb3", "tokenizer": "e54d"}
COMMON: dict[str, Any] = {
    "model": {"name": "tiny", "commit": None, "config_hash": "751dc9d8", "weights": "e464", "family": "qwen3_vl"},
    "preprocessing": PREPROCESSING,
    "task": {"name": "captioning", "system": None, "prompt": "Describe this image."},
}
DATA = {"rows": 24, "fingerprint": "766bd6bd5a7731d1c95e2d61c75f3cf9"}
ANSWERED = {**COMMON, "adapter": None, "dataset": DATA, "inference": {"engine": "hf", "temperature": 0.0}}
TRAINED = {**COMMON, "dataset": {"train": DATA, "validation": DATA, "target": "each"}, "training": {"epochs": 1}}
FACTS = {"device": "cpu", "precision": "fp32", "versions": {"torch": "2.0"}}
CURVE = [{"step": 1, "loss": 4.0}, {"step": 5, "loss": 2.0, "validation_loss": 2.5}, {"step": 9, "loss": 1.0}]

COMMANDS = (
    ("compare", "baseline_predictions.jsonl", "lora_predictions.jsonl", "--json"),
    ("compare", "baseline_predictions.jsonl", "lora_predictions.jsonl", "-o", "report.html", "--slice", "place"),
    ("score", "lora_predictions.jsonl"),
    ("score", "baseline_predictions.jsonl", "--json"),
    ("runs", "ls", "."),
    ("runs", "show", "."),
    ("runs", "show", ".", "--json"),
    ("runs", "recover", ".", "--dry-run"),
    ("runs", "gc", "."),
)


def make(root: Path) -> None:
    """A finished run with its comparison, and work on another adapter."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = RunFolder(root, Progress(Silent()))
    with folder.lock():
        built = folder.work(root / "lora", Provenance(TRAINED)) / "adapter"
        built.mkdir()
        write_json(built / "adapter_config.json", {"r": 8, "base_model_name_or_path": "tiny"})
        save_file({"a": np.zeros(8, np.float32)}, built / "adapter_model.safetensors")
        facts = {**FACTS, "steps": 9, "chosen_step": 9, "curve": CURVE, "selection_ids": ["row 1"]}
        folder.publish(root / "lora", Provenance(TRAINED), facts, built)
        tuned = {**ANSWERED, "adapter": hash_adapter(root / "lora")}
        shuffled = [json.loads(line.to_json()) for line in lines(9, 0.9)]
        controls = {"schema_version": 1, "image": {"lines": shuffled}, "adapter_delta": {"max_logit_difference": 1.1}}
        for name, noise, parts in (("baseline", 0.5, ANSWERED), ("lora", 0.2, tuned)):
            file = root / f"{name}_predictions.jsonl"
            folder.write(file, "".join(line.to_json() + "\n" for line in lines(24, noise)))
            write_json(root / f"{name}_predictions.controls.json", controls)
            folder.publish(file, Provenance(parts), {**FACTS, "selection_ids": ["row 1"]})
        work = folder.work(root / "other", Provenance({**TRAINED, "training": {"epochs": 2}}))
    sides = {"manifest_a": {"mock": False, "origin": ANSWERED}, "manifest_b": {"mock": False, "origin": tuned}}
    write_comparison(judged(lines(24, 0.5), lines(24, 0.2), **sides), root / "compare.json", [])
    (work / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in CURVE))
    for step in (5, 9):
        leave_checkpoint(work, step)
    shown = StatusFile(Silent(), root / ".vlmtune/status.json")
    shown.update("train", 9, 90, {"loss": 2.5})
    shown.end("train")


def broken(root: Path, made: Path) -> Callable[[random.Random], None]:
    """A case of a hunt: change a file of the folder, and run a command on it."""
    command = typer.main.get_command(app)
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file() and path.stat().st_size)

    def case(rng: random.Random) -> None:
        for old in root.iterdir():  # not the folder itself: commands run in it
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.copytree(made, root, dirs_exist_ok=True)
        for _ in range(rng.choice([1, 1, 2])):
            file = root / rng.choice(files)
            if not file.is_file():  # the first change removed it
                continue
            fate = rng.random()
            if fate < 0.03:
                file.unlink()
            elif fate < 0.05:
                file.unlink()
                file.mkdir()
            elif file.is_file() and file.suffix in (".json", ".jsonl"):
                file.write_bytes(mutated_json(file.read_bytes(), rng))
            elif file.is_file():
                file.write_bytes(mutated(file.read_bytes(), rng, binary=True))
        words = list(rng.choice(COMMANDS))
        if words[0] == "compare":
            words += ["--set", "evaluation.statistics.resamples=100"]
        command(words, standalone_mode=False)

    return case


@pytest.mark.parametrize("part", range(3))
def test_broken_run_folders_end_in_a_result_or_a_named_error(
    part: int, tmp_path: Path, soak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    make(tmp_path / "made")
    ends = hunt(f"folder {part}", SOAKED if soak else ROUNDS, broken(tmp_path / "run", tmp_path / "made"), codes=CODES)
    assert min(ends["fine"], ends["error"]) >= 5, "the damage is too heavy or too light to say anything"


if __name__ == "__main__":
    import tempfile
    from contextlib import chdir

    with tempfile.TemporaryDirectory() as place:
        run, made = Path(place, "run"), Path(place, "made")
        run.mkdir()
        make(made)
        with chdir(run):
            print(dict(hunt("folder", int(sys.argv[1]), broken(run, made), int(sys.argv[2]), CODES)))
