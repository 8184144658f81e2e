"""Prediction files: those that vlmtune writes (`read`), and those of other programs as they are (`read_any`)."""

from vlmtune.predictions.columns import VLMTUNE, Keys
from vlmtune.predictions.foreign import Predictions, read_any, read_references
from vlmtune.predictions.lines import (
    LOGPROB_DIGITS,
    AdapterDelta,
    Controls,
    FailureRecord,
    Line,
    PredictionRecord,
    ShuffledAnswers,
    read,
)

__all__ = [
    "LOGPROB_DIGITS",
    "VLMTUNE",
    "AdapterDelta",
    "Controls",
    "FailureRecord",
    "Keys",
    "Line",
    "PredictionRecord",
    "Predictions",
    "ShuffledAnswers",
    "read",
    "read_any",
    "read_references",
]
