"""What a run will cost, before the model is loaded: tokens, FLOPs, memory, time and money. No torch.

`make_plan` reads the rows of a config once and returns plain values, which `text.render` prints. After training,
`compare_with_measured` compares the estimate with what was measured.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vlmtune import registry
from vlmtune.config import Config
from vlmtune.data import Rows, open_role
from vlmtune.errors import ConfigError
from vlmtune.families import Shapes
from vlmtune.files import read_json
from vlmtune.hub import go_offline_if_unreachable
from vlmtune.inference import resolved
from vlmtune.modeling.loading import Checkpoint, find_checkpoint
from vlmtune.modeling.quantization import Quantization
from vlmtune.modeling.varlen import repeats_keys
from vlmtune.planning.costs import CARDS, Setup, activation_bytes, base_bytes, flops, memory, trained_weights
from vlmtune.planning.gpus import GPUS, find_gpu
from vlmtune.planning.lengths import Epoch, Work, first_epoch
from vlmtune.planning.whole_run import WholeRun, phases, whole_run
from vlmtune.processing.answer_lengths import count_answers, cut_off
from vlmtune.processing.encoder import Encoder, ImageHeaders
from vlmtune.progress import Progress, Silent
from vlmtune.tasks import for_model
from vlmtune.training.activation_checkpointing import fewest_layers
from vlmtune.training.config import ALL_LINEAR, LoraConfig, TrainingConfig
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.mixture import mix
from vlmtune.training.thinking import open_encoder

EFFICIENCY = 0.35
"""Assumed fraction of a datasheet's bf16 rate; published training runs on images reach 0.30 to 0.40."""
PRECISIONS: tuple[tuple[str, Quantization | None], ...] = (("bf16", None), ("bf16", "nf4"), ("fp32", None))
"""Precisions in the memory table: of the arithmetic, and of the language model's weights if quantized."""


@dataclass(frozen=True, slots=True)
class Rented:
    """What is known of the GPUs that a run would be on.

    `price` is that of one, in USD per hour; `efficiency` the assumed fraction of the datasheet's bf16 rate; `cards` how
    many train together, of which one answers.
    """

    price: float | None = None
    efficiency: float = EFFICIENCY
    cards: int = 1


def usd_per_tflop(gpu: str, price: float) -> float:
    """What a TFLOP of training costs on a GPU of that price in USD per hour.

    Raises:
        ConfigError: no such GPU.
    """
    return price / 3600 / (GPUS[find_gpu(gpu)].bf16_tflops * EFFICIENCY)


@dataclass(frozen=True, slots=True)
class Estimate:
    """FLOPs of one epoch, and its peak memory beyond the loaded model."""

    flops: int
    peak_bytes: int


def survey(config: Config, checkpoint: Checkpoint, rows: Sequence[Rows], progress: Progress) -> Epoch:
    """The first epoch over the train rows of the dataset, and of the further ones of a mixture.

    Raises:
        DataError: a row cannot be trained on; names it.
    """
    encoder = open_encoder(checkpoint, config.model, config.training, config.dataset, ImageHeaders)
    main, *others = (
        TrainingExamples(part, registry.load("tasks", task.name).TASK, task, encoder, config.training)
        for part, task in zip(rows, (config.task, *(one.task for one in config.datasets)), strict=True)
    )
    chosen = mix(main, config.dataset.target, list(zip(config.datasets, others, strict=True)))
    return first_epoch(chosen.examples, chosen.target, progress, chosen.shares)


def shapes_of(checkpoint: Checkpoint) -> Shapes:
    """The matrices of a checkpoint."""
    return checkpoint.family.shapes(read_json(checkpoint.folder / "config.json"))


def _with_layers(config: Config, checkpoint: Checkpoint) -> Config:
    """The config with names for `training.lora.target_modules`: the family's own layers, or those that text selects."""
    lora = config.training.lora.for_family(checkpoint.family)
    if isinstance(lora.target_modules, str):
        names = selected_layers(lora.target_modules, lora, checkpoint)
        lora = lora.model_copy(update={"target_modules": names})
    return config.model_copy(update={"training": config.training.model_copy(update={"lora": lora})})


def selected_layers(wanted: str, lora: LoraConfig, checkpoint: Checkpoint) -> list[str]:
    """Names of the linear layers that `all-linear` or a regular expression selects; in which layers is not known."""
    family, names = checkpoint.family, []
    for part in lora.parts:
        for linear, _ in shapes_of(checkpoint).adapted(part):
            inner = ("", "self_attn.", "attn.", "attention.", "mlp.", f"{family.linear_attention}.")
            layers = ("", "0.", "1.", "layers.0.", "layers.1.")
            full = [f"{s}.{n}{b}{linear.name}" for s in family.parts[part] for n in layers for b in inner]
            every = wanted.lower() == ALL_LINEAR and linear.copies == 1
            if every or any(re.fullmatch(wanted, name) for name in full):
                names.append(linear.name)
    return names


def estimate(
    config: Config,
    checkpoint: Checkpoint,
    epoch: Epoch,
    checkpoint_layers: int,
    on_cpu: bool = False,
    cards: int = 1,
) -> Estimate:
    """FLOPs and memory of one epoch with a number of checkpointed layers; memory is that of one of the cards."""
    config, shapes = _with_layers(config, checkpoint), shapes_of(checkpoint)
    terms = flops(shapes, config.training.lora, epoch.work, checkpoint_layers, config.training.full)
    needed = memory(shapes, replace(_setup(config, cards), on_cpu=on_cpu), epoch.distinct, checkpoint_layers)
    return Estimate(sum(term.flops for term in terms), needed.peak)


def flops_per_sample(config: Config, checkpoint: Checkpoint) -> float:
    """FLOPs of training on a sample, the mean of the first epoch, without checkpointed layers."""
    rows = [open_role(block, "train") for block in (config.dataset, *(one.dataset for one in config.datasets))]
    epoch = survey(config, checkpoint, rows, Progress(Silent()))
    return estimate(config, checkpoint, epoch, 0).flops / len(epoch.tokens)


def _setup(config: Config, cards: int = 1) -> Setup:
    """What memory depends on, with the torch that is installed here, on one of some cards."""
    training = config.training
    repeated = training.attention in ("auto", "varlen") and repeats_keys()
    full = tuple(training.full)
    return Setup(
        training.precision,
        training.lora,
        config.model.quantization,
        repeated_keys=repeated,
        full=full,
        shards=1 if training.sharding == "none" else cards,
    )


def compare_with_measured(
    config: Config, checkpoint: Checkpoint, rows: Sequence[Rows], facts: Mapping[str, Any], progress: Progress
) -> str:
    """One line that compares the plan with the measurements in `facts`, the adapter's manifest."""
    training = config.training.model_copy(update={"pack_tokens": facts["pack_tokens"]})
    config = config.model_copy(update={"training": training})
    epoch = survey(config, checkpoint, rows, progress)
    on_cpu = facts["device"] == "cpu"
    planned = estimate(config, checkpoint, epoch, facts["checkpoint_layers"], on_cpu, facts["world_size"])
    computed = planned.flops * facts["samples_in_steps"] / len(epoch.tokens)
    line = f"planned {planned.flops / 1e12:,.1f} TFLOP an epoch"
    if facts["seconds_in_steps"] > 0:
        line += f"; reached {computed / facts['seconds_in_steps'] / 1e12:,.3g} TFLOP/s"
    if (peak := facts["peak_bytes_over_model"]) is not None:
        error = planned.peak_bytes / peak - 1
        line += f"; planned {planned.peak_bytes / 1e9:.2f} GB over the model, took {peak / 1e9:.2f} ({error:+.0%})"
    return line


def make_plan(config: Config, progress: Progress, gpu: str | None, rented: Rented | None = None) -> dict[str, Any]:
    """The plan of a config as plain values.

    Args:
        config: of the run.
        progress: notified of the rows being read.
        gpu: name of the GPU to plan for; None plans for all known ones.
        rented: how many of that GPU, and what they cost.

    Raises:
        ConfigError: no such GPU, a price without a GPU, or an unknown architecture.
        EnvironmentProblem: model or dataset cannot be reached.
        DataError: a row cannot be trained on; names it.
    """
    rented = rented or Rented()
    gpus = list(GPUS) if gpu is None else [find_gpu(gpu)]
    _check(rented, gpu, config.training)
    if config.needs_hub:
        go_offline_if_unreachable(progress)
    checkpoint = find_checkpoint(config.model)
    config, shapes = _with_layers(config, checkpoint), shapes_of(checkpoint)
    rows = [open_role(block, "train") for block in (config.dataset, *(one.dataset for one in config.datasets))]
    epoch = survey(config, checkpoint, rows, progress)
    training, setup = config.training, _setup(config, rented.cards)
    requested = 0 if training.checkpoint_layers == "auto" else training.checkpoint_layers
    if requested > shapes.decoder.layers:
        raise ConfigError(
            f"training.checkpoint_layers is {requested}, but this model has {shapes.decoder.layers} layers"
        )
    encoder = open_encoder(checkpoint, config.model, config.training, config.dataset, ImageHeaders)
    limit = resolved(config.inference, encoder).answer_limit
    passes = training.passes or (training.max_steps or 0) / epoch.steps
    rest = whole_run(config, checkpoint, encoder, training.max_steps or max(1, math.ceil(passes * epoch.steps)), limit)
    return {
        "schema_version": 1,
        "model": checkpoint.name,
        "parameters": shapes.parameters,
        "active_parameters": shapes.active_parameters,
        "trained_weights": trained_weights(shapes, training.lora, training.full),
        "precision": training.precision,
        "quantization": config.model.quantization,
        "notes": _notes(config, encoder, rows[0], limit, rented.cards),
        "epochs": passes * max(1, len(training.seeds)),
        "shapes": asdict(shapes),
        "epoch": _epoch(epoch),
        "flops": _flops(config, shapes, epoch.work, requested),
        "memory": _memory(shapes, setup, epoch.distinct),
        "efficiency": rented.efficiency,
        "price_per_hour": rented.price,
        "cards": rented.cards,
        "answers": {**asdict(rest), "limit": limit},
        "gpus": [
            {**one, "whole_run": _whole_run(one, rest, config, shapes, passes, rented)}
            for name in gpus
            for one in [_gpu(name, config, shapes, epoch, rented)]
        ],
    }


def _check(rented: Rented, gpu: str | None, training: TrainingConfig) -> None:
    batch_size = training.batch_size
    if rented.price is not None and gpu is None:
        raise ConfigError("--price needs --gpu: it is the price of one GPU")
    if not 0 < rented.efficiency <= 1:
        raise ConfigError(f"--efficiency must be above 0 and at most 1 (got {rented.efficiency:g})")
    if not 1 <= rented.cards <= batch_size:
        raise ConfigError(
            f"--cards must be 1 to training.batch_size, {batch_size} (got {rented.cards}): every card needs at least "
            "one answer of each batch"
        )
    if rented.cards > 1 and training.objective == "grpo":
        raise ConfigError("--cards: training.objective: grpo trains in one process, on one GPU; leave the option out")


def _notes(config: Config, encoder: Encoder, rows: Rows, limit: int, cards: int) -> list[str]:
    """What the plan does not count, and answers that inference would cut off."""
    notes = ["the additional computation and memory of DoRA are not counted"] if config.training.lora.use_dora else []
    if config.training.sharding != "none":
        notes.append(
            "the time in which layers are gathered is not counted"
            if cards > 1
            else "training.sharding=fsdp needs several GPUs, and this plan is for one: name them with --gpu and --cards"
        )
    if config.training.objective == "grpo":
        notes.append(
            "this is the plan of training on the targets; of training on rewards it does not count that "
            f"{config.training.grpo.answers} answers to each row are drawn, and computed once more with the adapter "
            "that they must stay near"
        )
    task = for_model(registry.load("tasks", config.task.name).TASK, encoder.with_box_scale, encoder.with_objects)
    message = cut_off(count_answers(rows, task, config.task, encoder), limit)
    return notes if message is None else [*notes, message]


def _whole_run(
    gpu: Mapping[str, Any],
    run: WholeRun,
    config: Config,
    shapes: Shapes,
    passes: float,
    rented: Rented,
) -> dict[str, Any] | None:
    """The phases of the run on some of a GPU, with time and money; None if the time of its steps is not known."""
    if gpu["seconds_per_epoch"] is None:
        return None
    training_s = gpu["seconds_per_epoch"] * passes / rented.cards
    parts = dict(phases(run, config, shapes, GPUS[gpu["name"]], rented.efficiency, training_s))
    seconds = sum(parts.values())
    usd = None if rented.price is None else seconds / 3600 * rented.price * rented.cards
    return {"seconds": seconds, "usd": usd, "phases": parts}


def _epoch(epoch: Epoch) -> dict[str, Any]:
    tokens = int(epoch.tokens.sum())
    return {
        "rows": epoch.rows,
        "samples": len(epoch.tokens),
        "steps": epoch.steps,
        "packed_sequences": epoch.packed_sequences,
        "tokens_per_sample": {
            "mean": float(epoch.tokens.mean()),
            "p50": float(np.percentile(epoch.tokens, 50)),
            "p95": float(np.percentile(epoch.tokens, 95)),
            "max": int(epoch.tokens.max()),
        },
        "image_share": int(epoch.image_tokens.sum()) / tokens,
        "supervised_share": int(epoch.supervised.sum()) / tokens,
        "tokens": {"padded": epoch.padded_tokens, "packed": tokens, "packed_and_shared": epoch.work.tokens},
        "work": asdict(epoch.work),
    }


def _flops(config: Config, shapes: Shapes, work: Work, checkpoint_layers: int) -> dict[str, Any]:
    terms = flops(shapes, config.training.lora, work, checkpoint_layers, config.training.full)
    return {"terms": [asdict(term) for term in terms], "total": sum(term.flops for term in terms)}


def _memory(shapes: Shapes, setup: Setup, sequences: Iterable[Work]) -> dict[str, Any]:
    configured = (setup.precision, setup.quantization)
    may_quantize = "language_model" not in setup.full and setup.shards == 1
    shown = [each for each in PRECISIONS if each[1] is None or may_quantize]
    shown += [] if configured in shown else [configured]
    decoder = shapes.decoder
    kinds = [activation_bytes(shapes, kind, setup) for kind in decoder.kinds]
    return {
        "activation_bytes_per_token_and_layer": sum(kinds[n] for n in decoder.order) // decoder.layers,
        "precisions": [
            {
                "precision": precision,
                "quantization": quantization,
                "base_bytes": base_bytes(shapes, precision, quantization, setup.shards),
                "over_base": [
                    {**asdict(needed), "peak": needed.peak}
                    for count in range(shapes.decoder.layers + 1)
                    for needed in [memory(shapes, each, sequences, count)]
                ],
            }
            for precision, quantization in shown
            for each in [replace(setup, precision=precision, quantization=quantization)]
        ],
    }


def _gpu(name: str, config: Config, shapes: Shapes, epoch: Epoch, rented: Rented) -> dict[str, Any]:
    """One GPU: how many layers are checkpointed, time, money, and what to change if it is too small."""
    training, gpu, setup = config.training, GPUS[name], _setup(config, rented.cards)
    needed = _needed(shapes, setup, epoch.distinct, training.checkpoint_layers, gpu.room)
    terms = flops(shapes, training.lora, epoch.work, needed["checkpoint_layers"], training.full)
    seconds = sum(term.flops for term in terms) / (gpu.bf16_tflops * 1e12 * rented.efficiency)
    # The datasheet's bf16 rate, which is fp16's, says nothing about fp32.
    timed = needed["fits"] and training.precision != "fp32"
    return {
        "name": name,
        "memory_gb": gpu.memory_gb,
        "bf16_tflops": gpu.bf16_tflops,
        **needed,
        "flops_per_epoch": sum(term.flops for term in terms),
        "seconds_per_epoch": seconds if timed else None,
        "usd_per_epoch": seconds / 3600 * rented.price if timed and rented.price is not None else None,
        "changes": [] if needed["fits"] else _changes(config, shapes, setup, epoch, gpu.room),
        "sharded": None if needed["fits"] else _fewest_cards(shapes, setup, epoch, training, gpu.room),
    }


def _fewest_cards(
    shapes: Shapes, setup: Setup, epoch: Epoch, training: TrainingConfig, room: int
) -> dict[str, Any] | None:
    """How many cards it takes to divide the model among, and the memory of each; None if not even the most suffice."""
    for cards in CARDS if setup.quantization is None else ():
        needed = _needed(shapes, replace(setup, shards=cards), epoch.distinct, training.checkpoint_layers, room)
        if needed.pop("fits"):
            return {"cards": cards, **needed}
    return None


def _needed(shapes: Shapes, setup: Setup, sequences: Iterable[Work], requested: int | str, room: int) -> dict[str, Any]:
    """How many layers to checkpoint, and the peak memory with them; the lowest peak if nothing fits."""
    base = base_bytes(shapes, setup.precision, setup.quantization, setup.shards)
    layers = shapes.decoder.layers
    if setup.shards > 1 and requested == "auto":
        requested = layers  # as training does

    def peak(count: int) -> int:
        return base + memory(shapes, setup, sequences, count).peak

    if isinstance(requested, int):
        return {"checkpoint_layers": requested, "peak_bytes": peak(requested), "fits": peak(requested) <= room}
    fitting = fewest_layers(layers, lambda count: peak(count) <= room)
    count = fitting if fitting is not None else min(range(layers + 1), key=peak)
    return {"checkpoint_layers": count, "peak_bytes": peak(count), "fits": fitting is not None}


def _changes(config: Config, shapes: Shapes, setup: Setup, epoch: Epoch, room: int) -> list[dict[str, Any]]:
    """Settings that need less memory, alone and combined, least intrusive first, each with its peak memory."""
    small = replace(setup, precision="bf16", quantization="nf4")
    # Examples are never split, so pack_tokens=1 gives every example a sequence of its own.
    auto, short = "training.checkpoint_layers=auto", "training.pack_tokens=1"
    tries = [([auto], setup, epoch.distinct)] if config.training.checkpoint_layers != "auto" else []
    always = [auto] if tries else []
    shorter = epoch.unpacked != epoch.distinct
    if shorter:
        tries.append(([*always, short], setup, epoch.unpacked))
    if "language_model" in setup.full:
        adapter = setup.lora.model_copy(update={"parts": ["language_model"]})
        with_adapter = replace(setup, lora=adapter, full=())
        tries.append(([*always, "training.method=lora"], with_adapter, epoch.distinct))
    elif setup.quantization is None and setup.shards == 1:
        four_bits = [*always, "model.quantization=nf4"]
        four_bits += ["training.precision=bf16"] if setup.precision != "bf16" else []
        tries.append((four_bits, small, epoch.distinct))
        if shorter:
            tries.append(([*four_bits, short], small, epoch.unpacked))
    return [{"set": words, **_needed(shapes, each, sequences, "auto", room)} for words, each, sequences in tries]
