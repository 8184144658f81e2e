"""A comparison as Markdown: for a pull request, and as the results section of a model card.

What rows say stands in code spans, where nothing is a link, a mention or HTML; names and sentences are escaped.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlmtune.report import rows, text

EXAMPLES = 5
"""Rows shown of the largest gains, and of the largest losses."""

_LONGEST = 300


def render(plain: Mapping[str, Any]) -> str:
    """The verdict, warnings, numbers, controls and the rows that changed most.

    Args:
        plain: a comparison as `Comparison.to_json` gives it, with its examples.
    """
    names = plain["names"]
    title = f"# {escaped(names['b'])} against {escaped(names['a'])}"
    return "\n".join([title, "", results(plain), *_changed(plain)])


def results(plain: Mapping[str, Any]) -> str:
    """Verdict, warnings, tables and controls, without a title: for a model card, too. Examples are not needed."""
    parts = [f"**{escaped(plain['verdict'])}**", ""]
    parts += [*(f"> ⚠ {escaped(warning)}  " for warning in plain["warnings"]), *([""] if plain["warnings"] else [])]
    metrics = text.metric_rows(plain)
    if len(metrics) > 1:
        parts += [*table(metrics), ""]
    parts += [f"- {escaped(line)}" if line else "" for line in text.metric_lines(plain)]
    for cells in (text.untrained_rows(plain), text.also_rows(plain), text.system_rows(plain), text.slice_rows(plain)):
        parts += [*table(cells), ""] if cells else []
    parts += [*table(text.answer_rows(plain)), ""]
    controls = [*text.control_lines(plain), *text.confidence_lines(plain)]
    parts += [*(f"- {escaped(line)}" for line in controls), *([""] if controls else [])]
    found = plain["rows"]
    parts.append(
        f"{found['compared']} rows compared of {found['paired']} paired by {plain['paired_by']} "
        f"({found['only_a']} only in A, {found['only_b']} only in B; failed {found['failed_a']} and "
        f"{found['failed_b']}); {plain['statistics']['resamples']} resamples, seed {plain['statistics']['seed']}."
    )
    return "\n".join([*parts, ""])


def table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, header first; all but the first column to the right."""
    head, *body = ([escaped(cell) for cell in row] for row in cells)
    under = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(row)} |" for row in (head, under, *body)]


def escaped(words: str) -> str:
    """A text that Markdown shows as it is, on one line; nobody is mentioned and nothing is linked."""
    line = " ".join(words.split())
    line = re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", line.replace("&", "&amp;"))
    return line.replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;").replace("://", "&#58;//")


def code(words: str) -> str:
    """A text as a code span on one line, cut where it is very long."""
    line = " ".join(words.split())
    line = line if len(line) <= _LONGEST else line[:_LONGEST] + "…"
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line or ' '}{space}{fence}" if line else "(empty)"


def _changed(plain: Mapping[str, Any]) -> list[str]:
    columns = rows.columns(plain)
    if not columns:
        return []
    good = [(columns[0].good(example), example) for example in plain["examples"]]
    ranked = sorted(((value, example) for value, example in good if value), key=lambda pair: -pair[0])
    gains = [example for value, example in ranked if value > 0][:EXAMPLES]
    losses = [example for value, example in ranked[::-1] if value < 0][:EXAMPLES]
    lines = []
    for title, chosen in (("Largest gains", gains), ("Largest losses", losses)):
        if chosen:
            lines += [f"## {title}, in {escaped(columns[0].name)}", "", *_rows(chosen, columns[0])]
    return lines


def _rows(examples: Iterable[rows.Example], column: rows.Column) -> list[str]:
    lines = []
    for example in examples:
        name = code(example["id"]) if example["id"] is not None else "a row without id"
        lines.append(f"- {name}, {text.signed(example['deltas'][column.name], column.digits)}")
        lines += [f"  - {side.upper()}: {code(example[side] or '')}" for side in ("a", "b")]
        lines += [f"  - expected: {code(line)}" for line in rows.expected(example)[:1]]
    return [*lines, ""]
