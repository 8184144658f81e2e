"""Where the score changed: rows won and lost, how far they moved, A's score against B's, slices."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.report import charts
from vlmtune.report.charts import WIDTH, Figure, bar, line, words
from vlmtune.report.rows import Column, Example

_BINS = 10
"""On each side of 0."""

_GRID = 40
_SLICES = 60
"""Most slices in the drawing; the table has all."""

_DOTS = ((1, 4.5), (3, 6.0), (10, 7.5), (30, 9.5))
"""Rows in a cell of the scatter from which its dot has that width."""


def outcomes(column: Column, examples: Sequence[Example]) -> Figure:
    """Rows won, lost and alike; for right-or-wrong metrics who was right."""
    if column.binary:
        right = 1 if column.higher_is_better else 0
        counts = Counter((a == right, b == right) for a, b in column.values(examples))
        named = [
            ("both right", counts[True, True], "even"),
            ("only A right", counts[True, False], "bad"),
            ("only B right", counts[False, True], "good"),
            ("both wrong", counts[False, False], "even"),
        ]
        return charts.bars(f"who-{column.name}", "Who was right", named)
    good = [value for value in map(column.good, examples) if value is not None]
    named = [
        ("B better", sum(value > 0 for value in good), "good"),
        ("alike", sum(value == 0 for value in good), "even"),
        ("B worse", sum(value < 0 for value in good), "bad"),
    ]
    return charts.bars(f"who-{column.name}", "Rows by outcome", named)


def histogram(column: Column, examples: Sequence[Example]) -> Figure | None:
    """How far rows moved, unmoved ones in a bar of their own; None where none moved, or all are right or wrong."""
    deltas = [row["deltas"][column.name] for row in examples if row["deltas"] is not None]
    moved = sorted(abs(delta) for delta in deltas if delta)
    if not moved or column.binary:
        return None
    # The outermost bars hold the last 1 %: one odd row must not press all others into one bar.
    reach = moved[min(len(moved) - 1, int(len(moved) * 0.99))]
    step = reach / _BINS
    counts = Counter(_bin(delta, step) for delta in deltas if delta is not None)
    most = max(count for place, count in counts.items() if place) * 1.12
    left, top, bottom = 34.0, 18.0, 168.0
    width = (WIDTH - left) / (2 * _BINS + 1)
    parts = _counts_axis(most, left, top, bottom)
    for place, count in sorted(counts.items()):
        x, height = left + (place + _BINS) * width, (bottom - top) * min(count / most, 1)
        kind = "even" if place == 0 else "good" if (place > 0) == column.higher_is_better else "bad"
        parts.append(bar(x + 1, bottom - height, width - 2, height, kind))
        if place == 0:
            parts.append(words(x + width / 2, bottom - height - 5, f"{count:,}", "middle"))
    for place in (-_BINS, -_BINS // 2, 0, _BINS // 2, _BINS):
        x = left + (place + _BINS + (0.5 if place == 0 else 0 if place < 0 else 1)) * width
        label = "0" if place == 0 else f"{place * step:+.2g}"
        parts.append(
            words(x, bottom + 16, label, "middle" if abs(place) < _BINS else "start" if place < 0 else "end", "axis")
        )
    title = f"Change of rows in {column.name}"
    said = f"{sum(d != 0 for d in deltas)} of {len(deltas)} rows changed. Bars left of 0 are rows whose score fell."
    return Figure(f"hist-{column.name}", title, said, "".join(parts), bottom + 22, _histogram_table(counts, step))


def _bin(delta: float, step: float) -> int:
    """Bar of a change: 0 for none, else 1 to _BINS away from it; what lies beyond is in the outermost."""
    if delta == 0:
        return 0
    place = min(_BINS, int(abs(delta) / step) + 1)
    return place if delta > 0 else -place


def _counts_axis(most: float, left: float, top: float, bottom: float) -> list[str]:
    parts = []
    for tick in charts.ticks(0, most, 4):
        if tick == int(tick):
            y = bottom - (bottom - top) * tick / most
            parts += [
                line(left, y, WIDTH, y, "zero" if tick == 0 else "grid"),
                words(left - 6, y + 4, f"{tick:.0f}", "end", "axis"),
            ]
    return parts


def _histogram_table(counts: Mapping[int, int], step: float) -> list[list[str]]:
    table = [["change", "rows"]]
    for place, count in sorted(counts.items()):
        inner, outer = (abs(place) - 1) * step, abs(place) * step
        sign = "-" if place < 0 else "+"
        beyond = f"{sign}{inner:.3g} and beyond"
        table.append(
            [
                "0" if place == 0 else beyond if abs(place) == _BINS else f"{sign}{inner:.3g} to {sign}{outer:.3g}",
                f"{count}",
            ]
        )
    return table


def scatter(column: Column, examples: Sequence[Example]) -> Figure | None:
    """Score of A against score of B; None where rows have no score of their own, or only right and wrong."""
    values = column.values(examples)
    if not column.alone or column.binary or not values:
        return None
    reach = max(max(pair) for pair in values) or 1.0
    low = min(0.0, *(min(pair) for pair in values))
    left, top, size = 46.0, 8.0, 240.0
    cells = Counter(tuple(min(_GRID - 1, int((v - low) / (reach - low) * _GRID)) for v in pair) for pair in values)
    dots: dict[tuple[str, int], list[str]] = {}
    for (x, y), count in sorted(cells.items()):
        kind = "even" if x == y else "good" if (y > x) == column.higher_is_better else "bad"
        level = sum(count >= least for least, _ in _DOTS) - 1
        place = f"M{left + (x + 0.5) / _GRID * size:.1f} {top + size - (y + 0.5) / _GRID * size:.1f}h0"
        dots.setdefault((kind, level), []).append(place)
    parts = []
    for tick in charts.ticks(low, reach, 5):
        at = (tick - low) / (reach - low) * size
        parts += [
            line(left + at, top, left + at, top + size, "grid"),
            line(left, top + size - at, left + size, top + size - at, "grid"),
        ]
        parts += [words(left + at, top + size + 16, f"{tick:.4g}", "middle", "axis")]
        parts += [words(left - 6, top + size - at + 4, f"{tick:.4g}", "end", "axis")]
    parts.append(line(left, top + size, left + size, top, "zero"))
    for (kind, level), places in sorted(dots.items()):
        parts.append(f'<path d="{"".join(places)}" class="dots {kind}" stroke-width="{_DOTS[level][1]}"/>')
    parts += [words(left + size / 2, top + size + 34, "A", "middle"), words(12, top + size / 2, "B", "middle")]
    parts += _dot_legend(left + size + 22, top + 14)
    title = f"{column.name} of each row, B against A"
    said = "Above the diagonal B scores higher. Rows close together share a dot; larger dots hold more rows."
    return Figure(f"scatter-{column.name}", title, said, "".join(parts), top + size + 42, _crossed(values, low, reach))


def _dot_legend(x: float, y: float) -> list[str]:
    parts = [words(x - 6, y, "rows", "start", "axis")]
    for number, (least, width) in enumerate(_DOTS):
        parts.append(f'<path d="M{x:.1f} {y + 18 + 20 * number:.1f}h0" class="dots even" stroke-width="{width}"/>')
        label = f"{least}" if number == 0 else f"{least}+"
        parts.append(words(x + 12, y + 22 + 20 * number, label, "start", "axis"))
    return parts


def _crossed(values: Sequence[tuple[float, float]], low: float, reach: float) -> list[list[str]]:
    """Rows by fifths of the range: A downwards, B across."""
    fifths = Counter(tuple(min(4, int((v - low) / (reach - low) * 5)) for v in pair) for pair in values)
    ends = [f"{low + (reach - low) * n / 5:.3g}-{low + (reach - low) * (n + 1) / 5:.3g}" for n in range(5)]
    return [["A ↓ B →", *ends], *([ends[a], *(f"{fifths[a, b]}" for b in range(5))] for a in range(5))]


def slices(plain: Mapping[str, Any]) -> Figure | None:
    """The primary metric's change by slice; None where there are none."""
    first = plain["metrics"][:1]
    parts = [
        entry | part | {"name": f"{part['column']} = {part['value']}"} for entry in first for part in plain["slices"]
    ]
    return charts.forest(parts[:_SLICES], "slices")


def systems(plain: Mapping[str, Any]) -> Figure | None:
    """The primary metric's change of every side compared with A; None where there is only B."""
    every = [
        entry | {"name": system["names"]["b"]}
        for system in (plain, *plain["others"])
        for entry in system["metrics"][:1]
    ]
    return charts.forest(every, "systems") if plain["others"] else None
