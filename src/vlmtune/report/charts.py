"""Charts as SVG text, drawn in Python: no script, colours from the page, and every one as a table, too."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from vlmtune.report.text import fixed, precision, signed

WIDTH = 360
"""Of every drawing, in its own units: shown at 0.75 on a small phone and 1.2 on a desk; letters are 13 high."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and what it says in words and as a table, header first. `shapes` is SVG made of escaped text."""

    name: str
    title: str
    desc: str
    shapes: str
    height: float
    table: Sequence[Sequence[str]]

    @property
    def svg(self) -> str:
        """The drawing as an SVG element."""
        name = re.sub(r"[^A-Za-z0-9_-]", "-", self.name)
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height:g}" role="img" aria-labelledby="{name}-t {name}-d">'
            f'<title id="{name}-t">{escape(self.title)}</title>'
            f'<desc id="{name}-d">{escape(self.desc)}</desc>{self.shapes}</svg>'
        )


def words(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    """A text at a place."""
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def bar(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"/>'


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, at most `most` of them where that is possible."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20):
        first, last = math.ceil(low / (step * factor) - 1e-9), math.floor(high / (step * factor) + 1e-9)
        if last - first < most:
            return [round(n * step * factor, 12) + 0.0 for n in range(first, last + 1)]
    return [low, high]


def short(text: str, most: int) -> str:
    """At most that many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def tone(low: float, high: float, higher_is_better: bool) -> str:
    """Colour of a change by its interval: good, bad, or even where it may be none."""
    if low <= 0 <= high:
        return "even"
    return "good" if (low > 0) == higher_is_better else "bad"


def forest(metrics: Sequence[Mapping[str, Any]], name: str = "forest") -> Figure | None:
    """Change of every metric with its interval, on one axis: as it is, or as a share of the scale where scales differ.

    Args:
        metrics: entries with `name`, `delta`, `ci`, `higher_is_better`, `scale`; others are left out.
        name: distinguishes the drawings of a page.
    """
    shown = [entry for entry in metrics if entry["ci"] is not None]
    if not shown:
        return None
    percent = len({entry["scale"] for entry in shown}) > 1
    left, right, top, row = 112.0, WIDTH - 72.0, 6.0, 28.0
    units = [entry["scale"] if percent else 1.0 for entry in shown]
    values = [(entry["ci"][0], entry["delta"], entry["ci"][1]) for entry in shown]
    spans = [[value / unit for value in three] for three, unit in zip(values, units, strict=True)]
    place, axis = _zero_axis([value for span in spans for value in span], left, right)
    bottom = top + row * len(shown)
    parts = []
    for tick in axis:
        label = "0" if tick == 0 else f"{tick:+.0%}" if percent and abs(axis[1] - axis[0]) >= 0.01 else f"{tick:+.4g}"
        parts += [line(place(tick), top, place(tick), bottom, "zero" if tick == 0 else "grid")]
        parts += [words(place(tick), bottom + 16, label, "middle", "axis")]
    for number, (entry, (start, middle, end)) in enumerate(zip(shown, spans, strict=True)):
        y = top + row * number + row / 2
        kind = tone(start, end, entry["higher_is_better"])
        parts += [
            words(left - 10, y + 4, short(entry["name"], 16), "end"),
            line(place(start), y, place(end), y, f"span {kind}"),
            f'<circle cx="{place(middle):.1f}" cy="{y:.1f}" r="4.5" class="{kind}"/>',
            words(WIDTH, y + 4, signed(entry["delta"], precision(entry)), "end", f"number {kind}"),
        ]
    table = [["metric", "change", "from", "to"]]
    for entry in shown:
        numbers = (entry["delta"], *entry["ci"])
        table.append([entry["name"], *(signed(value, precision(entry)) for value in numbers)])
    what = "as a share of each metric's scale" if percent else "in units of the score"
    said = f"{len(shown)} changes from A to B with their intervals, {what}. A bar that touches 0 shows no change."
    return Figure(name, "Change from A to B with its interval", said, "".join(parts), bottom + 22, table)


def _zero_axis(values: Sequence[float], left: float, right: float) -> tuple[Callable[[float], float], list[float]]:
    """A linear axis that holds all values and 0, and its ticks."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = (high - low) * 0.06 or 0.01
    low, high = low - room, high + room

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    return place, ticks(low, high, 4)


def bars(name: str, title: str, counts: Sequence[tuple[str, int, str]]) -> Figure:
    """Counts as horizontal bars.

    Args:
        name: distinguishes the drawings of a page.
        title: what is counted.
        counts: (label, count, colour).
    """
    total = sum(count for _, count, _ in counts)
    most = max((count for _, count, _ in counts), default=0) or 1
    left, row = 86.0, 28.0
    parts, table = [], [["rows", "count", "share"]]
    for number, (label, count, kind) in enumerate(counts):
        y = 4 + row * number
        length = (WIDTH - left - 110) * count / most
        share = f"{fixed(100 * count / total, 1)}%" if total else "-"
        parts += [
            words(left - 10, y + 17, label, "end"),
            bar(left, y + 4, max(length, 1), row - 9, kind),
            words(left + max(length, 1) + 7, y + 17, f"{count:,} ({share})"),
        ]
        table.append([label, f"{count}", share])
    said = ", ".join(f"{label}: {count}" for label, count, _ in counts)
    return Figure(name, title, said, "".join(parts), 8 + row * len(counts), table)
