"""Conditions under which a comparison fails: `--fail-on "bleu<0; cider_d.ci_low<0.1"`.

A clause is `metric[.field] < number`, with <, <=, > or >=, about B against A; the default field is `delta`.
Clauses are separated by semicolons. The comparison fails if any of them is true or unknown, or if it is inconclusive.
Where hardly any row differs, `ci_low` and `ci_high` are the bound on either side.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlmtune.errors import ConfigError
from vlmtune.registry import did_you_mean
from vlmtune.scoring.results import ComparisonResult, MetricResult

FIELDS = ("delta", "ci_low", "ci_high", "a", "b", "p")
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CLAUSE = re.compile(r"(?P<metric>\w+)(?:\.(?P<field>\w+))?\s*(?P<sign><=|>=|<|>)\s*(?P<limit>[^\s<>=]+)")


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition; `text` as the user wrote it."""

    text: str
    metric: str
    field: str
    sign: str
    limit: float


def parse(expression: str) -> list[Clause]:
    """The clauses of an expression.

    Raises:
        ConfigError: no clause, a malformed one, an unknown field, or a limit that is not a number.
    """
    clauses = []
    for text in (part.strip() for part in expression.split(";")):
        if not text:
            continue
        match = _CLAUSE.fullmatch(text)
        if match is None:
            raise ConfigError(f"--fail-on: {text!r} is not of the form METRIC[.FIELD] < NUMBER (also <=, >, >=)")
        field = match["field"] or "delta"
        if field not in FIELDS:
            raise ConfigError(f"--fail-on: {text!r}: {_unknown(field, list(FIELDS), 'field')}")
        try:
            limit = float(match["limit"])
        except ValueError:
            limit = math.nan
        if math.isnan(limit):
            raise ConfigError(f"--fail-on: {text!r}: {match['limit']!r} is not a number")
        clauses.append(Clause(text, match["metric"], field, match["sign"], limit))
    if not clauses:
        raise ConfigError("--fail-on needs at least one clause, such as 'bleu<0'")
    return clauses


def failures(expression: str, result: ComparisonResult) -> list[str]:
    """Why a comparison fails, one sentence per reason; empty where it passes.

    Raises:
        ConfigError: as `parse`; a metric that was not measured, or a number that this comparison does not have.
    """
    clauses = parse(expression)
    metrics = {metric["name"]: metric for metric in result["metrics"]}
    inconclusive = result["status"] == "inconclusive"
    reasons = [f"the comparison is inconclusive: {result['verdict']}"] if inconclusive else []
    for clause in clauses:
        if clause.metric not in metrics and metrics:
            raise ConfigError(f"--fail-on: {clause.text!r}: {_unknown(clause.metric, list(metrics), 'metric')}")
        value = _value(metrics[clause.metric], clause.field) if metrics else None
        if value is None and not inconclusive:
            if clause.field == "p":
                raise ConfigError(
                    f"--fail-on: {clause.text!r}: with several seeds there is no p; use .ci_low or .ci_high"
                )
            reasons.append(f"{clause.text} is unknown: {metrics[clause.metric]['no_interval']}")
        if value is not None and _SIGNS[clause.sign](value, clause.limit):
            reasons.append(f"{clause.text} is true: {clause.metric}.{clause.field} = {value:.6g}")
    return reasons


def _value(metric: MetricResult, field: str) -> float | None:
    bound = metric["bound"]
    low, high = metric["ci"] or ((None, None) if bound is None else (-bound, bound))
    values = {"delta": metric["delta"], "a": metric["a"], "b": metric["b"], "p": metric["p"]}
    return {**values, "ci_low": low, "ci_high": high}[field]


def _unknown(name: str, known: list[str], what: str) -> str:
    return f"no {what} {name!r}; there are: {', '.join(known)}{did_you_mean(name, known)}"
