"""What the user may choose about training. No torch here: configs load in a moment."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from vlmtune.plugs import Part


class LoraConfig(Part):
    """Which weights get a low-rank adapter, and how large it is."""

    rank: PositiveInt = 16
    """Adapter rank r. Trainable parameters grow linearly with it."""

    alpha: PositiveFloat = 32
    """Numerator of the adapter scale alpha / rank."""

    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input while training."""

    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    """Linear layers of the language model that get an adapter, by the last part of their name."""

    @property
    def scale(self) -> float:
        """What the product B·A is multiplied with."""
        return self.alpha / self.rank


class TrainingConfig(Part):
    """One LoRA training run."""

    epochs: PositiveInt = 1
    """Passes over the train rows."""

    batch_size: PositiveInt = 8
    """Answers per optimizer step (the global batch)."""

    row_tokens: PositiveInt = 2048
    """Most tokens in one forward pass. Examples are packed into rows of this length, those about the same pictures
    behind one prefix. Changes memory and speed, never the result beyond rounding; halves by itself where memory does
    not suffice."""

    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate of AdamW."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""

    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from 0."""

    weight_decay: NonNegativeFloat = 0.01
    """AdamW's decoupled weight decay."""

    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm where they exceed it."""

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
    """Steps between two losses on the select rows; null evaluates once, at the end."""

    save_every_steps: PositiveInt = 50
    """Steps between two checkpoints; at most this much work is lost in a crash."""

    lora: LoraConfig = LoraConfig()
    """The adapter."""
