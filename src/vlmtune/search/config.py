"""The `search` block of a config."""

from typing import Any

from pydantic import Field, FiniteFloat, PositiveInt

from vlmtune.registry import BaseConfig


class Range(BaseConfig):
    """Numbers from `low` to `high`, both included; whole ones if both are whole."""

    low: FiniteFloat | int
    """Smallest value."""

    high: FiniteFloat | int
    """Largest value."""

    log: bool = False
    """Whether values are spread evenly on a logarithmic scale, as learning rates should be."""


class SearchConfig(BaseConfig):
    """What `vlmtune search` varies, and for how long. Trials are compared on the validation rows only."""

    space: dict[str, Range | list[Any]] = Field(
        default={"training.learning_rate": Range(low=2e-5, high=2e-3, log=True)}, min_length=1
    )
    """What may vary: keys of `training`, `task` or `model` as dotted paths, each with a range of numbers or a list of
    values. If lists have no more combinations than there are trials, each combination is tried once."""

    trials: PositiveInt = 9
    """How many settings are tried."""

    metric: str | None = None
    """What trials are compared by: `loss` on the validation rows, or a metric of the task, for which those rows are
    answered. Null is `evaluation.primary`, or else the first metric of the task."""

    stages: PositiveInt = 3
    """Successive halving: of the trials that reach a stage, about a third goes on to the next one, which is three times
    as long. 1 trains every trial to its end."""

    seed: int = 0
    """Seed of what is tried."""

    fresh_seeds: list[int] = Field(default=[101, 102, 103], min_length=1)
    """Training seeds with which the best settings are trained again. Their adapters, not the trial's, are compared with
    the base model on the evaluation rows."""
