"""A comparison as plain text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

TRAITS = {
    "ended": "ended by themselves",
    "cut_off": "cut off at the limit",
    "empty": "empty",
    "unparsed": "unreadable",
    "repeating": "repeating itself",
}
"""Names of the shares for people."""


def render(plain: Mapping[str, Any]) -> str:
    """The verdict, what would change the reader's mind, the numbers.

    Args:
        plain: a comparison as `Comparison.to_json` gives it; examples are not needed.
    """
    parts = [plain["verdict"], *(f"! {warning}" for warning in plain["warnings"]), ""]
    parts += _table(metric_rows(plain))
    parts += ["", *_table(answer_rows(plain)), ""]
    parts += control_lines(plain)
    rows = plain["rows"]
    parts.append(
        f"rows: {rows['a']} and {rows['b']}, paired {rows['paired']} by {plain['paired_by']}, compared "
        f"{rows['compared']}, failed {rows['failed_a']} and {rows['failed_b']}, only in one file {rows['only_a']} "
        f"and {rows['only_b']}"
    )
    return "\n".join(parts)


def metric_rows(plain: Mapping[str, Any]) -> list[list[str]]:
    """The metric table as texts, header first."""
    level = f"{plain['statistics']['confidence']:.0%} CI"
    rows = [["metric", "A", "B", "change", level, "p"]]
    for entry in plain["metrics"]:
        digits = 4 if entry["scale"] == 1 else 2
        ci = "-" if entry["ci"] is None else f"{entry['ci'][0]:+.{digits}f} to {entry['ci'][1]:+.{digits}f}"
        p = "-" if entry["p"] is None else f"{entry['p']:.4f}"
        values = [f"{entry[key]:.{digits}f}" for key in ("a", "b")]
        rows.append([entry["name"], *values, f"{entry['delta']:+.{digits}f}", ci, p])
    return rows


def answer_rows(plain: Mapping[str, Any]) -> list[list[str]]:
    """What stands beside the scores: lengths and shares of both sides, header first."""
    lengths, shares = plain["lengths"], plain["shares"]
    rows = [["answers", "A", "B", "references"]]
    for what in ("mean", "median"):
        rows.append([f"words, {what}", *(f"{lengths[side][what]:.1f}" for side in ("a", "b", "references"))])
    for key, name in TRAITS.items():
        rows.append([name, *("-" if shares[s][key] is None else f"{shares[s][key]:.1%}" for s in ("a", "b")), ""])
    return rows


def control_lines(plain: Mapping[str, Any]) -> list[str]:
    """The controls as sentences; those that were not run are missing."""
    length, image, effect = (plain["controls"][name] for name in ("length", "image", "effect"))
    lines = []
    if length is not None:
        lines.append(
            f"length: A cut to B's lengths scores {length['a_cut']:.4f}; B differs from that by {length['delta']:+.4f} "
            f"({length['ci'][0]:+.4f} to {length['ci'][1]:+.4f})"
        )
    for side in ("a", "b") if image is not None else ():
        found = image[side]
        if found is not None:
            kept = "" if found["kept"] is None else f", {found['kept']:.0%} of itself"
            lines.append(
                f"image: with exchanged images {side.upper()} falls from {found['own']:.4f} to {found['exchanged']:.4f}"
                f"{kept} ({found['rows']} rows)"
            )
    if effect is not None:
        lines.append(f"effect: the adapter moves first-token logits by up to {effect['max_logit_difference']:.3g}")
    return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    return lines
