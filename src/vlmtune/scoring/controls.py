"""What else could explain a gain: shorter answers (length), not looking at the picture (image)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlmtune.metrics import Metric
from vlmtune.plugs import Part
from vlmtune.predictions import Line
from vlmtune.scoring import StatisticsConfig
from vlmtune.scoring.resampling import FEWEST_GROUPS, Resamples, by_group
from vlmtune.scoring.score import measure, summary
from vlmtune.tasks import Task


def cut_like(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Texts of `before`, cut at word ends so that their lengths are distributed like those of `after`.

    The text of rank r among `before` gets at most the length of rank r among `after`; shorter ones stay as they are.
    """
    targets = sorted(len(text.split()) for text in after)
    order = sorted(range(len(before)), key=lambda n: (len(before[n].split()), n))
    cut = list(before)
    for rank, n in enumerate(order):
        words = before[n].split()
        if len(words) > targets[rank]:
            cut[n] = " ".join(words[: targets[rank]])
    return cut


def length_control(
    before: Sequence[Line],
    after: Sequence[Line],
    metric: Metric,
    task: Task,
    config: Part,
    statistics: StatisticsConfig,
) -> dict[str, Any] | None:
    """The gain that is left when the baseline's answers are as short as the tuned ones.

    Returns:
        {"a_cut", "delta", "ci", "explains"}; None where no answer had to be cut, or with too few groups.
    """
    texts = [line.prediction or "" for line in before]
    cut = cut_like(texts, [line.prediction or "" for line in after])
    if cut == texts:
        return None
    shortened = [replace(line, prediction=text) for line, text in zip(before, cut, strict=True)]
    a, b = (measure(metric, lines, task, config) for lines in (shortened, after))
    ci = _interval(metric, a, b, [group_of(n, line) for n, line in enumerate(after)], statistics)
    if ci is None:
        return None
    gain = summary(metric, b) - summary(metric, a)
    sign = 1 if metric.higher_is_better else -1
    return {"a_cut": summary(metric, a), "delta": gain, "ci": ci, "explains": min(sign * ci[0], sign * ci[1]) <= 0}


def image_control(
    controls: Mapping[str, Any] | None, lines: Sequence[Line], metric: Metric, task: Task, config: Part,
    statistics: StatisticsConfig,
) -> dict[str, Any] | None:  # fmt: skip
    """What exchanged images cost one side, on the rows that were answered both ways.

    Returns:
        {"rows", "own", "exchanged", "drop", "ci", "kept"} (`kept` = exchanged / own, None where own is 0); None where
        the control was not run or has too few rows.
    """
    swapped = {line["id"]: line for line in ((controls or {}).get("image") or {}).get("lines", [])}
    own = [line for line in lines if line.id in swapped and line.prediction is not None]
    own = [line for line in own if swapped[line.id]["prediction"] is not None]
    other = [replace(line, prediction=swapped[line.id]["prediction"]) for line in own]
    if not own:
        return None
    a, b = (measure(metric, some, task, config) for some in (other, own))
    ci = _interval(metric, a, b, [group_of(n, line) for n, line in enumerate(own)], statistics)
    kept = summary(metric, a) / summary(metric, b) if summary(metric, b) else None
    values = {
        "own": summary(metric, b),
        "exchanged": summary(metric, a),
        "drop": summary(metric, b) - summary(metric, a),
    }
    return {"rows": len(own), **values, "ci": ci, "kept": kept}


def group_of(number: int, line: Line) -> str:
    """What a row is resampled with: its cluster, else itself."""
    return line.cluster if line.cluster is not None else line.id or f"row {number}"


def _interval(
    metric: Metric, a: Any, b: Any, groups: Sequence[str], statistics: StatisticsConfig
) -> list[float] | None:
    """Percentile interval of b - a; None with too few groups."""
    sides = [by_group(stats, groups) for stats in (a, b)]
    if len(sides[0]) < FEWEST_GROUPS:
        return None
    resamples = Resamples(len(sides[0]), statistics.resamples, statistics.seed)
    before, after = (metric.summarise(sums) for sums in resamples.bootstrap(sides))
    levels = [(1 - statistics.confidence) / 2, (1 + statistics.confidence) / 2]
    return [float(value) for value in np.quantile(after - before, levels)]
