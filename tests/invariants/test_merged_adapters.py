"""Adapters combined into one: `cat` is the exact weighted sum, everything else is what PEFT makes of the same files."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from builders import TINY
from commands import warm_vlmtune
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from vlmtune.config import load
from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.modeling.loading import attach_adapter, find_checkpoint, load_model
from vlmtune.pipeline.merge_adapters import Combination, merge_adapters
from vlmtune.pipeline.session import Session
from vlmtune.run_folder import hash_adapter, read_manifest
from vlmtune.run_layout import ADAPTER_WEIGHTS

CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, references: [caption_0], limit: {test: 3}}
task: {name: captioning}
training: {precision: fp32}
"""
NAMES = ["q_proj", "v_proj", "down_proj"]


def plain() -> Any:
    return AutoModelForImageTextToText.from_pretrained(find_checkpoint(TINY).folder, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(20, 60)[None]).logits
    return found


def make_adapter(folder: Path, seed: int, **settings: Any) -> Path:
    torch.manual_seed(seed)
    config = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": NAMES, **settings}
    model = peft.get_peft_model(plain(), peft.LoraConfig(**config))
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(str(folder))
    return folder


def change(folder: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight of its base, computed from its files alone."""
    config, weights = json.loads((folder / "adapter_config.json").read_text()), load_file(folder / ADAPTER_WEIGHTS)
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    pairs = {name: name.replace(".lora_A.", ".lora_B.") for name in weights if ".lora_A." in name}
    return {
        a.removeprefix("base_model.model.").replace(".lora_A.", "."): scale * weights[b] @ weights[a]
        for a, b in pairs.items()
    }


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return Session(load("c.yaml", []).config)


def merged(session: Session, folders: list[Path], combination: Combination) -> torch.Tensor:
    folder = merge_adapters(session, folders, combination, Path("merged"))
    return logits(attach_adapter(load_model(find_checkpoint(TINY), "cpu", "fp32"), folder))


@pytest.mark.parametrize(
    "settings",
    [
        ({}, {}),
        ({"r": 8}, {"target_modules": ["q_proj", "o_proj"]}),
        ({"use_rslora": True}, {}),
        ({}, {"use_rslora": True, "r": 2}),
    ],
    ids=["alike", "ranks and layers", "the first with rsLoRA", "the second with rsLoRA"],
)
def test_cat_adds_what_each_changes(settings: tuple[Any, Any], session: Session, tmp_path: Path) -> None:
    folders = [make_adapter(tmp_path / f"{n}", n, **more) for n, more in enumerate(settings)]
    weights = [1.0, -0.5]
    base = plain()
    with torch.no_grad():
        for folder, factor in zip(folders, weights, strict=True):
            for name, added in change(folder).items():
                base.get_parameter(name).add_(factor * added)
    found = merged(session, folders, Combination("cat", weights))
    assert (found - logits(base)).abs().max() < 2e-5
    assert (found - logits(plain())).abs().max() > 0.1
    manifest = read_manifest(tmp_path / "merged")
    assert manifest is not None
    assert manifest["origin"]["merged"]["of"] == [
        {"adapter": hash_adapter(folder), "weight": factor} for folder, factor in zip(folders, weights, strict=True)
    ]
    assert manifest["adapter_delta"] > 0


@pytest.mark.parametrize("kind", ["linear", "ties", "dare_linear", "dare_ties"])
def test_other_combinations_are_pefts(kind: Any, session: Session, tmp_path: Path) -> None:
    folders = [make_adapter(tmp_path / f"{n}", n) for n in range(3)]
    density, weights = None if kind == "linear" else 0.5, [1.0, 0.5, 2.0]
    theirs = peft.PeftModel.from_pretrained(plain(), str(folders[0]), "0")
    for n in (1, 2):
        theirs.load_adapter(str(folders[n]), str(n))
    torch.manual_seed(7)
    theirs.base_model.add_weighted_adapter(["0", "1", "2"], weights, "all", kind, density=density)
    theirs.set_adapter("all")
    found = merged(session, folders, Combination(kind, weights, density, seed=7))
    assert (found - logits(theirs)).abs().max() < 1e-5


def test_what_cannot_be_combined_is_said_and_nothing_is_written(session: Session, tmp_path: Path) -> None:
    one, larger = make_adapter(tmp_path / "a", 0), make_adapter(tmp_path / "b", 1, r=8)
    dora = make_adapter(tmp_path / "dora", 2, use_dora=True)
    biased = make_adapter(tmp_path / "biased", 3, bias="lora_only")
    partial = make_adapter(tmp_path / "partial", 4, layers_to_transform=[0])
    target = tmp_path / "merged"
    for folders, combination, said in [
        ([one], Combination("cat", [1.0]), "at least two"),
        ([one, larger], Combination("cat", [1.0]), "2 adapters, but 1 weights"),
        ([one, larger], Combination("cat", [1.0, float("nan")]), "a number other than 0"),
        ([one, larger], Combination("cat", [1.0, 1.0], 0.5), "cat keeps all weights: remove --density"),
        ([one, larger], Combination("ties", [1.0, 1.0]), "ties needs --density"),
        ([one, larger], Combination("ties", [1.0, 1.0], 1.5), "at most 1"),
        ([one, larger], Combination("linear", [1.0, 1.0]), "linear: .*same r"),
        ([one, dora], Combination("cat", [1.0, 1.0]), "dora: .*use_dora"),
        ([biased, one], Combination("cat", [1.0, 1.0]), "bias=lora_only"),
        ([one, partial], Combination("cat", [1.0, 1.0]), "partial: .*layers_to_transform"),
    ]:
        with pytest.raises(ConfigError, match=said):
            merge_adapters(session, folders, combination, target)
    with pytest.raises(IntegrityError, match="changes nothing"):
        merge_adapters(session, [one, one], Combination("linear", [1.0, -1.0]), target)
    with pytest.raises(IntegrityError, match="no such folder"):
        merge_adapters(session, [one, tmp_path / "gone"], Combination("cat", [1.0, 1.0]), target)
    assert not target.exists()
    target.mkdir()
    with pytest.raises(ConfigError, match="already exists"):
        merge_adapters(session, [one, one], Combination("cat", [1.0, 1.0]), target)


def test_the_command_writes_an_adapter_that_predict_uses(session: Session, tmp_path: Path) -> None:
    for n in range(2):
        make_adapter(tmp_path / f"{n}", n)
    words = ["merge-adapters", "c.yaml", "0", "1", "-o", "both", "--weight", "1", "--weight", "0.5", "--json"]
    ran = warm_vlmtune(*words, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"schema_version": 1, "adapter": "both"}
    ran = warm_vlmtune("predict", "c.yaml", "--adapter", "both", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    made = read_manifest(tmp_path / "outputs/lora_predictions.jsonl")
    assert made is not None
    assert made["origin"]["adapter"] == hash_adapter(tmp_path / "both")
    listed = warm_vlmtune("runs", "ls", ".", "--json", cwd=tmp_path)
    assert [run["folder"] for run in json.loads(listed.stdout)["runs"]] == ["outputs"], "not what an adapter lies in"
    pushed = warm_vlmtune("push", "c.yaml", "--to", "hf:a/b", "--adapter", "both", "--into", "card", cwd=tmp_path)
    assert (pushed.returncode, "both combines several adapters" in pushed.stderr) == (2, True)
