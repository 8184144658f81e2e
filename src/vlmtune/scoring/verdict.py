"""What a comparison concludes, in one word and in one sentence. The verdict follows the primary metric's interval.

What would change the reader's mind about a comparison, in plain words.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

from vlmtune.run_folder import differences
from vlmtune.scoring.pairing import Evidence, Seeds, Side, name_of
from vlmtune.scoring.statistics import FEWEST_GROUPS

Status = Literal["improved", "worse", "no_difference", "inconclusive"]
MOST_FAILED = 0.05
"""Share of failed rows on either side above which nothing is concluded."""


def reasons(evidence: Evidence) -> list[str]:
    """Why nothing can be concluded; empty where something can."""
    rows, found = evidence.counts, []
    if max(rows["failed_a"], rows["failed_b"]) > MOST_FAILED * rows["paired"]:
        found.append(
            f"{rows['failed_a']} and {rows['failed_b']} of {rows['paired']} paired rows failed; at most "
            f"{MOST_FAILED:.0%} may"
        )
    if rows["selection"] == rows["paired"]:
        found.append("every paired row was used to choose the checkpoint or a setting; such rows are no evidence")
    elif rows["groups"] < FEWEST_GROUPS:
        found.append(f"only {rows['groups']} independent rows were compared; an interval needs {FEWEST_GROUPS}")
    return found


def status_of(entry: Mapping[str, Any]) -> Status:
    """What the interval of one metric, or slice, says."""
    if entry["ci"] is None:
        return "inconclusive"
    low, high = entry["ci"]
    if low <= 0 <= high:
        return "no_difference"
    return "improved" if (low > 0) == entry["higher_is_better"] else "worse"


def sentence(
    status: Status,
    why_not: Sequence[str],
    facts: Mapping[str, Any],
    b: Seeds,
    best: Mapping[str, Any] | None = None,
) -> str:
    """The verdict for people; `best` is the entry of the untrained column it is against, None for side A itself."""
    if status == "inconclusive":
        return "Inconclusive: " + "; ".join(why_not) + "."
    return _on_all_rows(status, facts, b, best) + worse_parts(status, facts)


def _on_all_rows(status: Status, facts: Mapping[str, Any], b: Seeds, best: Mapping[str, Any] | None) -> str:
    if best is None:
        known = [entry for entry in facts["untrained"] if entry["status"] != "inconclusive"]
        return _against_a(status, facts, b) + (" No untrained column scores above the baseline." if known else "")
    level = f"{facts['statistics']['confidence']:.0%}"
    tuned = (
        f"{best['name']} {_value(best, 'a')} without training → {_value(best, 'b')}, change {change_of(best, level)} "
        f"on {best['rows']['compared']} paired rows"
    )
    before = facts["metrics"][0]
    over = f"Over the baseline ({_value(before, 'a')}) the change is {change_of(before, level)}."
    if status == "improved":
        return f"Improved, also over the best untrained column ({best['column']}): {tuned}. {over}{_reach(b)}"
    if status == "worse":
        return f"Worse than asking differently ({best['column']}): {tuned}. {over}{_reach(b)}"
    gained = "Asking differently gains as much" if status_of(before) == "improved" else "Training shows no gain"
    return f"No difference shown to the best untrained column ({best['column']}). {gained}: {tuned}. {over}{_reach(b)}"


def worse_parts(status: Status, facts: Mapping[str, Any]) -> str:
    """The sentence on slices that got worse, where all rows together did not: what an average hides. "" without any."""
    if status == "worse":
        return ""
    fell = [
        f"where {part['column']} is {part['value']!r} ({part['a']:.4f} → {part['b']:.4f})"
        for part in facts["slices"]
        if part["worse"]
    ]
    if not fell:
        return ""
    more = f", and {len(fell) - 3} more slices" if len(fell) > 3 else ""
    return f" Worse, however, {listed(fell[:3])}{more}."


def listed(texts: Sequence[str]) -> str:
    """Texts as a sentence lists them."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def change_of(entry: Mapping[str, Any], level: str) -> str:
    """A change with its interval."""
    low, high = entry["ci"]
    return f"{entry['delta']:+.4f} ({level} CI {low:+.4f} to {high:+.4f})"


def _against_a(status: Status, facts: Mapping[str, Any], b: Seeds) -> str:
    entry, rows = facts["metrics"][0], facts["rows"]
    low, high = entry["ci"]
    interval = f"{facts['statistics']['confidence']:.0%} CI {low:+.4f} to {high:+.4f}"
    count = f"{rows['compared']} paired rows"
    a_value, b_value = (_value(entry, side) for side in ("a", "b"))
    reach = _reach(b)
    if status == "no_difference":
        return (
            f"No difference shown in {entry['name']} on {count}: {a_value} and {b_value}, change {entry['delta']:+.4f} "
            f"({interval}); a change larger than {max(abs(low), abs(high)):.4f} is excluded.{reach}"
        )
    word = "Improved" if status == "improved" else "Worse"
    length = facts["controls"]["length"]
    explained = " Answer length alone explains it." if status == "improved" and length and length["explains"] else ""
    # 10,000 exchanges cannot show less than 0.0001.
    p = "" if entry["p"] is None else ", p ≤ 0.0001" if entry["p"] < 0.00015 else f", p = {entry['p']:.4f}"
    return (
        f"{word}: {entry['name']} {a_value} → {b_value}, change {entry['delta']:+.4f} ({interval}{p}) on "
        f"{count}.{explained}{reach}"
    )


def _value(entry: Mapping[str, Any], side: str) -> str:
    """A side's score, every seed of it named."""
    seeds = entry["seeds"][side] if entry["seeds"] else ()
    several = f" (mean of {len(seeds)} seeds: {', '.join(f'{score:.4f}' for score in seeds)})" if len(seeds) > 1 else ""
    return f"{entry[side]:.4f}{several}"


def _reach(b: Seeds) -> str:
    """How far the verdict carries: one training run says nothing about the next."""
    if len(b) == 2:
        return " Two training seeds hardly tell how much seeds differ: this speaks of the two more than of the recipe."
    if len(b) > 2:
        return f" This speaks of the recipe, as far as {len(b)} training seeds can."
    untrained = "adapter" in b[0].origin and b[0].origin["adapter"] is None
    return "" if untrained else " This speaks of this adapter, not of the recipe: one training seed."


def warnings(a: Seeds, b: Seeds, evidence: Evidence, status: Status, facts: Mapping[str, Any]) -> list[str]:
    """The weightiest first."""
    return [
        *_making(a, b),
        *_selection(evidence),
        *_controls(a, b, status, facts),
        *_untrained(facts),
        *_metrics(facts),
        *_failures(facts),
        *of_slices(facts),
        *_rows(a, b, facts),
        *evidence.notes,
    ]


def _making(a: Seeds, b: Seeds) -> Iterator[str]:
    """How the two sides came about, where that is no fair comparison."""
    if any((side.manifest or {}).get("mock") for side in (*a, *b)):
        yield "made with USE_MOCK: the tiny stand-in model on drawn pictures answered, not the model of the config"
    yield from (f"the two sides were not made alike: {line}" for line in _unlike(a[0], b[0]))
    for side in (a, b):
        for other in side[1:]:
            yield from (f"seeds of one side were not made alike: {line}" for line in _unlike(side[0], other))
        for one, other in combinations(side, 2):
            if [line.prediction for line in one.lines] == [line.prediction for line in other.lines]:
                yield f"{one.name} and {other.name} answer alike throughout: they are one training run, not two seeds"
    sampled = [s.name for s in (*a, *b) if (s.origin.get("inference") or {}).get("temperature", 0) > 0]
    if sampled:
        yield f"answers were sampled, so asking again gives others: {', '.join(sampled)}; temperature 0 does not"


def _unlike(one: Side, other: Side) -> list[str]:
    """What two files were made from, apart from the adapter, where they differ and both say so."""
    if not one.origin or not other.origin:
        return []
    there, here = ({key: value for key, value in side.origin.items() if key != "adapter"} for side in (one, other))
    return differences(there, here)[:5]


def _selection(evidence: Evidence) -> Iterator[str]:
    selection, paired = evidence.counts["selection"], evidence.counts["paired"]
    if selection == paired:
        favoured = f", and flatter {', '.join(evidence.choosers)}" if evidence.choosers else ""
        yield (
            "the split compared is, as a whole, the one that chose the checkpoint or a setting: the numbers below are "
            f"no evidence{favoured}; compare on rows that chose nothing (dataset.splits.test)"
        )
    elif selection:
        yield f"{selection} rows were left out: they chose the checkpoint or a setting"


def _controls(a: Seeds, b: Seeds, status: Status, facts: Mapping[str, Any]) -> Iterator[str]:
    length, image = facts["controls"]["length"], facts["controls"]["image"]
    if status == "improved" and length and length["explains"]:
        yield (
            f"length explains the gain: cut to the same lengths, {name_of(a)} scores {length['a_cut']:.4f} in "
            f"{facts['primary']}"
        )
    if image and image["b"] and image["b"]["ci"]:
        low, high = image["b"]["ci"]
        if low <= 0 if facts["metrics"][0]["higher_is_better"] else high >= 0:
            yield f"{name_of(b)} does not look at the image: with exchanged images it scores as well"


def _untrained(facts: Mapping[str, Any]) -> Iterator[str]:
    for entry in facts["untrained"]:
        if entry["status"] == "inconclusive":
            why = "; ".join(entry["why_not"])
            yield f"the untrained column {entry['column']} is not in the verdict: {why}"


def _metrics(facts: Mapping[str, Any]) -> Iterator[str]:
    """Metrics that fell, and what is left of the verdict when several systems were tried."""
    level = 1 - facts["statistics"]["confidence"]
    for number, entry in enumerate(facts["metrics"]):
        found = status_of(entry)
        unsure = entry["p_adjusted"] is not None and entry["p_adjusted"] >= level
        if number == 0 and found in ("improved", "worse") and unsure and entry["p"] < level:
            yield (
                f"several systems were compared: after Holm's correction {entry['name']} has p = "
                f"{entry['p_adjusted']:.4f}, which shows no difference"
            )
        if number > 0 and found == "worse":
            change = f"{entry['a']:.4f} → {entry['b']:.4f} ({entry['ci'][0]:+.4f} to {entry['ci'][1]:+.4f})"
            verb = "may have got worse" if unsure else "got worse"
            after = f", p = {entry['p_adjusted']:.4f} after Holm's correction" if unsure else ""
            yield f"{entry['name']} {verb}: {change}{after}"


def _failures(facts: Mapping[str, Any]) -> Iterator[str]:
    """Where the verdict hangs on leaving failed rows out."""
    for entry in facts["metrics"][:1]:
        worst = entry["failures_as_worst"]
        if worst and status_of(entry) != status_of({**entry, **worst}):
            yield (
                f"failures decide: counted as worst answers, {entry['name']} changes by {worst['delta']:+.4f} "
                f"({_interval(worst['ci'])})"
            )


def of_slices(facts: Mapping[str, Any]) -> Iterator[str]:
    """Slices whose interval lies on the worse side."""
    for part in facts["slices"]:
        if status_of({**facts["metrics"][0], **part}) == "worse":
            verb = "got worse" if part["worse"] else "may have got worse"
            yield (
                f"where {part['column']} is {part['value']!r}, {facts['primary']} {verb}: {part['a']:.4f} → "
                f"{part['b']:.4f} ({_interval(part['ci'])}; {part['rows']} rows)"
            )


def _rows(a: Seeds, b: Seeds, facts: Mapping[str, Any]) -> Iterator[str]:
    rows: Mapping[str, int] = facts["rows"]
    left = [f"{rows[key]} only in {name_of(side)}" for key, side in (("only_a", a), ("only_b", b)) if rows[key]]
    if left:
        yield f"{rows['paired']} rows are in both files; left out: {', '.join(left)}"
    for side, key in ((a, "a"), (b, "b")):
        cut = facts["shares"][key]["cut_off"]
        if cut is not None and cut > MOST_FAILED:
            yield f"{cut:.0%} of the answers of {name_of(side)} were cut off at the longest length allowed"


def _interval(ci: Sequence[float] | None) -> str:
    return "no interval: too few rows" if ci is None else f"{ci[0]:+.4f} to {ci[1]:+.4f}"
