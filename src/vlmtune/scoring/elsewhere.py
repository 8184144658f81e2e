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
    verdict = comparison.verdict
    if worse:
        verdict += f" It got worse elsewhere: {listed([f'on {_said(entry)}' for entry in worse])}."
    elif all(entry["status"] != "inconclusive" for entry in entries):
        verdict += f" No loss shown on {listed([entry['name'] for entry in entries])}."
    facts = {**comparison.facts, "also": entries}
    unsure = [f"{entry['name']}: {entry['verdict']}" for entry in entries if entry["status"] == "inconclusive"]
    facts["warnings"] = [*unsure, *comparison.facts["warnings"]]
    return replace(comparison, verdict=verdict, facts=facts)


def _said(entry: Mapping[str, Any]) -> str:
    first = entry["metrics"][0]
    level = f"{entry['statistics']['confidence']:.0%}"
    return f"{entry['name']} ({first['name']} {first['a']:.4f} → {first['b']:.4f}, change {change_of(first, level)})"
