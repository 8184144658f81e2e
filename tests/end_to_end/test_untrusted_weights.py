"""No checkpoint, adapter or checkpoint of a training brings code: pickles are not opened, remote code is never run."""

import ast
import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY
from safetensors.torch import load_file, save_file
from sources import modules

from vlmtune.errors import IntegrityError
from vlmtune.modeling.loading import ModelConfig, attach_adapter, find_checkpoint, load_model
from vlmtune.processing.encoder import Encoder
from vlmtune.training import checkpoints
from vlmtune.training.config import LoraConfig
from vlmtune.training.lora import add_adapter, save_adapter


class Payload:
    """A pickle that makes a file when it is opened."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._trace,))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """The file that a payload makes; the payload works, or its absence would prove nothing."""
    trace = tmp_path / "it_ran"
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()
    trace.unlink()
    return trace


@pytest.fixture
def folder(encoder: Encoder, tmp_path: Path) -> Path:
    """The tiny checkpoint."""
    return Path(shutil.copytree(encoder.checkpoint.folder, tmp_path / "checkpoint"))


def opened(folder: Path) -> Any:
    return load_model(find_checkpoint(ModelConfig(name=str(folder), device="cpu")), "cpu", "fp32")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
@pytest.mark.parametrize("kind", ["payload", "weights"])
def test_pickled_weights_are_refused(kind: str, name: str, folder: Path, trace: Path) -> None:
    """Honest ones, too: whoever opens them has opened all that may come with them."""
    torch.save(Payload(trace) if kind == "payload" else opened(folder).state_dict(), folder / name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match="no model.safetensors"):
        opened(folder)
    assert not trace.exists()


def test_a_pickled_adapter_is_refused(encoder: Encoder, tmp_path: Path, trace: Path) -> None:
    adapter = adapter_of(encoder, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(Payload(trace), adapter / "adapter_model.bin")
    with pytest.raises(IntegrityError, match="needs adapter_config.json and adapter_model.safetensors"):
        attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), adapter)
    assert not trace.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_adapter_of_values_that_are_no_numbers_is_refused(value: float, encoder: Encoder, tmp_path: Path) -> None:
    adapter = adapter_of(encoder, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values()))[0, 0] = value
    save_file(weights, file)
    with pytest.raises(IntegrityError, match="1 weights of this adapter are not finite numbers"):
        attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), adapter)


def test_an_adapter_names_no_module_to_be_imported(
    encoder: Encoder, tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT imports what `megatron_core` names; the folder one stands in is where Python looks first."""
    adapter = adapter_of(encoder, tmp_path / "adapter")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "planted.py").write_text(f"import pathlib; pathlib.Path({str(trace)!r}).touch()", encoding="utf-8")
    file = adapter / "adapter_config.json"
    written = {"megatron_config": {"tensor_model_parallel_size": 1}, "megatron_core": "planted"}
    file.write_text(json.dumps(json.loads(file.read_text()) | written))
    with pytest.raises(IntegrityError, match="megatron_core"):
        attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), adapter)
    assert not trace.exists()


def test_code_that_lies_in_a_checkpoint_is_not_run(folder: Path, trace: Path) -> None:
    (folder / "planted.py").write_text(f"import pathlib; pathlib.Path({str(trace)!r}).touch()\n", encoding="utf-8")
    for name, kinds in {
        "config.json": ("AutoConfig", "AutoModel", "AutoModelForImageTextToText"),
        "tokenizer_config.json": ("AutoTokenizer", "AutoProcessor"),
        "processor_config.json": ("AutoImageProcessor", "AutoProcessor"),
    }.items():
        settings = json.loads((folder / name).read_text())
        names = {kind: [f"planted.{kind}", None] if kind == "AutoTokenizer" else f"planted.{kind}" for kind in kinds}
        (folder / name).write_text(json.dumps(settings | {"auto_map": names}))
    config = ModelConfig(name=str(folder), device="cpu")
    Encoder(find_checkpoint(config), config)
    opened(folder)
    assert not trace.exists()


PICKLES = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}


def test_nothing_of_ours_opens_a_pickle_or_asks_for_remote_code() -> None:
    for module in modules().values():
        assert not PICKLES & {found.module.split(".")[0] for found in module.imports}, module.where
        for node in ast.walk(module.tree):
            said = ast.unparse(node.func) if isinstance(node, ast.Call) else None
            assert said not in ("eval", "exec", "torch.load", "compile", "np.load", "numpy.load"), module.where
            assert not (isinstance(node, ast.keyword) and node.arg == "trust_remote_code"), module.where


def test_a_checkpoint_of_a_training_is_safetensors_and_json(encoder: Encoder, tmp_path: Path) -> None:
    model = add_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), LoraConfig(), encoder.checkpoint.family, 0)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights)
    sum(weight.sum() for weight in weights).backward()  # type: ignore[union-attr]
    optimizer.step()
    checkpoints.write(tmp_path, checkpoints.snapshot(1, model, optimizer))
    newest = checkpoints.newest(tmp_path)
    assert newest is not None
    assert {file.name for file in newest.iterdir()} == {"weights.safetensors", "moments.safetensors", "complete.json"}


def adapter_of(encoder: Encoder, folder: Path) -> Path:
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    save_adapter(add_adapter(base, LoraConfig(), encoder.checkpoint.family, 0), folder, TINY.name, None)
    return folder
