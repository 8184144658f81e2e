"""A language model's preference between the two answers to a row, as a metric.

The judge sees every pair twice, each answer once in front. A row's value is the mean of the two verdicts for B, where A
is -1, a tie 0 and B 1: what the judge prefers because of its place cancels, and a row on which the two orders name
different answers is a tie. The judge's noise is part of the values, and so of the interval over rows.

Asking is the business of a `Judge`, which `vlmtune.judge` implements.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, Protocol

import numpy as np

from vlmtune.errors import DataError, RemoteError
from vlmtune.metrics import Metric, Stats
from vlmtune.predictions import Line, question_of
from vlmtune.scoring import JudgeConfig, StatisticsConfig
from vlmtune.scoring.metric_comparison import SufficientStatistics, compare_metric, metric_result
from vlmtune.scoring.pairing import Evidence
from vlmtune.scoring.results import (
    ExampleResult,
    JudgeAgreement,
    JudgeCounts,
    JudgeRates,
    JudgeResult,
    JudgeVerdict,
    MetricResult,
)
from vlmtune.scoring.statistics import wilson

Preference = Literal["a", "b", "tie"]

VALUES: Mapping[str, float] = {"a": -1.0, "tie": 0.0, "b": 1.0}
"""A verdict as a number for B."""

MOST_WITHOUT_VERDICT = 0.05
"""Share of rows without a verdict above which the win rate is called no evidence."""

LEAST_CONSISTENT = 0.6
"""Share of rows with the same verdict in both orders below which a warning says so."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one row, and what the judge sees beside them."""

    a: str
    b: str
    references: tuple[str, ...]
    question: str | None = None
    image: str | None = None
    """SHA-256 of the image's pixels, which names its thumbnail."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdicts on a pair: with A in front, and with B in front; or why one of them is missing.

    `refused` tells a reply without a verdict from no reply.
    """

    a_first: Preference | None
    b_first: Preference | None
    failure: str | None = None
    refused: bool = False

    @property
    def value(self) -> float | None:
        """-1 (A) to 1 (B); None without both verdicts."""
        if self.a_first is None or self.b_first is None:
            return None
        return (VALUES[self.a_first] + VALUES[self.b_first]) / 2


IDENTICAL = Judgement("tie", "tie")
"""Of two equal answers, which no judge needs to see."""


class Judge(Protocol):
    """Asks for verdicts."""

    @property
    def config(self) -> JudgeConfig:
        """What is asked, and of which model."""

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """One judgement per pair, in order."""


def _unpaired(answers: Sequence[Any], truths: Sequence[Any]) -> Stats:
    """Every other metric measures one side; this one is built from judgements, so nothing calls it."""
    raise NotImplementedError("a judge compares two answers; one side alone has no score")


def _mean(sums: Stats) -> Stats:
    mean: Stats = sums[..., 0] / np.maximum(sums[..., 1], 1)
    return mean


METRIC = Metric(name="judge", measure=_unpaired, summarise=_mean, signature="")
"""A side's score is the share of rows it wins, a tie being half of one for each."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The result of a judge on one comparison, and the judgements by the index of a row in `Evidence.asked`."""

    metric: MetricResult
    result: JudgeResult
    rows: Mapping[int, Judgement]


def judged(judge: Judge, evidence: Evidence, settings: StatisticsConfig, labelled: bool) -> Judged:
    """Have the answers of both sides judged.

    Of several training seeds, each is judged: the first of A against the first of B, and so on; the seeds of a side
    with fewer of them are used again. Rows that one of these pairs leaves without a verdict are left out of all.

    Args:
        judge: asked for verdicts.
        evidence: the rows; those that every file answers are judged.
        settings: of the interval.
        labelled: whether human labels in the rows are about the first files of these two sides.

    Raises:
        DataError: a human label is not A, B or tie.
        RemoteError: no verdict came at all.
        RemoteError, EnvironmentProblem, IntegrityError: from the judge.
    """
    asked = evidence.asked
    numbers = [n for n in range(len(asked)) if all(lines[n].prediction is not None for lines in (*asked.a, *asked.b))]
    files = [(asked.a[k % len(asked.a)], asked.b[k % len(asked.b)]) for k in range(max(len(asked.a), len(asked.b)))]
    pairs = [[(a[n], b[n]) for n in numbers] for a, b in files]
    labels = [human_label(a, b, judge.config.human_labels) if labelled else None for a, b in pairs[0]]
    replies = iter(judge([_pair(a, b) for of_seed in pairs for a, b in of_seed]))
    judgements = [[next(replies) for _ in of_seed] for of_seed in pairs]
    rows = [n for n in range(len(numbers)) if all(of_seed[n].value is not None for of_seed in judgements)]
    if not rows:
        reasons = (one.failure for of_seed in judgements for one in of_seed if one.failure)
        raise RemoteError(
            f"{judge.config.model} gave no verdict on any of {len(numbers)} rows: {next(reasons, None)}. Check "
            "evaluation.judge, and run the same command again"
        )
    groups = [asked.groups[numbers[n]] for n in rows]
    kept = [[of_seed[n] for n in rows] for of_seed in judgements]
    metric = _metric_result(kept, groups, (len(asked.a), len(asked.b)), judge.config, settings)
    every = [
        (one, a, b)
        for ours, theirs in zip(judgements, pairs, strict=True)
        for one, (a, b) in zip(ours, theirs, strict=True)
    ]
    result: JudgeResult = {
        "model": judge.config.model,
        "rubric": judge.config.rubric,
        **_counts([one for one, _, _ in every], [a.prediction == b.prediction for _, a, b in every]),
        **_rates(np.array([[VALUES[v] for v in _both(one)] for of_seed in kept for one in of_seed]), metric),
        "agreement": _agreement(kept[0], [labels[n] for n in rows], groups, settings),
        "failures": [{"id": a.id, "reason": one.failure} for one, a, _ in every if one.failure is not None],
    }
    return Judged(metric, result, dict(zip(numbers, judgements[0], strict=True)))


def _pair(a: Line, b: Line) -> Pair:
    return Pair(a.prediction or "", b.prediction or "", a.references, question_of(a), b.image or a.image)


def _both(judgement: Judgement) -> tuple[Preference, Preference]:
    assert judgement.a_first is not None, "a judged row has both verdicts"
    assert judgement.b_first is not None, "a judged row has both verdicts"
    return judgement.a_first, judgement.b_first


def _metric_result(
    judgements: Sequence[Sequence[Judgement]],
    groups: Sequence[str],
    files: tuple[int, int],
    config: JudgeConfig,
    settings: StatisticsConfig,
) -> MetricResult:
    """The metric from judgements [seeds][N], where the sides have so many files.

    A value is a difference already: it is B's statistic against zeros, so that the spread over pairs of seeds counts
    once.
    """
    values = np.array([[one.value for one in of_seed] for of_seed in judgements], dtype=np.float64)
    ones = np.ones_like(values[0])
    none = np.stack([np.zeros_like(ones), ones], axis=1)
    statistics = SufficientStatistics(METRIC, (none,), tuple(np.stack([one, ones], axis=1) for one in values))
    compared = compare_metric(statistics, groups, settings, test=True)
    rubric = hashlib.sha256(config.rubric.encode()).hexdigest()[:8]
    signature = f"LLM judge|{config.model}|pairwise, both orders|rubric:{rubric}|tie:1/2"
    result = metric_result(statistics, compared, signature, settings.confidence)
    a, b = (
        [[(1 + sign * float(one.mean())) / 2 for one in values[k::count]] for k in range(count)]
        for sign, count in zip((-1, 1), files, strict=True)
    )
    result["a"], result["b"] = (1 - result["delta"]) / 2, (1 + result["delta"]) / 2
    if len(values) > 1:
        result["seeds"] = {"a": [fmean(of_file) for of_file in a], "b": [fmean(of_file) for of_file in b]}
    return result


def _counts(judgements: Sequence[Judgement], identical: Sequence[bool]) -> JudgeCounts:
    values = [judgement.value for judgement in judgements]
    lost = [judgement for judgement in judgements if judgement.value is None]
    return {
        "rows": len(judgements) - len(lost),
        "a_better": sum(value is not None and value < 0 for value in values),
        "b_better": sum(value is not None and value > 0 for value in values),
        "ties": sum(value == 0 for value in values),
        "contradictions": sum({one.a_first, one.b_first} == {"a", "b"} for one in judgements),
        "identical": sum(identical),
        "refused": sum(judgement.refused for judgement in lost),
        "failed": sum(not judgement.refused for judgement in lost),
    }


def _rates(verdicts: Stats, metric: MetricResult) -> JudgeRates:
    """Win rate, consistency, position bias and noise, from verdicts [N, 2]: A in front, B in front.

    Two verdicts on a row differ by the judge's preference for a place and by its noise. As far as that preference is
    the same on all rows, the variance of the difference over rows is twice the noise of one verdict, and four times
    that of their mean.
    """
    difference, values = verdicts[:, 1] - verdicts[:, 0], verdicts.mean(axis=1)
    spread = float(values.var())
    ci = metric["ci"]
    return {
        "win_rate": metric["b"],
        "win_rate_ci": None if ci is None else [min(1.0, max(0.0, (1 + end) / 2)) for end in ci],
        "consistency": float(np.mean(difference == 0)),
        "position_bias": float(difference.mean()) / 2,
        "noise_share": min(1.0, float(difference.var()) / 4 / spread) if spread else 0.0,
    }


def human_label(a: Line, b: Line, name: str) -> Preference | None:
    """The preference of a person, from the rows' metadata or another key of a prediction file; None without one.

    Raises:
        DataError: it is not A, B or tie.
    """
    for values in (b.meta, a.meta, b.truth, a.truth):
        label = values.get(name)
        if label is None or label == "":
            continue
        text = str(label).strip().lower()
        if text not in VALUES:
            raise DataError(f"row {a.id}: {name!r} must be A, B or tie (got {label!r:.80})")
        return "a" if text == "a" else "b" if text == "b" else "tie"
    return None


def _agreement(
    judgements: Sequence[Judgement],
    labels: Sequence[Preference | None],
    groups: Sequence[str],
    settings: StatisticsConfig,
) -> JudgeAgreement | None:
    """How often judge and people agree, on the rows with a label."""
    known = [n for n, label in enumerate(labels) if label is not None]
    if not known:
        return None
    theirs = [labels[n] for n in known]
    ours = [preference(judgements[n].value or 0.0) for n in known]
    agree = sum(x == y for x, y in zip(ours, theirs, strict=True))
    share, count = agree / len(known), len({groups[n] for n in known})
    counts = Counter[str | None](ours), Counter[str | None](theirs)
    by_chance = sum(counts[0][one] * counts[1][one] for one in VALUES) / len(known) ** 2
    return {
        "rows": len(known),
        "agree": agree,
        "share": share,
        # Rows of one group are not independent: the interval is as wide as for one row a group.
        "ci": list(wilson(share * count, count, settings.confidence)),
        "kappa": (share - by_chance) / (1 - by_chance) if by_chance < 1 else None,
    }


def preference(value: float) -> Preference:
    """The verdict that a row's value stands for."""
    return "b" if value > 0 else "a" if value < 0 else "tie"


def add_to_examples(examples: Sequence[ExampleResult], rows: Mapping[int, Judgement]) -> list[ExampleResult]:
    """The examples with the verdicts, and the judge among their scores and deltas."""
    return [_with_verdict(example, rows.get(n)) for n, example in enumerate(examples)]


def _with_verdict(example: ExampleResult, judgement: Judgement | None) -> ExampleResult:
    scores, deltas = example["scores"], example["deltas"]
    value = None if judgement is None else judgement.value
    added = example.copy()
    if judgement is not None:
        verdict: JudgeVerdict = {
            "a_first": judgement.a_first,
            "b_first": judgement.b_first,
            "failure": judgement.failure,
        }
        added["judge"] = verdict
    if scores is not None and deltas is not None:
        a, b = (None if value is None else (1 + sign * value) / 2 for sign in (-1, 1))
        added["scores"] = {"a": {**scores["a"], METRIC.name: a}, "b": {**scores["b"], METRIC.name: b}}
        added["deltas"] = {**deltas, METRIC.name: value}
    return added


def warnings(result: JudgeResult) -> list[str]:
    """Reasons to doubt the judge."""
    lost, found = result["refused"] + result["failed"], []
    if lost > MOST_WITHOUT_VERDICT * (result["rows"] + lost):
        found.append(
            f"the judge gave no verdict on {lost} of {result['rows'] + lost} rows ({result['failures'][0]['reason']}); "
            "its win rate is no evidence. The same command asks again for these rows"
        )
    if result["rows"] > result["identical"] and result["consistency"] < LEAST_CONSISTENT:
        found.append(
            f"the judge agrees with itself on {result['consistency']:.0%} of the rows when the answers change places; "
            "most of what it says is noise or a preference for a place"
        )
    agreement = result["agreement"]
    if agreement is not None and agreement["kappa"] is not None and agreement["ci"][0] < 0.5:
        found.append(
            f"the judge agrees with people on {agreement['agree']} of {agreement['rows']} labeled rows "
            f"({agreement['ci'][0]:.0%} to {agreement['ci'][1]:.0%}); it is not shown to agree with them on more than "
            "half"
        )
    return found
