"""Mutated prediction files of every program, interrupted answers, and caches: read, or named, and never believed.

By itself, with more rounds and another seed: PYTHONPATH=tests python tests/fuzz/test_fuzz_predictions.py ROUNDS SEED.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import make_image, ref
from foreign_files import ANSWERS, TOOLS
from fuzzing import hunt, mutated, mutated_json

from vlmtune.compare_files import compare_files, score_file
from vlmtune.dataset_check.image_index import ImageIndex
from vlmtune.errors import Exit
from vlmtune.predictions import read

ROUNDS, SOAKED = 200, 5000
CODES = (Exit.USAGE, Exit.DATA, Exit.INTEGRITY)
FAST = {"statistics": {"resamples": 100}}


def broken(folder: Path) -> Callable[[random.Random], None]:
    """A case of a hunt: score a mutated file, compare it with the whole one, or read it as answers of a stopped run."""
    made = [(name, write(ANSWERS)) for name, write in TOOLS]

    def case(rng: random.Random) -> None:
        name, data = rng.choice(made)
        whole, file = folder / f"whole {name}", folder / name
        whole.write_bytes(data)
        rows = file.suffix == ".jsonl" and data[:1] == b"{"
        file.write_bytes(mutated_json(data, rng) if rows else mutated(data, rng, binary=b"\0" in data))
        if rows and rng.random() < 0.2:
            read(file)
        elif rng.random() < 0.6:
            json.dumps(score_file(file, "vqa").to_json(), allow_nan=False)
        else:
            compared = compare_files(whole, file, task="vqa", evaluation=FAST)
            json.dumps(compared.to_json(), allow_nan=False)

    return case


def broken_index(folder: Path) -> Callable[[random.Random], None]:
    """A case of a hunt: an index of images with damaged lines; what is not believed is computed again."""
    images = [ref(make_image(40, 30, seed=n), f"image {n}") for n in range(4)]
    file = folder / "index.jsonl"
    index = ImageIndex(file)
    index.store([index.examine(image) for image in images])
    kept = file.read_bytes()

    def case(rng: random.Random) -> None:
        file.write_bytes(mutated_json(kept, rng))
        index = ImageIndex(file)
        found = index.store([index.examine(image) for image in images])
        assert len(set(found)) == len(images)

    return case


def test_broken_prediction_files_are_read_or_named(tmp_path: Path, soak: bool) -> None:
    ends = hunt("predictions", SOAKED if soak else ROUNDS, broken(tmp_path), codes=CODES)
    assert min(ends["fine"], ends["error"]) >= 5, "the damage is too heavy or too light to say anything"


def test_a_broken_index_of_images_is_made_again(tmp_path: Path, soak: bool) -> None:
    assert hunt("index", SOAKED if soak else 100, broken_index(tmp_path))["error"] == 0


@pytest.mark.parametrize("cached", [b"{}", b"null", b'{"state": 1}', b'{"state": [1], "sha256": []}', b"[" * 5000])
def test_a_broken_cache_of_hashes_is_not_believed(
    cached: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmtune.modeling import weight_files

    monkeypatch.setattr(weight_files, "cache_file", lambda *_: tmp_path / "cache.json")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    known = weight_files.hash_weights(tmp_path)
    (tmp_path / "cache.json").write_bytes(cached)
    assert weight_files.hash_weights(tmp_path) == known


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        print(dict(hunt("predictions", int(sys.argv[1]), broken(Path(place)), int(sys.argv[2]), CODES)))
