"""A histogram as SVG, in the style of the report's charts."""

from collections.abc import Mapping
from typing import Any

from vlmtune.report.charts import WIDTH, Figure, bar, line, ticks, words

TOP, BOTTOM, LEFT = 18.0, 168.0, 40.0


def histogram(name: str, title: str, counted: Mapping[str, Any]) -> Figure:
    """Counts of whole numbers in bins of equal width.

    Args:
        name: distinguishes the drawings of a page.
        title: what is counted.
        counted: whole `edges` of the bins [n + 1], the upper one not in its bin, and their `counts` [n].
    """
    edges, counts = counted["edges"], counted["counts"]
    most, low, high = max(counts), edges[0], edges[-1]
    width = (WIDTH - LEFT) / len(counts)

    def across(value: float) -> float:
        return float(LEFT + (value - low) / (high - low) * (WIDTH - LEFT))

    parts = []
    for tick in ticks(0, most, 4):
        if tick == int(tick):
            y = BOTTOM - (BOTTOM - TOP) * tick / most
            parts += [line(LEFT, y, WIDTH, y, "zero" if tick == 0 else "grid")]
            parts += [words(LEFT - 6, y + 4, f"{tick:,.0f}", "end", "axis")]
    for number, count in enumerate(counts):
        height = (BOTTOM - TOP) * count / most
        if count:
            # A bar of one row among thousands must still be seen: it is the longest row.
            parts.append(bar(LEFT + number * width + 0.5, BOTTOM - max(height, 1.5), width - 1, max(height, 1.5), "b"))
    for tick in ticks(low, high, 6):
        anchor = "end" if across(tick) > WIDTH - 12 else "middle"
        parts.append(words(across(tick), BOTTOM + 16, f"{tick:,.0f}", anchor, "axis"))
    table = [["from", "to", "rows"]]
    table += [[f"{edges[n]:,}", f"{edges[n + 1] - 1:,}", f"{count:,}"] for n, count in enumerate(counts)]
    said = f"{sum(counts):,} in all, from {low:,} to {high - 1:,}."
    return Figure(name, title, said, "".join(parts), BOTTOM + 22, table)
