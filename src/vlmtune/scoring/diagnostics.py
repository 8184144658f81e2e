"""Does the model know when it is right? The score of the surest answers, by how many of them are kept.

An answer is as sure as its tokens are likely on average: the geometric mean of their probabilities, so that a long
answer is not unsure by its length alone. Rows whose log-probabilities nobody told have no place here.

What else could explain a gain: shorter answers (length), not looking at the picture (image).

The primary metric on parts of the rows: one slice per value of a metadata column.

Intervals are descriptive, each on its own. Whether a part got worse is judged for all parts together, after Holm: of
fifty slices of nothing, one or two would look worse by chance.

The rows worth labelling next: those whose answers the model is least sure of, each picture once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.errors import ConfigError, DataError
from vlmtune.metrics import Metric, Stats
from vlmtune.predictions import Line
from vlmtune.registry import did_you_mean
from vlmtune.scoring.metric_comparison import Measured, Terms, weigh
from vlmtune.scoring.pairing import Lines, Rows, Seeds, Side, group_of
from vlmtune.scoring.score import measure, summary
from vlmtune.scoring.statistics import FEWEST_GROUPS, Resamples, by_group, holm, judge

POINTS = 50
"""Shares of the rows at which the curve is given."""


def sureness(line: Line) -> float | None:
    """Geometric mean of the probabilities of an answer's tokens, its end included; None where they are not known."""
    return math.exp(sum(line.token_logprobs) / len(line.token_logprobs)) if line.token_logprobs else None


def curve(lines: Sequence[Line], groups: Sequence[str], metric: Metric, terms: Terms) -> dict[str, Any] | None:
    """Score of the surest rows over the share of rows that is kept; None where an answer tells no probabilities.

    Args:
        lines: answered rows [N].
        groups: what each is resampled with [N].
        metric: whose score; for a corpus metric it is that of the kept rows together.
        terms: how answers are read and differences judged.

    Returns:
        "points": [{"coverage", "score", "sureness"}], the last one being all rows; "half" and "all": the score of the
        surest half and of all rows; "gain" and "ci": their difference and its interval (None where fewer than 20 groups
        are in the half); "area": the mean score over all shares, from one row to all. Of equally sure rows at an edge
        each counts in part.
    """
    sure = [sureness(line) for line in lines]
    known = np.array([value for value in sure if value is not None])
    if not len(lines) or len(known) < len(lines):
        return None
    stats = measure(metric, lines, terms.task, terms.config)
    order = np.argsort(-known, kind="stable")
    scores = np.asarray(metric.summarise(np.cumsum(_levelled(stats[order], known[order]), axis=0)), dtype=np.float64)
    count = len(lines)
    kept = sorted({math.ceil(count * n / POINTS) for n in range(1, POINTS + 1)})
    half = math.ceil(count / 2)
    first = _share_of_half(known, half)
    found = None
    if len({group for group, share in zip(groups, first[:, 0], strict=True) if share > 0}) >= FEWEST_GROUPS:
        sides = [by_group(part, groups) for part in (stats, stats * first)]
        every, surest = Resamples(len(sides[0]), terms.statistics.resamples, terms.statistics.seed).bootstrap(sides)
        gains = metric.summarise(surest) - metric.summarise(every)
        found = judge(gains, None, float(scores[half - 1] - scores[-1]), terms.statistics.confidence)
    return {
        "points": [
            {"coverage": n / count, "score": float(scores[n - 1]), "sureness": float(known[order[n - 1]])} for n in kept
        ],
        "half": float(scores[half - 1]),
        "all": summary(metric, stats),
        "gain": float(scores[half - 1] - scores[-1]),
        "ci": [found.low, found.high] if found else None,
        "area": float(scores.mean()),
    }


def _levelled(stats: Stats, sure: NDArray[np.float64]) -> Stats:
    """Statistics [N, K] with those of equally sure rows, which stand together, replaced by their mean: what is kept of
    them must not depend on the order of the file.
    """
    starts = np.flatnonzero(np.r_[True, sure[1:] != sure[:-1]])
    sizes = np.diff(np.r_[starts, len(sure)])
    levelled: Stats = np.repeat(np.add.reduceat(stats, starts, axis=0) / sizes[:, None], sizes, axis=0)
    return levelled


def _share_of_half(sure: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """How much of each row [N, 1] belongs to the surest half: 1, 0, or a share of those that are alike at its end."""
    cut = np.sort(sure)[::-1][half - 1]
    above, alike = sure > cut, sure == cut
    return np.where(above, 1.0, np.where(alike, (half - above.sum()) / alike.sum(), 0.0))[:, None]


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


def length_control(rows: Rows, metric: Metric, terms: Terms) -> dict[str, Any] | None:
    """The gain that is left when the baseline's answers are as short as the tuned ones.

    Every file of side B meets its own cut copy of side A's first file.

    Returns:
        {"a_cut", "delta", "ci", "explains"}; None where no answer had to be cut, or with too few groups.
    """
    before = rows.a[0]
    texts = [line.prediction or "" for line in before]
    copies = [cut_like(texts, [line.prediction or "" for line in after]) for after in rows.b]
    if all(copy == texts for copy in copies):
        return None
    shortened = [
        tuple(replace(line, prediction=text) for line, text in zip(before, copy, strict=True)) for copy in copies
    ]
    found = weigh([terms.measured(metric, shortened, rows.b)], rows.groups, terms.statistics)[0].values()
    if found["ci"] is None:
        return None
    sign = 1 if metric.higher_is_better else -1
    explains = min(sign * found["ci"][0], sign * found["ci"][1]) <= 0
    return {"a_cut": found["a"], "delta": found["delta"], "ci": found["ci"], "explains": explains}


def image_control(
    seeds: Seeds, files: Sequence[Lines], groups: Sequence[str], metric: Metric, terms: Terms
) -> dict[str, Any] | None:
    """What exchanged images cost a side, on the rows that every seed answered both ways.

    Args:
        seeds: the files with what lies beside them; those whose control was not run are left out.
        files: the compared lines of each, in the same order.
        groups: what a row is resampled with.
        metric: whose score falls.
        terms: how answers are read and differences judged.

    Returns:
        {"rows", "own", "exchanged", "drop", "ci", "kept"}, means over the seeds (`kept` = exchanged / own, None where
        own is 0); None where the control was not run or has too few rows.
    """
    swapped = [_swapped(side) for side in seeds]
    ran = [n for n, answers in enumerate(swapped) if answers]
    both = [n for n in range(len(groups)) if ran and all(files[k][n].id in swapped[k] for k in ran)]
    if not both:
        return None
    own = [tuple(files[k][n] for n in both) for k in ran]
    other = [
        tuple(replace(line, prediction=swapped[k][line.id]) for line in lines)
        for k, lines in zip(ran, own, strict=True)
    ]
    found = weigh([terms.measured(metric, other, own)], [groups[n] for n in both], terms.statistics)[0].values()
    kept = found["a"] / found["b"] if found["b"] else None
    return {
        "rows": len(both),
        "own": found["b"],
        "exchanged": found["a"],
        "drop": found["delta"],
        "ci": found["ci"],
        "kept": kept,
    }


def _swapped(side: Side) -> dict[str | None, str]:
    """Answers to exchanged images by the row's id, as far as there are some."""
    lines = ((side.controls or {}).get("image") or {}).get("lines", [])
    return {line["id"]: line["prediction"] for line in lines if line["prediction"] is not None}


MOST_VALUES = 50
"""Values of a column that are shown; a column with more (an id, a date) describes rows rather than parts."""

MISSING = "(none)"
"""What a row's value is called where the row has none."""


def sliced(
    columns: Sequence[str], measured: Measured, rows: Rows, terms: Terms
) -> tuple[list[dict[str, Any]], list[str]]:
    """{"column", "value", "rows", "a", "b", "delta", "ci", "p", "p_adjusted", "worse"} per column, in the given order,
    and value, sorted.

    `ci` is None below 20 groups, `p` also with several seeds: then no part is called `worse`. Of a column with more
    than 50 values the 50 largest are shown, and a sentence in the second list says what is left out.

    Raises:
        ConfigError: no row has such a column.
    """
    found, notes = [], []
    for column in dict.fromkeys(columns):
        parts: dict[str, list[int]] = {}
        for n, line in enumerate(rows.a[0]):
            parts.setdefault(_value(column, (line, *(lines[n] for lines in (*rows.a[1:], *rows.b)))), []).append(n)
        if set(parts) == {MISSING}:
            raise ConfigError(_unknown(column, rows))
        largest = sorted(parts, key=lambda value: (-len(parts[value]), value))[:MOST_VALUES]
        if len(parts) > len(largest):
            notes.append(f"slices: {column} has {len(parts)} values; the {MOST_VALUES} with the most rows are shown")
        for value in sorted(largest, key=_order):
            numbers = parts[value]
            kept, groups = measured.keep(numbers), [rows.groups[n] for n in numbers]
            result = weigh([kept], groups, terms.statistics, test=True)[0]
            p = result.found.p if result.found else None
            found.append({"column": column, "value": value, "rows": len(numbers), **result.values(), "p": p})
    return _judged(found, measured.metric.higher_is_better, 1 - terms.statistics.confidence), notes


def _judged(slices: Sequence[dict[str, Any]], higher_is_better: bool, level: float) -> list[dict[str, Any]]:
    """With `p_adjusted` over all slices, and `worse`."""
    tested = [part["p"] for part in slices if part["p"] is not None]
    corrected = iter(holm(tested))
    judged = []
    for part in slices:
        p = next(corrected) if part["p"] is not None else None
        fell = part["ci"] is not None and (part["ci"][1] < 0 if higher_is_better else part["ci"][0] > 0)
        judged.append({**part, "p_adjusted": p, "worse": fell and p is not None and p < level})
    return judged


def _value(column: str, lines: Sequence[Line]) -> str:
    """A row's value, from the first file that has it: its metadata, else a key of the line that is a single value."""
    for line in lines:
        for place in (line.meta, line.truth):
            value = place.get(column)
            if isinstance(value, str | int | float):
                return str(value)
    return MISSING


def _order(value: str) -> tuple[bool, bool, float, str]:
    """Numbers by size, then texts, then what is missing."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    return value == MISSING, not math.isfinite(number), number if math.isfinite(number) else 0.0, value


def _unknown(column: str, rows: Rows) -> str:
    names = sorted({name for lines in (*rows.a, *rows.b) for line in lines for name in _columns(line)})
    there = f"there are: {', '.join(names)}" if names else "the rows carry none (dataset.meta puts columns there)"
    return f"no compared row has the column {column!r} to slice by; {there}{did_you_mean(column, names)}"


def _columns(line: Line) -> Sequence[str]:
    places: Mapping[str, Any] = {**line.truth, **line.meta}
    return [name for name, value in places.items() if isinstance(value, str | int | float)]


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
