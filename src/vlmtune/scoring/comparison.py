"""Two prediction files compared: paired rows, intervals, p-values, controls, and a verdict in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vlmtune.errors import ConfigError, DataError, IntegrityError
from vlmtune.metrics import Metric, Stats
from vlmtune.plugs import Part, closest
from vlmtune.predictions import Line
from vlmtune.runs import differences
from vlmtune.scoring import EvaluationConfig, controls, traits
from vlmtune.scoring.pairing import Pairs, pair
from vlmtune.scoring.resampling import FEWEST_GROUPS, Resamples, by_group, judge
from vlmtune.scoring.score import choose, measure, signature, summary
from vlmtune.tasks import Task

Status = Literal["improved", "worse", "no_difference", "inconclusive"]
MOST_FAILED = 0.05
"""Share of failed rows on either side above which nothing is concluded."""

_POWER = 2.80
"""Standard errors of a difference that is found 80 % of the time at a two-sided 5 % level."""


@dataclass(frozen=True, slots=True)
class Side:
    """A prediction file: its lines, and what lies beside it (None for files of others)."""

    name: str
    lines: Sequence[Line]
    manifest: Mapping[str, Any] | None = None
    controls: Mapping[str, Any] | None = None

    @property
    def origin(self) -> Mapping[str, Any]:
        """What the answers were made from; empty for files of others."""
        origin: Mapping[str, Any] = (self.manifest or {}).get("origin", {})
        return origin


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A. `facts` is everything but the examples, as plain values; `examples` the compared rows."""

    status: Status
    verdict: str
    facts: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]] = field(repr=False)

    def to_json(self, examples: bool = True) -> dict[str, Any]:
        """Plain values, as `vlmtune compare --json` prints them (without the examples)."""
        plain = {"schema_version": 1, "status": self.status, "verdict": self.verdict, **self.facts}
        return plain | ({"examples": list(self.examples)} if examples else {})


@dataclass(frozen=True, slots=True)
class _Paired:
    """The rows that are compared: both sides answered, and chosen by nobody."""

    a: tuple[Line, ...]
    b: tuple[Line, ...]
    groups: tuple[str, ...]


def compare(a: Side, b: Side, task: Task, task_config: Part, evaluation: EvaluationConfig) -> Comparison:
    """Compare side B with side A.

    Raises:
        DataError: a side has no rows, no row has a partner, or no pair was answered on both sides.
        ConfigError: an unknown metric.
        IntegrityError: a stand-in's answers are compared with a real model's.
    """
    _refuse_mixture(a, b)
    for side in (a, b):
        if not side.lines:
            raise DataError(f"{side.name} has no rows")
    metrics = choose(task, evaluation.metrics, [*a.lines, *b.lines])
    primary = _primary(metrics, evaluation)
    pairs = pair(a.lines, b.lines, {metric.truth for metric in metrics})
    if not pairs.rows:
        raise DataError(f"{a.name} and {b.name} have no row in common: neither an id nor the references of a row agree")
    chosen_by = {row for side in (a, b) for row in (side.manifest or {}).get("selection_ids", [])}
    evidence = [(n, m) for n, m in pairs.rows if a.lines[n].id not in chosen_by]
    paired = _answered(a, b, evidence)
    rows = _row_counts(a, b, pairs, evidence, paired)
    results = _judged(metrics, paired, task, task_config, evaluation) if paired.a else []
    facts = {
        "primary": primary.name,
        "names": {"a": a.name, "b": b.name},
        "rows": rows,
        "paired_by": pairs.by,
        "metrics": results,
        "lengths": {
            "a": traits.lengths([line.prediction or "" for line in paired.a]),
            "b": traits.lengths([line.prediction or "" for line in paired.b]),
            "references": traits.lengths([text for line in paired.a for text in line.references]),
        },
        "shares": {"a": dict(traits.shares(paired.a)), "b": dict(traits.shares(paired.b))},
        "settings": {"a": dict(a.origin), "b": dict(b.origin)},
        "controls": _controls((a, b), primary, paired, task, task_config, evaluation),
        "statistics": evaluation.statistics.model_dump(),
    }
    reasons = _reasons(rows)
    status: Status = "inconclusive" if reasons else _status(results[0])
    facts["warnings"] = [*reasons, *_warnings(a, b, pairs, status, facts)]
    examples = _examples(paired, primary, task, task_config) if paired.a else []
    return Comparison(status, _verdict(status, reasons, facts), facts, examples)


def _refuse_mixture(a: Side, b: Side) -> None:
    kinds = {side.manifest["mock"] for side in (a, b) if side.manifest and "mock" in side.manifest}
    if len(kinds) > 1:
        raise IntegrityError(
            f"one of {a.name} and {b.name} was made with USE_MOCK by the stand-in model, the other by the real one; "
            "run the missing step again the same way"
        )


def _primary(metrics: Sequence[Metric], evaluation: EvaluationConfig) -> Metric:
    """The metric the verdict is about; it also comes first in the results."""
    if evaluation.primary is None:
        return metrics[0]
    for metric in metrics:
        if metric.name == evaluation.primary:
            return metric
    names = [metric.name for metric in metrics]
    nearest = closest(evaluation.primary, names)
    raise ConfigError(
        f"evaluation.primary: {evaluation.primary!r} is not measured here; there are: {', '.join(names)}"
        + (f"; did you mean {nearest!r}?" if nearest else "")
    )


def _answered(a: Side, b: Side, rows: Sequence[tuple[int, int]]) -> _Paired:
    kept = [(a.lines[n], b.lines[m]) for n, m in rows]
    kept = [(x, y) for x, y in kept if x.prediction is not None and y.prediction is not None]
    groups = tuple(controls.group_of(n, y) for n, (_, y) in enumerate(kept))
    return _Paired(tuple(x for x, _ in kept), tuple(y for _, y in kept), groups)


def _row_counts(a: Side, b: Side, pairs: Pairs, evidence: Sequence[tuple[int, int]], paired: _Paired) -> dict[str, int]:
    return {
        "a": len(a.lines),
        "b": len(b.lines),
        "paired": len(pairs.rows),
        "only_a": len(a.lines) - len(pairs.rows),
        "only_b": len(b.lines) - len(pairs.rows),
        "failed_a": sum(a.lines[n].prediction is None for n, _ in pairs.rows),
        "failed_b": sum(b.lines[m].prediction is None for _, m in pairs.rows),
        "selection": len(pairs.rows) - len(evidence),
        "compared": len(paired.a),
        "groups": len(set(paired.groups)),
    }


def _judged(
    metrics: Sequence[Metric], paired: _Paired, task: Task, config: Part, evaluation: EvaluationConfig
) -> list[dict[str, Any]]:
    """One entry per metric, the primary first; `ci`, `p` and `detectable` are None with too few groups."""
    statistics, primary = evaluation.statistics, _primary(metrics, evaluation)
    ordered = [primary, *(metric for metric in metrics if metric is not primary)]
    sides = [
        [by_group(measure(m, lines, task, config), paired.groups) for m in ordered] for lines in (paired.a, paired.b)
    ]
    resamples = Resamples(len(sides[0][0]), statistics.resamples, statistics.seed)
    drawn = resamples.bootstrap([*sides[0], *sides[1]])
    entries = []
    for n, metric in enumerate(ordered):
        a, b = sides[0][n], sides[1][n]
        before, after = summary(metric, a), summary(metric, b)
        entry = {"name": metric.name, "a": before, "b": after, "delta": after - before, "ci": None, "p": None}
        entry |= {"detectable": None, "higher_is_better": metric.higher_is_better, "scale": metric.scale}
        entry |= {"signature": signature(metric, paired.a)}
        if len(a) >= FEWEST_GROUPS:
            spread = metric.summarise(drawn[len(ordered) + n]) - metric.summarise(drawn[n])
            found = judge(spread, _exchanged(metric, resamples, a, b), after - before, statistics.confidence)
            entry |= {"ci": [found.low, found.high], "p": found.p, "detectable": _POWER * found.standard_error}
        entries.append(entry)
    return entries


def _exchanged(metric: Metric, resamples: Resamples, a: Stats, b: Stats) -> Stats:
    one, other = resamples.exchange(a, b)
    return metric.summarise(other) - metric.summarise(one)


def _controls(
    sides: tuple[Side, Side], primary: Metric, paired: _Paired, task: Task, config: Part, evaluation: EvaluationConfig
) -> dict[str, Any]:
    a, b = sides
    parts = (primary, task, config, evaluation.statistics)
    images = {"a": controls.image_control(a.controls, paired.a, *parts)}
    images["b"] = controls.image_control(b.controls, paired.b, *parts)
    return {
        "length": controls.length_control(paired.a, paired.b, *parts) if paired.a else None,
        "image": images if any(images.values()) else None,
        "effect": (b.controls or {}).get("effect"),
    }


def _reasons(rows: Mapping[str, int]) -> list[str]:
    """Why nothing can be concluded; empty where something can."""
    reasons = []
    most = MOST_FAILED * rows["paired"]
    if max(rows["failed_a"], rows["failed_b"]) > most:
        reasons.append(
            f"{rows['failed_a']} and {rows['failed_b']} of {rows['paired']} paired rows failed; at most "
            f"{MOST_FAILED:.0%} may"
        )
    if rows["selection"] and not rows["compared"]:
        reasons.append("every paired row was used to choose the checkpoint or a setting; such rows are no evidence")
    elif rows["groups"] < FEWEST_GROUPS:
        reasons.append(f"only {rows['groups']} independent rows were compared; an interval needs {FEWEST_GROUPS}")
    return reasons


def _status(result: Mapping[str, Any]) -> Status:
    low, high = result["ci"]
    if low <= 0 <= high:
        return "no_difference"
    return "improved" if (low > 0) == result["higher_is_better"] else "worse"


def _warnings(a: Side, b: Side, pairs: Pairs, status: Status, facts: Mapping[str, Any]) -> list[str]:
    """What would change the reader's mind, the weightiest first."""
    rows, found = facts["rows"], []
    if a.origin and b.origin:
        one, other = ({key: value for key, value in side.origin.items() if key != "adapter"} for side in (a, b))
        found += [f"the two sides were not made alike: {line}" for line in differences(one, other)[:5]]
    length, image = facts["controls"]["length"], facts["controls"]["image"]
    if status == "improved" and length and length["explains"]:
        found.append(
            f"length explains the gain: cut to the same lengths, {a.name} scores {length['a_cut']:.4f} in "
            f"{facts['primary']}"
        )
    if image and image["b"] and image["b"]["ci"] and image["b"]["ci"][0] <= 0:
        found.append(f"{b.name} does not look at the image: with exchanged images it scores as well")
    for entry in facts["metrics"][1:]:
        if entry["ci"] is not None and _status(entry) == "worse":
            found.append(
                f"{entry['name']} got worse: {entry['a']:.4f} → {entry['b']:.4f} "
                f"({entry['ci'][0]:+.4f} to {entry['ci'][1]:+.4f})"
            )
    left = [f"{rows[key]} only in {side.name}" for key, side in (("only_a", a), ("only_b", b)) if rows[key]]
    if left:
        found.append(f"{rows['paired']} rows are in both files; left out: {', '.join(left)}")
    if rows["selection"]:
        found.append(f"{rows['selection']} rows were left out: they chose the checkpoint or a setting")
    for side, key in ((a, "a"), (b, "b")):
        cut = facts["shares"][key]["cut_off"]
        if cut is not None and cut > MOST_FAILED:
            found.append(f"{cut:.0%} of the answers of {side.name} were cut off at the longest length allowed")
    return [*found, *pairs.notes]


def _verdict(status: Status, reasons: Sequence[str], facts: Mapping[str, Any]) -> str:
    if status == "inconclusive":
        return "Inconclusive: " + "; ".join(reasons) + "."
    result, rows = facts["metrics"][0], facts["rows"]
    low, high = result["ci"]
    level = f"{facts['statistics']['confidence']:.0%} CI"
    name, count = result["name"], f"{rows['compared']} paired rows"
    if status == "no_difference":
        largest = max(abs(low), abs(high))
        return (
            f"No difference shown in {name} on {count}: {result['a']:.4f} and {result['b']:.4f}, change "
            f"{result['delta']:+.4f} ({level} {low:+.4f} to {high:+.4f}); a change larger than {largest:.4f} is "
            "excluded."
        )
    word = "Improved" if status == "improved" else "Worse"
    length = facts["controls"]["length"]
    explained = " Answer length alone explains it." if status == "improved" and length and length["explains"] else ""
    return (
        f"{word}: {name} {result['a']:.4f} → {result['b']:.4f}, change {result['delta']:+.4f} "
        f"({level} {low:+.4f} to {high:+.4f}, p = {result['p']:.4f}) on {count}.{explained}"
    )


def _examples(paired: _Paired, primary: Metric, task: Task, config: Part) -> list[dict[str, Any]]:
    """The compared rows; `gain` is how the primary score of side A changes when this row's answer becomes B's."""
    a, b = (measure(primary, lines, task, config) for lines in (paired.a, paired.b))
    total = a.sum(axis=0)
    gains = np.asarray(primary.summarise(total - a + b) - primary.summarise(total)).tolist()
    return [
        {
            "id": before.id,
            "image": after.image or before.image,
            "references": list(before.references),
            "a": before.prediction,
            "b": after.prediction,
            "gain": gain,
            "cut_off": {"a": before.finish_reason == "length", "b": after.finish_reason == "length"},
        }
        for before, after, gain in zip(paired.a, paired.b, gains, strict=True)
    ]
