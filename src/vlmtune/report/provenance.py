"""How a comparison was made: settings of both sides next to each other, failures, and the commands that repeat it."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.report.rows import Example, failures

ROW_NAMES = {
    "a": "rows of A",
    "b": "rows of B",
    "paired": "in both",
    "only_a": "only in A",
    "only_b": "only in B",
    "failed_a": "failed in A",
    "failed_b": "failed in B",
    "selection": "left out: chose the checkpoint",
    "compared": "compared",
    "groups": "independent groups",
}
"""Counts of rows in words."""


def settings(plain: Mapping[str, Any]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Settings that differ (path, A, B), and those alike (path, value). What is null on both sides is left out."""
    a, b = (flat(plain["settings"][side]) for side in ("a", "b"))
    differ, alike = [], []
    for path in dict.fromkeys([*a, *b]):
        one, other = a.get(path), b.get(path)
        if one != other:
            differ.append((path, one or "-", other or "-"))
        elif one is not None:
            alike.append((path, one))
    return differ, alike


def flat(value: Any, path: str = "") -> dict[str, str | None]:
    """Nested values by dotted path."""
    if isinstance(value, Mapping):
        found: dict[str, str | None] = {}
        for key, item in value.items():
            found |= flat(item, f"{path}.{key}" if path else str(key))
        return found
    if value is None:
        return {path: None}
    return {path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def training(plain: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the training beside its curve."""
    facts = {key: value for key, value in (plain.get("training") or {}).items() if key != "curve"}
    return [(path, value) for path, value in flat(facts).items() if value is not None]


def failed(examples: Sequence[Example]) -> list[tuple[str, str, int, list[str]]]:
    """(side, what happened, rows, the first ids), the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    ids: dict[tuple[str, str], list[str]] = {}
    for number, example in enumerate(examples, start=1):
        for failure in failures(example):
            counts[failure] += 1
            ids.setdefault(failure, []).append(example["id"] if example["id"] is not None else f"row {number}")
    return [(*failure, count, ids[failure][:20]) for failure, count in counts.most_common()]


def commands(plain: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what for, command) that make this page and its numbers again."""
    files = [_files(plain, "a"), _files(plain, "b"), *(_files(other, "b") for other in plain.get("others") or [])]
    task = next((side["task"]["name"] for side in plain["settings"].values() if "task" in side), None)
    named = ["--task", task] if task else []
    columns = dict.fromkeys(part["column"] for part in plain.get("slices") or [])
    sliced = [word for column in columns for word in ("--slice", column)]
    both = shlex.join(["vlmtune", "compare", *map(",".join, files), *named, *sliced])
    metrics = ",".join(entry["name"] for entry in plain["metrics"])
    found = [("This page, from the prediction files", f"{both} -o report.html")]
    found.append(("The numbers alone, for a script", f"{both} --json"))
    if metrics:
        scored = shlex.join(["vlmtune", "score", files[1][0], *named, "--metrics", metrics])
        found.append(("The scores of one side; needs no model", scored))
    if any(plain["settings"].values()):
        found.append(("The answers themselves, with the config of this run", "vlmtune run CONFIG"))
    return found


def _files(plain: Mapping[str, Any], side: str) -> list[str]:
    """The prediction files of one side, by their names."""
    names = plain["seeds"][side] if "seeds" in plain else [plain["names"][side]]
    return [f"{name}.jsonl" for name in names]
