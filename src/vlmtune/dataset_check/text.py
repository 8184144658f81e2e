"""The result of a check as text for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlmtune.dataset_check.findings import KINDS

NAMED = 5
"""Findings of one kind that are written out."""


def verdict(found: Mapping[str, Any]) -> str:
    """The result in a sentence."""
    bad, rows = (sum(split[key] for split in found["splits"]) for key in ("bad", "rows"))
    leaked = sum(count["count"] for count in found["counts"] if count["kind"] == "leak")
    if not found["errors"]:
        warnings = f", with {_counted(found['warnings'], 'warning')}" if found["warnings"] else ""
        return f"All {rows:,} rows can be used{warnings}."
    said = f"{bad:,} of {rows:,} rows cannot be used"
    if leaked:
        said += f"; {leaked:,} of them {'shows' if leaked == 1 else 'show'} what is evaluated"
    if not bad:
        said = "A split cannot be used"
    return f"{said}, and will be left out." if found["status"] == "left_out" else f"{said}."


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def render(found: Mapping[str, Any]) -> str:
    """A table of the roles, then the findings by kind, errors first."""
    return "\n".join([*_roles(found), "", *_findings(found), verdict(found)])


def _roles(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'role':<7} {'split':<20} {'rows':>9} {'bad':>7} {'pictures':>9} {'tokens p50':>11} {'p95':>7} {'max':>7}"
    for split in found["splits"]:
        tokens = split["tokens"] or {"p50": "-", "p95": "-", "max": "-"}
        sizes = " ".join(
            f"{tokens[key]:>{width},.0f}" if isinstance(tokens[key], float | int) else f"{tokens[key]:>{width}}"
            for key, width in (("p50", 11), ("p95", 7), ("max", 7))
        )
        name = split["split"] if len(split["split"]) <= 20 else "…" + split["split"][-19:]
        yield f"{split['role']:<7} {name:<20} {split['rows']:>9,} {split['bad']:>7,} {split['pictures']:>9,} {sizes}"
    for split in found["splits"]:
        if split["traits"]:
            yield f"{split['role']}: " + ", ".join(f"{count:,} {name}" for name, count in split["traits"].items())


def _findings(found: Mapping[str, Any]) -> Iterator[str]:
    for kind, about in KINDS.items():
        counts = [count for count in found["counts"] if count["kind"] == kind]
        if not counts:
            continue
        where = ", ".join(f"{count['count']:,} in {count['role']}" for count in counts)
        yield f"{about.severity}: {about.title} ({where})"
        some = [each for each in found["findings"] if each["kind"] == kind][:NAMED]
        for each in some:
            row = f" row {each['row']} ({each['id']})" if each["row"] is not None else ""
            file = f" [{each['where']}]" if each["where"] else ""
            yield f"  {each['role']}{row}: {each['what']}{file}"
        if (more := sum(count["count"] for count in counts) - len(some)) > 0:
            yield f"  and {more:,} more"
        yield f"  {about.advice}"
    if found["crowded"]:
        yield f"note: {found['crowded']:,} pictures have signs like so many others that not all pairs were compared"
    if found["counts"]:
        yield ""
