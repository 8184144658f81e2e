"""How a comparison was produced: settings of both sides, failed rows, and the commands that reproduce it."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vlmtune.report.rows import failures, label
from vlmtune.scoring.results import ComparisonResult, ExampleResult

ROW_LABELS = {
    "a": "rows of A",
    "b": "rows of B",
    "paired": "in both",
    "only_a": "only in A",
    "only_b": "only in B",
    "failed_a": "failed in A",
    "failed_b": "failed in B",
    "selection": "left out: used to select the checkpoint",
    "compared": "compared",
    "groups": "independent groups",
}
"""Row counts in words."""

_IDS = 20
"""Most ids listed for one kind of failure."""


def settings(comparison: ComparisonResult) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Settings that differ (path, A, B) and those that are equal (path, value), except those null on both sides."""
    a, b = (_flat(comparison["settings"][side]) for side in ("a", "b"))
    different, same = [], []
    for path in dict.fromkeys([*a, *b]):
        one, other = a.get(path), b.get(path)
        if one != other:
            different.append((path, one or "-", other or "-"))
        elif one is not None:
            same.append((path, one))
    return different, same


def _flat(value: Any, path: str = "") -> dict[str, str | None]:
    """Nested values by dotted path: {"lora": {"rank": 16}} gives {"lora.rank": "16"}."""
    if isinstance(value, Mapping):
        leaves: dict[str, str | None] = {}
        for key, item in value.items():
            leaves |= _flat(item, f"{path}.{key}" if path else str(key))
        return leaves
    if value is None:
        return {path: None}
    return {path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def training(comparison: ComparisonResult) -> list[tuple[str, str]]:
    """Facts about the training, except its curve."""
    facts = {key: value for key, value in (comparison["training"] or {}).items() if key != "curve"}
    return [(path, value) for path, value in _flat(facts).items() if value is not None]


def failed(examples: Sequence[ExampleResult], numbers: Sequence[int]) -> list[tuple[str, str, int, list[str]]]:
    """(side, reason, rows, first ids) of each kind of failure, the most frequent first; of the rows that have one."""
    counts: Counter[tuple[str, str]] = Counter()
    ids: dict[tuple[str, str], list[str]] = {}
    for number in numbers:
        for failure in failures(example := examples[number]):
            counts[failure] += 1
            ids.setdefault(failure, []).append(label(example, number))
    return [(*failure, count, ids[failure][:_IDS]) for failure, count in counts.most_common()]


def commands(comparison: ComparisonResult) -> list[tuple[str, str]]:
    """(purpose, command) pairs that reproduce the page and its numbers."""
    others = comparison["others"]
    files = [_files(comparison, "a"), _files(comparison, "b"), *(_files(other, "b") for other in others)]
    settings = comparison["settings"]["a"], comparison["settings"]["b"]
    name = next((side["task"]["name"] for side in settings if "task" in side), None)
    task = ["--task", name] if name else []
    columns = dict.fromkeys(part["column"] for part in comparison["slices"])
    slices = [word for column in columns for word in ("--slice", column)]
    compare = shlex.join(["vlmtune", "compare", *map(",".join, files), *task, *slices])
    steps = [
        ("This page, from the prediction files", f"{compare} -o report.html"),
        ("The numbers as JSON", f"{compare} --json"),
    ]
    metrics = ",".join(entry["name"] for entry in comparison["metrics"])
    if metrics:
        score = shlex.join(["vlmtune", "score", files[1][0], *task, "--metrics", metrics])
        steps.append(("The scores of one side, without a model", score))
    if any(settings):
        steps.append(("The answers, with the config of this run", "vlmtune run CONFIG"))
    return steps


def _files(comparison: ComparisonResult, side: Literal["a", "b"]) -> list[str]:
    """The prediction files of one side, by name."""
    return [f"{name}.jsonl" for name in comparison["seeds"][side]]
