"""The comparison as Markdown, for a pull request or the results section of a model card.

Texts of rows are code spans, in which links, mentions and HTML have no effect; names and sentences are escaped.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from vlmtune.report import rows, text
from vlmtune.scoring.results import ComparisonFile, ComparisonResult, ExampleResult
from vlmtune.terminal import safe, shortened

EXAMPLES = 5
"""Rows listed of the largest gains, and of the largest losses."""

_LONGEST = 300
"""Characters of a row's text that are quoted."""

_LONGEST_NAME = 2_000
"""Characters of a sentence or a name."""


def render(comparison: ComparisonFile) -> str:
    """Verdict, warnings, numbers, controls and the rows that changed most.

    Args:
        comparison: as `Comparison.to_json` gives it, with its examples.
    """
    names = comparison["names"]
    title = f"# {escaped(names['b'])} against {escaped(names['a'])}"
    return "\n".join([title, "", results(comparison), *_changed(comparison)])


def results(comparison: ComparisonResult) -> str:
    """Verdict, warnings, tables and controls, without a title and without rows."""
    warnings = [f"> ⚠ {escaped(warning)}  " for warning in comparison["warnings"]]
    lines = [f"**{escaped(comparison['verdict'])}**", "", *_block(warnings)]
    metrics = text.metric_rows(comparison)
    lines += _block(table(metrics) if len(metrics) > 1 else [])
    lines += _block([f"- {escaped(line)}" for line in text.metric_notes(comparison)])
    for cells in (*text.optional_tables(comparison), text.answer_rows(comparison)):
        lines += _block(table(cells))
    controls = [*text.control_lines(comparison), *text.confidence_lines(comparison), *text.judge_lines(comparison)]
    lines += _block([f"- {escaped(line)}" for line in controls])
    counts = comparison["rows"]
    lines.append(
        f"{counts['compared']} rows compared of {counts['paired']} paired by {comparison['paired_by']} "
        f"({counts['only_a']} only in A, {counts['only_b']} only in B; failed: {counts['failed_a']} in A, "
        f"{counts['failed_b']} in B); {comparison['statistics']['resamples']} resamples, seed "
        f"{comparison['statistics']['seed']}."
    )
    return "\n".join([*lines, ""])


def _block(lines: list[str]) -> list[str]:
    """Lines followed by a blank one; empty if there are none."""
    return [*lines, ""] if lines else []


def table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, header first; all columns but the first are right-aligned."""
    head, *body = ([escaped(cell) for cell in row] for row in cells)
    under = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(row)} |" for row in (head, under, *body)]


def escaped(content: str) -> str:
    """A text on one line, escaped so that Markdown shows it literally, shortened if very long."""
    line = safe(shortened(" ".join(content.split()), _LONGEST_NAME))
    line = re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", line.replace("&", "&amp;"))
    return line.replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;").replace("://", "&#58;//")


def code(content: str) -> str:
    """A text as a code span on one line, shortened if very long.

    The fence is longer than any run of backticks inside: "a ` b" becomes "``a ` b``".
    """
    line = safe(" ".join(content.split()))
    line = line if len(line) <= _LONGEST else line[:_LONGEST] + "…"
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}" if line else "(empty)"


def _changed(comparison: ComparisonFile) -> list[str]:
    columns, examples = rows.overview(comparison).columns, comparison["examples"]
    if not columns:
        return []
    primary = columns[0]
    gains = np.nan_to_num(primary.gains)
    ranked = [n for n in np.argsort(-gains, kind="stable").tolist() if gains[n]]
    best = [(gains[n], examples[n]) for n in ranked[:EXAMPLES] if gains[n] > 0]
    worst = [(gains[n], examples[n]) for n in ranked[::-1][:EXAMPLES] if gains[n] < 0]
    lines = []
    for title, changed in (("Largest gains", best), ("Largest losses", worst)):
        if changed:
            lines += [f"## {title} in {escaped(primary.name)}", "", *_list(changed, primary)]
    return lines


def _list(changed: Iterable[tuple[float, ExampleResult]], column: rows.MetricColumn) -> list[str]:
    lines = []
    for gain, example in changed:
        name = code(example["id"]) if example["id"] is not None else "a row without id"
        delta = gain if column.higher_is_better else -gain
        lines.append(f"- {name}, {text.signed(delta, column.digits)}")
        lines += [f"  - {side.upper()}: {code(example[side] or '')}" for side in ("a", "b")]
        lines += [f"  - expected: {code(line)}" for line in rows.expected(example)[:1]]
    return [*lines, ""]
