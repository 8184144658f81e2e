"""Was training needed? The tuned side against the same model asked differently, in the primary metric."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.metrics import Metric
from vlmtune.scoring import verdict
from vlmtune.scoring.evidence import Seeds, Side, gather, name_of
from vlmtune.scoring.judgement import Terms, judged


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
