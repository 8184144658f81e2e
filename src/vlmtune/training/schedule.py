"""The learning rate of every step."""

import math

from vlmtune.training.settings import TrainingConfig


def learning_rate(step: int, steps: int, settings: TrainingConfig) -> float:
    """Rate of the optimizer step after `step` others: linear warm-up from 0, then the chosen shape down to 0."""
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = (step - warmup) / max(1, steps - warmup)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * left)), "linear": 1 - left, "constant": 1.0}
    return settings.learning_rate * shape[settings.schedule]
