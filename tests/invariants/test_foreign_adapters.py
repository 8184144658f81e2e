"""Adapters as other tools configure them, made by plain PEFT: attached, they give PEFT's own logits."""

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from builders import TINY
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from vlmtune.errors import IntegrityError
from vlmtune.modeling.loading import attach_adapter, find_checkpoint, load_model
from vlmtune.run_layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS

NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
UNSLOTH = (
    r"(?:.*?(?:language|text|visual|vision).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:qkv|proj|q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|linear_fc1|linear_fc2).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))"
)
SWIFT = rf"^(model\.language_model(?=\.).*\.({'|'.join(NAMES)}))$"
CASES: dict[str, dict[str, Any]] = {
    "TRL": {},
    "TRL, every linear layer": {"target_modules": "all-linear"},
    "unsloth": {"target_modules": UNSLOTH},
    "ms-swift": {"target_modules": SWIFT},
    "LLaMA-Factory, two layers": {"target_modules": ["q_proj", "v_proj"]},
    "no kind of task": {"task_type": None},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole embeddings": {"modules_to_save": ["embed_tokens"]},
    "both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "whole merger": {"modules_to_save": ["merger"]},
    "whole norms": {"modules_to_save": ["norm"]},
    "head": {"target_modules": [*NAMES, "lm_head"]},
    "embeddings": {"target_modules": [*NAMES, "embed_tokens"]},
    "other ranks everywhere": {"rank_pattern": dict.fromkeys(NAMES, 4)},
    "trained biases": {"bias": "all", "target_modules": "all-linear"},
    "ranks": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 32}},
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "biases of adapters": {"lora_bias": True},
    "biases of the model": {"bias": "all"},
    "single tokens": {"trainable_token_indices": [5, 6, 7]},
    "some layers": {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
    "all but": {"exclude_modules": ["q_proj"]},
    "PiSSA": {"init_lora_weights": "pissa"},
}
BASE = str(find_checkpoint(TINY).folder)


def plain() -> Any:
    return AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(20, 60)[None]).logits
    return found


def make(folder: Path, **settings: Any) -> torch.Tensor:
    """Save a trained adapter; the logits that plain PEFT gives with it."""
    torch.manual_seed(1)
    config = {"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM", "target_modules": NAMES, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(plain(), peft.LoraConfig(**config))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += torch.randn_like(weight) * 0.02
        model.save_pretrained(str(folder))
        with_adapter = peft.PeftModel.from_pretrained(plain(), str(folder)).eval()
    return logits(with_adapter)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_plain_peft(name: str, tmp_path: Path) -> None:
    golden = make(tmp_path, **CASES[name])
    attached = attach_adapter(load_model(find_checkpoint(TINY), "cpu", "fp32"), tmp_path)
    assert (logits(attached) - golden).abs().max() < 1e-5
    assert (golden - logits(plain())).abs().max() > 0.1


RENAMED = {
    "before 4.52": (".model.model.language_model.", ".model.model."),
    "LLaVA's order": (".model.model.language_model.", ".model.language_model.model."),
    "vision tower": (".model.model.visual.", ".model.visual."),
}


@pytest.mark.parametrize("name", RENAMED)
def test_names_of_older_versions_are_converted(name: str, tmp_path: Path) -> None:
    golden = make(tmp_path, target_modules="all-linear")
    new, old = RENAMED[name]
    weights = load_file(tmp_path / ADAPTER_WEIGHTS)
    renamed = {key.replace(new, old): weight for key, weight in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, tmp_path / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    attached = attach_adapter(load_model(find_checkpoint(TINY), "cpu", "fp32"), tmp_path)
    assert (logits(attached) - golden).abs().max() < 1e-5


FULL_NAMES = [f"model.language_model.layers.{n}.mlp.{name}" for n in (0, 1) for name in NAMES[4:]]
SPELLED: dict[str, tuple[dict[str, Any], str, str, str | None]] = {
    "PEFT's own names": ({"use_dora": True}, r"(lora_\w+)(\.weight)?$", r"\1.default.weight", None),
    "no prefix": ({}, r"^base_model\.model\.", "", None),
    "compiled": ({}, r"^base_model\.model\.", "base_model.model._orig_mod.", None),
    "without a head": ({}, r"\.model\.model\.language_model\.", ".model.language_model.", None),
    "whole embeddings": (
        {"modules_to_save": ["embed_tokens"]},
        r"\.model\.model\.language_model\.",
        ".model.model.",
        None,
    ),
    "single tokens": ({"trainable_token_indices": [5]}, r"\.model\.model\.language_model\.", ".model.model.", None),
    "full names": (
        {"target_modules": FULL_NAMES, "rank_pattern": {FULL_NAMES[0]: 4}, "alpha_pattern": {FULL_NAMES[1]: 2}},
        r"\.model\.model\.language_model\.",
        ".model.model.",
        "model.",
    ),
    "expression": (
        {"target_modules": r"model\.language_model\.layers\..*_proj"},
        r"\.model\.model\.language_model\.",
        ".model.language_model.model.",
        r"language_model\.model\.",
    ),
}
"""Settings, what is replaced in the names of weights and by what, and how module names then begin in the settings."""


@pytest.mark.parametrize("name", SPELLED)
def test_other_spellings_of_names_are_read(name: str, tmp_path: Path) -> None:
    settings, new, old, begins = SPELLED[name]
    golden = make(tmp_path, **settings)
    weights = load_file(tmp_path / ADAPTER_WEIGHTS)
    renamed = {re.sub(new, old, key): weight for key, weight in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, tmp_path / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    if begins is not None:
        text = (tmp_path / ADAPTER_CONFIG).read_text()
        current = (
            "model.language_model." if isinstance(settings["target_modules"], list) else r"model\.language_model\."
        )
        (tmp_path / ADAPTER_CONFIG).write_text(text.replace(json.dumps(current)[1:-1], json.dumps(begins)[1:-1]))
    attached = attach_adapter(load_model(find_checkpoint(TINY), "cpu", "fp32"), tmp_path)
    assert (logits(attached) - golden).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "LOKR"}, "peft_type"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"peft_type": None}, "peft_type"),
        ({"exclude_modules": ["q_proj"]}, "belongs to another model"),
        ({"target_modules": [*NAMES, "qkv"]}, "no weights: 6 are missing"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    make(tmp_path)
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(IntegrityError, match=said):
        attach_adapter(load_model(find_checkpoint(TINY), "cpu", "fp32"), tmp_path)


def test_an_adapter_with_another_head_or_of_another_kind_is_named(tmp_path: Path) -> None:
    make(tmp_path / "head", target_modules=[*NAMES, "lm_head"])
    file = tmp_path / "head" / ADAPTER_WEIGHTS
    weights = load_file(file)
    weights["base_model.model.lm_head.base_layer.weight"] += 1
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="holds another lm_head.weight than the model has"):
        attach_adapter(load_model(find_checkpoint(TINY), "cpu", "fp32"), tmp_path / "head")
    shutil.move(file, file.with_name("adapter_model.bin"))
    with pytest.raises(IntegrityError, match="adapter_model.bin is a pickle"):
        attach_adapter(load_model(find_checkpoint(TINY), "cpu", "fp32"), tmp_path / "head")
