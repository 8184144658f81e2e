"""Charts as SVG text, drawn in Python: no script, colours from the page, a title for those who do not see them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, ROW, LABEL, MARGIN = 640, 34, 150, 16


def forest(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Change of every metric with its interval, each as a share of the best possible score.

    Args:
        metrics: entries of a comparison; those without an interval are left out.
    """
    shown = [entry for entry in metrics if entry["ci"] is not None]
    if not shown:
        return ""
    spans = [[value / entry["scale"] for value in (entry["ci"][0], entry["delta"], entry["ci"][1])] for entry in shown]
    low, high = min(0.0, *(s[0] for s in spans)), max(0.0, *(s[2] for s in spans))
    room = (high - low) * 0.05 or 0.01
    low, high = low - room, high + room

    def place(value: float) -> str:
        return f"{LABEL + MARGIN + (value - low) / (high - low) * (WIDTH - LABEL - 2 * MARGIN):.1f}"

    height = ROW * len(shown) + 30
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="forest-title">',
        '<title id="forest-title">Change of each metric, B minus A, with its confidence interval</title>',
        f'<line class="zero" x1="{place(0)}" x2="{place(0)}" y1="4" y2="{height - 24}"/>',
        f'<text class="axis" x="{place(0)}" y="{height - 8}" text-anchor="middle">no change</text>',
    ]
    for number, (entry, (start, middle, end)) in enumerate(zip(shown, spans, strict=True)):
        y = ROW * number + ROW // 2
        good = (middle > 0) == entry["higher_is_better"]
        kind = "even" if start <= 0 <= end else "good" if good else "bad"
        parts += [
            f'<text x="{LABEL}" y="{y + 5}" text-anchor="end">{escape(entry["name"])}</text>',
            f'<line class="{kind}" x1="{place(start)}" x2="{place(end)}" y1="{y}" y2="{y}"/>',
            f'<circle class="{kind}" cx="{place(middle)}" cy="{y}" r="5"/>',
        ]
    return "".join([*parts, "</svg>"])
