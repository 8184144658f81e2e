"""Prediction files: those that vlmtune writes (`read`), and those of other programs as they are (`read_any`)."""

from vlmtune.predictions.columns import LM_EVAL, LMMS_EVAL, VLMEVALKIT, VLMTUNE, Keys
from vlmtune.predictions.foreign import Predictions, read_any, read_references
from vlmtune.predictions.images import image_of, question_of
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
    "LMMS_EVAL",
    "LM_EVAL",
    "LOGPROB_DIGITS",
    "VLMEVALKIT",
    "VLMTUNE",
    "AdapterDelta",
    "Controls",
    "FailureRecord",
    "Keys",
    "Line",
    "PredictionRecord",
    "Predictions",
    "ShuffledAnswers",
    "image_of",
    "question_of",
    "read",
    "read_any",
    "read_references",
]
