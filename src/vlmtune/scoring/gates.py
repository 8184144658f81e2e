"""Conditions under which a comparison fails (`--fail-on "bleu<0; cider_d.ci_low<0.1"`), read and applied.

A clause is `metric[.field] < number`, with <, <=, > or >=, clauses are separated by semicolons, and a true one fails.
The field is `delta` where none is named. Clauses are about B against A. What is inconclusive fails as well.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlmtune.errors import ConfigError
from vlmtune.registry import did_you_mean

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
        ConfigError: no clause, not the form of one, an unknown field, a limit that is no number.
    """
    clauses = []
    for text in (part.strip() for part in expression.split(";")):
        if not text:
            continue
        found = _CLAUSE.fullmatch(text)
        if found is None:
            raise ConfigError(f"--fail-on: {text!r} is not of the form METRIC[.FIELD] < NUMBER (also <=, >, >=)")
        field = found["field"] or "delta"
        if field not in FIELDS:
            raise ConfigError(f"--fail-on: {text!r}: {_unknown(field, list(FIELDS), 'field')}")
        try:
            limit = float(found["limit"])
        except ValueError:
            limit = math.nan
        if math.isnan(limit):
            raise ConfigError(f"--fail-on: {text!r}: {found['limit']!r} is not a number")
        clauses.append(Clause(text, found["metric"], field, found["sign"], limit))
    if not clauses:
        raise ConfigError("--fail-on needs at least one clause, such as 'bleu<0'")
    return clauses


def failures(expression: str, plain: Mapping[str, Any]) -> list[str]:
    """Why a comparison fails, one sentence per reason; empty where it passes.

    Args:
        expression: the clauses.
        plain: a comparison as `Comparison.to_json` gives it.

    Raises:
        ConfigError: as `parse`; a metric that is not measured; a number that this comparison has not.
    """
    clauses = parse(expression)
    entries = {entry["name"]: entry for entry in plain["metrics"]}
    unsure = plain["status"] == "inconclusive"
    reasons = [f"the comparison is inconclusive: {plain['verdict']}"] if unsure else []
    for clause in clauses:
        if clause.metric not in entries and entries:
            raise ConfigError(f"--fail-on: {clause.text!r}: {_unknown(clause.metric, list(entries), 'metric')}")
        value = _value(entries[clause.metric], clause.field) if entries else None
        if value is None and not unsure:
            raise ConfigError(f"--fail-on: {clause.text!r}: with several seeds there is no p; use .ci_low or .ci_high")
        if value is not None and _SIGNS[clause.sign](value, clause.limit):
            reasons.append(f"{clause.text} is true: {clause.metric}.{clause.field} = {value:.6g}")
    return reasons


def _value(entry: Mapping[str, Any], field: str) -> float | None:
    if field in ("ci_low", "ci_high"):
        value = None if entry["ci"] is None else entry["ci"][field == "ci_high"]
    else:
        value = entry[field]
    return None if value is None else float(value)


def _unknown(name: str, known: list[str], what: str) -> str:
    return f"no {what} {name!r}; there are: {', '.join(known)}{did_you_mean(name, known)}"
