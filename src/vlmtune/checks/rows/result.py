"""The result of a check as plain values: what `data_check.json` holds."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.checks.rows.findings import KINDS, Finding, bad_rows
from vlmtune.checks.rows.parts import Part
from vlmtune.checks.rows.pictures import Pictures
from vlmtune.config import Config

SCHEMA_VERSION = 2
LISTED = 5000
"""Warnings of one kind and role that are listed; further ones are only counted. Errors are listed all."""

BINS = 24


def result(config: Config, parts: Sequence[Part], pictures: Pictures, key: str, crowded: int) -> dict[str, Any]:
    """Everything found.

    Args:
        config: of the run.
        parts: all of them, looked at.
        pictures: that they show.
        key: hash of all that the result depends on.
        crowded: pictures that were not compared with all that have like signs.
    """
    splits = [_split(part, pictures) for part in parts]
    findings = [found for part in parts for found in _in_order(part.findings)]
    counts = Counter((found.kind, found.role) for found in findings)
    warned = any(found.severity == "warning" for found in findings)
    over = any(found.severity == "error" and found.place is None for found in findings) or any(
        split["bad"] and split["bad_fraction"] > part.config.dataset.max_bad_fraction
        for part, split in zip(parts, splits, strict=True)
    )
    bad = any(split["bad"] for split in splits)
    return {
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "status": "errors" if over else "left_out" if bad else "warnings" if warned else "clean",
        "max_bad_fraction": config.dataset.max_bad_fraction,
        "evaluated": config.evaluation.split,
        "errors": sum(found.severity == "error" for found in findings),
        "warnings": sum(found.severity == "warning" for found in findings),
        "counts": [
            {"kind": kind, "severity": KINDS[kind].severity, "role": part.name, "count": counts[kind, part.name]}
            for kind in KINDS
            for part in parts
            if counts[kind, part.name]
        ],
        "splits": splits,
        "crowded": crowded,
        "findings": [found.to_json() for found in _listed(findings)],
    }


def spread(values: NDArray[Any]) -> dict[str, float] | None:
    """Where numbers lie; None where there are none."""
    if not len(values):
        return None
    low, middle, high = np.percentile(values, (5, 50, 95)).tolist()
    return {
        "min": int(values.min()),
        "p5": low,
        "p50": middle,
        "p95": high,
        "max": int(values.max()),
        "mean": float(values.mean()),
    }


def _in_order(findings: Sequence[Finding]) -> list[Finding]:
    kinds = list(KINDS)
    return sorted(findings, key=lambda one: (kinds.index(one.kind), one.place.row if one.place else -1))


def _listed(findings: Sequence[Finding]) -> Iterator[Finding]:
    seen: Counter[tuple[str, str]] = Counter()
    for found in findings:
        seen[found.kind, found.role] += 1
        if found.severity == "error" or seen[found.kind, found.role] <= LISTED:
            yield found


def _split(part: Part, pictures: Pictures) -> dict[str, Any]:
    """One part in numbers."""
    numbers = np.unique(np.array(part.shown.pictures, np.int64))
    good = [int(number) for number in numbers if pictures.error(int(number)) is None]
    traits: Counter[str] = Counter()
    for number in part.shown.pictures:
        traits.update(pictures.traits(number))
    failed = sum(found.kind == "image" for found in part.findings)
    unread = failed - sum(pictures.error(number) is not None for number in part.shown.pictures)
    traits.update({"not decoded": failed} if failed else {})
    sides = np.array([pictures.size(number) for number in good], np.int64).reshape(-1, 2)
    bad = bad_rows(part.findings, part.name)
    return {
        "role": part.name,
        "split": part.split,
        "rows": part.count,
        "bad": len(bad),
        "bad_fraction": len(bad) / part.count if part.count else 0.0,
        "fingerprint": part.fingerprint,
        "pictures": len(part.shown.pictures) + unread,
        "different_files": len(numbers),
        "traits": dict(sorted(traits.items(), key=lambda item: (-item[1], item[0]))),
        "width": spread(sides[:, 0]),
        "height": spread(sides[:, 1]),
        "tokens": _tokens(part),
    }


def _tokens(part: Part) -> dict[str, Any] | None:
    """Lengths of lessons, or of prompts where nothing is taught."""
    tokens = np.array(part.tokens, np.int64)
    told = spread(tokens)
    if told is None:
        return None
    # Whole edges: bins with different numbers of values in them would look like a comb.
    width = -(-(int(tokens.max()) + 1 - int(tokens.min())) // BINS)
    edges = np.arange(int(tokens.min()), int(tokens.max()) + 1 + width, width)
    counts, _ = np.histogram(tokens, edges)
    total = int(tokens.sum())
    return {
        **told,
        "sum": total,
        "image_share": sum(part.image_tokens) / total,
        "supervised_share": sum(part.supervised) / total,
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
