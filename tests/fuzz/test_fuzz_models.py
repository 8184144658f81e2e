"""Mutated model and adapter folders: what can be loaded answers, and what cannot is named.

By itself, with more rounds and another seed: PYTHONPATH=tests python tests/fuzz/test_fuzz_models.py ROUNDS SEED.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import assistant, make_image, ref, user
from fuzzing import hunt, mutated, mutated_json
from sources import PACKAGE

from vlmtune.engines.hf import Config, open_engine
from vlmtune.errors import Exit
from vlmtune.modeling.loading import ModelConfig, find_checkpoint, load_model
from vlmtune.processing.encoder import Encoder
from vlmtune.training.config import LoraConfig
from vlmtune.training.lora import add_adapter, save_adapter, trainable
from vlmtune.types import Request

ROUNDS, SOAKED = 50, 2500
CODES = (Exit.USAGE, Exit.DATA, Exit.ENVIRONMENT, Exit.INTEGRITY)
TINY = PACKAGE / "assets/tiny_qwen3_vl"
ASKED = (user(ref(make_image(64, 48)), "What is on the table?"),)
LOADED = ("config.json", "generation_config.json")
"""Files that the model itself reads; of the others, encoding shows the damage."""


def make_adapter(folder: Path) -> None:
    """An adapter of the tiny model that changes its answers."""
    config = ModelConfig(name="tiny", device="cpu")
    model = add_adapter(
        load_model(find_checkpoint(config), "cpu", "fp32"), LoraConfig(rank=2), find_checkpoint(config).family, 1
    )
    for weight in trainable(model).values():
        weight.data += 0.02
    folder.mkdir()
    save_adapter(model, folder, "tiny", None)


def broken(work: Path, adapter: Path) -> Callable[[random.Random], None]:
    """A case of a hunt: change a file of model or adapter, encode a conversation, and answer it now and then."""
    small = [file.name for file in sorted(TINY.iterdir()) if file.suffix in (".json", ".jinja")]

    def case(rng: random.Random) -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(adapter, work / "adapter")
        (work / "model").mkdir()
        for file in TINY.iterdir():
            (work / "model" / file.name).symlink_to(file)
        attached = rng.random() < 0.1
        of_adapter = ["adapter_config.json"] * 4 + ["adapter_model.safetensors"]
        file = work / "adapter" / rng.choice(of_adapter) if attached else work / "model" / rng.choice(small)
        data = file.read_bytes()
        file.unlink()
        if file.suffix == ".json":
            file.write_bytes(mutated_json(json.dumps(json.loads(data)).encode(), rng))
        else:
            file.write_bytes(mutated(data, rng, binary=attached))
        config = ModelConfig(name=str(work / "model"), device="cpu")
        encoder = Encoder(find_checkpoint(config), config)
        encoder.facts()
        prompt = encoder.prompt(ASKED)
        encoder.training_example((*ASKED, assistant("A cup.")), "all", 10_000)
        encoder.renderer.text(prompt.rendered.ids)
        if attached or file.name in LOADED or rng.random() < 0.05:
            engine = open_engine(
                Config(max_new_tokens=2), config, encoder, "fp32", work / "adapter" if attached else None
            )
            engine.adapter_delta([Request("1", ASKED)])
            list(engine.answer([Request("1", ASKED)]))

    return case


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "adapter"
    make_adapter(folder)
    return folder


@pytest.mark.parametrize("part", range(2))
def test_broken_models_answer_or_are_named(part: int, tmp_path: Path, soak: bool, adapter: Path) -> None:
    ends = hunt(f"models {part}", SOAKED if soak else ROUNDS, broken(tmp_path / "work", adapter), codes=CODES)
    assert min(ends["fine"], ends["error"]) >= 5, "the damage is too heavy or too light to say anything"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        make_adapter(Path(place, "adapter"))
        case = broken(Path(place, "work"), Path(place, "adapter"))
        print(dict(hunt("models", int(sys.argv[1]), case, int(sys.argv[2]), CODES)))
