"""The page of a search: every trial with its score and cost, and how optimistic the best score was."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.report import templates
from vlmtune.report.svg import WIDTH, Figure, Frame, circle, polyline, text, ticks
from vlmtune.report.text import fixed
from vlmtune.scoring.results import ComparisonResult

TONES = {"improved": "good", "worse": "bad", "no_difference": "even", "inconclusive": "unknown"}
STATES = {"complete": "trained to the end", "stopped": "stopped early", "failed": "failed"}
DIGITS = 4


SIZES = ("model.name", "model.quantization")
"""Settings whose values are named in the picture of scores over cost."""

TFLOP = ("TFLOP", 1.0)
"""The unit of costs that have no price, and what a TFLOP is in it."""


def render(found: Mapping[str, Any], comparison: ComparisonResult, report: str, unit: tuple[str, float] = TFLOP) -> str:
    """The page as HTML, without scripts or external resources.

    Args:
        found: the content of `search.json`, and under `fresh` the scores of the best settings' fresh seeds.
        comparison: of the base model with the adapters of those seeds.
        report: name of its page, in the same folder.
        unit: of what a trial costs, and how much of it a TFLOP is.
    """
    best = found["trials"][found["best"]]
    ended = [trial["state"] for trial in found["trials"]]
    counts = ", ".join(f"{ended.count(state)} {words}" for state, words in STATES.items() if state in ended)
    fresh = [score for score in found["fresh"]["validation"] if score is not None]
    tiles = [
        ("Trials", f"{len(ended)}", counts),
        (f"Best {found['metric']}", fixed(best["value"], DIGITS), f"trial {best['number'] + 1}, validation rows"),
        ("With fresh seeds", fixed(statistics.mean(fresh), DIGITS) if fresh else "-", "the same rows"),
    ]
    settings = [["setting", "best value"], *([key, str(value)] for key, value in best["values"].items())]
    return templates.render(
        "search.html.jinja",
        [],
        tone=TONES[comparison["status"]],
        status=comparison["status"].replace("_", " "),
        verdict=comparison["verdict"],
        tiles=tiles,
        settings=settings,
        optimism=optimism(found),
        scatter=_scatter(found, unit),
        curves=_curves(found),
        trials=_table(found, unit),
        report=report,
        method=(
            f"Trials were compared by {found['metric']} on {found['validation_rows']:,} validation rows. The best "
            "settings were then trained again with fresh seeds, and only those adapters were compared with the base "
            "model, on rows that no trial has seen: the number of trials does not change what its p-value means."
        ),
    )


def optimism(found: Mapping[str, Any]) -> str:
    """How much better the best trial looked than its settings are, in one sentence."""
    best, seeds = found["trials"][found["best"]], found["fresh"]["seeds"]
    fresh = [score for score in found["fresh"]["validation"] if score is not None]
    if not fresh:
        return (
            "The fresh seeds have no score on the validation rows, so it is unknown how optimistic the best trial was."
        )
    mean = statistics.mean(fresh)
    better = (best["value"] - mean) * (1 if found["higher_is_better"] else -1)
    spread = f", from {fixed(min(fresh), DIGITS)} to {fixed(max(fresh), DIGITS)}" if len(fresh) > 1 else ""
    again = f"Trained again with {len(seeds)} fresh {'seed' if len(seeds) == 1 else 'seeds'}"
    start = (
        f"The best of {len(found['trials'])} trials had {found['metric']} {fixed(best['value'], DIGITS)} on the "
        f"validation rows. {again}, its settings have {fixed(mean, DIGITS)} on the same rows{spread}: "
    )
    if better <= 0:
        return start + "the trial was not optimistic."
    return start + f"the trial was optimistic by {fixed(better, DIGITS)}."


def _cost(trial: Mapping[str, Any], unit: tuple[str, float]) -> float:
    """What a trial was trained for; 0 where it failed before its first evaluation."""
    share = trial["evaluations"][-1][0] if trial["evaluations"] else 0.0
    return float(trial["flops"] or 0.0) * share / 1e12 * unit[1]


def _scatter(found: Mapping[str, Any], unit: tuple[str, float]) -> Figure | None:
    """Score of every trial over its cost; where sizes of models vary, the best trial of each is named."""
    shown = [trial for trial in found["trials"] if trial["value"] is not None]
    if not shown:
        return None
    points = [(_cost(trial, unit), trial["value"]) for trial in shown]
    frame = _frame(points, max(cost for cost, _ in points) or 1.0)
    shapes = [*frame.y_axis(), *_x_axis(frame, "{:.3g}")]
    for trial, point in zip(shown, points, strict=True):
        kind = "good" if trial["number"] == found["best"] else "even"
        shapes.append(circle(*frame.point(*point), 6 if kind == "good" else 4, kind))
    for label, trial in _best_of_sizes(shown, found["higher_is_better"]).items():
        x, y = frame.point(_cost(trial, unit), trial["value"])
        anchor = "end" if x > (frame.left + frame.right) / 2 else "start"
        shapes.append(text(x + (9 if anchor == "start" else -9), y - 7, label, anchor))
    shapes.append(text((frame.left + frame.right) / 2, frame.bottom + 34, f"{unit[0]} of training", "middle"))
    table = [["trial", unit[0], found["metric"]]]
    table += [[f"{t['number'] + 1}", f"{c:.3g}", fixed(v, DIGITS)] for t, (c, v) in zip(shown, points, strict=True)]
    desc = "Each dot is a trial at its last evaluation; the best one is green. Trials on the left were stopped early."
    return Figure("cost", f"{found['metric']} over cost", desc, "".join(shapes), frame.bottom + 42, table)


def _best_of_sizes(trials: Sequence[Mapping[str, Any]], higher_is_better: bool) -> dict[str, Mapping[str, Any]]:
    """The best trial of each model and precision, by what is tried of them; none if nothing of them is."""
    best: dict[str, Mapping[str, Any]] = {}
    sign = 1 if higher_is_better else -1
    for trial in sorted(trials, key=lambda each: -sign * each["value"]):
        tried = [
            str(trial["values"][key] or "unquantized").rpartition("/")[2] for key in SIZES if key in trial["values"]
        ]
        if tried:
            best.setdefault(_short(", ".join(tried)), trial)
    return best


def _curves(found: Mapping[str, Any]) -> Figure | None:
    """Score of every trial after each of its evaluations."""
    shown = [trial for trial in found["trials"] if trial["evaluations"]]
    points = [tuple(point) for trial in shown for point in trial["evaluations"]]
    if not points:
        return None
    frame = _frame(points, 1.0)
    shapes = [*frame.y_axis(), *_x_axis(frame, "{:.0%}")]
    for trial in sorted(shown, key=lambda trial: trial["number"] == found["best"]):
        places = [frame.point(*point) for point in trial["evaluations"]]
        kind = "good" if trial["number"] == found["best"] else "even"
        shapes.append(polyline(places, "curve b" if kind == "good" else "curve a"))
        shapes += [circle(x, y, 3, kind) for x, y in places]
    shapes.append(text((frame.left + frame.right) / 2, frame.bottom + 34, "share of the training", "middle"))
    shares = sorted({share for share, _ in points})
    table = [["trial", *(f"{share:.0%}" for share in shares)]]
    for trial in shown:
        values = {share: fixed(value, DIGITS) for share, value in trial["evaluations"]}
        table.append([f"{trial['number'] + 1}", *(values.get(share, "") for share in shares)])
    desc = "Each line is a trial. Successive halving stops those that are behind."
    return Figure("halving", f"{found['metric']} during training", desc, "".join(shapes), frame.bottom + 42, table)


def _frame(points: Sequence[tuple[float, ...]], last: float) -> Frame:
    values = [value for _, value in points]
    margin = (max(values) - min(values)) * 0.1 or abs(values[0]) * 0.1 or 0.1
    return Frame(52.0, 10.0, WIDTH - 12.0, 180.0, (0.0, last), (min(values) - margin, max(values) + margin))


def _x_axis(frame: Frame, form: str) -> list[str]:
    every = ticks(*frame.x)
    places = [frame.point(tick, frame.y[0])[0] for tick in every]
    return [
        text(x, frame.bottom + 16, form.format(tick), "end" if x > frame.right - 10 else "middle", "axis")
        for tick, x in zip(every, places, strict=True)
    ]


def _table(found: Mapping[str, Any], unit: tuple[str, float]) -> list[list[str]]:
    """All trials, the best first."""
    sign = -1 if found["higher_is_better"] else 1

    def order(trial: Mapping[str, Any]) -> tuple[bool, bool, float]:
        return (trial["state"] != "complete", trial["value"] is None, sign * (trial["value"] or 0.0))

    keys = list(found["trials"][0]["values"])
    rows = [["trial", *keys, found["metric"], unit[0], "outcome"]]
    for trial in sorted(found["trials"], key=order):
        outcome = STATES[trial["state"]]
        if trial["state"] == "stopped":
            outcome += f" at {trial['evaluations'][-1][0]:.0%}"
        if trial["reason"]:
            outcome += f": {trial['reason'].splitlines()[0]:.200}"
        values = [_short(trial["values"][key]) for key in keys]
        score = "-" if trial["value"] is None else fixed(trial["value"], DIGITS)
        rows.append([f"{trial['number'] + 1}", *values, score, f"{_cost(trial, unit):.3g}", outcome])
    return rows


def _short(value: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return shown if len(shown) <= 60 else shown[:59] + "…"
