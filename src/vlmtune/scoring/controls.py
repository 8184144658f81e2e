"""What else could explain a gain: shorter answers (length), not looking at the picture (image)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vlmtune.metrics import Metric
from vlmtune.scoring.evidence import Lines, Rows, Seeds, Side
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
    seeds: Seeds, files: Sequence[Lines], groups: Sequence[str], metric: Metric, terms: Terms
) -> dict[str, Any] | None:
    """What exchanged images cost a side, on the rows that every seed answered both ways.

    Args:
        seeds: the files with what lies beside them; those whose control was not run are left out.
        files: the compared lines of each, in the same order.
        groups: what a row is resampled with.
        metric: whose score falls.
        terms: how answers are read and differences judged.

    Returns:
        {"rows", "own", "exchanged", "drop", "ci", "kept"}, means over the seeds (`kept` = exchanged / own, None where
        own is 0); None where the control was not run or has too few rows.
    """
    swapped = [_swapped(side) for side in seeds]
    ran = [n for n, answers in enumerate(swapped) if answers]
    both = [n for n in range(len(groups)) if ran and all(files[k][n].id in swapped[k] for k in ran)]
    if not both:
        return None
    own = [tuple(files[k][n] for n in both) for k in ran]
    other = [
        tuple(replace(line, prediction=swapped[k][line.id]) for line in lines)
        for k, lines in zip(ran, own, strict=True)
    ]
    found = weigh([terms.measured(metric, other, own)], [groups[n] for n in both], terms.statistics)[0].values()
    kept = found["a"] / found["b"] if found["b"] else None
    return {
        "rows": len(both),
        "own": found["b"],
        "exchanged": found["a"],
        "drop": found["delta"],
        "ci": found["ci"],
        "kept": kept,
    }


def _swapped(side: Side) -> dict[str | None, str]:
    """Answers to exchanged images by the row's id, as far as there are some."""
    lines = ((side.controls or {}).get("image") or {}).get("lines", [])
    return {line["id"]: line["prediction"] for line in lines if line["prediction"] is not None}
