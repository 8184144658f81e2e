"""Charts of a comparison: forest plots, outcomes, histogram and scatter plot of changes, learning curve, confidence."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.report.rows import Floats, MetricColumn
from vlmtune.report.svg import WIDTH, Figure, Frame, bar, circle, count_axis, line, polyline, text, ticks, zero_axis
from vlmtune.report.text import fixed, points, precision, signed
from vlmtune.scoring.results import (
    ComparisonResult,
    Difference,
    MetricResult,
    Status,
    TrainingSummary,
)
from vlmtune.scoring.verdict import status_of

_BINS = 10
"""Histogram bins on each side of 0."""

_CELLS = 40
"""Cells of the scatter plot along each axis: rows in one cell share a dot."""

_DOTS = ((1, 4.5), (3, 6.0), (10, 7.5), (30, 9.5))
"""Scatter plot: (fewest rows in a cell, diameter of its dot)."""

_SLICES = 60
"""Most slices drawn; the table has all."""

_CURVE_ROWS = 400
"""Most rows in the learning curve's table; of a longer curve, evenly spaced points."""

_LABEL = 58.0
"""Width of the longest label at a mark of the learning curve."""


TONES = {"improved": "good", "worse": "bad"}
"""Colour of a change by what interval and test show together; everything else is even."""


def forest(comparison: ComparisonResult) -> Figure | None:
    """Change of every metric with its interval; None where no metric has one."""
    metrics = comparison["metrics"]
    return _forest("forest", [(one["name"], one, one, _tone(comparison, one["status"])) for one in metrics])


def slices(comparison: ComparisonResult) -> Figure | None:
    """The primary metric's change by slice; None without slices."""
    level = 1 - comparison["statistics"]["confidence"]
    entries = []
    for metric in comparison["metrics"][:1]:
        for part in comparison["slices"][:_SLICES]:
            status = status_of(part, metric["higher_is_better"], part.get("p"), level)
            entries.append((f"{part['column']} = {part['value']}", part, metric, _tone(comparison, status)))
    return _forest("slices", entries)


def systems(comparison: ComparisonResult) -> Figure | None:
    """The primary metric's change of every side compared with A; None where there is only B."""
    every = (comparison, *comparison["others"]) if comparison["others"] else ()
    return _forest(
        "systems",
        [
            (one["names"]["b"], metric, metric, _tone(one, one["status"]))
            for one in every
            for metric in one["metrics"][:1]
        ],
    )


def _tone(comparison: ComparisonResult, status: Status) -> str:
    """Colour of a change in a comparison; of one that is inconclusive, no change is shown."""
    return "even" if comparison["status"] == "inconclusive" else TONES.get(status, "even")


def _forest(name: str, entries: Sequence[tuple[str, Difference, MetricResult, str]]) -> Figure | None:
    """Differences with their intervals on one axis; where metrics have different scales, as shares of each scale.

    Args:
        name: distinguishes the figures of a page.
        entries: (label, difference, its metric, colour); those without an interval are left out.
    """
    shown = [
        (label, entry["delta"], entry["ci"], metric, kind)
        for label, entry, metric, kind in entries
        if entry["ci"] is not None
    ]
    if not shown:
        return None
    percent = len({metric["scale"] for *_, metric, _ in shown}) > 1
    left, right, top, row = 112.0, WIDTH - 72.0, 6.0, 28.0
    units = [metric["scale"] if percent else 1.0 for *_, metric, _ in shown]
    spans = [(ci[0] / unit, delta / unit, ci[1] / unit) for (_, delta, ci, *_), unit in zip(shown, units, strict=True)]
    x_of, axis = zero_axis([value for span in spans for value in span], left, right)
    bottom = top + row * len(shown)
    shapes, table = [], [["metric", "change", "from", "to"]]
    for tick in axis:
        value = "0" if tick == 0 else f"{tick:+.0%}" if percent and abs(axis[1] - axis[0]) >= 0.01 else f"{tick:+.4g}"
        shapes += [line(x_of(tick), top, x_of(tick), bottom, "zero" if tick == 0 else "grid")]
        shapes += [text(x_of(tick), bottom + 16, value, "middle", "axis")]
    for number, ((label, delta, ci, metric, kind), (low, middle, high)) in enumerate(zip(shown, spans, strict=True)):
        y = top + row * number + row / 2
        numbers = [signed(value, precision(metric)) for value in (delta, *ci)]
        shapes += [
            text(left - 10, y + 4, label if len(label) <= 16 else label[:15] + "…", "end"),
            line(x_of(low), y, x_of(high), y, f"span {kind}"),
            circle(x_of(middle), y, 4.5, kind),
            text(WIDTH, y + 4, numbers[0], "end", f"number {kind}"),
        ]
        table.append([label, *numbers])
    unit_text = "as a share of each metric's scale" if percent else "in units of the score"
    desc = f"{len(shown)} changes from A to B with their intervals, {unit_text}. Colored where a change is shown."
    return Figure(name, "Change from A to B with its interval", desc, "".join(shapes), bottom + 22, table)


def outcomes(column: MetricColumn) -> Figure:
    """Rows by outcome: better, tied, worse; for a right-or-wrong metric, which sides were right."""
    if column.binary:
        pairs = Counter(map(tuple, (column.scores == (1 if column.higher_is_better else 0)).tolist()))
        counts = [
            ("both right", pairs[True, True], "even"),
            ("only A right", pairs[True, False], "bad"),
            ("only B right", pairs[False, True], "good"),
            ("both wrong", pairs[False, False], "even"),
        ]
        return _bars(f"outcomes-{column.name}", "Which side was right", counts)
    gains = column.gains
    counts = [
        ("B better", int((gains > 0).sum()), "good"),
        ("tie", int((gains == 0).sum()), "even"),
        ("B worse", int((gains < 0).sum()), "bad"),
    ]
    return _bars(f"outcomes-{column.name}", "Rows by outcome", counts)


def _bars(name: str, title: str, counts: Sequence[tuple[str, int, str]]) -> Figure:
    """Horizontal bars of (label, count, colour)."""
    total = sum(count for _, count, _ in counts)
    most = max((count for _, count, _ in counts), default=0) or 1
    left, row = 86.0, 28.0
    shapes, table = [], [["rows", "count", "share"]]
    for number, (label, count, kind) in enumerate(counts):
        y = 4 + row * number
        length = max((WIDTH - left - 110) * count / most, 1)
        share = f"{fixed(100 * count / total, 1)}%" if total else "-"
        shapes += [
            text(left - 10, y + 17, label, "end"),
            bar(left, y + 4, length, row - 9, kind),
            text(left + length + 7, y + 17, f"{count:,} ({share})"),
        ]
        table.append([label, f"{count}", share])
    desc = ", ".join(f"{label}: {count}" for label, count, _ in counts)
    return Figure(name, title, desc, "".join(shapes), 8 + row * len(counts), table)


def histogram(column: MetricColumn, scored: NDArray[np.bool_]) -> Figure | None:
    """How far rows moved, with a bar of its own for unmoved rows; None for a right-or-wrong metric or no change.

    `scored` [N] are the rows that both sides answered.
    """
    deltas = column.delta[scored]
    known = deltas[~np.isnan(deltas)]
    moved: list[float] = np.sort(np.abs(known[known != 0])).tolist()
    if not moved or column.binary:
        return None
    # The outermost bins hold the largest 1 % of changes: one extreme row must not squeeze all others into one bin.
    reach = moved[min(len(moved) - 1, int(len(moved) * 0.99))]
    step = reach / _BINS
    counts = Counter(_bin(delta, step) for delta in known.tolist())
    most = max(count for place, count in counts.items() if place) * 1.12
    left, top, bottom = 34.0, 18.0, 168.0
    width = (WIDTH - left) / (2 * _BINS + 1)
    shapes = count_axis(most, left, top, bottom)
    for place, count in sorted(counts.items()):
        x, height = left + (place + _BINS) * width, (bottom - top) * min(count / most, 1)
        kind = "even" if place == 0 else "good" if (place > 0) == column.higher_is_better else "bad"
        shapes.append(bar(x + 1, bottom - height, width - 2, height, kind))
        if place == 0:
            shapes.append(text(x + width / 2, bottom - height - 5, f"{count:,}", "middle"))
    for place in (-_BINS, -_BINS // 2, 0, _BINS // 2, _BINS):
        x = left + (place + _BINS + (0.5 if place == 0 else 0 if place < 0 else 1)) * width
        label = "0" if place == 0 else f"{place * step:+.2g}"
        anchor = "middle" if abs(place) < _BINS else "start" if place < 0 else "end"
        shapes.append(text(x, bottom + 16, label, anchor, "axis"))
    title = f"Change of {column.name} by row"
    desc = f"{np.count_nonzero(deltas)} of {len(deltas)} rows changed. Bars left of 0 are rows whose score fell."
    table = _histogram_table(counts, step)
    return Figure(f"histogram-{column.name}", title, desc, "".join(shapes), bottom + 22, table)


def _bin(delta: float, step: float) -> int:
    """Bin of a change: 0 for none, else 1 to `_BINS` with the change's sign. With step 0.1, -0.25 is in bin -3."""
    if delta == 0:
        return 0
    place = min(_BINS, int(abs(delta) / step) + 1)
    return place if delta > 0 else -place


def _histogram_table(counts: Mapping[int, int], step: float) -> list[list[str]]:
    table = [["change", "rows"]]
    for place, count in sorted(counts.items()):
        sign = "-" if place < 0 else "+"
        inner, outer = f"{sign}{(abs(place) - 1) * step:.3g}", f"{sign}{abs(place) * step:.3g}"
        label = "0" if place == 0 else f"{inner} and beyond" if abs(place) == _BINS else f"{inner} to {outer}"
        table.append([label, f"{count}"])
    return table


def scatter(column: MetricColumn) -> Figure | None:
    """Score of B over score of A; None for a right-or-wrong metric, or one that a single row does not have."""
    scores = column.scores
    if not column.per_row or column.binary or not len(scores):
        return None
    low = min(0.0, float(scores.min()))
    high = float(scores.max()) or 1.0
    high = high if high > low else low + 1
    size = 240.0
    frame = Frame(46.0, 8.0, 46.0 + size, 8.0 + size, (low, high), (low, high))
    shapes = frame.y_axis()
    for tick in ticks(low, high):
        x, _ = frame.point(tick, low)
        shapes.append(line(x, frame.top, x, frame.bottom, "grid"))
        shapes.append(text(x, frame.bottom + 16, f"{tick:.4g}", "middle", "axis"))
    shapes.append(line(frame.left, frame.bottom, frame.left + size, frame.top, "zero"))
    dots: dict[tuple[str, int], list[str]] = {}
    for (a, b), count in _cells(scores, low, high, _CELLS).items():
        kind = "even" if a == b else "good" if (b > a) == column.higher_is_better else "bad"
        level = sum(count >= fewest for fewest, _ in _DOTS) - 1
        x, y = frame.left + (a + 0.5) / _CELLS * size, frame.bottom - (b + 0.5) / _CELLS * size
        dots.setdefault((kind, level), []).append(f"M{x:.1f} {y:.1f}h0")
    for (kind, level), places in sorted(dots.items()):
        shapes.append(f'<path d="{"".join(places)}" class="dots {kind}" stroke-width="{_DOTS[level][1]}"/>')
    shapes.append(text(frame.left + size / 2, frame.bottom + 34, "A", "middle"))
    shapes.append(text(12, frame.top + size / 2, "B", "middle"))
    shapes += _dot_legend(frame.right + 22, frame.top + 14)
    title = f"{column.name} of each row, B against A"
    desc = "Above the diagonal B scores higher. Rows close together share a dot; larger dots hold more rows."
    table = _by_fifths(scores, low, high)
    return Figure(f"scatter-{column.name}", title, desc, "".join(shapes), frame.bottom + 42, table)


def _dot_legend(x: float, y: float) -> list[str]:
    shapes = [text(x - 6, y, "rows", "start", "axis")]
    for number, (fewest, width) in enumerate(_DOTS):
        shapes.append(f'<path d="M{x:.1f} {y + 18 + 20 * number:.1f}h0" class="dots even" stroke-width="{width}"/>')
        label = f"{fewest}" if number == 0 else f"{fewest}+"
        shapes.append(text(x + 12, y + 22 + 20 * number, label, "start", "axis"))
    return shapes


def _cells(scores: Floats, low: float, high: float, parts: int) -> Counter[tuple[int, int]]:
    """Rows counted by cells of a grid of `parts` x `parts` from `low` to `high`, in order: A first, then B."""
    found = np.minimum(parts - 1, ((scores - low) / (high - low) * parts).astype(np.int64))
    cells, counts = np.unique(found[:, 0] * parts + found[:, 1], return_counts=True)
    return Counter({divmod(cell, parts): count for cell, count in zip(cells.tolist(), counts.tolist(), strict=True)})


def _by_fifths(scores: Floats, low: float, high: float) -> list[list[str]]:
    """Rows counted by fifths of the range: A down, B across."""
    fifths = _cells(scores, low, high, 5)
    names = [f"{low + (high - low) * n / 5:.3g}-{low + (high - low) * (n + 1) / 5:.3g}" for n in range(5)]
    return [["A ↓ B →", *names], *([names[a], *(f"{fifths[a, b]}" for b in range(5))] for a in range(5))]


def learning_curve(training: TrainingSummary | None) -> Figure | None:
    """Loss over steps, or the reward of what was trained on rewards, with a mark at the `chosen_step`; None where the
    training of B is not known.
    """
    training = training or {}
    curve = training.get("curve") or []
    rewarded = bool(points(curve, "reward"))
    losses = points(curve, "reward" if rewarded else "loss")
    validation = [] if rewarded else points(curve, "validation_loss")
    every = [*losses, *validation]
    if not every:
        return None
    low, high = min(value for _, value in every), max(value for _, value in every)
    low, high = (min(0.0, low), high or 1.0) if low < high * 0.3 else (low - (high - low) * 0.1, high)
    last = max(step for step, _ in every) or 1
    frame = Frame(46.0, 26.0, WIDTH - 16.0, 190.0, (0, last), (low, high if high > low else low + 1))
    shapes = frame.y_axis()
    for tick in ticks(0, last, 6):
        shapes.append(text(frame.point(tick, low)[0], frame.bottom + 16, f"{tick:.0f}", "middle", "axis"))
    shapes += _mark(training, frame)
    measured = [frame.point(*point) for point in validation]
    shapes += [polyline([frame.point(*point) for point in losses], "curve a"), polyline(measured, "curve b")]
    shapes += [circle(x, y, 3.5, "curve-b") for x, y in measured]
    names = [("a", "answers drawn" if rewarded else "training rows")] * bool(losses) + [
        ("b", "validation rows")
    ] * bool(validation)
    shapes += _legend(names, 130, frame)
    desc = f"{'Mean reward of the answers drawn' if rewarded else 'Loss per supervised token'} over {last} steps."
    if validation:
        desc += f" On the validation rows it ends at {validation[-1][1]:.4f}."
    return Figure("curve", "Learning curve", desc, "".join(shapes), frame.bottom + 46, _curve_table(curve))


def _mark(training: TrainingSummary, frame: Frame) -> list[str]:
    """A labelled vertical line at the selected checkpoint."""
    if training.get("chosen_step") is None:
        return []
    x, _ = frame.point(training["chosen_step"], frame.y[0])
    anchor = "middle" if x < frame.right - 30 else "end"
    mark = line(x, frame.top, x, frame.bottom, "mark")
    return [mark, text(x, frame.top - 4, "selected", anchor, "axis")]


def _legend(names: Sequence[tuple[str, str]], spacing: float, frame: Frame) -> list[str]:
    """(CSS class, label) of every curve, under the x axis."""
    shapes, y = [], frame.bottom + 32
    for number, (kind, label) in enumerate(names):
        x = frame.left + spacing * number
        shapes += [line(x, y, x + 18, y, f"curve {kind}"), text(x + 24, y + 4, label)]
    return shapes


def _curve_table(curve: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    names = {"loss": "loss", "validation_loss": "validation loss"}
    if points(curve, "reward"):
        names = {"reward": "reward", "kl": "KL", "words": "words", "even_groups": "groups without variance"}
    keys = [key for key in names if points(curve, key)]
    known = [point for point in curve if any(key in point for key in keys)]
    spaced = known if len(known) <= _CURVE_ROWS else [known[n * len(known) // _CURVE_ROWS] for n in range(_CURVE_ROWS)]
    rows = [[f"{point['step']}", *(f"{point[key]:.4f}" if key in point else "" for key in keys)] for point in spaced]
    return [["step", *(names[key] for key in keys)], *rows]


def score_by_confidence(comparison: ComparisonResult) -> Figure | None:
    """Score of the most confident answers over the share of rows kept; None where token probabilities are unknown."""
    sides = comparison["confidence"]
    curves = {side: curve for side in ("a", "b") if sides is not None and (curve := sides[side]) is not None}
    if not curves or not comparison["metrics"]:
        return None
    entry = comparison["metrics"][0]
    # The curve starts with single rows, whose scores jump: the axis is scaled to points with at least a tenth of them.
    scores = [p["score"] for curve in curves.values() for p in curve["points"] if p["coverage"] >= 0.1]
    margin = (max(scores) - min(scores)) * 0.1 or 0.05
    low, high = min(scores) - margin, max(scores) + margin
    frame = Frame(46.0, 10.0, WIDTH - 10.0, 170.0, (0.0, 1.0), (low, high))
    shapes = frame.y_axis()
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        shapes.append(text(frame.point(share, low)[0], frame.bottom + 16, f"{share:.0%}", anchor, "axis"))
    for side, curve in curves.items():
        inside = [frame.point(p["coverage"], min(max(p["score"], low), high)) for p in curve["points"]]
        shapes.append(polyline(inside, f"curve {side}"))
    shapes += _legend([(side, side.upper()) for side in curves], 90, frame)
    digits = precision(entry)
    table = [["rows kept, most confident first", *(side.upper() for side in curves)]]
    for pair in zip(*(curve["points"] for curve in curves.values()), strict=False):
        table.append([f"{pair[0]['coverage']:.0%}", *(fixed(point["score"], digits) for point in pair)])
    title = f"{entry['name']} of the most confident answers"
    desc = (
        "The x axis is the share of rows kept, starting with the most confident answers. "
        "A flat line: confidence does not predict the score."
    )
    return Figure("confidence", title, desc, "".join(shapes), frame.bottom + 46, table)
