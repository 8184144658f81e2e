"""The learning curve: loss of every logged step, loss on the select rows, and which checkpoint was taken."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.report.charts import WIDTH, Figure, line, ticks, words
from vlmtune.report.sparklines import points

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
    chosen = points(curve, "select_loss")
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
        said += f" On the select rows it ends at {chosen[-1][1]:.4f}."
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
    for there, kind, label in ((trained, "a", "training rows"), (chosen, "b", "select rows")):
        if there:
            parts += [line(x, y - 4, x + 18, y - 4, f"curve {kind}"), words(x + 24, y, label)]
            x += 130
    return parts


def _table(curve: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    keys = [key for key in ("loss", "select_loss") if points(curve, key)]
    known = [point for point in curve if any(key in point for key in keys)]
    spaced = known if len(known) <= _ROWS else [known[n * len(known) // _ROWS] for n in range(_ROWS)]
    shown = [[f"{point['step']}", *(f"{point[key]:.4f}" if key in point else "" for key in keys)] for point in spaced]
    return [["step", *(key.replace("_", " ") for key in keys)], *shown]
