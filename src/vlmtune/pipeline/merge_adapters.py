"""Merging adapters of one model into a single adapter, as PEFT combines them, and measuring that it has an effect."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune import registry
from vlmtune.errors import ConfigError
from vlmtune.files import replace_folder, translate_os_errors, write_json
from vlmtune.modeling.loading import attach_adapter, load_model, pick_device
from vlmtune.pipeline.export import probe_requests
from vlmtune.pipeline.session import Session
from vlmtune.run_folder import read_adapter_config
from vlmtune.run_layout import folder_manifest_path
from vlmtune.training.lora import save_adapter
from vlmtune.types import CombinationType

PRUNED = ("ties", "dare_linear", "dare_ties")
"""Combinations that keep only a part of each adapter's weights."""

OTHER_THAN_LORA = ("modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias", "use_dora")
SOME_LAYERS = ("layers_to_transform", "layers_pattern", "exclude_modules")
"""Keys of PEFT's configuration for what cannot be combined: PEFT would give the result the layers of the first."""


@dataclass(frozen=True, slots=True)
class Combination:
    """How adapters are combined.

    Attributes:
        kind: PEFT's `combination_type`. `cat` gives exactly the weighted sum of what the adapters change, with the sum
            of their ranks; the others keep the rank, which all adapters must share, and combine A and B separately.
        weights: one factor per adapter.
        density: share of the weights that `ties` and `dare_*` keep, in (0, 1].
        seed: of the weights that `dare_*` keeps.
    """

    kind: CombinationType = "cat"
    weights: Sequence[float] = ()
    density: float | None = None
    seed: int = 0


def merge_adapters(session: Session, adapters: Sequence[Path], combination: Combination, target: Path) -> Path:
    """Write one adapter that combines several, with a manifest that names them.

    Raises:
        ConfigError: fewer than two adapters, the folder exists, or they cannot be combined in this way.
        IntegrityError: an adapter does not fit the config, or the result changes nothing.
    """
    _check(adapters, combination, target)
    parts = [
        {"adapter": session.verify_adapter(folder), "weight": weight}
        for folder, weight in zip(adapters, combination.weights, strict=True)
    ]
    for folder in adapters:
        _refuse_other_than_lora(folder)
    config, encoder, precision = session.config, session.encoder, session.config.training.precision
    device = pick_device(config.model)
    model: Any = load_model(encoder.checkpoint, device, precision)
    names = [f"part_{number}" for number in range(len(adapters))]
    for name, folder in zip(names, adapters, strict=True):
        model = attach_adapter(model, folder, name)
    _combine(model, names, combination)
    hf: Any = registry.load("engines", "hf")
    adapter_delta = hf.attached(model, hf.Config(), encoder, device, precision).adapter_delta(probe_requests(session))
    made = {"combination": combination.kind, "density": combination.density, "of": parts}
    if combination.kind.startswith("dare"):
        made["seed"] = combination.seed
    provenance = session.provenance(merged=made)
    with translate_os_errors(target), replace_folder(target) as building:
        save_adapter(model, building, encoder.checkpoint.name, encoder.checkpoint.commit)
        write_json(folder_manifest_path(building), provenance.manifest(target.name, adapter_delta=adapter_delta))
    return target


def _check(adapters: Sequence[Path], combination: Combination, target: Path) -> None:
    if len(adapters) < 2:
        raise ConfigError("name at least two adapters; a single one needs no merging")
    if target.exists():
        raise ConfigError(f"{target} already exists; choose another folder with -o")
    if len(combination.weights) != len(adapters):
        raise ConfigError(f"{len(adapters)} adapters, but {len(combination.weights)} weights; give one --weight each")
    if bad := [weight for weight in combination.weights if weight == 0 or not math.isfinite(weight)]:
        raise ConfigError(f"--weight {bad[0]}: a weight must be a number other than 0")
    if (combination.density is not None) != (combination.kind in PRUNED):
        needed = "needs" if combination.kind in PRUNED else "keeps all weights: remove"
        raise ConfigError(f"{combination.kind} {needed} --density, the share of each adapter's weights that is kept")
    if combination.density is not None and not 0 < combination.density <= 1:
        raise ConfigError(f"--density {combination.density}: it must be above 0 and at most 1")


def _refuse_other_than_lora(folder: Path) -> None:
    config = read_adapter_config(folder)
    present = [key for key in OTHER_THAN_LORA if config.get(key)]
    present += [key for key in SOME_LAYERS if config.get(key) not in (None, [])]
    if config.get("bias", "none") != "none":
        present.append(f"bias={config['bias']}")
    if present:
        raise ConfigError(
            f"{folder}: an adapter with {', '.join(present)} cannot be combined with others: only plain LoRA matrices "
            "add up. Merge it into its model with `vlmtune export --merge`, and train the next one on that"
        )


def _combine(model: Any, names: Sequence[str], combination: Combination) -> None:
    """Replace a model's adapters by their combination, which is then the only one."""
    import torch

    # PEFT copies the first configuration; what it computes from is already scaled, which must not happen again.
    model.peft_config[names[0]].use_rslora = False
    torch.manual_seed(combination.seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.base_model.add_weighted_adapter(
                list(names), list(combination.weights), "default", combination.kind, density=combination.density
            )
    except ValueError as error:
        raise ConfigError(f"PEFT cannot combine these adapters by {combination.kind}: {error}") from None
    model.set_adapter("default")
    for name in names:
        model.delete_adapter(name)
