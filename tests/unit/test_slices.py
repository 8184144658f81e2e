"""Slices: the primary metric by values of a column."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from builders import QUICK, judged, lines

from vlmtune.errors import ConfigError
from vlmtune.predictions import Line
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.tasks import captioning


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
    a, b = lines(120, 0.5), lines(120, 0.2)
    b[::3] = lines(120, 0.9)[::3]
    a, b = (tagged(side, {"kind": "night"}, {"kind": "day"}, {"kind": "day"}) for side in (a, b))
    comparison = by(["kind"], a, b)
    assert comparison.status == "improved"
    night = next(part for part in comparison.result["slices"] if part["value"] == "night")
    warned = [warning for warning in comparison.result["warnings"] if "got worse" in warning]
    assert len(warned) == 1
    assert warned[0].startswith(f"where kind is 'night', bleu got worse: {night['a']:.4f} → {night['b']:.4f}")
    assert "40 rows" in warned[0]


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
