"""The page of a learning curve: the score over the number of train rows, and what more rows would bring."""

import math
from collections.abc import Mapping
from typing import Any

from vlmtune.report import templates
from vlmtune.report.svg import WIDTH, Figure, Frame, circle, line, polyline, text
from vlmtune.report.text import fixed, signed

DIGITS = 4


def render(result: Mapping[str, Any]) -> str:
    """The page as HTML, without scripts or external resources.

    Args:
        result: the content of `learning_curve.json`.
    """
    points = result["points"]
    rows = [["train rows", result["metric"], "95 % interval over the evaluated rows", "seeds"]]
    for point in points:
        ends = f"{fixed(point['low'], DIGITS)} to {fixed(point['high'], DIGITS)}"
        seeds = ", ".join(fixed(score, DIGITS) for score in point["seeds"])
        rows.append([f"{point['rows']:,}", fixed(point["score"], DIGITS), ends, seeds])
    more = [["train rows", f"change of {result['metric']}", "95 % interval"]]
    for each in result["extrapolations"]:
        ends = f"{signed(each['low'], DIGITS)} to {signed(each['high'], DIGITS)}"
        more.append([f"{each['rows']:,}", signed(each["change"], DIGITS), ends])
    return templates.render(
        "learning_curve.html.jinja",
        [],
        verdict=sentence(result),
        curve=_figure(result),
        points=rows,
        more=more if len(more) > 1 else None,
        evaluated=f"{result['evaluated_rows']:,}",
    )


def sentence(result: Mapping[str, Any]) -> str:
    """What more rows would bring, in words."""
    points, name = result["points"], result["metric"]
    last = points[-1]
    start = f"With {last['rows']:,} train rows {name} is {fixed(last['score'], DIGITS)}"
    if not result["extrapolations"]:
        return f"{start}. Fewer than {result['fewest_sizes']} sizes are not extrapolated."
    each = result["extrapolations"][0]
    factor = each["rows"] / last["rows"]
    times = "Twice" if factor == 2 else f"{factor:.3g} times"
    ends = f"{signed(each['low'], DIGITS)} to {signed(each['high'], DIGITS)}"
    sign = 1 if result["higher_is_better"] else -1
    if min(sign * each["low"], sign * each["high"]) > 0:
        return f"{start}. {times} as many would change it by {ends} (95 %)."
    return f"{start}. Whether {times.lower()} as many would help is not shown: they would change it by {ends} (95 %)."


def _figure(result: Mapping[str, Any]) -> Figure:
    """The score over the rows on a logarithmic axis, with the extrapolation dashed."""
    points, more = result["points"], result["extrapolations"]
    last = points[-1]
    ahead = [(e["rows"], *(last["score"] + e[key] for key in ("low", "change", "high"))) for e in more]
    measured = [(p["rows"], p["low"], p["score"], p["high"]) for p in points]
    values = [value for each in (*measured, *ahead) for value in each[1:]]
    # An interval far beyond the scale must not squeeze the curve.
    low, high = max(min(values), -result["scale"]), min(max(values), 2 * result["scale"])
    margin = (high - low) * 0.08 or 0.1
    ends = [math.log10(each[0]) for each in (measured[0], *(ahead or measured)[-1:])]
    x = (ends[0] - 0.1, ends[1] + 0.1)
    frame = Frame(52.0, 10.0, WIDTH - 12.0, 190.0, x, (low - margin, high + margin))
    shapes = frame.y_axis()
    for kind, each in (*(("b", one) for one in measured), *(("a", one) for one in ahead)):
        across, bottom = frame.point(math.log10(each[0]), max(each[1], low - margin))
        _, top = frame.point(math.log10(each[0]), min(each[3], high + margin))
        _, middle = frame.point(math.log10(each[0]), min(max(each[2], low), high))
        shapes += [
            line(across, bottom, across, top, f"curve {kind}"),
            circle(across, middle, 4, "curve-b" if kind == "b" else "even"),
        ]
        shapes.append(text(across, frame.bottom + 16, f"{each[0]:,}", "middle", "axis"))
    shapes.append(polyline([frame.point(math.log10(each[0]), each[2]) for each in measured], "curve b"))
    shapes.append(text((frame.left + frame.right) / 2, frame.bottom + 34, "train rows", "middle"))
    table = [["train rows", "low", result["metric"], "high"]]
    table += [[f"{each[0]:,}", *(fixed(value, DIGITS) for value in each[1:])] for each in (*measured, *ahead)]
    desc = "Blue: measured, with 95 % intervals over the evaluated rows. Grey: extrapolated, with 95 % intervals."
    return Figure("learning", f"{result['metric']} over train rows", desc, "".join(shapes), frame.bottom + 42, table)
