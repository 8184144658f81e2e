"""Adapters of other tools and older versions, under the names that modules have in the installed transformers.

PEFT attaches an adapter whose names do not match without its weights. So weights are renamed in a copy, and where the
paths of modules have changed, its configuration then names those modules one by one.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmtune.run_layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS

PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the name of a module."""

OLD_NAMES = (
    (r"^base_model\.model\.(layers|embed_tokens|norm)\.", r"base_model.model.model.language_model.\1."),
    (r"^base_model\.model\.model\.(layers|embed_tokens|norm)\.", r"base_model.model.model.language_model.\1."),
    (r"^base_model\.model\.language_model\.(model\.)?(?!lm_head)", "base_model.model.model.language_model."),
    (r"^base_model\.model\.language_model\.lm_head\.", "base_model.model.lm_head."),
    (r"^base_model\.model\.(visual|vision_tower|multi_modal_projector)\.", r"base_model.model.model.\1."),
)
"""Names of modules before transformers 4.52, and what they became."""

WRAPPERS = re.compile(r"(?<=\.)(?:_orig_mod|module)\.")
"""What torch.compile and data-parallel training put into names."""


def current_name(name: str) -> str:
    """The name of an adapter's weight as PEFT saves it in current versions of transformers."""
    name = WRAPPERS.sub("", name if name.startswith(PEFT_PREFIX) else PEFT_PREFIX + name)
    name = re.sub(r"(\.lora_\w+)\.default(?=\.|$)", r"\1", name)
    name = name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")
    for old, new in OLD_NAMES:
        name = re.sub(old, new, name)
    return name


@contextmanager
def under_current_names(folder: Path) -> Iterator[Path]:
    """An adapter's folder, or while the context lasts a copy of it whose names are current.

    Raises:
        safetensors.SafetensorError: its file of weights is damaged.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as weights:
        names = {name: current_name(name) for name in weights.keys()}  # noqa: SIM118
    if all(old == new for old, new in names.items()):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="vlmtune-adapter-") as copy:
        renamed = {names[name]: weight for name, weight in load_file(folder / ADAPTER_WEIGHTS).items()}
        save_file(renamed, Path(copy) / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        config = json.loads((folder / ADAPTER_CONFIG).read_text())
        modules = {_module(old): _module(new) for old, new in names.items() if ".lora_" in old}
        config = _with_modules(config, modules)
        (Path(copy) / ADAPTER_CONFIG).write_text(json.dumps(config))
        yield Path(copy)


def _module(name: str) -> str:
    return WRAPPERS.sub("", name).partition(".lora_")[0].removeprefix(PEFT_PREFIX)


def _with_modules(config: Mapping[str, Any], modules: Mapping[str, str]) -> dict[str, Any]:
    """An adapter's configuration for renamed modules; as it is where their paths are the same."""
    from peft.utils.other import get_pattern_key

    saved = [_module(current_name(f"{name}.")).removesuffix(".") for name in config.get("modules_to_save") or ()]
    found = {**config, "modules_to_save": saved or None}
    if config.get("target_parameters") or all(old == new for old, new in modules.items()):
        return found
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        matches = {new: get_pattern_key(list(patterns), old) for old, new in modules.items()}
        found[key] = {re.escape(new): patterns[match] for new, match in matches.items() if match in patterns}
    return {**found, "target_modules": sorted(set(modules.values()))}
