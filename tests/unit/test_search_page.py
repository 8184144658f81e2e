"""The page of a search: every trial over its cost, in TFLOP or in money, with the best of each size named."""

import re
from typing import Any

import pytest
from builders import judged, lines

from vlmtune.planning.plan import usd_per_tflop
from vlmtune.report import search_page


def found(**space: list[Any]) -> dict[str, Any]:
    trials = []
    for number, value in enumerate([0.2, 0.5, 0.4, None]):
        values = {"training.learning_rate": 1e-4 * (number + 1)} | {key: each[number] for key, each in space.items()}
        evaluations = [] if value is None else [[0.5, value / 2], [1.0, value]]
        ended = {"state": "complete" if evaluations else "failed", "reason": None if evaluations else "diverged"}
        flops = (number + 1) * 1e15 if evaluations else None
        trials.append(
            {"number": number, "values": values, "value": value, "evaluations": evaluations, "flops": flops} | ended
        )
    scores = {"seeds": [1, 2], "validation": [0.41, 0.43]}
    first = {"metric": "bleu", "higher_is_better": True, "validation_rows": 40, "best": 1}
    return {**first, "trials": trials, "fresh": scores}


def page(search: dict[str, Any], *unit: Any) -> str:
    return search_page.render(search, judged(lines(30, 0.6), lines(30, 0.2)).result, "report.html", *unit)


def rows(html: str) -> dict[str, list[str]]:
    """Cells of the last table, which lists all trials, by the trial."""
    table = html.rsplit("<table", maxsplit=1)[-1]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]
    return {first: rest for first, *rest in cells}


def test_costs_are_in_tflop_or_in_the_money_of_a_gpu() -> None:
    plain, paid = page(found()), page(found(), ("USD", usd_per_tflop("h200", 3.0)))
    assert rows(plain)["trial"][-2:] == ["TFLOP", "outcome"]
    assert [rows(plain)[f"{n}"][-2] for n in (1, 2, 3, 4)] == ["1e+03", "2e+03", "3e+03", "0"]
    assert rows(paid)["trial"][-2:] == ["USD", "outcome"]
    hours = 2000 / (989 * 0.35) / 3600
    assert float(rows(paid)["2"][-2]) == pytest.approx(3 * hours, rel=0.01)
    assert "USD of training" in paid
    assert "TFLOP" not in paid.split("<main")[1]


def test_the_best_of_each_size_is_named() -> None:
    sizes = {"model.name": ["a/Small-2B", "a/Large-8B", "a/Small-2B", "a/Large-8B"]}
    kinds = {"model.quantization": [None, "nf4", "nf4", None]}
    named = re.compile(r"<text [^>]*>((?:Small|Large)[^<]*)</text>")
    assert named.findall(page(found(**sizes))) == ["Large-8B", "Small-2B"]
    assert named.findall(page(found(**sizes, **kinds))) == ["Large-8B, nf4", "Small-2B, nf4", "Small-2B, unquantized"]
    assert named.findall(page(found())) == []
