"""The references scored against themselves: on these rows, can a right answer get a metric's best score?

Where it cannot, the metric measures something else than right and wrong: captions of two words have no 4-grams for BLEU
to count, VQA accuracy asks for four people who agree, and a task may read an answer in a way that loses part of it.
Such a metric is named with its rows, and never becomes the primary one by default. `primary_first` makes that choice.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from vlmtune.errors import ConfigError
from vlmtune.metrics import Metric, Stats
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig, did_you_mean
from vlmtune.tasks import Task, parse_answer
from vlmtune.text_units import FEWEST_WORDS, count_short
from vlmtune.types import Unparsed

SHOWN = 5
"""Rows that a warning names."""

MISSED = "even the references do not get the best score in"
"""What a warning of the self-check says, and no other; it names rows, so it is not for others (`pipeline.push`)."""

_TOLERANCE = 1e-6
"""Share of the scale by which a best score may be missed; COCO's BLEU adds a constant against division by zero."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """A metric that does not give the references themselves its best score.

    `score` is theirs, `rows` the names of the rows that miss it, `count` the number of all rows.
    """

    metric: Metric
    score: float
    rows: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class MetricChoice:
    """The metrics of an evaluation, the primary one first; `reason` says why it is not the task's usual one."""

    metrics: tuple[Metric, ...]
    reason: str | None
    failed: tuple[SelfCheck, ...]

    @property
    def warnings(self) -> list[str]:
        """What the self-check found; metrics that miss their best score on the same rows share a sentence."""
        by_rows: dict[tuple[str, ...], list[SelfCheck]] = {}
        for check in self.failed:
            by_rows.setdefault(check.rows, []).append(check)
        return [_warning(checks) for checks in by_rows.values()]


def _warning(checks: Sequence[SelfCheck]) -> str:
    """What the self-check found about metrics that miss their best score on the same rows."""
    rows, count = checks[0].rows, checks[0].count
    names, scores = zip(*((check.metric.name, f"{check.score:.4f}") for check in checks), strict=True)
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return (
        f"{MISSED} {', '.join(names)} on {len(rows)} of {count} rows "
        f"({', '.join(rows[:SHOWN])}{more}): scored against themselves they have {', '.join(scores)}"
    )


def primary_first(
    metrics: Sequence[Metric], task: Task, config: BaseConfig, lines: Sequence[Line], primary: str | None = None
) -> MetricChoice:
    """Metrics with the primary one first.

    The primary metric is the one that is named, or else the first that passes the self-check; if none does, the one
    that fails on the fewest rows. Where most references are short, those that the task then prefers are tried first.

    Args:
        metrics: of `choose_metrics`.
        task: reads the answers.
        config: the task's.
        lines: all rows of a prediction file; only their truths are used.
        primary: `evaluation.primary`.

    Raises:
        ConfigError: `primary` is not one of the metrics.
    """
    failed = {check.metric.name: check for check in self_check(metrics, task, config, lines)}
    by_name = {metric.name: metric for metric in metrics}
    if primary is not None and primary not in by_name:
        raise ConfigError(
            f"evaluation.primary: {primary!r} is not measured here; there are: {', '.join(by_name)}"
            + did_you_mean(primary, list(by_name))
        )
    first, reason = by_name[primary] if primary is not None else metrics[0], None
    if primary is None:
        short = None if task.one_answer else count_short([text for line in lines for text in line.references])
        suited = task.default_metrics([line.truth for line in lines]) if short else ()
        tried = list(dict.fromkeys([*(metric for metric in suited if metric.name in by_name), *metrics]))
        first = min(tried, key=lambda metric: len(failed[metric.name].rows) if metric.name in failed else 0)
        usual = next(metric for metric in (*task.metrics, *metrics) if metric in metrics) if short else metrics[0]
        if first.name != usual.name:
            reason = _reason(first.name, usual.name, short)
    ordered = (first, *(metric for metric in metrics if metric.name != first.name))
    return MetricChoice(ordered, reason, tuple(failed[metric.name] for metric in ordered if metric.name in failed))


def _reason(chosen: str, usual: str, short: tuple[int, int] | None) -> str:
    why = f"{usual} does not give the references themselves its best score"
    if short is not None:
        why = f"{short[0]} of {short[1]} references have fewer than {FEWEST_WORDS} words, too few for BLEU's 4-grams"
    return f"{chosen}, because {why}"


def self_check(metrics: Sequence[Metric], task: Task, config: BaseConfig, lines: Sequence[Line]) -> list[SelfCheck]:
    """The metrics that do not give the references their best score, in the given order.

    Of several references, the one that scores best is the answer. Metrics that say so (`Metric.self_check`) are left
    out.

    Args:
        metrics: to check.
        task: reads the references like answers.
        config: the task's.
        lines: rows with truths.
    """
    answers = _RightAnswers(task, config, lines)
    found = (_check(metric, answers, lines) for metric in metrics if metric.self_check)
    return [check for check in found if check is not None]


def _check(metric: Metric, right: "_RightAnswers", lines: Sequence[Line]) -> SelfCheck | None:
    truths = [line.truth[metric.truth] for line in lines]
    sign, end = (1, metric.scale) if metric.higher_is_better else (-1, 0.0)
    aims = np.array([metric.attainable(truth) for truth in truths]) if metric.attainable else np.full(len(lines), end)
    best: Stats | None = None
    score = end
    missed = np.ones(len(lines), dtype=bool)
    for answers in right.of(metric.truth):
        stats = metric.measure(answers, truths)
        if best is not None:
            better = sign * np.asarray(metric.summarise(stats)) > sign * np.asarray(metric.summarise(best))
            stats = np.where(better[:, None], stats, best)
        best = stats
        missed = sign * (np.asarray(metric.summarise(best)) - aims) < -_TOLERANCE * metric.scale
        score = float(metric.summarise(best.sum(axis=0)))
        # BLEU of all rows can reach its best although a short row alone has no 4-grams.
        if not missed.any() or (metric.attainable is None and abs(score - end) <= _TOLERANCE * metric.scale):
            return None
    if best is None:
        return None
    return SelfCheck(metric, score, tuple(_name(n, lines[n]) for n in np.flatnonzero(missed).tolist()), len(lines))


class _RightAnswers:
    """Right answers to all rows as the task reads them; those that metrics share are read once."""

    def __init__(self, task: Task, config: BaseConfig, lines: Sequence[Line]) -> None:
        self._task, self._config, self._lines = task, config, lines
        self._texts: dict[str, list[Sequence[str]]] = {}
        self._read: dict[tuple[str, int], list[Any]] = {}

    def of(self, truth: str) -> Iterator[Sequence[Any]]:
        """One answer for every row at a time, until all references were used.

        Args:
            truth: what the metric compares with.
        """
        if truth == "boxes":
            yield [line.truth["boxes"] for line in self._lines]
            return
        if truth not in self._texts:
            self._texts[truth] = [_right_texts(truth, line) for line in self._lines]
        texts = self._texts[truth]
        if all(texts):
            for number in range(max(map(len, texts))):
                if (truth, number) not in self._read:
                    self._read[truth, number] = [*map(self._answer, texts, repeat(number), self._lines)]
                yield self._read[truth, number]

    def _answer(self, texts: Sequence[str], number: int, line: Line) -> Any:
        answer = parse_answer(self._task, self._config, texts[min(number, len(texts) - 1)], line.truth)
        return None if isinstance(answer, Unparsed) else answer


def _right_texts(truth: str, line: Line) -> Sequence[str]:
    """What a model could write to be right; empty where that is not known."""
    if truth == "record":
        return [json.dumps(line.truth["record"], ensure_ascii=False)]
    if truth == "keywords":
        return [" ".join(keyword.split("|")[0] for keyword in line.truth["keywords"])]
    if truth == "label" and not line.references:
        return [str(line.truth["label"])]
    return line.references


def _name(number: int, line: Line) -> str:
    return line.id if line.id is not None else f"row {number + 1}"
