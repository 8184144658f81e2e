"""Adding a LoRA adapter to a model or training parts of it in full, and saving the result in PEFT's format."""

import itertools
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.distributed import SINGLE_PROCESS, ProcessGroup
from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.families import EXPERTS, Family, PartName
from vlmtune.files import read_json, translate_os_errors, write_bytes
from vlmtune.modeling.adapter_names import PEFT_PREFIX
from vlmtune.modeling.loading import refuse_not_finite
from vlmtune.modeling.lora_layers import compute_in_base_precision
from vlmtune.registry import did_you_mean
from vlmtune.run_folder import read_adapter_config
from vlmtune.run_layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from vlmtune.training.config import ALL_LINEAR, LoraConfig, TrainingConfig
from vlmtune.training.full_weights import give_copies, learning, load_whole_state, train_in_full, whole_state
from vlmtune.training.lora_init import adapter_state, changes_base, check_sizes, double_rank, of_original_base
from vlmtune.training.sharding import shape_of

if TYPE_CHECKING:
    import peft
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

CONTINUED = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}
"""Settings that an adapter must share with the one it continues from: PEFT's name and ours."""


def add_adapter(  # noqa: PLR0913, PLR0917 - what the trained weights and their initial values depend on
    model: "PreTrainedModel",
    settings: LoraConfig,
    family: Family,
    seed: int,
    continue_from: Path | None = None,
    full: Sequence[PartName] = (),
    copies: bool = True,
) -> "PeftModel":
    """Add an fp32 adapter to the chosen parts of a model; the rest stays frozen, except for parts trained in full.

    Args:
        model: a loaded model without an adapter.
        settings: of the adapter; with no `parts`, there is none.
        family: maps module names to parts of the model.
        seed: of the initial weights.
        continue_from: folder of an adapter whose weights are the initial ones instead.
        full: parts whose own weights are trained.
        copies: whether those in half precision get fp32 copies now; a model that is to be sharded gets them later.

    Raises:
        ConfigError: a name in `target_modules` matches no linear layer of those parts, or a part has no such layer; or
            the initial weights cannot be computed from this base.
        ConfigError, IntegrityError: as `continue_adapter`.
    """
    import peft
    import torch

    torch.manual_seed(seed)
    settings = settings.for_family(family)
    config = _peft_config(model, settings, family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses a deprecated name of transformers
        try:
            adapted = peft.get_peft_model(model, config)
        except TypeError as error:
            raise ConfigError(f"training.lora.init_lora_weights: {settings.init_lora_weights}: {error}") from None
    if changes_base(settings.init_lora_weights):
        check_sizes(adapted, str(settings.init_lora_weights))
    for parameter in trainable(adapted).values():
        parameter.data = parameter.data.float().contiguous()
    compute_in_base_precision(adapted)
    if full:  # named here after PEFT has wrapped what it knew of
        adapted.peft_config["default"].modules_to_save = train_in_full(model, family, full)  # type: ignore[attr-defined]
    if continue_from is not None:
        continue_adapter(adapted, continue_from)
    if copies:
        give_copies(adapted)
    return adapted


def _peft_config(model: "PreTrainedModel", settings: LoraConfig, family: Family) -> "peft.LoraConfig":
    import peft

    init = True if settings.init_lora_weights in (None, "loftq") else settings.init_lora_weights
    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # accepts any number
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings, family),
        target_parameters=(_stacked(model, settings, family) or None) if settings.parts else None,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        bias="none",
        task_type="CAUSAL_LM",
        init_lora_weights=init,  # type: ignore[arg-type]  # it knows pissa_niter_N
    )


def continue_adapter(model: "PeftModel", folder: Path) -> None:
    """Replace the weights of a new adapter with those of an adapter folder.

    Raises:
        IntegrityError: not an adapter folder.
        ConfigError: the folder's rank, alpha, kind or layers are not those of `training.lora`.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    file = folder / ADAPTER_WEIGHTS
    if not file.is_file() or not (folder / ADAPTER_CONFIG).is_file():
        raise IntegrityError(
            f"training.continue_from: {folder} is not an adapter (needs {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS})"
        )
    theirs: Any = read_adapter_config(folder)
    ours: Any = model.peft_config["default"]
    given, configured = (sorted(each or ()) for each in (theirs.get("modules_to_save"), ours.modules_to_save))
    if given != configured:
        raise ConfigError(
            f"training.continue_from: in {folder}, {', '.join(given) or 'nothing'} was trained in full, and in this "
            f"configuration {', '.join(configured) or 'nothing'} is; set training.method to the adapter's, or start a "
            "new one with training.continue_from=null"
        )
    adapters = adapter_state(model)
    for key, name in CONTINUED.items() if adapters else ():
        given, configured = theirs.get(key, False), getattr(ours, key)
        if given != configured:
            raise ConfigError(
                f"training.continue_from: {folder} has {name} {given}, this configuration {configured}; set "
                f"training.lora.{name} to the adapter's, or start a new one with training.continue_from=null"
            )
    refuse_not_finite(folder)
    weights, wanted = load_file(file), adapters | dict(weights_in_full(model))
    unmatched = {(n, w.shape) for n, w in weights.items()} ^ {(n, w.shape) for n, w in wanted.items()}
    if unmatched:
        name, shape = min(unmatched)
        raise ConfigError(
            f"training.continue_from: {folder} adapts other layers than training.lora.target_modules and "
            f"parts select in this model: {len(unmatched)} weights do not fit, first {name} {tuple(shape)}"
        )
    if adapters:
        set_peft_model_state_dict(model, {name: weights[name].float() for name in adapters})
    base: Any = model.base_model.model
    load_whole_state(base, weights)


def weights_in_full(model: "PeftModel") -> "Iterator[tuple[str, torch.Tensor]]":
    """The weights that are trained in full, as `full_weights.whole_state` yields them."""
    settings: Any = model.peft_config["default"]
    base: Any = model.base_model.model
    return whole_state(base, settings.modules_to_save or ())


def trainable(model: "torch.nn.Module") -> "dict[str, torch.nn.Parameter]":
    """What the optimizer updates, in fp32, by the name of the weight, sorted."""
    return {name: learning(p) for name, p in sorted(model.named_parameters()) if p.requires_grad}


def optimizer_groups(model: "PeftModel", family: Family, settings: TrainingConfig) -> list[dict[str, Any]]:
    """The trained weights as parameter groups for AdamW, by part of the model; with LoRA+, B apart from the rest.

    `share` of a group is its peak learning rate divided by `training.learning_rate`: all groups follow one schedule.
    Vectors of a part that is trained in full do not decay.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, weight in trainable(model).items():
        # Of what is trained in full, the head alone belongs to the language model by function, not by name.
        rate = settings.rate(family.part(name.removeprefix(PEFT_PREFIX)) or "language_model")
        is_vector, is_lora = weight.ndim == 1, ".lora_" in name
        # As peft.optimizers groups them: vectors, DoRA's magnitudes, learn as fast as B.
        if is_lora and ("lora_B" in name or is_vector):
            rate *= settings.lora_plus_ratio or 1
        groups.setdefault((rate, settings.weight_decay if is_lora or not is_vector else 0.0), []).append(weight)
    return [
        {"params": weights, "lr": rate, "share": rate / settings.learning_rate, "weight_decay": decay}
        for (rate, decay), weights in groups.items()
    ]


def in_full(model: "PeftModel", family: Family, settings: TrainingConfig) -> Iterator[str]:
    """One line per part that is trained in full: how many weights, and how fast they learn."""
    counts = dict.fromkeys(settings.full, 0)
    for name, weight in trainable(model).items():
        if ".lora_" not in name:
            counts[family.part(name.removeprefix(PEFT_PREFIX)) or "language_model"] += shape_of(weight).numel()
    for part, count in counts.items():
        yield (
            f"{part.replace('_', ' ')}: all {count:,} weights are trained, at a learning rate of up to "
            f"{settings.rate(part):g} (training.learning_rates.{part})"
        )


def _targets(model: "PreTrainedModel", settings: LoraConfig, family: Family) -> list[str] | str:
    """PEFT's `target_modules`: layer names if only the language model has them, else a pattern for the chosen parts."""
    import torch
    from peft.utils.constants import DUMMY_TARGET_MODULES

    if not settings.parts:
        return str(DUMMY_TARGET_MODULES)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    wanted = settings.target_modules or []
    if isinstance(wanted, str) and wanted.lower() != ALL_LINEAR:
        _check_pattern(model, wanted, settings, family)
        return wanted
    experts = sorted({EXPERTS + name.rpartition(".")[2] for name in _expert_weights(model, family)})
    chosen: dict[str, set[str]] = {part: set() for part in settings.parts}
    others: set[str] = set()
    for name in linear:
        chosen.get(family.part(name) or "", others).add(name.rpartition(".")[2])
    if isinstance(wanted, str):
        wanted = sorted(set().union(*chosen.values()))
    if "language_model" in chosen:
        chosen["language_model"].update(experts)
    if experts and (mlp := sorted({"gate_proj", "up_proj", "down_proj"} & set(wanted))):
        raise ConfigError(
            f"training.lora.target_modules: PEFT takes {', '.join(mlp)} of a mixture of experts for the experts "
            f"themselves; name those ({', '.join(experts)}), or leave them out"
        )
    _check_names(wanted, chosen)
    names = [name for name in wanted if name not in experts]
    if settings.parts == ["language_model"] and not others & set(names):
        return sorted(names)
    # A name alone would also match layers of other kinds, like the patch convolution of Qwen3-VL ("proj").
    starts = sorted(re.escape(start) for part in set(settings.parts) for start in family.parts[part])
    return rf"({'|'.join(starts)})\.(.*\.)?({'|'.join(map(re.escape, sorted(names)))})"


def _check_pattern(model: "PreTrainedModel", pattern: str, settings: LoraConfig, family: Family) -> None:
    """Check that a regular expression matches linear layers of every chosen part, and nothing else."""
    import torch

    matched = {name: module for name, module in model.named_modules() if re.fullmatch(pattern, name)}
    parts = {name: family.part(name) for name in matched}
    for name, module in matched.items():
        if not isinstance(module, torch.nn.Linear):
            raise ConfigError(
                f"training.lora.target_modules: {pattern!r} matches {name}, which is no linear layer but a "
                f"{type(module).__name__}; narrow it"
            )
        if parts[name] not in settings.parts:
            where = f"the {str(parts[name]).replace('_', ' ')}" if parts[name] else "no part that can have an adapter"
            raise ConfigError(
                f"training.lora.target_modules: {pattern!r} matches {name}, a layer of {where}, but "
                f"training.lora.parts names {', '.join(settings.parts)} only; add the part, or narrow the expression"
            )
    for part in settings.parts:
        if part not in parts.values():
            linear = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
            example = next((name for name in linear if family.part(name) == part), "none")
            raise ConfigError(
                f"training.lora.target_modules: {pattern!r} matches no linear layer of the {part.replace('_', ' ')}; "
                f"it must match full names such as {example}"
            )


def _expert_weights(model: "PreTrainedModel", family: Family) -> list[str]:
    """Full names of the language model's weights that are stacked, one matrix per expert."""
    named = model.named_parameters()
    return [n for n, weight in named if weight.ndim == 3 and f".{EXPERTS}" in n and family.part(n) == "language_model"]


def _stacked(model: "PreTrainedModel", settings: LoraConfig, family: Family) -> list[str]:
    """PEFT's `target_parameters`: the chosen stacked weights, by the last three components of their names."""
    given = settings.target_modules
    names = tuple(f".{name}" for name in given or ()) if not isinstance(given, str) else ()
    chosen = [name for name in _expert_weights(model, family) if name.endswith(names)]
    return sorted({".".join(name.split(".")[-3:]) for name in chosen})


def _check_names(names: Sequence[str], chosen: Mapping[str, Set[str]]) -> None:
    """Check that every name is a layer of a chosen part, and that every chosen part has one of them."""
    known = sorted(set().union(*chosen.values()))
    where = " or ".join(part.replace("_", " ") for part in chosen)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"training.lora.target_modules: {name!r} matches no linear layer of the {where}"
                + did_you_mean(name, known, otherwise=".")
                + f" There are: {', '.join(known)}"
            )
    for part, layers in chosen.items():
        if not layers & set(names):
            raise ConfigError(
                f"training.lora.parts names {part}, but none of training.lora.target_modules is a layer of it. "
                f"There are: {', '.join(sorted(layers))}"
            )


def check_first_gradients(model: "PeftModel", family: Family, processes: ProcessGroup = SINGLE_PROCESS) -> bool:
    """Check that every B and every weight that is trained in full has a gradient at the first step.

    What has none is not connected to the loss. Every A has a gradient of zero at first, because B begins with zeros.

    Args:
        model: after the backward pass of a whole batch.
        family: maps weights to parts of the model.
        processes: those that share the model; of a weight that is divided, one of them has a gradient.

    Returns:
        False if no weight of the merger and the vision tower has a gradient, as after a batch without images: they are
        to be checked again with a later one.

    Raises:
        IntegrityError: names the layers.
    """
    import torch

    trained = trainable(model).items()
    gradients = {name: weight.grad for name, weight in trained if "lora_B" in name or ".lora_" not in name}
    present = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    alive: list[float] = []
    if present:  # one transfer for all: asking each of them would wait for the GPU as often
        found = torch.stack([gradient.any() for gradient in present.values()]).float()
        processes.all_reduce([found])
        alive = found.tolist()
    unconnected = gradients.keys() - {name for name, any_ in zip(present, alive, strict=True) if any_}
    parts = {name: family.part(name.removeprefix(PEFT_PREFIX)) for name in gradients}
    of_images = {name for name, part in parts.items() if part in ("merger", "vision_tower")}
    is_without_images = bool(of_images) and of_images <= unconnected
    dead = sorted(unconnected - of_images if is_without_images else unconnected)
    if dead:
        raise IntegrityError(
            f"{len(dead)} adapter layers got no gradient at the first step, first {dead[0]}: they would never learn. "
            "Choose other training.lora.target_modules"
            if any(".lora_" in name for name in dead)
            else f"{len(dead)} weights got no gradient at the first step, first {dead[0]}: they would never learn. "
            "Leave that part out of training.method"
        )
    return not is_without_images


def save_adapter(
    model: "PeftModel",
    folder: Path,
    base: str,
    revision: str | None,
    initial: "Mapping[str, torch.Tensor] | None" = None,
) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`, byte-identical for identical weights.

    PEFT writes `target_modules` in the order of a set, and the base model's local path; both are corrected.

    Args:
        model: with the adapter.
        folder: created if needed.
        base: name of the base model.
        revision: its commit; None for a local folder.
        initial: weights that were taken out of the base model (`lora_init`), if any were.

    Raises:
        EnvironmentProblem: the disk is full, or the folder is not writable.
    """
    from safetensors.torch import save as to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    adapters = adapter_state(model)
    if initial is not None:
        adapters = of_original_base(adapters, initial)
    state = itertools.chain(adapters.items(), weights_in_full(model))
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in state}
    write_bytes(folder / ADAPTER_WEIGHTS, to_bytes(weights, metadata={"format": "pt"}))
    config = model.peft_config["default"]
    config.inference_mode = True
    with translate_os_errors(folder):
        config.save_pretrained(str(folder))
    file = folder / ADAPTER_CONFIG
    written: dict[str, Any] = read_json(file)
    # With its own value, PEFT would take the initial part out of the base model of whoever loads the adapter.
    written |= {"base_model_name_or_path": base, "revision": revision, "init_lora_weights": True}
    written |= double_rank(config) if initial is not None else {}
    for key in ("target_modules", "target_parameters"):
        if isinstance(written.get(key), list):
            written[key] = sorted(written[key])
    write_bytes(file, (json.dumps(written, indent=2, sort_keys=True) + "\n").encode())
