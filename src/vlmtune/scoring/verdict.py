"""The conclusion of a comparison: its status, the verdict in a sentence, and the warnings that qualify it.

The status is that of the primary metric: a change is shown where interval and test both show it. Warnings name reasons
for doubt; they never change the status.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

from vlmtune.run_folder import differences
from vlmtune.scoring.pairing import Evidence, PredictionFile, Side, name_of
from vlmtune.scoring.results import ComparisonResult, Difference, Interval, MetricResult, PromptBaselineResult, Status
from vlmtune.scoring.score import unfinished_thoughts
from vlmtune.thoughts import UNFINISHED_THOUGHT

MOST_FAILED = 0.05
"""Share of failed rows on either side above which nothing is concluded."""


def reasons_inconclusive(evidence: Evidence, primary: MetricResult | None) -> list[str]:
    """Why the comparison is inconclusive; empty if it is not.

    Args:
        evidence: the compared rows.
        primary: the primary metric on them; None where no row was answered on both sides.
    """
    rows, reasons = evidence.counts, []
    if max(rows["failed_a"], rows["failed_b"]) > MOST_FAILED * rows["paired"]:
        reasons.append(
            f"{rows['failed_a']} and {rows['failed_b']} of {rows['paired']} paired rows failed; at most "
            f"{MOST_FAILED:.0%} may"
        )
    if rows["selection"] == rows["paired"]:
        reasons.append("every paired row was used to choose the checkpoint or a setting, so none is evidence")
    elif primary is None:
        reasons.append("no row was answered on both sides")
    elif primary["status"] == "inconclusive":
        reasons.append(primary["no_interval"] or "nothing can be said about the change")
    elif primary["no_interval"] and primary["a"] == primary["b"] == best_score(primary):
        reasons.append(f"both sides have the best score in {primary['name']}; {primary['no_interval']}")
    return reasons


def best_score(metric: MetricResult) -> float:
    """The best end of the metric's scale."""
    return metric["scale"] if metric["higher_is_better"] else 0.0


def interval_status(difference: Difference, higher_is_better: bool) -> Status:
    """The status implied by an interval alone; inconclusive where there is none."""
    if difference["ci"] is None:
        return "inconclusive"
    low, high = difference["ci"]
    if low <= 0 <= high:
        return "no_difference"
    return "improved" if (low > 0) == higher_is_better else "worse"


def status_of(difference: Difference, higher_is_better: bool, p: float | None, level: float) -> Status:
    """The status implied by interval and test together: a change is shown only where both show it.

    Args:
        difference: with its interval.
        higher_is_better: of the metric.
        p: None where there is no test; the interval alone decides.
        level: p-values below it are significant.
    """
    status = interval_status(difference, higher_is_better)
    return "no_difference" if status in ("improved", "worse") and p is not None and p >= level else status


def sentence(result: ComparisonResult, b: Side, best: PromptBaselineResult | None = None) -> str:
    """The verdict on a conclusive result, against the prompt baseline `best`, or against side A itself."""
    verdict = _against_a(result, b) if best is None else _against_prompt_baseline(result, b, best)
    return verdict + worse_slices(result)


def _against_prompt_baseline(result: ComparisonResult, b: Side, best: PromptBaselineResult) -> str:
    confidence = result["statistics"]["confidence"]
    level = f"{confidence:.0%}"
    change = (
        f"{best['name']} {_score(best, 'a')} without training → {_score(best, 'b')}, change {change_of(best, level)} "
        f"on {best['rows']['compared']} paired rows"
    )
    plain = result["metrics"][0]
    over = f"Over the baseline ({_score(plain, 'a')}) the change is {change_of(plain, level)}."
    name, status = best["prompt_baseline"], result["status"]
    if status == "improved":
        return f"Improved, also over the best prompt baseline ({name}): {change}. {over}{_scope(b)}"
    if status == "worse":
        return f"Worse than prompting differently ({name}): {change}. {over}{_scope(b)}"
    gained = "Prompting alone gains as much" if plain["status"] == "improved" else "Training shows no gain"
    return (
        f"No difference shown to the best prompt baseline ({name}). {gained}: {change}; "
        f"{_what_is_excluded(best, confidence)}. {over}{_scope(b)}"
    )


def _against_a(result: ComparisonResult, b: Side) -> str:
    metric, status = result["metrics"][0], result["status"]
    confidence = result["statistics"]["confidence"]
    level = f"{confidence:.0%}"
    count = f"{result['rows']['compared']} paired rows"
    score_a, score_b = (_score(metric, side) for side in ("a", "b"))
    known = any(baseline["status"] != "inconclusive" for baseline in result["prompt_baselines"])
    end = _scope(b) + (" No prompt baseline scores higher than the baseline." if known else "")
    if status == "no_difference":
        return (
            f"No difference shown in {metric['name']} on {count}: {score_a} and {score_b}, change "
            f"{change_of(metric, level)}; {_what_is_excluded(metric, confidence)}.{end}"
        )
    word = "Improved" if status == "improved" else "Worse"
    length = result["controls"]["length"]
    explained = " Answer length alone explains it." if status == "improved" and length and length["explains"] else ""
    p = "" if metric["p"] is None else f", {_p_value(metric['p'])}"
    unsized = f" {metric['no_interval'][0].upper()}{metric['no_interval'][1:]}." if metric["no_interval"] else ""
    return (
        f"{word}: {metric['name']} {score_a} → {score_b}, change {change_of(metric, level, p)} on {count}."
        f"{unsized}{explained}{end}"
    )


def _what_is_excluded(metric: MetricResult, confidence: float) -> str:
    """How large a change remains possible where none is shown, and why none is where only the interval shows one."""
    if metric["ci"] is None:
        return metric["no_interval"] or "there is no interval"
    low, high = metric["ci"]
    excluded = f"a change larger than {max(abs(low), abs(high)):.4f} is excluded"
    p, level = metric["p"], 1 - confidence
    if p is None or (p < level) == (not low <= 0 <= high):
        return excluded
    if p < level:
        return f"{excluded}; the test alone would show one ({_p_value(p)})"
    return f"the interval leaves out 0, but the test does not confirm it ({_p_value(p)}); {excluded}"


def _p_value(p: float) -> str:
    # 10,000 random swaps cannot show less than 0.0001.
    return "p ≤ 0.0001" if p < 0.00015 else f"p = {p:.4f}"


def worse_slices(result: ComparisonResult) -> str:
    """A sentence on slices that got worse although the whole did not; empty if there are none."""
    if result["status"] == "worse":
        return ""
    worse = [
        f"where {part['column']} is {part['value']!r} ({part['a']:.4f} → {part['b']:.4f})"
        for part in result["slices"]
        if part["worse"]
    ]
    if not worse:
        return ""
    more = f", and {len(worse) - 3} more slices" if len(worse) > 3 else ""
    return f" Worse, however, {enumeration(worse[:3])}{more}."


def enumeration(texts: Sequence[str]) -> str:
    """Joins texts as in a sentence: "a, b and c"."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def change_of(difference: Difference, level: str, p: str = "") -> str:
    """A change with its interval, if it has one, and `p` behind that."""
    if difference["ci"] is None:
        return f"{difference['delta']:+.4f}" + (f" ({p.removeprefix(', ')})" if p else "")
    low, high = difference["ci"]
    return f"{difference['delta']:+.4f} ({level} CI {low:+.4f} to {high:+.4f}{p})"


def _score(metric: MetricResult, side: str) -> str:
    """A side's score, with those of its seeds."""
    first = side == "a"
    seeds = (metric["seeds"]["a"] if first else metric["seeds"]["b"]) if metric["seeds"] else []
    each = f" (mean of {len(seeds)} seeds: {', '.join(f'{score:.4f}' for score in seeds)})" if len(seeds) > 1 else ""
    return f"{metric['a'] if first else metric['b']:.4f}{each}"


def _scope(b: Side) -> str:
    """What the verdict generalises to: one training run says nothing about the next."""
    if len(b) == 2:
        return " Two training seeds say little about how much seeds differ: this holds for the two, not for the recipe."
    if len(b) > 2:
        return f" This holds for the recipe, as far as {len(b)} training seeds can tell."
    is_base = "adapter" in b[0].provenance and b[0].provenance["adapter"] is None
    return "" if is_base else " This holds for this adapter, not for the recipe: there is one training seed."


def warnings(a: Side, b: Side, evidence: Evidence, result: ComparisonResult) -> list[str]:
    """Reasons to doubt the verdict, the most important first."""
    return [
        *_provenance_warnings(a, b),
        *_selection_warnings(evidence),
        *_length_warnings(result),
        *_control_warnings(a, b, result),
        *_prompt_baseline_warnings(result),
        *_metric_warnings(result),
        *_failure_warnings(result),
        *slice_warnings(result),
        *_row_warnings(a, b, result),
        *evidence.notes,
    ]


def _provenance_warnings(a: Side, b: Side) -> Iterator[str]:
    """Differences in how the two sides were produced that make the comparison unfair."""
    if any((file.manifest or {}).get("mock") for file in (*a, *b)):
        yield "made with USE_MOCK: the tiny stand-in model answered, on synthetic images, not the model of the config"
    yield from (f"the two sides have different settings: {line}" for line in _provenance_differences(a[0], b[0]))
    for side in (a, b):
        for other in side[1:]:
            differing = _provenance_differences(side[0], other)
            yield from (f"seeds of one side have different settings: {line}" for line in differing)
        for one, other in combinations(side, 2):
            if [line.prediction for line in one.lines] == [line.prediction for line in other.lines]:
                yield f"{one.name} and {other.name} have the same answers: they are one training run, not two seeds"
    sampled = [file.name for file in (*a, *b) if (file.provenance.get("inference") or {}).get("temperature", 0) > 0]
    if sampled:
        yield f"answers were sampled and will differ next time: {', '.join(sampled)}; at temperature 0 they do not"


def _provenance_differences(one: PredictionFile, other: PredictionFile) -> list[str]:
    """Differences in provenance of two files, apart from the adapter; none where a file does not record it."""
    if not one.provenance or not other.provenance:
        return []
    there, here = ({key: value for key, value in file.provenance.items() if key != "adapter"} for file in (one, other))
    return differences(there, here)[:5]


def _selection_warnings(evidence: Evidence) -> Iterator[str]:
    selection, paired = evidence.counts["selection"], evidence.counts["paired"]
    if selection == paired:
        favoured = f", and favour {', '.join(evidence.selected_on_all)}" if evidence.selected_on_all else ""
        yield (
            "the whole split was used to choose the checkpoint or a setting, so the numbers below are "
            f"no evidence{favoured}; compare on held-out rows (dataset.splits.test)"
        )
    elif selection:
        yield f"{selection} rows were left out: they were used to choose the checkpoint or a setting"


def _length_warnings(result: ComparisonResult) -> Iterator[str]:
    """Sides whose answers are much longer or shorter than what is expected."""
    lengths = result["lengths"]
    if lengths is None or not lengths["references"]["mean"] or not result["rows"]["compared"]:
        return
    expected, names = lengths["references"]["median"], result["names"]
    medians = {names["a"]: lengths["a"]["median"], names["b"]: lengths["b"]["median"]}
    far = [f"{name} {found:g}" for name, found in medians.items() if _is_far(found, expected)]
    if far:
        yield (
            f"answers are far from the length of the references: {enumeration(far)} {lengths['unit']} (median) where "
            f"the references have {expected:g}"
        )


def _is_far(length: float, expected: float) -> bool:
    """More than twice or less than half as long, and by more than two words."""
    return abs(length - expected) > 2 and not expected / 2 <= length <= expected * 2


def _control_warnings(a: Side, b: Side, result: ComparisonResult) -> Iterator[str]:
    length, image = result["controls"]["length"], result["controls"]["image"]
    if result["status"] == "improved" and length and length["explains"]:
        yield (
            f"length explains the gain: truncated to the same lengths, {name_of(a)} scores "
            f"{length['a_truncated']:.4f} in {result['primary']}"
        )
    if image and image["b"] and image["b"]["uses_image"] is False and image["b"]["can_tell"]:
        yield f"{name_of(b)} does not look at the image: with shuffled images it scores as well"


def _prompt_baseline_warnings(result: ComparisonResult) -> Iterator[str]:
    for baseline in result["prompt_baselines"]:
        if baseline["status"] == "inconclusive":
            why = "; ".join(baseline["why_not"])
            yield f"the prompt baseline {baseline['prompt_baseline']} is not in the verdict: {why}"


def _metric_warnings(result: ComparisonResult) -> Iterator[str]:
    """Metrics that fell, and a verdict that does not survive the correction for several systems."""
    level = 1 - result["statistics"]["confidence"]
    for number, metric in enumerate(result["metrics"]):
        status, p, p_adjusted = metric["status"], metric["p"], metric["p_adjusted"]
        lost = p is not None and p_adjusted is not None and p < level <= p_adjusted
        if number == 0 and status in ("improved", "worse") and lost:
            yield (
                f"several systems were compared: after Holm's correction {metric['name']} has p = {p_adjusted:.4f}, "
                "which shows no difference"
            )
        if number > 0 and status == "worse":
            open_ = p_adjusted is not None and p_adjusted >= level
            change = f"{metric['a']:.4f} → {metric['b']:.4f} ({_interval(metric['ci'])})"
            verb = "may have got worse" if open_ else "got worse"
            after = f", p = {p_adjusted:.4f} after Holm's correction" if open_ else ""
            yield f"{metric['name']} {verb}: {change}{after}"


def _failure_warnings(result: ComparisonResult) -> Iterator[str]:
    """Whether the verdict hinges on leaving failed rows out."""
    for metric in result["metrics"][:1]:
        worst = metric["failures_as_worst"]
        if worst is None or worst["ci"] is None:
            continue
        better = metric["higher_is_better"]
        before = interval_status(metric, better) if metric["ci"] else metric["status"]
        if before not in ("inconclusive", interval_status(worst, better)):
            yield (
                f"the verdict depends on failed rows: with them scored as worst answers, {metric['name']} changes by "
                f"{worst['delta']:+.4f} ({_interval(worst['ci'])})"
            )


def slice_warnings(result: ComparisonResult) -> Iterator[str]:
    """Slices whose interval shows a loss."""
    for part in result["slices"]:
        if interval_status(part, result["metrics"][0]["higher_is_better"]) == "worse":
            verb = "got worse" if part["worse"] else "may have got worse"
            yield (
                f"where {part['column']} is {part['value']!r}, {result['primary']} {verb}: {part['a']:.4f} → "
                f"{part['b']:.4f} ({_interval(part['ci'])}; {part['rows']} rows)"
            )


def _row_warnings(a: Side, b: Side, result: ComparisonResult) -> Iterator[str]:
    rows, shares = result["rows"], result["shares"]
    if groups := result["contradictions"]:
        named = enumeration([str(row["id"]) for row in groups[0]["rows"]])
        yield (
            f"{'1 image is' if len(groups) == 1 else f'{len(groups)} images are'} shared by rows that ask the same and "
            f"expect different answers ({'' if len(groups) == 1 else 'such as '}{named}): no model can be right on all "
            "of them"
        )
    only = ((rows["only_a"], a), (rows["only_b"], b))
    left_out = [f"{count} only in {name_of(side)}" for count, side in only if count]
    if left_out:
        yield f"{rows['paired']} rows are in both files; left out: {', '.join(left_out)}"
    for side, cut in ((a, shares["a"]["cut_off"]), (b, shares["b"]["cut_off"])):
        # That all were is why the comparison is inconclusive.
        every = all(line.finish_reason == "length" for file in side for line in file.lines)
        if cut is not None and cut > MOST_FAILED and not every:
            yield f"{cut:.0%} of the answers of {name_of(side)} were cut off at the length limit"
    for side in (a, b):
        answers = [line for file in side for line in file.lines if line.prediction is not None]
        if unfinished := sum(line.unparsed == UNFINISHED_THOUGHT for line in answers):
            yield f"{name_of(side)}: {unfinished_thoughts(unfinished, len(answers))}"


def _interval(ci: Interval | None) -> str:
    return "no interval" if ci is None else f"{ci[0]:+.4f} to {ci[1]:+.4f}"
