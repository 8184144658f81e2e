"""A comparison as plain text for the terminal, and how numbers are written everywhere.

A training in one line of text: the loss as a row of blocks. For the terminal, and for those who watch a run.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values as blocks, the smallest lowest, the largest highest; more than `width` are averaged in equal parts."""
    count = min(len(values), width)
    parts = [values[n * len(values) // count : (n + 1) * len(values) // count] for n in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = high - low
    return "".join(BLOCKS[round((mean - low) / span * (len(BLOCKS) - 1)) if span else 0] for mean in means)


def summary(training: Mapping[str, Any] | None) -> str | None:
    """Where the loss began and ended, what came between, the step taken, resumptions; None where nothing is known."""
    curve: Sequence[Mapping[str, Any]] = (training or {}).get("curve") or []
    losses = [value for _, value in points(curve, "loss")]
    if training is None or not losses:
        return None
    said = f"loss {losses[0]:.4g} {sparkline(losses)} {losses[-1]:.4g} over {curve[-1]['step']} steps"
    if training.get("chosen_step") is not None:
        said += f", step {training['chosen_step']} taken"
    if training.get("resumed_at"):
        said += f", resumed after {', '.join(map(str, training['resumed_at']))}"
    return f"{said} ({training['seed_shown']})" if training.get("seed_shown") else said


def points(curve: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the points of a curve that have this number; what is not finite has no height."""
    known = (point for point in curve if isinstance(point.get(key), int | float))
    return [(point["step"], point[key]) for point in known if math.isfinite(point[key])]


_SURENESS = {1: "the surer, the better", 0: "how sure it is says nothing", -1: "the surer, the worse"}

TRAITS = {
    "ended": "ended by themselves",
    "cut_off": "cut off at the limit",
    "empty": "empty",
    "unparsed": "unreadable",
    "repeating": "repeating itself",
}
"""Names of the shares for people."""


def precision(entry: Mapping[str, Any]) -> int:
    """Decimals of a metric's numbers: 4 on a scale to 1, 3 to 10, 2 to 100."""
    return max(0, 4 - round(math.log10(entry["scale"])))


def fixed(value: float, digits: int) -> str:
    """A number with that many decimals. Halves go up, as in the browser: both must write the same."""
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP) + 0:.{digits}f}"


def signed(value: float, digits: int) -> str:
    """A change: with its sign, but for what rounds to 0 from below."""
    text = fixed(value, digits)
    return text if text.startswith("-") else f"+{text}"


def render(plain: Mapping[str, Any]) -> str:
    """The verdict, what would change the reader's mind, the numbers.

    Args:
        plain: a comparison as `Comparison.to_json` gives it; examples are not needed.
    """
    names = plain["names"]
    parts = [plain["verdict"], *(f"! {warning}" for warning in plain["warnings"])]
    parts += ["", f"A is {names['a']}, B is {names['b']}"]
    parts += _table(metric_rows(plain))
    parts += ["", *metric_lines(plain)]
    for other in plain["others"]:
        parts += [f"{other['names']['b']}: {other['verdict']}", *(f"! {warning}" for warning in other["warnings"])]
    for rows_of in (untrained_rows(plain), also_rows(plain), system_rows(plain), slice_rows(plain)):
        parts += [*_table(rows_of), ""] if rows_of else []
    parts += [*_table(answer_rows(plain)), ""]
    parts += [*control_lines(plain), *confidence_lines(plain)]
    trained = summary(plain.get("training"))
    parts += [f"training: {trained}"] if trained else []
    rows = plain["rows"]
    parts.append(
        f"rows: {rows['a']} and {rows['b']}, paired {rows['paired']} by {plain['paired_by']}, compared "
        f"{rows['compared']}, failed {rows['failed_a']} and {rows['failed_b']}, only in one file {rows['only_a']} "
        f"and {rows['only_b']}"
    )
    return "\n".join(parts)


def metric_rows(plain: Mapping[str, Any]) -> list[list[str]]:
    """The metric table as texts, header first; adjusted p-values where several metrics were tested."""
    adjusted = any(entry.get("p_adjusted") is not None for entry in plain["metrics"])
    level = f"{plain['statistics']['confidence']:.0%} CI"
    rows = [["metric", "A", "B", "change", level, "p", *(["p (Holm)"] if adjusted else [])]]
    for entry in plain["metrics"]:
        digits = precision(entry)
        ci = "-" if entry["ci"] is None else " to ".join(signed(end, digits) for end in entry["ci"])
        chances = [entry["p"], *([entry.get("p_adjusted")] if adjusted else [])]
        p = ["-" if chance is None else fixed(chance, 4) for chance in chances]
        values = [fixed(entry[key], digits) for key in ("a", "b")]
        rows.append([entry["name"], *values, signed(entry["delta"], digits), ci, *p])
    return rows


def metric_lines(plain: Mapping[str, Any]) -> list[str]:
    """What else is known about the metrics, as sentences: power, seeds, failures, exact tests; a blank line behind."""
    lines = []
    for number, entry in enumerate(plain["metrics"]):
        name, digits = entry["name"], precision(entry)
        if number == 0 and entry["detectable"]:
            size = fixed(entry["detectable"], digits)
            lines.append(f"power: a difference of {size} in {name} would have been found 4 times in 5")
        if entry["seeds"]:
            each = (", ".join(fixed(score, digits) for score in entry["seeds"][side]) for side in ("a", "b"))
            lines.append("{} by seed: A {}; B {}".format(name, *each))
        if number == 0 and entry["failures_as_worst"]:
            worst = entry["failures_as_worst"]
            change = f"{signed(worst['delta'], digits)} ({_span(worst['ci'], digits)})"
            lines.append(f"{name} with failures counted as worst answers: {change}")
        if entry["mcnemar"]:
            exact, rates = entry["mcnemar"], (entry["rate_ci"][side] for side in ("a", "b"))
            lines.append(
                f"{name}: only A right on {exact['only_a']} rows, only B on {exact['only_b']}, McNemar's exact p "
                f"{'≤ 0.0001' if exact['p'] <= 0.0001 else '= ' + fixed(exact['p'], 4)}; "
                + "A alone {} to {}, B alone {} to {} (Wilson)".format(
                    *(fixed(end, digits) for rate in rates for end in rate)
                )
            )
    return [*lines, ""] if lines else []


def system_rows(plain: Mapping[str, Any]) -> list[list[str]]:
    """Every side compared with A in the primary metric, header first; empty where there is only B."""
    level = f"{plain['statistics']['confidence']:.0%} CI"
    rows = [[f"{plain['primary']} against {plain['names']['a']}", "rows", "A", "B", "change", level, "p (Holm)", ""]]
    for system in (plain, *plain["others"]):
        for entry in system["metrics"][:1]:
            digits, p = precision(entry), entry["p_adjusted"]
            values = [fixed(entry["a"], digits), fixed(entry["b"], digits), signed(entry["delta"], digits)]
            numbers = [*values, _span(entry["ci"], digits), "-" if p is None else fixed(p, 4)]
            rows.append([system["names"]["b"], str(system["rows"]["compared"]), *numbers, system["status"]])
    return rows if plain["others"] else []


def untrained_rows(plain: Mapping[str, Any]) -> list[list[str]]:
    """B against the model that was only asked differently, header first; empty where no such column was made."""
    columns, level = plain.get("untrained") or [], f"{plain['statistics']['confidence']:.0%} CI"
    rows = [["without training", "rows", plain["primary"], "B", "change to B", level, "p", "remark"]]
    baseline = [{"column": plain["names"]["a"], "rows": plain["rows"], **entry} for entry in plain["metrics"][:1]]
    best = plain.get("best_untrained") or plain["names"]["a"]
    for entry in (*baseline, *columns):
        said = "best" if entry["column"] == best else "not judged" if entry.get("why_not") else ""
        cells = ["-"] * 5
        if "delta" in entry:
            digits = precision(entry)
            values = [fixed(entry["a"], digits), fixed(entry["b"], digits), signed(entry["delta"], digits)]
            cells = [*values, _span(entry["ci"], digits), "-" if entry["p"] is None else fixed(entry["p"], 4)]
        rows.append([entry["column"], str(entry["rows"]["compared"]), *cells, said])
    return rows if columns else []


def also_rows(plain: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the further evaluation sets, the header first; empty where there are none."""
    rows = [["elsewhere", "metric", "A", "B", "change", f"{plain['statistics']['confidence']:.0%} CI", "verdict"]]
    for other in plain.get("also", ()):
        entry = other["metrics"][0] if other["metrics"] else None
        said = other["status"].replace("_", " ")
        if entry is None:
            rows.append([other["name"], other["primary"], "", "", "", "", said])
            continue
        digits = precision(entry)
        scores = [fixed(entry[side], digits) for side in ("a", "b")]
        change = [signed(entry["delta"], digits), _span(entry["ci"], digits)]
        rows.append([other["name"], entry["name"], *scores, *change, said])
    return rows if len(rows) > 1 else []


def slice_rows(plain: Mapping[str, Any]) -> list[list[str]]:
    """The primary metric by values of metadata columns, header first; empty where no column was asked for."""
    level = f"{plain['statistics']['confidence']:.0%} CI"
    rows = [[f"{plain['primary']} where (descriptive)", "rows", "A", "B", "change", level]]
    for part in plain["slices"]:
        digits = precision(plain["metrics"][0])
        values = [fixed(part["a"], digits), fixed(part["b"], digits), signed(part["delta"], digits)]
        rows.append([f"{part['column']} = {part['value']}", str(part["rows"]), *values, _span(part["ci"], digits)])
    return rows if plain["slices"] else []


def answer_rows(plain: Mapping[str, Any]) -> list[list[str]]:
    """What stands beside the scores: lengths and shares of both sides, header first."""
    lengths, shares = plain["lengths"], plain["shares"]
    rows = [["answers", "A", "B", "references"]]
    for what in ("mean", "median"):
        rows.append([f"words, {what}", *(f"{lengths[side][what]:.1f}" for side in ("a", "b", "references"))])
    for key, name in TRAITS.items():
        rows.append([name, *("-" if shares[s][key] is None else f"{shares[s][key]:.1%}" for s in ("a", "b")), ""])
    return rows


def control_lines(plain: Mapping[str, Any]) -> list[str]:
    """The controls as sentences; those that were not run are missing."""
    length, image, effect = (plain["controls"][name] for name in ("length", "image", "effect"))
    lines = []
    if length is not None:
        lines.append(
            f"length: A cut to B's lengths scores {length['a_cut']:.4f}; B differs from that by {length['delta']:+.4f} "
            f"({length['ci'][0]:+.4f} to {length['ci'][1]:+.4f})"
        )
    for side in ("a", "b") if image is not None else ():
        found = image[side]
        if found is not None:
            own, other = f"{found['own']:.4f}", f"{found['exchanged']:.4f}"
            falls = found["exchanged"] <= found["own"]
            kept = f", {found['kept']:.0%} of itself" if falls and found["kept"] is not None else ""
            lines.append(
                f"image: with exchanged images {side.upper()} {'falls' if falls else 'rises'} from {own} to {other}"
                f"{kept} ({found['rows']} rows)"
            )
    if effect is not None:
        lines.append(f"effect: the adapter moves first-token logits by up to {effect['max_logit_difference']:.3g}")
    return lines


def confidence_lines(plain: Mapping[str, Any]) -> list[str]:
    """Whether a side's likelier answers are its better ones."""
    lines = []
    for side in ("a", "b"):
        found = (plain.get("confidence") or {}).get(side)
        if found is None or found["ci"] is None:
            continue
        entry = plain["metrics"][0]
        digits = precision(entry)
        low, high = found["ci"]
        sign = 0 if low <= 0 <= high else 1 if (low > 0) == entry["higher_is_better"] else -1
        lines.append(
            f"confidence: the half of the answers that {side.upper()} is surest of scores "
            f"{fixed(found['half'], digits)}, all score {fixed(found['all'], digits)} ({_span(found['ci'], digits)}); "
            + _SURENESS[sign]
        )
    return lines


def _span(ci: Sequence[float] | None, digits: int) -> str:
    return "-" if ci is None else " to ".join(signed(end, digits) for end in ci)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    return lines
