"""Scores one prediction file: the task's metrics, and response statistics that a score alone would hide.

Response statistics are the lengths of the answers and the shares that were cut off, are empty or unreadable, or repeat
themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np

from vlmtune.errors import ConfigError, DataError
from vlmtune.metrics import Metric, Stats, custom_metric
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig, did_you_mean
from vlmtune.scoring.results import Lengths, ResponseShares, ScoredRows, ScoreLengths, ScoreResult
from vlmtune.scoring.self_check import MetricChoice, primary_first
from vlmtune.scoring.statistics import Resamples, by_group, wilson
from vlmtune.scoring.truths import has_metric_truth
from vlmtune.tasks import Task, parse_answer, unwrap_references
from vlmtune.text_units import unit_of, units
from vlmtune.thoughts import UNFINISHED_THOUGHT
from vlmtune.types import Unparsed

LONGEST_LOOP = 16
"""Longest passage, in words, whose repetition is detected; in scripts without spaces twice as many characters."""

SHORTEST_LOOP = 6
"""Characters without spaces that a passage and its two repetitions have at least: 哈哈哈 is a word."""

WHOLE_SET = "class"
"""Truth of metrics that average over the labels of the whole set (macro-F1)."""

RATE_LEVEL = 0.95
"""Level of the intervals of one file's scores."""

RESAMPLES = 2000
"""Resamples of the rows for such an interval, where it is no share."""


@dataclass(frozen=True, slots=True)
class Score:
    """Metrics and response statistics of one prediction file; `ScoreResult` documents the fields."""

    metrics: Mapping[str, float | None]
    primary_reason: str | None
    warnings: Sequence[str]
    intervals: Mapping[str, tuple[float, float]]
    signatures: Mapping[str, str]
    rows: ScoredRows
    lengths: ScoreLengths | None
    shares: ResponseShares
    notes: Sequence[str] = ()

    def to_json(self) -> ScoreResult:
        """Plain values, as `vlmtune score --json` prints them."""
        return {
            "schema_version": 1,
            "metrics": dict(self.metrics),
            "primary": next(iter(self.metrics)),
            "primary_reason": self.primary_reason,
            "warnings": list(self.warnings),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "signatures": dict(self.signatures),
            "rows": self.rows,
            "lengths": self.lengths,
            "shares": self.shares,
            "notes": list(self.notes),
        }


def score(lines: Sequence[Line], task: Task, config: BaseConfig, names: Sequence[str] | None = None) -> Score:
    """Score one prediction file.

    Args:
        lines: all rows; failed ones are counted but not scored.
        task: reads the answers and names the metrics.
        config: the task's configuration.
        names: metrics to report; None reports every metric whose truth the rows have.

    Raises:
        DataError: no rows, or no row that a metric could be computed from.
        ConfigError: the task has no metric of a given name.
    """
    lines = reread(lines, task, config)
    choice = choose_primary(task, config, lines, names)
    metrics = choice.metrics
    answered = [line for line in lines if line.prediction is not None]
    values: dict[str, float | None] = dict.fromkeys((metric.name for metric in metrics), None)
    intervals: dict[str, tuple[float, float]] = {}
    clusters = [line.cluster for line in answered if line.cluster is not None]
    for metric in metrics if answered else []:
        stats = measure(metric, answered)
        values[metric.name] = summary(metric, stats)
        if metric.binary and len(set(clusters)) == len(clusters):
            hits = int(np.count_nonzero(np.asarray(metric.summarise(stats)) > 0.5))
            intervals[metric.name] = wilson(hits, len(answered), RATE_LEVEL)
    return Score(
        metrics=values,
        primary_reason=choice.reason,
        warnings=(*choice.warnings, *_thought_warnings(answered)),
        intervals=intervals,
        signatures={metric.name: signature(metric, lines) for metric in metrics},
        rows={
            "asked": len(lines),
            "answered": len(answered),
            "failed": len(lines) - len(answered),
            "unparsed": sum(line.unparsed is not None for line in answered),
            "cut_off": sum(line.finish_reason == "length" for line in answered),
        },
        lengths=None if task.boxes else _lengths(lines, answered),
        shares=response_shares(lines),
        notes=caveats(metrics, lines),
    )


def _thought_warnings(answered: Sequence[Line]) -> Iterator[str]:
    count = sum(line.unparsed == UNFINISHED_THOUGHT for line in answered)
    if count:
        yield unfinished_thoughts(count, len(answered))


def unfinished_thoughts(count: int, answers: int) -> str:
    """A sentence about answers whose thought did not end."""
    return (
        f"{count} of {answers} answers are thoughts that did not end, and count as wrong; raise "
        "inference.max_new_tokens"
    )


def _lengths(lines: Sequence[Line], answered: Sequence[Line]) -> ScoreLengths:
    answers, references = (
        [line.prediction or "" for line in answered],
        [text for line in lines for text in line.references],
    )
    return {
        "answers": response_lengths(answers),
        "references": response_lengths(references),
        "unit": unit_of(references or answers),
    }


def choose_primary(
    task: Task,
    config: BaseConfig,
    lines: Sequence[Line],
    names: Sequence[str] | None = None,
    primary: str | None = None,
) -> MetricChoice:
    """The metrics to report, the primary one first; see `choose_metrics` and `primary_first`."""
    return primary_first(choose_metrics(task, names, lines), task, config, lines, primary)


def choose_metrics(task: Task, names: Sequence[str] | None, lines: Sequence[Line]) -> list[Metric]:
    """The metrics to report: those named, else all whose truth every row has.

    Raises:
        DataError: no rows; or a row lacks the truth of a named metric, or of every metric.
        ConfigError: no metric of that name.
        EnvironmentProblem: this machine lacks what a named metric needs.
    """
    if not lines:
        raise DataError("there are no rows to score")
    truths = [line.truth for line in lines]
    requested = _named_metrics(task, names) if names else list(task.default_metrics(truths))
    kept = [metric for metric in requested if all(has_metric_truth(truth, metric) for truth in truths)]
    lacking = [metric for metric in requested if metric not in kept]
    if lacking and (names or not kept):
        metric = lacking[0]
        n, line = next((n, line) for n, line in enumerate(lines, start=1) if not has_metric_truth(line.truth, metric))
        row = f"row {line.id!r}" if line.id is not None else f"row {n}"
        raise DataError(f"{row} has no {metric.truth!r}, which {metric.name} compares with")
    return kept


def _named_metrics(task: Task, names: Sequence[str]) -> list[Metric]:
    """Metrics of a task by their names, and custom ones by dotted names.

    Raises:
        ConfigError: no such metric, or two of one name.
        EnvironmentProblem: this machine lacks what a metric needs.
    """
    known = {metric.name: metric for metric in task.metrics}
    chosen: dict[str, Metric] = {}
    for name in names:
        if name not in known and "." not in name:
            raise ConfigError(
                f"the task has no metric {name!r}; there are: {', '.join(known)}, and custom ones by dotted name"
                + did_you_mean(name, list(known))
            )
        metric = known.get(name) or custom_metric(name)
        if chosen.setdefault(metric.name, metric) is not metric or (metric.name in known and "." in name):
            raise ConfigError(f"evaluation.metrics: {name!r} is also the name of another metric; rename yours")
        if metric.check is not None:
            metric.check()
    return list(chosen.values())


def has_row_scores(metric: Metric) -> bool:
    """Whether single rows have scores: not in an average over the labels, or over a ranking, of the whole set."""
    return metric.truth != WHOLE_SET and not metric.linearised


def measure(metric: Metric, lines: Sequence[Line]) -> Stats:
    """Sufficient statistics [N, K] of lines of `reread`; one without a prediction counts as the worst answer."""
    return metric.measure(*_compared(metric, lines))


def _compared(metric: Metric, lines: Sequence[Line]) -> tuple[list[Any], list[Any]]:
    """What the task read from each prediction, None where it could not; and what the metric compares that with."""
    return [line.answer for line in lines], [line.truth[metric.truth] for line in lines]


def caveats(metrics: Sequence[Metric], lines: Sequence[Line]) -> list[str]:
    """What the metrics say about these answers that a reader of the scores has to know, each with the metric's name."""
    answered = [line for line in lines if line.prediction is not None]
    found = ((metric, metric.caveat(*_compared(metric, answered))) for metric in metrics if metric.caveat is not None)
    return [f"{metric.name}: {text}" for metric, text in found if text is not None]


def reread(lines: Sequence[Line], task: Task, config: BaseConfig) -> list[Line]:
    """The lines with `answer` and `unparsed` as the task reads the predictions, whatever the file says about them, and
    with references that are unwrapped as answers are.

    A file may come from another tool, or from a version that read answers differently.
    """
    return [_reread(line, task, config) for line in lines]


def _reread(line: Line, task: Task, config: BaseConfig) -> Line:
    answer = None if line.prediction is None else parse_answer(task, config, line.prediction, line.truth)
    texts = line.truth["references"]
    unwrapped = unwrap_references(task, texts)
    truth = line.truth if unwrapped == texts else {**line.truth, "references": unwrapped}
    if isinstance(answer, Unparsed):
        return replace(line, answer=None, unparsed=answer.reason, truth=truth)
    if truth is line.truth and line.unparsed is None and isinstance(answer, str) and answer == line.answer:
        return line  # a copy of every row would be in memory
    return replace(line, answer=answer, unparsed=None, truth=truth)


def signature(metric: Metric, lines: Sequence[Line]) -> str:
    """The metric's signature with its tokenizer and the number of references per row ("var" where it varies)."""
    counts = {len(line.references) for line in lines}
    tokens = metric.tokens([line.truth[metric.truth] for line in lines]) if metric.tokens else ""
    return metric.signature.format(nrefs=counts.pop() if len(counts) == 1 else "var", tokens=tokens)


def resampled_scores(metric: Metric, files: Sequence[Stats], lines: Sequence[Line], seed: int = 0) -> Stats:
    """Scores [R, S] of S files on the same R resamples of their rows; rows of one group are drawn together.

    Args:
        metric: of the scores.
        files: statistics [N, K] of each file.
        lines: the rows [N], in the same order in every file.
        seed: of the resamples.
    """
    groups = [str(line.cluster or line.id) for line in lines]
    sides = [by_group(stats, groups) for stats in files]
    draws = Resamples(len(sides[0]), RESAMPLES, seed).bootstrap(sides)
    return np.stack([np.asarray(metric.summarise(sums)) for sums in draws], axis=1)


def percentile_interval(scores: Stats) -> tuple[float, float]:
    """The interval of `RATE_LEVEL` that resampled scores [R] span."""
    low, high = np.quantile(scores, [(1 - RATE_LEVEL) / 2, (1 + RATE_LEVEL) / 2])
    return float(low), float(high)


def summary(metric: Metric, stats: Stats) -> float:
    """The score of rows [N, K]."""
    return float(np.asarray(metric.summarise(stats.sum(axis=0))))


def response_lengths(texts: Sequence[str]) -> Lengths:
    """Mean and median number of words, or of characters in scripts without spaces; both 0 for no texts."""
    counts = [len(units(text)) for text in texts]
    return {"mean": round(fmean(counts), 2), "median": median(counts)} if counts else {"mean": 0.0, "median": 0}


def response_shares(lines: Sequence[Line]) -> ResponseShares:
    """Shares of the answered lines; `ended` and `cut_off` are None where the file does not say how answers ended."""
    answered = [line for line in lines if line.prediction is not None]
    endings = [line.finish_reason for line in answered if line.finish_reason is not None]
    texts = [line.prediction or "" for line in answered]
    return {
        "ended": _share([ending == "stop" for ending in endings]),
        "cut_off": _share([ending == "length" for ending in endings]),
        "empty": _share([not text.strip() for text in texts]),
        "unparsed": _share([line.unparsed is not None for line in answered]),
        "repeating": _share([repeats_itself(text) for text in texts]),
    }


def _share(true: Sequence[bool]) -> float | None:
    return round(sum(true) / len(true), 4) if true else None


def repeats_itself(text: str) -> bool:
    """Whether a passage of up to `LONGEST_LOOP` words occurs three times in a row."""
    words = units(text)
    if len(words) - len(set(words)) < 2:  # of most texts: no word can occur three times
        return False
    # Unspaced characters are shorter than words: "ha ha ha" is a loop, "哈哈哈" is not.
    dense = len(words) > 2 * len(text.split())
    shortest, longest = (SHORTEST_LOOP // 3, 2 * LONGEST_LOOP) if dense else (1, LONGEST_LOOP)
    for period in range(shortest, min(longest, len(words) // 3) + 1):
        run = 0
        for word, later in zip(words, words[period:], strict=False):
            run = run + 1 if word == later else 0
            if run == 2 * period:
                return True
    return False
