"""Prediction lines to a Score, two or more sides to a Comparison. Pure numpy; never sees a model.

`score.score` measures one side, `comparison.compare` several, paired. `evidence` and `pairing` find the rows that
count; `judgement` turns them into numbers by way of `resampling`, `seeds` and `exact`; `slices` and `controls` look
closer, `untrained` asks whether training was needed, `traits` counts what a score hides; `verdict` and `warnings` say
it in words, `examples` row by row; `gates` is `--fail-on`.
"""

from pydantic import Field, NonNegativeInt, PositiveInt

from vlmtune.data import SplitRole
from vlmtune.registry import BaseConfig


class StatisticsConfig(BaseConfig):
    """How differences are judged."""

    resamples: PositiveInt = 10_000
    """Bootstrap resamples and random exchanges."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the confidence intervals."""

    seed: int = 0
    """Seed of the resampling."""


class BaselineConfig(BaseConfig):
    """The untouched model asked differently: what training must beat."""

    name: str
    """Name of the column; its answers lie beside the baseline's, with this name in theirs."""

    prompt: str | None = None
    """Replaces the task's prompt; null keeps it."""

    length_instruction: bool = False
    """Ends the prompt with "Answer in about N words.", N being the median over the references of the train rows."""

    examples: NonNegativeInt = 0
    """So many train rows stand before the question as answered turns, with their pictures; never one that shows a
    picture of the asked row, or is of its group."""


class EvaluationConfig(BaseConfig):
    """What is measured, and on which rows."""

    split: SplitRole = "test"
    """Role of the rows both models answer."""

    metrics: list[str] | None = None
    """Metrics to report: the task's by name, custom ones as `module.function`; null reports all of the task's."""

    primary: str | None = None
    """The metric the verdict is about, a custom one without its module; null takes the first."""

    slices: list[str] = []
    """Metadata columns (of `dataset.meta`): the primary metric is also shown for every value of each. Descriptive."""

    baselines: list[BaselineConfig] = []
    """Other ways to ask the untouched model, one more prediction file each; the verdict is against the best of them."""

    image_control_rows: NonNegativeInt = 100
    """Rows answered again with exchanged images, to see whether the model looks; 0 leaves the control out."""

    statistics: StatisticsConfig = StatisticsConfig()
    """How differences are judged."""
