"""The rows worth labelling next: those whose answers the model is least sure of, each picture once."""

from collections.abc import Sequence
from typing import Any

from vlmtune.errors import DataError
from vlmtune.predictions import Line
from vlmtune.scoring.confidence import sureness
from vlmtune.scoring.evidence import group_of


def unsure(lines: Sequence[Line], count: int) -> list[dict[str, Any]]:
    """Up to `count` rows, the most doubtful first.

    Answers that cannot be read come before all others, then the least likely ones by `confidence.sureness`. Of rows
    that share a picture or group the most doubtful stands for all: labelling the others teaches little more. Rows
    without an answer are left out: what failed says nothing about the model.

    Returns:
        {"id", "sureness", "why", "prediction", "image", "cluster", "meta"}.

    Raises:
        DataError: no answer tells its log-probabilities.
    """
    answered = [(n, line) for n, line in enumerate(lines) if line.prediction is not None]
    if answered and all(line.token_logprobs is None for _, line in answered):
        raise DataError(
            "these answers tell no log-probabilities; the engines hf and vllm write them, and openai where its server "
            "gives them (inference.logprobs)"
        )
    doubts = sorted((_doubt(line), n) for n, line in answered if line.token_logprobs or line.unparsed)
    chosen: dict[str, dict[str, Any]] = {}
    for _, n in doubts:
        line = lines[n]
        group = group_of(n, line)
        if group not in chosen and len(chosen) < count:
            chosen[group] = _entry(line)
    return list(chosen.values())


def _doubt(line: Line) -> tuple[bool, float]:
    """Sorts the most doubtful first."""
    sure = sureness(line)
    return line.unparsed is None, 0.0 if sure is None else sure


def _entry(line: Line) -> dict[str, Any]:
    sure = sureness(line)
    likely = f"its tokens have a probability of {sure:.2f} on average" if sure is not None else None
    return {
        "id": line.id,
        "sureness": None if sure is None else round(sure, 4),
        "why": f"cannot be read: {line.unparsed}" if line.unparsed else likely,
        "prediction": line.prediction,
        "image": line.image,
        "cluster": line.cluster,
        "meta": dict(line.meta),
    }
