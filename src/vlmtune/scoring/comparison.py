"""Prediction files compared: paired rows, intervals, p-values, controls, slices, and a verdict in plain words.

Was training needed? The tuned side against the same model asked differently, in the primary metric.

What became of other things than the one that was trained: further evaluation sets, and parts of the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlmtune.errors import ConfigError, DataError, IntegrityError
from vlmtune.metrics import Metric
from vlmtune.predictions import Line
from vlmtune.registry import BaseConfig, did_you_mean
from vlmtune.scoring import EvaluationConfig, diagnostics, examples, gates, score, verdict
from vlmtune.scoring.diagnostics import sliced
from vlmtune.scoring.metric_comparison import Terms, adjust, judged
from vlmtune.scoring.pairing import Evidence, Lines, Rows, Seeds, Side, gather, name_of
from vlmtune.scoring.score import choose
from vlmtune.scoring.verdict import Status, change_of, listed, warnings
from vlmtune.tasks import Task


def columns(sides: Sequence[Side], b: Seeds, primary: Metric, terms: Terms) -> list[dict[str, Any]]:
    """One entry per untrained column, in the given order: B against it, on the rows they share.

    The keys are those of a metric's entry, `a` being the column; in front `column` (its name), `rows`, `status`, and
    `why_not`: reasons for which nothing can be concluded, then the status is "inconclusive".
    """
    entries = []
    for side in sides:
        evidence = gather((side,), b, {primary.truth})
        why_not = verdict.reasons(evidence)
        found = judged([primary], evidence, terms)[0] if len(evidence.answered) else {}
        status = "inconclusive" if why_not or not found else verdict.status_of(found)
        rows = dict(evidence.counts)
        entries.append({"column": name_of((side,)), "rows": rows, "status": status, "why_not": why_not, **found})
    return entries


def best(entries: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The column that scores above the baseline and leaves B the smallest gain; None where the baseline is the best.

    Scores are compared by what B gains over each, on the rows that both answered. A column about which nothing can be
    concluded is not among them.

    Args:
        entries: of `columns`.
        baseline: B against the baseline, in the same metric.
    """
    sign = 1 if baseline["higher_is_better"] else -1
    known = [entry for entry in entries if entry["status"] != "inconclusive"]
    least = min(known, key=lambda entry: sign * entry["delta"], default=None)
    return least if least is not None and sign * least["delta"] < sign * baseline["delta"] else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A. `facts` is everything but the examples, as plain values; `examples` the paired rows."""

    status: Status
    verdict: str
    facts: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]] = field(repr=False)

    def to_json(self, examples: bool = True) -> dict[str, Any]:
        """Plain values, as `vlmtune compare --json` prints them (without the examples)."""
        plain = {"schema_version": 1, "status": self.status, "verdict": self.verdict, **self.facts}
        return plain | ({"examples": list(self.examples)} if examples else {})

    def regressions(self) -> list[Mapping[str, Any]]:
        """Examples that got worse by the primary metric, worst first; of several seeds, the first of each side."""
        sign = 1 if not self.facts["metrics"] or self.facts["metrics"][0]["higher_is_better"] else -1
        worse = [example for example in self.examples if example["gain"] is not None and sign * example["gain"] < 0]
        return sorted(worse, key=lambda example: sign * example["gain"])

    def failures(self, expression: str) -> list[str]:
        """Why B fails `expression` (grammar: `scoring.gates`), with the numbers; empty where it passes.

        Raises:
            ConfigError: not an expression, or about something that was not measured.
        """
        return gates.failures(expression, self.to_json(examples=False))


@dataclass(frozen=True, slots=True)
class _Match:
    """One side B against A, before anything is concluded."""

    b: Seeds
    metrics: Sequence[Metric]
    evidence: Evidence
    facts: dict[str, Any]
    notes: list[str]


def compare(  # noqa: PLR0913 - the sides, and the terms they are compared on
    a: Side | Seeds,
    b: Side | Seeds,
    task: Task,
    task_config: BaseConfig,
    evaluation: EvaluationConfig,
    others: Sequence[Side | Seeds] = (),
    *,
    untrained: Sequence[Side] = (),
) -> Comparison:
    """Compare side B, and each of the others, with side A.

    A side is one prediction file, or one file per training seed of the same recipe. What the result says at its top
    level is about B; `facts["others"]` holds the same, without examples, of the others. Sides in `untrained` are side A
    asked differently: where one of them scores above A, the verdict is against the best of them.

    Raises:
        DataError: a side has no rows, no row has a partner, or no pair was answered on both sides.
        ConfigError: an unknown metric or column.
        IntegrityError: a stand-in's answers are compared with a real model's.
    """
    first, *systems = [(side,) if isinstance(side, Side) else tuple(side) for side in (a, b, *others)]
    _refuse_mixture([side for seeds in (first, *systems, untrained) for side in seeds])
    terms = Terms(task, task_config, evaluation.statistics)
    matches = [_match(first, system, terms, evaluation) for system in systems]
    entries = adjust([match.facts["metrics"] for match in matches])
    concluded = [_conclude(first, match, own) for match, own in zip(matches[1:], entries[1:], strict=True)]
    plain = [other.to_json(examples=False) for other in concluded]
    baselines = columns(untrained, matches[0].b, matches[0].metrics[0], terms)
    top, rows = _conclude(first, matches[0], entries[0], plain, baselines), matches[0].evidence.asked
    both = list(zip(rows.a[0], rows.b[0], strict=True))
    return replace(top, examples=examples.of_rows(both, matches[0].metrics, task, task_config))


def _match(a: Seeds, b: Seeds, terms: Terms, evaluation: EvaluationConfig) -> _Match:
    """Pair, measure and judge one side B."""
    for side in (*a, *b):
        if not side.lines:
            raise DataError(f"{side.name} has no rows")
    metrics = _primary_first(choose(terms.task, evaluation.metrics, _lines((*a, *b))), evaluation)
    evidence = gather(a, b, {metric.truth for metric in metrics})
    if not evidence.counts["paired"]:
        raise DataError(
            f"{name_of(a)} and {name_of(b)} have no row in common: neither an id nor the references of a row agree"
        )
    rows = evidence.answered
    slices, notes = _slices(evaluation, metrics[0], rows, terms)
    facts = {
        "primary": metrics[0].name,
        "names": {"a": name_of(a), "b": name_of(b)},
        "seeds": {"a": [side.name for side in a], "b": [side.name for side in b]},
        "rows": dict(evidence.counts),
        "paired_by": evidence.by,
        "metrics": judged(metrics, evidence, terms) if len(rows) else [],
        "slices": slices,
        "lengths": {
            "a": score.lengths(_texts(rows.a)),
            "b": score.lengths(_texts(rows.b)),
            "references": score.lengths([text for line in rows.a[0] for text in line.references]),
        },
        "shares": {"a": dict(score.shares(_flat(rows.a))), "b": dict(score.shares(_flat(rows.b)))},
        "settings": {"a": dict(a[0].origin), "b": dict(b[0].origin)},
        "controls": _controls(a, b, metrics[0], rows, terms),
        "confidence": _confidence(rows, metrics[0], terms),
        "training": _training(b),
        "statistics": evaluation.statistics.model_dump(),
    }
    return _Match(b, metrics, evidence, facts, notes)


def _conclude(
    a: Seeds,
    match: _Match,
    entries: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]] = (),
    untrained: Sequence[Mapping[str, Any]] = (),
) -> Comparison:
    """Status, warnings and verdict; the examples are left out."""
    why_not = verdict.reasons(match.evidence)
    strongest = best(untrained, entries[0]) if entries else None
    facts = {**match.facts, "metrics": list(entries), "others": list(others), "untrained": list(untrained)}
    facts["best_untrained"] = strongest["column"] if strongest else None
    status: Status = "inconclusive" if why_not else verdict.status_of(strongest or entries[0])
    found = warnings(a, match.b, match.evidence, status, facts)
    facts["warnings"] = [*why_not, *found, *match.notes]
    return Comparison(status, verdict.sentence(status, why_not, facts, match.b, strongest), facts, ())


def _refuse_mixture(sides: Sequence[Side]) -> None:
    kinds = {side.manifest["mock"]: side.name for side in sides if side.manifest and "mock" in side.manifest}
    if len(kinds) > 1:
        raise IntegrityError(
            f"one of {' and '.join(sorted(kinds.values()))} was made with USE_MOCK by the stand-in model, the other by "
            "the real one; run the missing step again the same way"
        )


def _primary_first(metrics: Sequence[Metric], evaluation: EvaluationConfig) -> list[Metric]:
    """The metrics, that which the verdict is about in front."""
    names = [metric.name for metric in metrics]
    primary = evaluation.primary or names[0]
    if primary in names:
        return sorted(metrics, key=lambda metric: metric.name != primary)
    raise ConfigError(
        f"evaluation.primary: {primary!r} is not measured here; there are: {', '.join(names)}"
        + did_you_mean(primary, names)
    )


def _slices(
    evaluation: EvaluationConfig, primary: Metric, rows: Rows, terms: Terms
) -> tuple[list[dict[str, Any]], list[str]]:
    if not evaluation.slices or not len(rows):
        return [], []
    return sliced(evaluation.slices, terms.measured(primary, rows.a, rows.b), rows, terms)


def _controls(a: Seeds, b: Seeds, primary: Metric, rows: Rows, terms: Terms) -> dict[str, Any]:
    """The controls; the effect is that of the first seed."""
    images = {
        "a": diagnostics.image_control(a, rows.a, rows.groups, primary, terms),
        "b": diagnostics.image_control(b, rows.b, rows.groups, primary, terms),
    }
    return {
        "length": diagnostics.length_control(rows, primary, terms) if len(rows) else None,
        "image": images if any(images.values()) else None,
        "effect": (b[0].controls or {}).get("effect"),
    }


def _confidence(rows: Rows, primary: Metric, terms: Terms) -> dict[str, Any] | None:
    """How the primary score grows with how sure an answer is; of several seeds, of the first."""
    found = {
        side: diagnostics.curve(files[0], rows.groups, primary, terms) for side, files in (("a", rows.a), ("b", rows.b))
    }
    return found if any(found.values()) else None


def _training(b: Seeds) -> dict[str, Any] | None:
    """How B was trained; of several seeds the first one that is known, by its name."""
    known = next((side for side in b if side.training), None)
    if known is None or known.training is None:
        return None
    return ({"seed_shown": known.name} if len(b) > 1 else {}) | dict(known.training)


def _lines(sides: Seeds) -> list[Line]:
    return [line for side in sides for line in side.lines]


def _flat(files: Sequence[Lines]) -> list[Line]:
    return [line for lines in files for line in lines]


def _texts(files: Sequence[Lines]) -> list[str]:
    return [line.prediction or "" for line in _flat(files)]


def beside(comparison: Comparison, also: Mapping[str, Comparison]) -> Comparison:
    """A comparison with those of further sets: `facts["also"]`, and in words where one of them got worse.

    The status stays that of the first: what was trained is judged by itself, what it cost stands beside it.
    """
    if not also:
        return comparison
    entries = [{"name": name, **one.to_json(examples=False)} for name, one in also.items()]
    worse = [entry for entry in entries if entry["status"] == "worse"]
    known = comparison.facts["warnings"]
    own = {entry["name"]: [warning for warning in entry["warnings"] if warning not in known] for entry in entries}
    # A set of which another metric fell, or that cannot be judged, speaks for itself among the warnings.
    fine = [e for e in entries if e["status"] in ("improved", "no_difference") and not own[e["name"]]]
    verdict = comparison.verdict
    if worse:
        verdict += f" It got worse elsewhere: {listed([f'on {_said(entry)}' for entry in worse])}."
    elif len(fine) == len(entries):
        verdict += f" No loss shown on {listed([_named(entry) for entry in fine])}."
    unsure = [f"{entry['name']}: {entry['verdict']}" for entry in entries if entry["status"] == "inconclusive"]
    said = [f"{name}: {warning}" for name, warnings in own.items() for warning in warnings]
    warnings = [*dict.fromkeys([*unsure, *said, *known])]
    return replace(comparison, verdict=verdict, facts={**comparison.facts, "also": entries, "warnings": warnings})


def _said(entry: Mapping[str, Any]) -> str:
    first = entry["metrics"][0]
    level = f"{entry['statistics']['confidence']:.0%}"
    return f"{entry['name']} ({first['name']} {first['a']:.4f} → {first['b']:.4f}, change {change_of(first, level)})"


def _named(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']} ({entry['primary']})"
