"""What else could explain a gain: shorter answers (length), not looking at the picture (image)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlmtune.metrics import Metric
from vlmtune.predictions import Line
from vlmtune.scoring.evidence import Rows
from vlmtune.scoring.judgement import Terms, weigh


def cut_like(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Texts of `before`, cut at word ends so that their lengths are distributed like those of `after`.

    The text of rank r among `before` gets at most the length of rank r among `after`; shorter ones stay as they are.
    """
    targets = sorted(len(text.split()) for text in after)
    order = sorted(range(len(before)), key=lambda n: (len(before[n].split()), n))
    cut = list(before)
    for rank, n in enumerate(order):
        words = before[n].split()
        if len(words) > targets[rank]:
            cut[n] = " ".join(words[: targets[rank]])
    return cut


def length_control(rows: Rows, metric: Metric, terms: Terms) -> dict[str, Any] | None:
    """The gain that is left when the baseline's answers are as short as the tuned ones.

    Every file of side B meets its own cut copy of side A's first file.

    Returns:
        {"a_cut", "delta", "ci", "explains"}; None where no answer had to be cut, or with too few groups.
    """
    before = rows.a[0]
    texts = [line.prediction or "" for line in before]
    copies = [cut_like(texts, [line.prediction or "" for line in after]) for after in rows.b]
    if all(copy == texts for copy in copies):
        return None
    shortened = [
        tuple(replace(line, prediction=text) for line, text in zip(before, copy, strict=True)) for copy in copies
    ]
    found = weigh([terms.measured(metric, shortened, rows.b)], rows.groups, terms.statistics)[0].values()
    if found["ci"] is None:
        return None
    sign = 1 if metric.higher_is_better else -1
    explains = min(sign * found["ci"][0], sign * found["ci"][1]) <= 0
    return {"a_cut": found["a"], "delta": found["delta"], "ci": found["ci"], "explains": explains}


def image_control(
    controls: Mapping[str, Any] | None, lines: Sequence[Line], groups: Sequence[str], metric: Metric, terms: Terms
) -> dict[str, Any] | None:
    """What exchanged images cost one file, on the rows that were answered both ways.

    Returns:
        {"rows", "own", "exchanged", "drop", "ci", "kept"} (`kept` = exchanged / own, None where own is 0); None where
        the control was not run or has too few rows.
    """
    swapped = {line["id"]: line for line in ((controls or {}).get("image") or {}).get("lines", [])}
    both = [n for n, line in enumerate(lines) if line.id in swapped and swapped[line.id]["prediction"] is not None]
    if not both:
        return None
    own = tuple(lines[n] for n in both)
    other = tuple(replace(line, prediction=swapped[line.id]["prediction"]) for line in own)
    measured = terms.measured(metric, [other], [own])
    found = weigh([measured], [groups[n] for n in both], terms.statistics)[0].values()
    kept = found["a"] / found["b"] if found["b"] else None
    return {
        "rows": len(own),
        "own": found["b"],
        "exchanged": found["a"],
        "drop": found["delta"],
        "ci": found["ci"],
        "kept": kept,
    }
