"""Charts as SVG text, drawn in Python: no script, colours from the page, and every one as a table, too.

Where the score changed: rows won and lost, how far they moved, A's score against B's, slices.

The learning curve: loss of every logged step, loss on the validation rows, and which checkpoint was taken.

The score of the surest answers over how many of them are kept: does a side know when it is right?
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from vlmtune.report.rows import Column, Example
from vlmtune.report.text import fixed, points, precision, signed

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
        return bars(f"who-{column.name}", "Who was right", named)
    good = [value for value in map(column.good, examples) if value is not None]
    named = [
        ("B better", sum(value > 0 for value in good), "good"),
        ("alike", sum(value == 0 for value in good), "even"),
        ("B worse", sum(value < 0 for value in good), "bad"),
    ]
    return bars(f"who-{column.name}", "Rows by outcome", named)


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
    for tick in ticks(0, most, 4):
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
    for tick in ticks(low, reach, 5):
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
    return forest(parts[:_SLICES], "slices")


def systems(plain: Mapping[str, Any]) -> Figure | None:
    """The primary metric's change of every side compared with A; None where there is only B."""
    every = [
        entry | {"name": system["names"]["b"]}
        for system in (plain, *plain["others"])
        for entry in system["metrics"][:1]
    ]
    return forest(every, "systems") if plain["others"] else None


_ROWS = 400
"""Most points of the table; of more, evenly spaced ones are shown."""

_LABEL = 58.0
"""Width of the longest word at a mark."""

_MARKS = {"resumed_at": "resumed", "chosen_step": "taken"}
"""Facts of a training that name a step, or several."""


def learning(training: Mapping[str, Any] | None) -> Figure | None:
    """Loss over steps; None where the comparison does not know how B was trained."""
    curve: Sequence[Mapping[str, Any]] = (training or {}).get("curve") or []
    losses = points(curve, "loss")
    chosen = points(curve, "validation_loss")
    if not losses and not chosen:
        return None
    every = [*losses, *chosen]
    low, high = min(value for _, value in every), max(value for _, value in every)
    low, high = (min(0.0, low), high or 1.0) if low < high * 0.3 else (low - (high - low) * 0.1, high)
    high = high if high > low else low + 1
    last = max(step for step, _ in every) or 1
    left, right, top, bottom = 46.0, WIDTH - 10.0, 26.0, 190.0

    def place(step: float, value: float) -> tuple[float, float]:
        return left + step / last * (right - left), bottom - (value - low) / (high - low) * (bottom - top)

    parts = []
    for tick in ticks(low, high, 5):
        y = place(0, tick)[1]
        parts += [line(left, y, right, y, "grid"), words(left - 6, y + 4, f"{tick:.4g}", "end", "axis")]
    for tick in ticks(0, last, 6):
        parts.append(words(place(tick, low)[0], bottom + 16, f"{tick:.0f}", "middle", "axis"))
    rows = [top - 4, top - 17]
    taken = [-_LABEL] * len(rows)
    for step, label in sorted(_marks(training or {})):
        x = place(step, low)[0]
        parts.append(line(x, top, x, bottom, "mark"))
        # Marks that stand close together have their words in two rows; of a crowd the first ones are named.
        row = next((n for n, before in enumerate(taken) if x - before >= _LABEL), None)
        if row is not None:
            taken[row] = x
            parts.append(words(x, rows[row], label, "middle" if x < right - 30 else "end", "axis"))
    parts += [
        _path([place(*point) for point in losses], "curve a"),
        _path([place(*point) for point in chosen], "curve b"),
    ]
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="curve-b"/>' for x, y in (place(*p) for p in chosen)]
    parts += _legend(bool(losses), bool(chosen), bottom + 36)
    said = f"Loss per supervised token over {last} steps."
    if chosen:
        said += f" On the validation rows it ends at {chosen[-1][1]:.4f}."
    if (training or {}).get("resumed_at"):
        said += f" It was resumed after step {', '.join(map(str, (training or {})['resumed_at']))}."
    return Figure("curve", "Learning curve", said, "".join(parts), bottom + 46, _table(curve))


def _path(points: Sequence[tuple[float, float]], kind: str) -> str:
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{steps}" class="{kind}"/>' if points else ""


def _marks(training: Mapping[str, Any]) -> list[tuple[float, str]]:
    found = []
    for key, label in _MARKS.items():
        steps = training.get(key)
        for step in steps if isinstance(steps, list) else [] if steps is None else [steps]:
            found.append((step, label))
    return found


def _legend(trained: bool, chosen: bool, y: float) -> list[str]:
    parts, x = [], 46.0
    for there, kind, label in ((trained, "a", "training rows"), (chosen, "b", "validation rows")):
        if there:
            parts += [line(x, y - 4, x + 18, y - 4, f"curve {kind}"), words(x + 24, y, label)]
            x += 130
    return parts


def _table(curve: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    keys = [key for key in ("loss", "validation_loss") if points(curve, key)]
    known = [point for point in curve if any(key in point for key in keys)]
    spaced = known if len(known) <= _ROWS else [known[n * len(known) // _ROWS] for n in range(_ROWS)]
    shown = [[f"{point['step']}", *(f"{point[key]:.4f}" if key in point else "" for key in keys)] for point in spaced]
    return [["step", *(key.replace("_", " ") for key in keys)], *shown]


_SIDES = ("a", "b")


def coverage(plain: Mapping[str, Any]) -> Figure | None:
    """Both sides' curves; None where no side tells how sure its answers are."""
    known = {side: found for side in _SIDES if (found := (plain.get("confidence") or {}).get(side))}
    if not known or not plain["metrics"]:
        return None
    entry = plain["metrics"][0]
    # The first points are single rows, whose score jumps: the axis is made for what is at least a tenth of the rows.
    values = [p["score"] for found in known.values() for p in found["points"] if p["coverage"] >= 0.1]
    low, high = min(values), max(values)
    room = (high - low) * 0.1 or 0.05
    low, high = low - room, high + room
    left, right, top, bottom = 46.0, WIDTH - 10.0, 10.0, 170.0

    def place(share: float, value: float) -> tuple[float, float]:
        inside = min(max(value, low), high)
        return left + share * (right - left), bottom - (inside - low) / (high - low) * (bottom - top)

    parts = []
    for tick in ticks(low, high, 5):
        y = place(0, tick)[1]
        parts += [line(left, y, right, y, "grid"), words(left - 6, y + 4, f"{tick:.4g}", "end", "axis")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(words(place(share, low)[0], bottom + 16, f"{share:.0%}", anchor, "axis"))
    for side, found in known.items():
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(p["coverage"], p["score"]) for p in found["points"]))
        parts.append(f'<polyline points="{steps}" class="curve {side}"/>')
    for number, side in enumerate(known):
        x = left + 90.0 * number
        parts += [line(x, bottom + 34, x + 18, bottom + 34, f"curve {side}"), words(x + 24, bottom + 38, side.upper())]
    digits = precision(entry)
    table = [["rows kept, surest first", *(side.upper() for side in known)]]
    for pair in zip(*(found["points"] for found in known.values()), strict=False):
        table.append([f"{pair[0]['coverage']:.0%}", *(fixed(point["score"], digits) for point in pair)])
    title = f"{entry['name']} of the surest answers"
    said = "Across, the share of rows that is kept, those with the likeliest answers first. A flat line: no such order."
    return Figure("coverage", title, said, "".join(parts), bottom + 46, table)
