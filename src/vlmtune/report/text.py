"""The comparison as plain text, the tables and sentences that all reports share, and number formats."""

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from vlmtune.scoring.results import ComparisonResult, Difference, Interval, MetricResult, TrainingSummary

BLOCKS = "▁▂▃▄▅▆▇█"

_CONFIDENCE = {1: "confident answers are better", 0: "confidence says nothing", -1: "confident answers are worse"}


def precision(metric: MetricResult) -> int:
    """Decimals of a metric's numbers: 4 on a scale to 1, 3 to 10, 2 to 100."""
    return max(0, 4 - round(math.log10(metric["scale"])))


def fixed(value: float, digits: int) -> str:
    """A number with that many decimals. Halves are rounded up in size, as JavaScript's `toFixed` does."""
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP) + 0:.{digits}f}"


def signed(value: float, digits: int) -> str:
    """A change with its sign; what rounds to 0 gets a plus."""
    text = fixed(value, digits)
    return text if text.startswith("-") else f"+{text}"


def interval(ci: Interval | None, digits: int) -> str:
    """A confidence interval as "+0.1 to +0.2", or "-" where there is none."""
    return "-" if ci is None else " to ".join(signed(end, digits) for end in ci)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values as blocks, from the smallest to the largest; more than `width` values are averaged in equal parts."""
    count = min(len(values), width)
    parts = [values[n * len(values) // count : (n + 1) * len(values) // count] for n in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = high - low
    return "".join(BLOCKS[round((mean - low) / span * (len(BLOCKS) - 1)) if span else 0] for mean in means)


def points(curve: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the points of a learning curve that have a finite number under this key."""
    known = (point for point in curve if isinstance(point.get(key), int | float))
    return [(point["step"], point[key]) for point in known if math.isfinite(point[key])]


def training_summary(training: TrainingSummary | None) -> str | None:
    """A training in one line: first and last loss, a sparkline, the selected checkpoint; None without a curve."""
    if training is None:
        return None
    curve = training.get("curve") or []
    key = "reward" if points(curve, "reward") else "loss"
    values = [value for _, value in points(curve, key)]
    if not values:
        return None
    line = f"{key} {values[0]:.4g} {sparkline(values)} {values[-1]:.4g} over {curve[-1]['step']} steps"
    if training.get("chosen_step") is not None:
        line += f", step {training['chosen_step']} selected"
    return f"{line} ({training['seed_shown']})" if training.get("seed_shown") else line


def render(comparison: ComparisonResult) -> str:
    """Verdict, warnings, tables, controls and row counts.

    Args:
        comparison: B against A.
    """
    names, rows = comparison["names"], comparison["rows"]
    lines = [comparison["verdict"], *(f"! {warning}" for warning in comparison["warnings"])]
    lines += ["", f"A is {names['a']}, B is {names['b']}"]
    lines += _aligned(metric_rows(comparison))
    notes = metric_notes(comparison)
    lines += ["", *notes, *([""] if notes else [])]
    for other in comparison["others"]:
        lines += [f"{other['names']['b']}: {other['verdict']}", *(f"! {warning}" for warning in other["warnings"])]
    for table in (*optional_tables(comparison), answer_rows(comparison)):
        lines += [*_aligned(table), ""]
    lines += [*control_lines(comparison), *confidence_lines(comparison), *judge_lines(comparison)]
    training = training_summary(comparison["training"])
    lines += [f"training: {training}"] if training else []
    lines.append(
        f"rows: {rows['a']} in A and {rows['b']} in B, {rows['paired']} paired by {comparison['paired_by']}, "
        f"{rows['compared']} compared; failed: {rows['failed_a']} in A, {rows['failed_b']} in B; without a partner: "
        f"{rows['only_a']} in A, {rows['only_b']} in B"
    )
    return "\n".join(lines)


def metric_rows(comparison: ComparisonResult) -> list[list[str]]:
    """The metric table, header first; with adjusted p-values where several metrics were tested."""
    adjusted = any(entry["p_adjusted"] is not None for entry in comparison["metrics"])
    rows = [["metric", "A", "B", "change", _level(comparison), "p", *(["p (Holm)"] if adjusted else [])]]
    for entry in comparison["metrics"]:
        chances = [entry["p"], *([entry["p_adjusted"]] if adjusted else [])]
        rows.append([entry["name"], *_change(entry, precision(entry)), *map(_p_value, chances)])
    return rows


def metric_notes(comparison: ComparisonResult) -> list[str]:
    """Rewards, power, scores by seed, failures and exact tests of the metrics, as sentences."""
    lines = [f"primary metric: {reason}"] if (reason := comparison["primary_reason"]) else []
    if rewards := (comparison.get("training") or {}).get("rewards"):
        others = [entry["name"] for entry in comparison["metrics"] if entry["name"] not in rewards]
        weighed = ", ".join(f"{name} ({weight:g})" for name, weight in rewards.items())
        kept = f"; it was not in {', '.join(others)}" if others else "; no metric here was left out of them"
        lines.append(f"rewards: B was trained to score high in {weighed}{kept}")
    for number, entry in enumerate(comparison["metrics"]):
        name, digits = entry["name"], precision(entry)
        if number == 0 and entry["detectable"]:
            size = fixed(entry["detectable"], digits)
            lines.append(f"power: 80% chance of detecting a difference of {size} in {name}")
        if seeds := entry["seeds"]:
            a, b = (", ".join(fixed(score, digits) for score in seeds[side]) for side in ("a", "b"))
            lines.append(f"{name} by seed: A {a}; B {b}")
        if number == 0 and (worst := entry["failures_as_worst"]):
            change = f"{signed(worst['delta'], digits)} ({interval(worst['ci'], digits)})"
            lines.append(f"{name} with the worst score for failed rows: {change}")
        if (exact := entry["mcnemar"]) and (rates := entry["rate_ci"]):
            a, b = (" to ".join(fixed(end, digits) for end in rates[side]) for side in ("a", "b"))
            p = "≤ 0.0001" if exact["p"] <= 0.0001 else f"= {fixed(exact['p'], 4)}"
            lines.append(
                f"{name}: only A right on {exact['only_a']} rows, only B right on {exact['only_b']}, mid-p McNemar "
                f"p {p}; A alone {a}, B alone {b} (Wilson)"
            )
    return lines


def optional_tables(comparison: ComparisonResult) -> list[list[list[str]]]:
    """The non-empty tables among those that only some comparisons have."""
    makers = (prompt_baseline_rows, additional_set_rows, system_rows, slice_rows)
    return [table for table in (maker(comparison) for maker in makers) if table]


def system_rows(comparison: ComparisonResult) -> list[list[str]]:
    """Every side compared with A in the primary metric, header first; empty where there is only B."""
    header = [f"{comparison['primary']} against {comparison['names']['a']}", "rows", "A", "B", "change"]
    rows = [[*header, _level(comparison), "p (Holm)", ""]]
    for system in (comparison, *comparison["others"]):
        for entry in system["metrics"][:1]:
            cells = [*_change(entry, precision(entry)), _p_value(entry["p_adjusted"])]
            rows.append(
                [system["names"]["b"], str(system["rows"]["compared"]), *cells, system["status"].replace("_", " ")]
            )
    return rows if comparison["others"] else []


def prompt_baseline_rows(comparison: ComparisonResult) -> list[list[str]]:
    """B against the base model with other prompts, header first; empty where none were run."""
    if not comparison["prompt_baselines"]:
        return []
    rows = [["prompt baseline", "rows", comparison["primary"], "B", "change to B", _level(comparison), "p", ""]]
    default, best = comparison["names"]["a"], comparison["best_prompt_baseline"]
    for metric in comparison["metrics"][:1]:
        cells = [*_change(metric, precision(metric)), _p_value(metric["p"])]
        rows.append([default, str(comparison["rows"]["compared"]), *cells, "" if best else "best"])
    for entry in comparison["prompt_baselines"]:
        note = "best" if entry["prompt_baseline"] == best else "inconclusive" if entry["why_not"] else ""
        cells = [*_change(entry, precision(entry)), _p_value(entry["p"])] if "delta" in entry else ["-"] * 5
        rows.append([entry["prompt_baseline"], str(entry["rows"]["compared"]), *cells, note])
    return rows


def additional_set_rows(comparison: ComparisonResult) -> list[list[str]]:
    """The primary metric on each additional evaluation set, header first; empty where there are none."""
    rows = [["additional set", "metric", "A", "B", "change", _level(comparison), "verdict"]]
    for other in comparison.get("additional", ()):
        status = other["status"].replace("_", " ")
        cells = next((_change(entry, precision(entry)) for entry in other["metrics"]), [""] * 4)
        rows.append([other["name"], other["primary"], *cells, status])
    return rows if len(rows) > 1 else []


def slice_rows(comparison: ComparisonResult) -> list[list[str]]:
    """The primary metric by values of metadata columns, header first; empty where no column was named."""
    rows = [[f"{comparison['primary']} by slice (descriptive)", "rows", "A", "B", "change", _level(comparison)]]
    for part in comparison["slices"]:
        change = _change(part, precision(comparison["metrics"][0]))
        rows.append([f"{part['column']} = {part['value']}", str(part["rows"]), *change])
    return rows if comparison["slices"] else []


def answer_rows(comparison: ComparisonResult) -> list[list[str]]:
    """Lengths and response statistics of both sides, header first."""
    lengths, shares = comparison["lengths"], comparison["shares"]
    rows = [["answers", "A", "B", "references" if lengths else ""]]
    if lengths is not None:
        each = (lengths["a"], lengths["b"], lengths["references"])
        rows += [
            [f"{lengths['unit']}, mean", *(f"{one['mean']:.1f}" for one in each)],
            [f"{lengths['unit']}, median", *(f"{one['median']:.1f}" for one in each)],
        ]
    a, b = shares["a"], shares["b"]
    statistics = [
        ("ended on their own", a["ended"], b["ended"]),
        ("cut off at the token limit", a["cut_off"], b["cut_off"]),
        ("empty", a["empty"], b["empty"]),
        ("unparseable", a["unparsed"], b["unparsed"]),
        ("repetitive", a["repeating"], b["repeating"]),
    ]
    for name, *both in statistics:
        rows.append([name, *("-" if share is None else f"{share:.1%}" for share in both), ""])
    return rows


def control_lines(comparison: ComparisonResult) -> list[str]:
    """The controls as sentences, "name: result"; those that were not run are left out."""
    controls, lines = comparison["controls"], []
    length, images, adapter = controls["length"], controls["image"], controls["adapter_delta"]
    if length is not None and not length["can_tell"]:
        lines.append("length: cannot be told, because B has the worst score at any length of A's answers")
    elif length is not None:
        lines.append(
            f"length: A truncated to B's lengths scores {length['a_truncated']:.4f}; B differs from that by "
            f"{length['delta']:+.4f} ({interval(length['ci'], 4)})"
        )
    for side in ("a", "b"):
        if images is None or (result := images[side]) is None:
            continue
        if not result["can_tell"]:
            lines.append(
                f"image: cannot be told for {side.upper()}, because with its own images it already scores "
                f"{result['original']:.4f} ({result['rows']} rows)"
            )
        else:
            drops = result["shuffled"] <= result["original"]
            kept = f", {result['kept']:.0%} of it" if drops and result["kept"] is not None else ""
            lines.append(
                f"image: with shuffled images {side.upper()} {'drops' if drops else 'rises'} from "
                f"{result['original']:.4f} to {result['shuffled']:.4f}{kept} ({result['rows']} rows)"
            )
    if adapter is not None:
        lines.append(f"adapter: changes first-token logits by up to {adapter['max_logit_difference']:.3g}")
    return lines


def confidence_lines(comparison: ComparisonResult) -> list[str]:
    """Whether a side's more confident answers are its better ones, as sentences."""
    lines = []
    curves = comparison["confidence"]
    for side in ("a", "b"):
        curve = curves[side] if curves is not None else None
        if curve is None or curve["ci"] is None:
            continue
        entry = comparison["metrics"][0]
        digits = precision(entry)
        low, high = curve["ci"]
        sign = 0 if low <= 0 <= high else 1 if (low > 0) == entry["higher_is_better"] else -1
        lines.append(
            f"confidence: the more confident half of {side.upper()}'s answers scores {fixed(curve['half'], digits)}, "
            f"all of them {fixed(curve['all'], digits)} (difference {interval(curve['ci'], digits)}); "
            + _CONFIDENCE[sign]
        )
    return lines


def judge_lines(comparison: ComparisonResult) -> list[str]:
    """What a judge said and how far it can be trusted, as sentences; empty without one."""
    judge = comparison.get("judge")
    if judge is None:
        return []
    ends, level = judge["win_rate_ci"], _level(comparison)
    ci = "no interval: too few rows" if ends is None else f"{level} {fixed(ends[0], 3)} to {fixed(ends[1], 3)}"
    same = f", {judge['identical']} with equal answers" if judge["identical"] else ""
    lines = [
        f"judge: {judge['model']} prefers B on {judge['b_better']} rows and A on {judge['a_better']}, {judge['ties']} "
        f"ties ({judge['contradictions']} because the two orders contradict each other{same}); B wins "
        f"{fixed(judge['win_rate'], 3)} ({ci})",
        f"judge: both orders agree on {judge['consistency']:.0%} of the rows; the first answer is preferred by "
        f"{signed(judge['position_bias'], 3)}, which cancels; {judge['noise_share']:.0%} of the variance is "
        "disagreement with itself",
    ]
    if agreement := judge["agreement"]:
        kappa = "" if agreement["kappa"] is None else f", kappa {fixed(agreement['kappa'], 2)}"
        low, high = (fixed(end, 2) for end in agreement["ci"])
        lines.append(
            f"judge: agrees with people on {agreement['agree']} of {agreement['rows']} labeled rows "
            f"({fixed(agreement['share'], 2)}, {level} {low} to {high}{kappa})"
        )
    if lost := judge["failures"]:
        reasons = "; ".join(f"{one['id']}: {one['reason']}" for one in lost[:3])
        lines.append(
            f"judge: without a verdict and left out: {judge['refused']} rows refused, {judge['failed']} failed "
            f"({reasons}{'; …' if len(lost) > 3 else ''})"
        )
    return lines


def _level(comparison: ComparisonResult) -> str:
    return f"{comparison['statistics']['confidence']:.0%} CI"


def _change(entry: Difference, digits: int) -> list[str]:
    """Score of A, score of B, their difference and its interval, as cells of a table."""
    scores = [fixed(entry[side], digits) for side in ("a", "b")]
    return [*scores, signed(entry["delta"], digits), interval(entry["ci"], digits)]


def _p_value(p: float | None) -> str:
    return "-" if p is None else fixed(p, 4)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; all columns but the first are right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    return lines
