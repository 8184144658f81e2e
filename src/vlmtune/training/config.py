"""What the user may choose about training. No torch here: configs load in a moment.

The learning rate of every step.
"""

import math
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from vlmtune.families import PartName
from vlmtune.registry import BaseConfig


class LoraConfig(BaseConfig):
    """Which weights get a low-rank adapter, and how large it is."""

    rank: PositiveInt = 16
    """Adapter rank r. Trainable parameters grow linearly with it."""

    alpha: PositiveFloat = 32
    """Numerator of the adapter scale alpha / rank."""

    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input while training."""

    target_modules: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )
    """Linear layers that get an adapter, by the last part of their name: in every part of the model that `parts` names
    and that has layers of that name."""

    parts: list[PartName] = Field(default=["language_model"], min_length=1)
    """Parts of the model that get an adapter; the others stay frozen. In Qwen3-VL the layers of `vision_tower` are
    qkv, proj, linear_fc1 and linear_fc2, those of `merger` linear_fc1 and linear_fc2: name them in `target_modules`."""

    use_rslora: bool = False
    """Scale the adapter by alpha / sqrt(rank) instead (rsLoRA), so that a large rank learns as fast as a small one."""

    use_dora: bool = False
    """Learn each layer's direction and length apart (DoRA). Slower, and takes more memory."""

    @property
    def scale(self) -> float:
        """What the product B·A is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


class LearningRates(BaseConfig):
    """Peak learning rates of single parts of the model; null takes `training.learning_rate`."""

    language_model: PositiveFloat | None = None
    """Of the adapters on the language model."""

    merger: PositiveFloat | None = None
    """Of the adapters on the layers that join the vision tower's patches into tokens."""

    vision_tower: PositiveFloat | None = None
    """Of the adapters on the vision tower's blocks; often a tenth of the language model's."""


class TrainingConfig(BaseConfig):
    """One LoRA training run."""

    epochs: PositiveInt = 1
    """Passes over the train rows."""

    batch_size: PositiveInt = 8
    """Answers per optimizer step (the global batch)."""

    pack_tokens: PositiveInt = 2048
    """Most tokens in one forward pass. Examples are packed into rows of this length, those about the same pictures
    behind one prefix. Changes memory and speed, never the result beyond rounding; halves by itself where memory does
    not suffice."""

    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate of AdamW."""

    learning_rates: LearningRates = LearningRates()
    """Learning rates of single parts of the model, where they shall differ."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""

    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from 0."""

    weight_decay: NonNegativeFloat = 0.01
    """AdamW's decoupled weight decay."""

    max_grad_norm: PositiveFloat = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""

    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the frozen model; adapters are fp32 always."""

    seed: int = 42
    """Seed of the data order, the adapter's start and dropout."""

    trained_turns: Literal["all", "last"] = "all"
    """In rows with several assistant turns: learn all of them, or only the last."""

    max_tokens: PositiveInt = 4096
    """Longest example in tokens, image tokens included. A longer one is an error: nothing is ever cut."""

    log_every_steps: PositiveInt = 10
    """Steps between two points of the training curve."""

    evaluate_every_steps: PositiveInt | None = None
    """Steps between two judgements on the validation rows; null judges once, at the end."""

    best_metric: str | None = None
    """What chooses the step whose adapter is kept, among those judged: `loss` on the validation rows, or the name of a
    metric of the task, for which they are answered, too. Null keeps the last step. Rows that chose are no evidence: a
    comparison leaves them out."""

    early_stopping: PositiveInt | None = None
    """Judgements without a better one after which training ends; null goes on to the last epoch."""

    seeds: list[int] = []
    """Several adapters of one recipe, one per seed, each judged by itself and compared together as one side. Empty
    trains one, with `seed`."""

    workers: NonNegativeInt = 2
    """Threads that decode pictures and tokenize while the model works; 0 does both in between."""

    save_every_steps: PositiveInt = 50
    """Steps between two checkpoints; at most this much work is lost in a crash."""

    checkpoint_layers: Literal["auto"] | NonNegativeInt = "auto"
    """Activation checkpointing: the first so many layers of the language model keep nothing for the backward pass but
    their input, and are computed again. Saves memory, costs up to a third more time, changes no gradient. `auto` tries
    the longest row before step 1 and takes the fewest that fit into the GPU's memory; 0 on a CPU."""

    attention: Literal["auto", "varlen", "flash", "loop"] = "auto"
    """What computes attention inside packed rows, same result: `varlen` one call of torch per row (GPU, bf16), `flash`
    one of the package flash-attn (GPU, bf16), `loop` one call of torch per segment (anywhere). `auto` takes the first
    of them that runs here."""

    continue_from: str | None = None
    """Folder of an adapter to go on from; its rank, alpha, layers and kind must be those of `lora`. Null starts a
    new one."""

    lora: LoraConfig = LoraConfig()
    """The adapter."""


def learning_rate(step: int, steps: int, settings: TrainingConfig) -> float:
    """Rate of the optimizer step after `step` others: linear warm-up from 0, then the chosen shape down to 0."""
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = (step - warmup) / max(1, steps - warmup)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * left)), "linear": 1 - left, "constant": 1.0}
    return settings.learning_rate * shape[settings.schedule]
