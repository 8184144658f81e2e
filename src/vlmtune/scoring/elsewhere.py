"""What became of other things than the one that was trained: further evaluation sets, and parts of the rows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlmtune.scoring.comparison import Comparison
from vlmtune.scoring.verdict import change_of, listed


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
