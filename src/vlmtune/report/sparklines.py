"""A training in one line of text: the loss as a row of blocks. For the terminal, and for those who watch a run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values as blocks, the smallest lowest, the largest highest; more than `width` are averaged in equal parts."""
    count = min(len(values), width)
    parts = [values[n * len(values) // count : (n + 1) * len(values) // count] for n in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = high - low
    return "".join(BLOCKS[round((mean - low) / span * (len(BLOCKS) - 1)) if span else 0] for mean in means)


def summary(training: Mapping[str, Any] | None) -> str | None:
    """Where the loss began and ended, what came between, the step taken, resumptions; None where nothing is known."""
    curve: Sequence[Mapping[str, Any]] = (training or {}).get("curve") or []
    losses = [value for _, value in points(curve, "loss")]
    if training is None or not losses:
        return None
    said = f"loss {losses[0]:.4g} {sparkline(losses)} {losses[-1]:.4g} over {curve[-1]['step']} steps"
    if training.get("chosen_step") is not None:
        said += f", step {training['chosen_step']} taken"
    if training.get("resumed_at"):
        said += f", resumed after {', '.join(map(str, training['resumed_at']))}"
    return f"{said} ({training['seed_shown']})" if training.get("seed_shown") else said


def points(curve: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the points of a curve that have this number; what is not finite has no height."""
    known = (point for point in curve if isinstance(point.get(key), int | float))
    return [(point["step"], point[key]) for point in known if math.isfinite(point[key])]
