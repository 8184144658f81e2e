"""Scores and paired comparisons of prediction files. Needs numpy alone; never loads a model.

`score.score` scores one file, `comparison.compare` compares two or more. `pairing` selects the rows that are evidence,
`metric_comparison` computes scores, intervals and p-values with the methods of `statistics`, `diagnostics` adds
controls and slices, `verdict` puts the conclusion into words, `examples` lists the rows, and `gates` implements
`--fail-on`. `results` defines the types of all results.
"""

from pydantic import Field, NonNegativeInt, PositiveInt

from vlmtune.data import SplitRole
from vlmtune.registry import BaseConfig


class StatisticsConfig(BaseConfig):
    """How confidence intervals and p-values are computed."""

    resamples: PositiveInt = 10_000
    """Bootstrap resamples, and random swaps of the sides for the p-value."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the confidence intervals."""

    seed: int = 0
    """Seed of the resampling."""


class PromptBaselineConfig(BaseConfig):
    """A prompt baseline: the base model asked differently, which training must beat."""

    name: str
    """Name of the prompt baseline; it is part of the name of its prediction file."""

    prompt: str | None = None
    """Replaces the task's prompt; null keeps it."""

    length_instruction: bool = False
    """Ends the prompt with "Answer in about N words.", N being the median over the references of the train rows."""

    examples: NonNegativeInt = 0
    """Number of train rows shown before the question, with their images and answers; never one that shares an image or
    the group with the asked row."""


class EvaluationConfig(BaseConfig):
    """What is measured, and on which rows."""

    split: SplitRole = "test"
    """Role of the rows that both models answer."""

    metrics: list[str] | None = None
    """Metrics to report: the task's by name, custom ones as `module.function`; null reports all of the task's."""

    primary: str | None = None
    """The metric that decides the verdict, a custom one without its module; null takes the first."""

    slices: list[str] = []
    """Metadata columns (of `dataset.meta`): the primary metric is also shown for every value of each."""

    baselines: list[PromptBaselineConfig] = []
    """Prompt baselines, one more prediction file each; the verdict is against the best of them."""

    image_control_rows: NonNegativeInt = 100
    """Rows answered again with shuffled images, to see whether the model looks at them; 0 leaves the control out."""

    statistics: StatisticsConfig = StatisticsConfig()
    """How confidence intervals and p-values are computed."""
