"""Which keys of prediction files tell rows apart: those of the data, not those that a model or a metric made.

A file of another program has keys such as `file`, `question` or `doc_hash`. If they differ between two rows, these are
different rows. Scores, times and texts of the model also differ, and say nothing; they are known by a word in their
name (`eval_score`, `latencyMs`, `thinking`) or by holding fractions.
"""

import json
import re
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

from vlmtune.predictions import Line

MADE = frozenset(
    [
        "acc",
        "accuracy",
        "anls",
        "answer",
        "answers",
        "bleu",
        "cer",
        "checkpoint",
        "cider",
        "completion",
        "confidence",
        "correct",
        "cost",
        "created",
        "date",
        "duration",
        "elapsed",
        "error",
        "eval",
        "exact",
        "explanation",
        "f1",
        "failure",
        "finish",
        "generated",
        "generation",
        "hit",
        "hits",
        "hyp",
        "iou",
        "judge",
        "judgement",
        "judgment",
        "latency",
        "length",
        "log",
        "logits",
        "logprob",
        "logprobs",
        "loss",
        "match",
        "metric",
        "metrics",
        "meteor",
        "model",
        "ms",
        "output",
        "outputs",
        "parsed",
        "perplexity",
        "ppl",
        "pred",
        "predict",
        "predicted",
        "prediction",
        "predictions",
        "prob",
        "probability",
        "rationale",
        "raw",
        "reasoning",
        "record",
        "request",
        "resp",
        "response",
        "responses",
        "resps",
        "reward",
        "rouge",
        "run",
        "score",
        "scores",
        "seconds",
        "seed",
        "spice",
        "stop",
        "thinking",
        "thought",
        "time",
        "timestamp",
        "timing",
        "token",
        "tokens",
        "usage",
        "verdict",
        "wer",
        "worker",
    ]
)
"""Words in the names of keys that hold what a model, a metric or a program made."""


_SCORE = re.compile(r"acc|accuracy|anls|bleu|cer|cider|correct|exact|f1|hit|iou|match|meteor|rouge|score|wer")
"""Words in the names of keys that hold the score of a row."""


def is_score(key: str) -> bool:
    """Whether the name of a key says that it holds a row's score."""
    return any(map(_SCORE.fullmatch, _words(key)))


def row_keys(a: Sequence[Line], b: Sequence[Line]) -> list[str]:
    """The keys that all rows of both files have and that tell rows apart, apart from the truths that metrics use."""
    lines = [*a, *b]
    shared = set(lines[0].truth).intersection(*(line.truth for line in lines)) if lines else set()
    return [key for key in (lines[0].truth if lines else ()) if key in shared and _tells_apart(key, lines)]


def agree(one: Line, other: Line, keys: Sequence[str]) -> bool:
    """Whether two rows agree in keys."""
    return all(normal(one.truth.get(key)) == normal(other.truth.get(key)) for key in keys)


def without_partner(a: Sequence[Line], b: Sequence[Line], keys: Sequence[str]) -> tuple[str | None, int]:
    """The key whose values in A are most often missing in B, and in how many rows."""
    counts = {}
    for key in keys:
        known = {normal(line.truth.get(key)) for line in b}
        counts[key] = sum(normal(line.truth.get(key)) not in known for line in a)
    worst = max(counts, key=lambda key: counts[key], default=None)
    return (worst, counts[worst]) if worst is not None and counts[worst] else (None, 0)


def _tells_apart(key: str, lines: Sequence[Line]) -> bool:
    if key == "references" or MADE.intersection(_words(key)):
        return False
    return not any(_is_fraction(line.truth[key]) for line in lines)


def _words(key: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key).lower())


def _is_fraction(value: Any) -> bool:
    """Whether a value is a score or a time rather than a name or a number of something."""
    if isinstance(value, str):
        return re.fullmatch(r"[-+]?\d*\.\d+(?:[eE][-+]?\d+)?", value) is not None
    return isinstance(value, float | bool)


def normal(value: Any) -> Hashable:
    """A value to be compared: runs of white space are one space."""
    if isinstance(value, str):
        return " ".join(value.split())
    return value if value is None or isinstance(value, int | float) else _normal_json(json.dumps(value, sort_keys=True))


@lru_cache(maxsize=1 << 16)
def _normal_json(text: str) -> str:
    return json.dumps(_collapsed(json.loads(text)), sort_keys=True)


def _collapsed(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list):
        return [_collapsed(item) for item in value]
    return {key: _collapsed(item) for key, item in value.items()} if isinstance(value, dict) else value
