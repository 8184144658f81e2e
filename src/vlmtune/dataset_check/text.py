"""The result of a check as text for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlmtune.dataset_check.findings import KINDS
from vlmtune.terminal import shortened

MAX_SHOWN = 5
"""Findings shown per kind."""

_LONGEST = 200
"""Characters shown of an id."""


def verdict(result: Mapping[str, Any]) -> str:
    """The result in one sentence."""
    bad, rows = (sum(split[key] for split in result["splits"]) for key in ("bad", "rows"))
    leaked = sum(count["count"] for count in result["counts"] if count["kind"] == "leak")
    if not result["errors"]:
        warnings = f", with {_counted(result['warnings'], 'warning')}" if result["warnings"] else ""
        return f"All {rows:,} rows can be used{warnings}."
    if not bad:
        return "A split cannot be used."
    text = f"{bad:,} of {rows:,} rows cannot be used"
    if leaked:
        text += f"; {leaked:,} of them {'shows' if leaked == 1 else 'show'} an evaluated image"
    return f"{text}, and will be left out." if result["status"] == "left_out" else f"{text}."


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def render(result: Mapping[str, Any]) -> str:
    """A table of the splits, then the findings by kind, errors first."""
    return "\n".join([*_splits(result), "", *_findings(result), verdict(result)])


def _splits(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'role':<10} {'split':<20} {'rows':>9} {'bad':>7} {'images':>9} {'tokens p50':>11} {'p95':>7} {'max':>7}"
    for split in result["splits"]:
        tokens = split["tokens"] or {"p50": "-", "p95": "-", "max": "-"}
        lengths = " ".join(
            f"{tokens[key]:>{width},.0f}" if isinstance(tokens[key], float | int) else f"{tokens[key]:>{width}}"
            for key, width in (("p50", 11), ("p95", 7), ("max", 7))
        )
        name = split["split"] if len(split["split"]) <= 20 else "…" + split["split"][-19:]
        yield f"{split['role']:<10} {name:<20} {split['rows']:>9,} {split['bad']:>7,} {split['images']:>9,} {lengths}"
    for split in result["splits"]:
        if split["empty_fields"]:
            listed = ", ".join(f"{field} in {_counted(count, 'row')}" for field, count in split["empty_fields"].items())
            yield f"{split['role']}: empty or missing: {listed}"
        if split["properties"]:
            listed = ", ".join(f"{count:,} {name}" for name, count in split["properties"].items())
            yield f"{split['role']}: {listed}"


def _places(finding: Mapping[str, Any]) -> str:
    """Where a finding is, with the size of its image; both places of a pair."""
    both = [one for one in (finding, finding["other"]) if one is not None and one["where"]]
    texts = [one["where"] + (f", {one['size'][0]}x{one['size'][1]}" if one["size"] else "") for one in both]
    return f" [{' | '.join(texts)}]" if texts else ""


def _findings(result: Mapping[str, Any]) -> Iterator[str]:
    for kind, about in KINDS.items():
        counts = [count for count in result["counts"] if count["kind"] == kind]
        if not counts:
            continue
        where = ", ".join(f"{count['count']:,} in {count['role']}" for count in counts)
        yield f"{about.severity}: {about.title} ({where})"
        shown = [finding for finding in result["findings"] if finding["kind"] == kind][:MAX_SHOWN]
        for finding in shown:
            name = shortened(str(finding["id"]), _LONGEST)
            row = f" row {finding['row']} ({name})" if finding["row"] is not None else ""
            yield f"  {finding['role']}{row}: {finding['message']}{_places(finding)}"
        if (more := sum(count["count"] for count in counts) - len(shown)) > 0:
            yield f"  and {more:,} more"
        yield f"  {about.advice}"
    if result["not_fully_compared"]:
        yield f"note: {result['not_fully_compared']:,} images have so many similar ones that not all were compared"
    if result["counts"]:
        yield ""
