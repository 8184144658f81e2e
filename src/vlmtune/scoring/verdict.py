"""What a comparison concludes, in one word and in one sentence. The verdict follows the primary metric's interval."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vlmtune.scoring.evidence import Evidence, Seeds
from vlmtune.scoring.resampling import FEWEST_GROUPS

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
