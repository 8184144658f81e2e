"""Diagnostics: length and image controls, slices, confidence curves, and the rows worth labelling next.

The controls look for other explanations of a gain. Slices show the primary metric on subsets of the rows. The
confidence curve shows whether confidence predicts correctness. None of them decides the status, and their intervals are
descriptive; only whether slices got worse is tested, jointly for all of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from vlmtune.errors import ConfigError, DataError
from vlmtune.metrics import Metric, Stats
from vlmtune.predictions import Line
from vlmtune.registry import did_you_mean
from vlmtune.scoring.estimation import Design
from vlmtune.scoring.intervals import jackknife_values, t_interval
from vlmtune.scoring.metric_comparison import ScoringContext, SufficientStatistics, compare_metric
from vlmtune.scoring.pairing import Lines, PredictionFile, Rows, Side, group_of
from vlmtune.scoring.results import ConfidenceCurve, ImageControl, LengthControl, SliceResult
from vlmtune.scoring.score import measure, summary
from vlmtune.scoring.statistics import FEWEST_GROUPS, by_group, holm
from vlmtune.text_units import first_units, units

POINTS = 50
"""Number of points of the confidence curve."""

MOST_VALUES = 50
"""Most values of a column that are shown; a column with more identifies rows (an id, a date) rather than slices."""

MISSING = "(none)"
"""Stands for the value in rows without one."""


def length_control(rows: Rows, metric: Metric, context: ScoringContext) -> LengthControl | None:
    """The gain that remains when A's answers are truncated to the lengths of B's.

    Each file of side B is compared with its own truncated copy of side A's first file.

    Returns:
        None where answers are boxes, where no answer had to be truncated, or where it cannot be told what remains.
    """
    if context.task.boxes:
        return None
    before = rows.a[0]
    texts = [line.prediction or "" for line in before]
    truncated = [truncate_to_lengths(texts, [line.prediction or "" for line in after]) for after in rows.b]
    if all(shorter == texts for shorter in truncated):
        return None
    statistics = SufficientStatistics.of(metric, [context.reread(before, cut) for cut in truncated], rows.b)
    compared = compare_metric(statistics, rows.groups, context.statistics)
    status, remaining = compared.status(metric.higher_is_better, context.statistics.confidence), compared.difference()
    if status == "inconclusive":
        return None
    explains = status != "improved"
    return {
        "a_truncated": remaining["a"],
        "delta": remaining["delta"],
        "ci": remaining["ci"],
        "explains": explains,
        "can_tell": not _is_worst(remaining["b"], metric),
    }


def _is_worst(score: float, metric: Metric) -> bool:
    """Whether nothing could lower a score. Error rates have no worst value."""
    return metric.higher_is_better and score <= 0


def truncate_to_lengths(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Truncate the texts of `before` at word ends so that their lengths are distributed like those of `after`.

    The r-th shortest text of `before` keeps at most as many words as the r-th shortest of `after` has: truncated to the
    lengths of ["a b", "c"], ["one", "one two three"] becomes ["one", "one two"]. Characters of scripts without spaces
    count as words.
    """
    targets = sorted(len(units(text)) for text in after)
    lengths = [len(units(text)) for text in before]
    truncated = list(before)
    for rank, n in enumerate(sorted(range(len(before)), key=lambda n: (lengths[n], n))):
        if lengths[n] > targets[rank]:
            truncated[n] = first_units(before[n], targets[rank])
    return truncated


def image_control(
    side: Side, files: Sequence[Lines], groups: Sequence[str], metric: Metric, context: ScoringContext
) -> ImageControl | None:
    """The shuffled-image control: what a side loses when each row is asked with the image of another row.

    Args:
        side: files with their sidecars; files without the control are left out.
        files: the compared lines of each, in the same order.
        groups: what a row is resampled with.
        metric: the primary one.
        context: how answers are read and differences tested.

    Returns:
        Means over the seeds, on the rows that every seed answered both ways; None where there are none.
    """
    answers = [_shuffled_answers(file) for file in side]
    ran = [k for k, by_id in enumerate(answers) if by_id]
    both = [n for n in range(len(groups)) if ran and all(files[k][n].id in answers[k] for k in ran)]
    if not both:
        return None
    original = [tuple(files[k][n] for n in both) for k in ran]
    shuffled = [
        context.reread(lines, [answers[k][line.id] for line in lines]) for k, lines in zip(ran, original, strict=True)
    ]
    statistics = SufficientStatistics.of(metric, shuffled, original)
    compared = compare_metric(statistics, [groups[n] for n in both], context.statistics)
    status, drop = compared.status(metric.higher_is_better, context.statistics.confidence), compared.difference()
    return {
        "rows": len(both),
        "original": drop["b"],
        "shuffled": drop["a"],
        "drop": drop["delta"],
        "ci": drop["ci"],
        "kept": drop["a"] / drop["b"] if drop["b"] else None,
        "can_tell": not _is_worst(drop["b"], metric),
        "uses_image": None if status == "inconclusive" else status == "improved",
    }


def _shuffled_answers(file: PredictionFile) -> dict[str | None, str]:
    """Answers to the shuffled images by row id; empty where the control was not run."""
    control = file.controls.get("image") if file.controls else None
    lines = control["lines"] if control else []
    return {line["id"]: line["prediction"] for line in lines if line["prediction"] is not None}


def slice_results(
    columns: Sequence[str], statistics: SufficientStatistics, rows: Rows, context: ScoringContext
) -> tuple[list[SliceResult], list[str]]:
    """The metric by value of each column: columns in the given order, values sorted.

    With several seeds there is no p-value, and no slice is called worse. Of a column with more than 50 values the 50
    with the most rows are shown, and a note in the second list says so.

    Raises:
        ConfigError: no row has such a column.
    """
    results: list[SliceResult] = []
    notes = []
    for column in dict.fromkeys(columns):
        parts: dict[str, list[int]] = {}
        for n, line in enumerate(rows.a[0]):
            lines = (line, *(lines[n] for lines in (*rows.a[1:], *rows.b)))
            parts.setdefault(_value(column, lines), []).append(n)
        if set(parts) == {MISSING}:
            raise ConfigError(_unknown(column, rows))
        largest = sorted(parts, key=lambda value: (-len(parts[value]), value))[:MOST_VALUES]
        if len(parts) > len(largest):
            notes.append(f"slices: {column} has {len(parts)} values; the {MOST_VALUES} with the most rows are shown")
        for value in sorted(largest, key=_order):
            numbers = parts[value]
            groups = [rows.groups[n] for n in numbers]
            part = statistics.keep(numbers)
            if statistics.metric.linearised:
                kept = rows.keep(numbers)
                part = SufficientStatistics.of(statistics.metric, kept.a, kept.b)
            compared = compare_metric(part, groups, context.statistics, test=True)
            results.append({
                "column": column,
                "value": value,
                "rows": len(numbers),
                **compared.difference(),
                "p": compared.p,
                "p_adjusted": None,
                "worse": False,
            })  # fmt: skip
    _adjust(results, statistics.metric.higher_is_better, 1 - context.statistics.confidence)
    return results, notes


def _adjust(results: Sequence[SliceResult], higher_is_better: bool, level: float) -> None:
    """Set `p_adjusted` over all slices, and `worse`: of fifty slices without a difference, one or two look worse."""
    tested = [(part, part["p"]) for part in results if part["p"] is not None]
    for (part, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
        low, high = part["ci"] or (0.0, 0.0)
        part["p_adjusted"] = p
        part["worse"] = (high < 0 if higher_is_better else low > 0) and p < level


def _value(column: str, lines: Sequence[Line]) -> str:
    """A row's value from the first file that has it: from its metadata, else from its truth."""
    for line in lines:
        for values in (line.meta, line.truth):
            value = values.get(column)
            if isinstance(value, str | int | float):
                return str(value)
    return MISSING


def _order(value: str) -> tuple[bool, bool, float, str]:
    """Sort key: numbers by size, then texts, then what is missing."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    return value == MISSING, not math.isfinite(number), number if math.isfinite(number) else 0.0, value


def _unknown(column: str, rows: Rows) -> str:
    names = sorted({name for lines in (*rows.a, *rows.b) for line in lines for name in _columns(line)})
    known = f"there are: {', '.join(names)}" if names else "the rows have none (list columns to keep in dataset.meta)"
    return f"no compared row has the column {column!r} to slice by; {known}{did_you_mean(column, names)}"


def _columns(line: Line) -> Sequence[str]:
    values: Mapping[str, Any] = {**line.truth, **line.meta}
    return [name for name, value in values.items() if isinstance(value, str | int | float)]


def confidence(line: Line) -> float | None:
    """Geometric mean of an answer's token probabilities, end-of-sequence included; None where they are not known.

    The mean, not the product, so that long answers do not count as uncertain for their length.
    """
    return math.exp(sum(line.token_logprobs) / len(line.token_logprobs)) if line.token_logprobs else None


def confidence_curve(
    lines: Sequence[Line], groups: Sequence[str], metric: Metric, context: ScoringContext
) -> ConfidenceCurve | None:
    """Score of the most confident rows against the share of rows kept; None unless every confidence is known
    and rows have scores.

    Equally confident rows at the edge of a share count fractionally.

    Args:
        lines: answered rows [N].
        groups: what each is resampled with [N].
        metric: its score on the kept rows is shown.
        context: how answers are read and differences tested.
    """
    each = [confidence(line) for line in lines]
    known = np.array([value for value in each if value is not None])
    if not len(lines) or len(known) < len(lines) or metric.linearised:
        return None
    stats = measure(metric, lines)
    order = np.argsort(-known, kind="stable")
    sums = np.cumsum(_ties_averaged(stats[order], known[order]), axis=0)
    scores = np.asarray(metric.summarise(sums), dtype=np.float64)
    count = len(lines)
    kept = sorted({math.ceil(count * n / POINTS) for n in range(1, POINTS + 1)})
    half = math.ceil(count / 2)
    shares = _shares_of_half(known, half)
    estimate = None
    if len({group for group, share in zip(groups, shares[:, 0], strict=True) if share > 0}) >= FEWEST_GROUPS:
        every, first = (by_group(part, groups) for part in (stats, stats * shares))
        left_out = metric.summarise(first.sum(axis=0) - first) - metric.summarise(every.sum(axis=0) - every)
        values = jackknife_values(float(scores[half - 1] - scores[-1]), left_out)
        estimate = t_interval(values, Design.of(groups).effective - 1, context.statistics.confidence)
    return {
        "points": [
            {"coverage": n / count, "score": float(scores[n - 1]), "confidence": float(known[order[n - 1]])}
            for n in kept
        ],
        "half": float(scores[half - 1]),
        "all": summary(metric, stats),
        "gain": float(scores[half - 1] - scores[-1]),
        "ci": [estimate.low, estimate.high] if estimate and estimate.standard_error > 0 else None,
        "area": float(scores.mean()),
    }


def _ties_averaged(stats: Stats, known: NDArray[np.float64]) -> Stats:
    """Statistics [N, K], sorted by confidence [N], with those of equally confident rows replaced by their mean.

    The curve must not depend on the order of such rows in the file: with confidences [0.9, 0.5, 0.5], the rows
    [1, 0, 1] become [1, 0.5, 0.5].
    """
    starts = np.flatnonzero(np.r_[True, known[1:] != known[:-1]])
    sizes = np.diff(np.r_[starts, len(known)])
    averaged: Stats = np.repeat(np.add.reduceat(stats, starts, axis=0) / sizes[:, None], sizes, axis=0)
    return averaged


def _shares_of_half(known: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Weight of each row [N, 1] in the more confident half: 1, 0, or a fraction for rows tied at its edge.

    With confidences [0.9, 0.5, 0.5, 0.1] and half = 2: [1, 0.5, 0.5, 0].
    """
    cut = np.sort(known)[::-1][half - 1]
    above, tied = known > cut, known == cut
    return np.where(above, 1.0, np.where(tied, (half - above.sum()) / tied.sum(), 0.0))[:, None]


class UncertainRow(TypedDict):
    """A row worth labelling."""

    id: str | None
    confidence: float | None
    why: str | None
    prediction: str | None
    image: str | None
    cluster: str | None
    meta: dict[str, Any]


def uncertain_rows(lines: Sequence[Line], count: int) -> list[UncertainRow]:
    """Up to `count` rows for active learning, the least confident answer first.

    Answers that cannot be parsed come first, then those of the lowest `confidence`. Rows that share an image or group
    are represented by the least confident one: labelling the others teaches little more. Failed rows are left out: they
    say nothing about the model.

    Raises:
        DataError: no answer has log-probabilities.
    """
    answered = [(n, line) for n, line in enumerate(lines) if line.prediction is not None]
    if answered and all(line.token_logprobs is None for _, line in answered):
        raise DataError(
            "these answers have no log-probabilities; the engines hf and vllm write them, and openai where its server "
            "returns them (inference.logprobs)"
        )
    ranked = sorted((*_confidence_order(line), n) for n, line in answered if line.token_logprobs or line.unparsed)
    chosen: dict[str, UncertainRow] = {}
    for *_, n in ranked:
        group = group_of(n, lines[n])
        if group not in chosen and len(chosen) < count:
            chosen[group] = _uncertain_row(lines[n])
    return list(chosen.values())


def _confidence_order(line: Line) -> tuple[bool, float]:
    """Sort key: the least confident answer first."""
    return line.unparsed is None, confidence(line) or 0.0


def _uncertain_row(line: Line) -> UncertainRow:
    known = confidence(line)
    likely = f"its tokens have a probability of {known:.2f} on average" if known is not None else None
    return {
        "id": line.id,
        "confidence": None if known is None else round(known, 4),
        "why": f"cannot be read: {line.unparsed}" if line.unparsed else likely,
        "prediction": line.prediction,
        "image": line.image,
        "cluster": line.cluster,
        "meta": dict(line.meta),
    }
