"""The score of the surest answers over how many of them are kept: does a side know when it is right?"""

from collections.abc import Mapping
from typing import Any

from vlmtune.report.charts import WIDTH, Figure, line, ticks, words
from vlmtune.report.text import fixed, precision

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
    for points in zip(*(found["points"] for found in known.values()), strict=False):
        table.append([f"{points[0]['coverage']:.0%}", *(fixed(point["score"], digits) for point in points)])
    title = f"{entry['name']} of the surest answers"
    said = "Across, the share of rows that is kept, those with the likeliest answers first. A flat line: no such order."
    return Figure("coverage", title, said, "".join(parts), bottom + 46, table)
