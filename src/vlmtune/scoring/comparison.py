"""Paired comparison of prediction files.

`compare` pairs each side with side A (`pairing`), compares the metrics (`metric_comparison`), runs the diagnostics and
draws the conclusion (`verdict`). Prompt baselines, the answers of A's model to other prompts, show whether training was
needed at all. Comparisons on additional evaluation sets are attached afterwards and show what training cost on other
data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vlmtune.errors import DataError, IntegrityError
from vlmtune.metrics import Metric, forget_texts
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig
from vlmtune.scoring import EvaluationConfig, diagnostics, gates, verdict
from vlmtune.scoring.contradictions import contradictions
from vlmtune.scoring.degenerate import degenerate_sides
from vlmtune.scoring.examples import ExampleResults, is_answered
from vlmtune.scoring.judge import Judge, Judged, add_to_examples, judged
from vlmtune.scoring.judge import warnings as judge_warnings
from vlmtune.scoring.metric_comparison import (
    ScoringContext,
    SufficientStatistics,
    adjust_p_values,
    metric_results,
)
from vlmtune.scoring.pairing import Evidence, Lines, PredictionFile, Rows, Side, gather, name_of
from vlmtune.scoring.results import (
    AdditionalResult,
    ComparisonFile,
    ComparisonResult,
    ConfidenceCurve,
    ControlResults,
    ExampleResult,
    ImageControl,
    MetricResult,
    PromptBaselineResult,
    ResponseLengths,
    Sides,
    SliceResult,
    Status,
    TrainingSummary,
    UnscoredPromptBaseline,
)
from vlmtune.scoring.score import caveats, choose_metrics, reread, response_lengths, response_shares
from vlmtune.scoring.self_check import MetricChoice, primary_first
from vlmtune.scoring.verdict import change_of, enumeration
from vlmtune.tasks import Task
from vlmtune.text_units import unit_of

PromptBaselines = list[PromptBaselineResult | UnscoredPromptBaseline]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Side B against side A: the result, and one entry per paired row."""

    result: ComparisonResult
    examples: Sequence[ExampleResult] = field(repr=False)
    """Made anew whenever one is read, so that those of many rows take no memory."""

    @property
    def status(self) -> Status:
        """The conclusion in one word."""
        return self.result["status"]

    @property
    def verdict(self) -> str:
        """The conclusion in a sentence or a few."""
        return self.result["verdict"]

    @property
    def metrics(self) -> list[MetricResult]:
        """One result per metric, the primary one first; empty where no row was answered on both sides."""
        return self.result["metrics"]

    def to_json(self) -> ComparisonFile:
        """Result and examples, as they are written to `compare.json`."""
        return {**self.result, "examples": list(self.examples)}

    def regressions(self) -> list[ExampleResult]:
        """Examples that got worse by the primary metric, worst first; of several seeds, the first of each side."""
        sign = 1 if not self.metrics or self.metrics[0]["higher_is_better"] else -1
        gains = [(sign * example["gain"], example) for example in self.examples if example["gain"] is not None]
        return [example for gain, example in sorted(gains, key=lambda pair: pair[0]) if gain < 0]

    def failures(self, expression: str) -> list[str]:
        """Why B fails `expression` (grammar: `scoring.gates`), with the numbers; empty where it passes.

        Raises:
            ConfigError: a malformed expression, or one about something that was not measured.
        """
        return gates.failures(expression, self.result)


@dataclass(frozen=True, slots=True)
class _Match:
    """One side B paired with A, before p-values are adjusted over all systems and conclusions are drawn."""

    a: Side
    b: Side
    choice: MetricChoice
    evidence: Evidence
    statistics: list[SufficientStatistics]
    results: list[MetricResult]
    judged: Judged | None = None

    @property
    def metrics(self) -> Sequence[Metric]:
        """The primary one first."""
        return self.choice.metrics


def compare(  # noqa: PLR0913 - the sides, and what they are compared by
    a: PredictionFile | Side,
    b: PredictionFile | Side,
    task: Task,
    task_config: BaseConfig,
    evaluation: EvaluationConfig,
    others: Sequence[PredictionFile | Side] = (),
    *,
    prompt_baselines: Sequence[PredictionFile] = (),
    judge: Judge | None = None,
) -> Comparison:
    """Compare side B, and each of the others, with side A.

    A side is one prediction file, or one file per training seed of the same recipe. The result is about B; its `others`
    hold the results of the others. `prompt_baselines` are A's model with other prompts: if any scores above A, the
    verdict is against the best of them. A `judge` compares the answers of all files; its preference is the last metric.

    Raises:
        DataError: a side has no rows, no row has a partner, or no pair was answered on both sides.
        ConfigError: an unknown metric or column.
        IntegrityError: answers of a mock run are compared with those of a real one.
        RemoteError, EnvironmentProblem: the judge cannot be asked.
    """
    context = ScoringContext(task, task_config, evaluation.statistics)
    given = [(side,) if isinstance(side, PredictionFile) else side for side in (a, b, *others, prompt_baselines)]
    first, *systems, prompt_baselines = [_reread(side, context) for side in given]
    _refuse_mixture([file for side in (first, *systems, prompt_baselines) for file in side])
    matches = [_match(first, system, context, evaluation) for system in systems]
    forget_texts()
    matches = [_with_results(match, context) for match in matches]
    if judge is not None:
        matches = [_with_judge(match, judge, evaluation, number == 0) for number, match in enumerate(matches)]
    adjusted = adjust_p_values([match.results for match in matches])
    matches = [replace(match, results=results) for match, results in zip(matches, adjusted, strict=True)]
    main = matches[0]
    baselines = compare_prompt_baselines(prompt_baselines, main.b, main.metrics[0], context)
    result = _conclude(main, context, evaluation, baselines)
    result["others"] = [_conclude(match, context, evaluation, []) for match in matches[1:]]
    examples = _examples(main)
    return Comparison(result, add_to_examples(examples, main.judged.rows) if main.judged else examples)


def _examples(match: _Match) -> ExampleResults:
    """Every paired row; of several seeds, the first of each side."""
    rows = match.evidence.asked
    pairs = list(zip(rows.a[0], rows.b[0], strict=True))
    statistics = match.statistics
    if any(not one.single for one in statistics):
        a, b = zip(*(pair for pair in pairs if is_answered(pair)), strict=True)
        statistics = [SufficientStatistics.of(metric, [a], [b]) for metric in match.metrics]
    return ExampleResults(pairs, match.metrics, statistics)


def _with_judge(match: _Match, judge: Judge, evaluation: EvaluationConfig, labelled: bool) -> _Match:
    """The judge's preference as one more result; human labels are about the first system."""
    if not match.results:
        return match
    found = judged(judge, match.evidence, evaluation.statistics, labelled)
    return replace(match, results=[*match.results, found.metric], judged=found)


def compare_prompt_baselines(
    files: Sequence[PredictionFile], b: Side, primary: Metric, context: ScoringContext
) -> PromptBaselines:
    """B against each prompt baseline (side A of these results), in the given order, on the rows the two share."""
    results: PromptBaselines = []
    gathered = [gather((file,), b, {primary.truth}) for file in files]
    measured = [_statistics([primary], evidence) for evidence in gathered]
    forget_texts()
    for file, evidence, statistics in zip(files, gathered, measured, strict=True):
        metric = metric_results(statistics, evidence, context.statistics)[0] if statistics else None
        names: Sides[str] = {"a": file.name, "b": name_of(b)}
        why_not = [
            *degenerate_sides(evidence.answered, names),
            *verdict.reasons_inconclusive(evidence, metric),
        ]
        unscored: UnscoredPromptBaseline = {
            "prompt_baseline": file.name,
            "rows": evidence.counts,
            "status": "inconclusive",
            "why_not": why_not,
        }
        if metric is None:
            results.append(unscored)
            continue
        status: Status = "inconclusive" if why_not else metric["status"]
        results.append({**unscored, **metric, "status": status})
    return results


def best_prompt_baseline(results: PromptBaselines, baseline: MetricResult) -> PromptBaselineResult | None:
    """The prompt baseline that scores above the baseline and leaves B the smallest gain; None where there is none.

    Scores are compared by what B gains over each, on the rows that both answered. An inconclusive prompt baseline is
    not considered.

    Args:
        results: of `compare_prompt_baselines`.
        baseline: B against the baseline, in the same metric.
    """
    sign = 1 if baseline["higher_is_better"] else -1
    known = [result for result in results if "delta" in result and result["status"] != "inconclusive"]
    best = min(known, key=lambda result: sign * result["delta"], default=None)
    return best if best is not None and sign * best["delta"] < sign * baseline["delta"] else None


def with_additional_sets(comparison: Comparison, additional: Mapping[str, Comparison]) -> Comparison:
    """Attach the comparisons on additional evaluation sets, by name: in `additional`, and in the verdict.

    The status stays that of the comparison itself: it is about the data that the model was trained for.
    """
    if not additional:
        return comparison
    entries: list[AdditionalResult] = [{**one.result, "name": name} for name, one in additional.items()]
    known = comparison.result["warnings"]
    new = {entry["name"]: [warning for warning in entry["warnings"] if warning not in known] for entry in entries}
    worse = [_change_on(entry) for entry in entries if entry["status"] == "worse"]
    # A set that is inconclusive, or on which another metric fell, is among the warnings instead.
    unharmed = [
        f"{entry['name']} ({entry['primary']})"
        for entry in entries
        if entry["status"] in ("improved", "no_difference") and not new[entry["name"]]
    ]
    text = comparison.verdict
    if worse:
        text += f" It got worse on additional evaluation sets: {enumeration(worse)}."
    elif len(unharmed) == len(entries):
        text += f" No loss shown on {enumeration(unharmed)}."
    inconclusive = [f"{entry['name']}: {entry['verdict']}" for entry in entries if entry["status"] == "inconclusive"]
    about_sets = [f"{name}: {warning}" for name, warnings in new.items() for warning in warnings]
    warnings = [*dict.fromkeys([*inconclusive, *about_sets, *known])]
    return replace(
        comparison, result={**comparison.result, "verdict": text, "additional": entries, "warnings": warnings}
    )


def _change_on(entry: AdditionalResult) -> str:
    primary = entry["metrics"][0]
    level = f"{entry['statistics']['confidence']:.0%}"
    scores = f"{primary['a']:.4f} → {primary['b']:.4f}"
    return f"{entry['name']} ({primary['name']} {scores}, change {change_of(primary, level)})"


def _refuse_mixture(files: Sequence[PredictionFile]) -> None:
    kinds = {file.manifest["mock"]: file.name for file in files if file.manifest and "mock" in file.manifest}
    if len(kinds) > 1:
        raise IntegrityError(
            f"one of {' and '.join(sorted(kinds.values()))} comes from a mock run (USE_MOCK), the other from a real "
            "one; repeat one of the steps so that both are of the same kind"
        )


def _reread(side: Sequence[PredictionFile], context: ScoringContext) -> Side:
    """The files of a side, their answers read by the task."""
    return tuple(replace(file, lines=reread(file.lines, context.task, context.config)) for file in side)


def _match(a: Side, b: Side, context: ScoringContext, evaluation: EvaluationConfig) -> _Match:
    """Pair one side B with A, and measure their metrics."""
    for file in (*a, *b):
        if not file.lines:
            raise DataError(f"{file.name} has no rows")
    lines = [line for file in (*a, *b) for line in file.lines]
    metrics = choose_metrics(context.task, evaluation.metrics, lines)
    choice = primary_first(metrics, context.task, context.config, a[0].lines, evaluation.primary)
    evidence = gather(a, b, {metric.truth for metric in choice.metrics})
    if not evidence.counts["paired"]:
        reasons = "".join(f"; {note}" for note in evidence.notes)
        raise DataError(
            f"{name_of(a)} and {name_of(b)} have no row in common: neither an id nor the references of a row agree"
            + reasons
        )
    return _Match(a, b, choice, evidence, _statistics(choice.metrics, evidence), [])


def _with_results(match: _Match, context: ScoringContext) -> _Match:
    """With the results of resampling; what was kept of the texts is no longer needed by then."""
    statistics = match.statistics
    results = metric_results(statistics, match.evidence, context.statistics) if statistics else []
    return replace(match, results=results)


def _statistics(metrics: Sequence[Metric], evidence: Evidence) -> list[SufficientStatistics]:
    """Of the rows that are answered on both sides; empty without any."""
    rows = evidence.answered
    return [SufficientStatistics.of(metric, rows.a, rows.b) for metric in metrics] if len(rows) else []


def _conclude(
    match: _Match, context: ScoringContext, evaluation: EvaluationConfig, baselines: PromptBaselines
) -> ComparisonResult:
    """Diagnostics, status, warnings and verdict of one side B."""
    a, b, evidence, rows = match.a, match.b, match.evidence, match.evidence.answered
    names: Sides[str] = {"a": name_of(a), "b": name_of(b)}
    why_not = [
        *degenerate_sides(rows, names),
        *verdict.reasons_inconclusive(evidence, match.results[0] if match.results else None),
    ]
    best = best_prompt_baseline(baselines, match.results[0]) if match.results else None
    slices, notes = _slices(match, context, evaluation)
    result: ComparisonResult = {
        "schema_version": 1,
        "status": "inconclusive" if why_not else (best or match.results[0])["status"],
        "verdict": f"Inconclusive: {'; '.join(why_not)}.",
        "primary": match.metrics[0].name,
        "primary_reason": match.choice.reason,
        "names": names,
        "seeds": {"a": [file.name for file in a], "b": [file.name for file in b]},
        "rows": evidence.counts,
        "paired_by": evidence.by,
        "metrics": match.results,
        "slices": slices,
        "lengths": None if context.task.boxes else _lengths(rows),
        "shares": {"a": response_shares(_flat(rows.a)), "b": response_shares(_flat(rows.b))},
        "judge": match.judged.result if match.judged else None,
        "settings": {"a": dict(a[0].provenance), "b": dict(b[0].provenance)},
        "contradictions": contradictions(evidence.asked.a[0], context.task),
        "controls": _controls(match, context),
        "confidence": _confidence(match, context),
        "training": _training(b),
        "statistics": {
            "resamples": evaluation.statistics.resamples,
            "confidence": evaluation.statistics.confidence,
            "seed": evaluation.statistics.seed,
        },
        "others": [],
        "prompt_baselines": baselines,
        "best_prompt_baseline": best["prompt_baseline"] if best else None,
        "warnings": [],
    }
    if not why_not:
        result["verdict"] = verdict.sentence(result, b, best)
    about_metrics = [
        f"{file.name}: {text}"
        for side, files in ((a, rows.a), (b, rows.b))
        for file, lines in zip(side, files, strict=True)
        for text in caveats(match.metrics, lines)
    ]
    result["warnings"] = [*about_metrics, *verdict.warnings(a, b, evidence, result), *match.choice.warnings, *notes]
    result["warnings"] += judge_warnings(match.judged.result) if match.judged else []
    return result


def _slices(
    match: _Match, context: ScoringContext, evaluation: EvaluationConfig
) -> tuple[list[SliceResult], list[str]]:
    rows = match.evidence.answered
    if not evaluation.slices or not len(rows):
        return [], []
    return diagnostics.slice_results(evaluation.slices, match.statistics[0], rows, context)


def _lengths(rows: Rows) -> ResponseLengths:
    a, b = ([line.prediction or "" for line in _flat(files)] for files in (rows.a, rows.b))
    references = [text for line in rows.a[0] for text in line.references]
    return {
        "a": response_lengths(a),
        "b": response_lengths(b),
        "references": response_lengths(references),
        "unit": unit_of(references or [*a, *b]),
    }


def _controls(match: _Match, context: ScoringContext) -> ControlResults:
    """The controls; the adapter delta is that of the first seed."""
    rows, primary = match.evidence.answered, match.metrics[0]
    images: Sides[ImageControl | None] = {
        "a": diagnostics.image_control(match.a, rows.a, rows.groups, primary, context),
        "b": diagnostics.image_control(match.b, rows.b, rows.groups, primary, context),
    }
    controls = match.b[0].controls
    return {
        "length": diagnostics.length_control(rows, primary, context) if len(rows) else None,
        "image": images if any(images.values()) else None,
        "adapter_delta": controls.get("adapter_delta") if controls else None,
    }


def _confidence(match: _Match, context: ScoringContext) -> Sides[ConfidenceCurve | None] | None:
    """Score against confidence of the answers, for the first seed of each side."""
    rows, primary = match.evidence.answered, match.metrics[0]
    curves: Sides[ConfidenceCurve | None] = {
        "a": diagnostics.confidence_curve(rows.a[0], rows.groups, primary, context),
        "b": diagnostics.confidence_curve(rows.b[0], rows.groups, primary, context),
    }
    return curves if any(curves.values()) else None


def _training(b: Side) -> TrainingSummary | None:
    """How B was trained; with several seeds, the first whose training is known, named in `seed_shown`."""
    known = next((file for file in b if file.training), None)
    if known is None or known.training is None:
        return None
    return {"seed_shown": known.name, **known.training} if len(b) > 1 else known.training


def _flat(files: Sequence[Lines]) -> list[Line]:
    return [line for lines in files for line in lines]
