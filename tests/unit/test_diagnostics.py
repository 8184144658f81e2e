"""Diagnostics: whether a model knows when it is right, which rows to label next, and the metric per slice."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import QUICK, judged, lines

from vlmtune.errors import ConfigError, DataError
from vlmtune.metrics import bleu  # type: ignore[attr-defined]
from vlmtune.predictions import Line
from vlmtune.report import ReportConfig, charts, text
from vlmtune.report import html as html_page
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.diagnostics import confidence, confidence_curve, uncertain_rows
from vlmtune.scoring.metric_comparison import ScoringContext
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.scoring.score import measure, reread, summary
from vlmtune.tasks import captioning

TERMS = ScoringContext(captioning.TASK, captioning.Config(), QUICK.statistics)


def sure(line: Line, probability: float, tokens: int = 5) -> Line:
    return replace(line, token_logprobs=(math.log(probability),) * tokens)


def graded(count: int, right: bool = True) -> list[Line]:
    """Every second answer good; the good ones are the surer ones, or it is at random."""
    good, bad, rng = lines(count, 0.05), lines(count, 0.9), random.Random(1)
    made = []
    for n in range(count):
        is_good = n % 2 == 0
        told = (0.9 if is_good else 0.5) - n / 1e4
        made.append(sure((good if is_good else bad)[n], told if right else rng.random() or 0.1))
    return reread(made, TERMS.task, TERMS.config)


def test_the_curve_is_the_score_of_the_most_confident_rows() -> None:
    some = graded(60)
    found = confidence_curve(some, [f"{n}" for n in range(60)], bleu, TERMS)
    assert found is not None
    order = sorted(range(60), key=lambda n: (-(confidence(some[n]) or 0), n))
    stats = measure(bleu, some)
    for point in found["points"]:
        kept = order[: round(point["coverage"] * 60)]
        assert point["score"] == pytest.approx(summary(bleu, stats[kept]), abs=1e-12)
    assert found["points"][-1]["coverage"] == 1
    assert found["half"] == pytest.approx(summary(bleu, stats[::2]))
    assert found["all"] == pytest.approx(found["points"][-1]["score"])
    assert found["ci"][0] > 0
    every = [summary(bleu, stats[order[: n + 1]]) for n in range(60)]
    assert found["area"] == pytest.approx(np.mean(every))


def test_confidence_that_says_nothing_is_not_called_knowledge() -> None:
    found = confidence_curve(graded(200, right=False), [f"{n}" for n in range(200)], bleu, TERMS)
    assert found is not None
    assert found["ci"][0] < 0 < found["ci"][1]


def test_answers_of_one_confidence_have_no_order() -> None:
    """Not that of the file, in which the good ones may stand first."""
    alike = [sure(line, 0.8) for line in (*lines(60, 0.05), *lines(40, 0.9))]
    found = confidence_curve(alike, [f"{n}" for n in range(100)], bleu, TERMS)
    assert found is not None
    assert found["half"] == pytest.approx(found["all"])
    assert (found["gain"], found["ci"]) == (pytest.approx(0), None)
    mirrored = confidence_curve(alike[::-1], [f"{n}" for n in range(100)], bleu, TERMS)
    assert mirrored is not None
    assert [point["score"] for point in mirrored["points"]] == pytest.approx([p["score"] for p in found["points"]])


def test_a_half_of_few_groups_has_no_interval() -> None:
    some = [sure(line, 0.9 if n < 20 else 0.5 - n / 1e4) for n, line in enumerate(lines(40, 0.3))]
    groups = ["one"] * 20 + [f"{n}" for n in range(20)]
    found = confidence_curve(some, groups, bleu, TERMS)
    assert found is not None
    assert found["ci"] is None


def test_a_long_answer_is_not_unsure_by_its_length() -> None:
    short, long = (sure(lines(1, 0)[0], 0.8, tokens) for tokens in (3, 40))
    assert confidence(short) == pytest.approx(0.8)
    assert confidence(long) == pytest.approx(0.8)


def test_without_probabilities_there_is_no_curve() -> None:
    plain, known = lines(40, 0.5), graded(40)
    assert confidence_curve([*known[:39], plain[39]], [f"{n}" for n in range(40)], bleu, TERMS) is None
    assert judged(plain, plain).result["confidence"] is None
    both = judged(plain, known)
    assert both.result["confidence"]["a"] is None
    shown = both.to_json()
    assert "the more confident half of B's answers" in text.render(shown)
    assert "confident answers are better" in html_page.render(shown, {}, ReportConfig()).text
    assert "more confident" not in text.render(judged(plain, plain).to_json())
    figure = charts.score_by_confidence(shown)
    assert figure is not None
    assert figure.table[0] == ["rows kept, most confident first", "B"]
    assert figure.table[-1] == ["100%", f"{both.result['confidence']['b']['all']:.4f}"]


def test_the_most_doubtful_rows_come_first_and_an_image_once() -> None:
    base = lines(6, 0.5)
    rows = [
        sure(base[0], 0.9),
        sure(base[1], 0.2),
        replace(sure(base[2], 0.3), cluster="row 1"),
        replace(sure(base[3], 0.95), unparsed="no JSON"),
        Line("row 4", None, {"references": []}, failure={"stage": "image", "reason": "gone"}),
        sure(base[5], 0.5),
    ]
    found = uncertain_rows(rows, 3)
    assert [row["id"] for row in found] == ["row 3", "row 1", "row 5"]
    assert found[0]["why"] == "cannot be read: no JSON"
    assert found[1]["confidence"] == 0.2
    with pytest.raises(DataError, match="inference.logprobs"):
        uncertain_rows(base, 3)


def tagged(some: Sequence[Line], *tags: dict[str, Any]) -> list[Line]:
    return [replace(line, meta=tags[n % len(tags)]) for n, line in enumerate(some)]


def by(columns: list[str], a: Sequence[Line], b: Sequence[Line]) -> Comparison:
    return judged(a, b, QUICK.model_copy(update={"slices": columns}))


def test_a_slice_is_the_comparison_of_its_rows() -> None:
    a, b = (tagged(lines(80, noise), {"kind": "cat"}, {"kind": "dog"}) for noise in (0.6, 0.3))
    slices = by(["kind"], a, b).result["slices"]
    keys = {"column", "value", "rows", "a", "b", "delta", "ci", "p", "p_adjusted", "worse"}
    assert [set(part) for part in slices] == [keys] * 2
    alone = judged(a[1::2], b[1::2]).result["metrics"][0]
    assert slices[1] == {
        "column": "kind",
        "value": "dog",
        "rows": 40,
        **{k: alone[k] for k in ("a", "b", "delta", "ci", "p")},
        "p_adjusted": slices[1]["p_adjusted"],
        "worse": False,
    }


def test_slices_are_sorted_numbers_by_size_and_rows_without_a_value_last() -> None:
    tags: list[dict[str, Any]] = [{"n": 10}, {"n": 9}, {"n": "x"}, {}, {"n": True}]
    some = tagged(lines(60, 0.5), *tags)
    slices = by(["n"], some, some).result["slices"]
    assert [part["value"] for part in slices] == ["9", "10", "True", "x", "(none)"]
    assert {part["rows"] for part in slices} == {12}
    assert all(part["ci"] is None for part in slices), "12 rows are too few"


def test_of_several_seeds_no_slice_is_called_worse() -> None:
    """Without a p there is nothing to correct: among many slices of nothing one always looks worse."""
    b = [PredictionFile(f"b{n}", tagged(lines(80, 0.6, seed=n), {"kind": "cat"}, {"kind": "dog"})) for n in (3, 4)]
    a = PredictionFile("a", tagged(lines(80, 0.1), {"kind": "cat"}, {"kind": "dog"}))
    evaluation = QUICK.model_copy(update={"slices": ["kind"]})
    found = compare(a, tuple(b), captioning.TASK, captioning.Config(), evaluation)
    assert all(part["ci"][1] < 0 and not part["worse"] for part in found.result["slices"])
    assert any("may have got worse" in warning for warning in found.result["warnings"])


def test_columns_stand_in_the_order_asked_for() -> None:
    some = tagged(lines(40, 0.5), {"z": 1, "a": 2})
    assert [part["column"] for part in by(["z", "a", "z"], some, some).result["slices"]] == ["z", "a"]


def test_a_key_of_a_line_of_others_is_a_column_too() -> None:
    some = [replace(line, truth={**line.truth, "site": n % 2}) for n, line in enumerate(lines(40, 0.5))]
    assert [part["value"] for part in by(["site"], some, some).result["slices"]] == ["0", "1"]


def test_a_slice_that_got_worse_behind_a_gain_is_said() -> None:
    a, b = lines(180, 0.5), lines(180, 0.2)
    b[::3] = lines(180, 0.9)[::3]
    a, b = (tagged(side, {"kind": "night"}, {"kind": "day"}, {"kind": "day"}) for side in (a, b))
    comparison = by(["kind"], a, b)
    assert comparison.status == "improved"
    night = next(part for part in comparison.result["slices"] if part["value"] == "night")
    warned = [warning for warning in comparison.result["warnings"] if "got worse" in warning]
    assert len(warned) == 1
    assert warned[0].startswith(f"where kind is 'night', bleu got worse: {night['a']:.4f} → {night['b']:.4f}")
    assert "60 rows" in warned[0]


def test_slices_are_no_part_of_the_correction() -> None:
    a, b = (tagged(lines(80, noise), {"kind": "cat"}, {"kind": "dog"}) for noise in (0.6, 0.55))
    assert by(["kind"], a, b).result["metrics"] == judged(a, b).result["metrics"]


def test_a_column_of_many_values_is_cut_and_that_is_said() -> None:
    some = [replace(line, meta={"serial": n}) for n, line in enumerate(lines(60, 0.5))]
    found = by(["serial"], some, some).result
    assert len(found["slices"]) == 50
    assert "slices: serial has 60 values; the 50 with the most rows are shown" in found["warnings"]


def test_an_unknown_column_is_named_with_the_closest() -> None:
    some = tagged(lines(40, 0.5), {"kind": "cat"})
    with pytest.raises(ConfigError, match="column 'kinds' to slice by; there are: kind; did you mean 'kind'"):
        by(["kinds"], some, some)
    with pytest.raises(ConfigError, match="the rows have none"):
        by(["kinds"], lines(40, 0.5), lines(40, 0.5))
