"""Fields count as Donut's evaluator counts them, and so do 0, false and empty texts."""

from typing import Any

import pytest
from metric_vectors import MORE, VECTORS, score, values

from vlmtune.metrics import field_f1, record_match, typed_field_f1

Case = dict[str, Any]


@pytest.mark.parametrize("case", VECTORS["json_field_f1"]["vectors"], ids=lambda case: case["note"])
def test_official_values(case: Case) -> None:
    assert score(field_f1, [case["pred"]], [case["answer"]]) == pytest.approx(case["f1"], abs=1e-12)


@pytest.mark.parametrize("case", MORE["json_field_f1"], ids=lambda case: str(case["pred"])[:30])
def test_donut_agrees_on_records_without_zeros_and_mixtures(case: Case) -> None:
    assert score(field_f1, [case["pred"]], [case["answer"]]) == pytest.approx(case["f1"], abs=1e-12)


@pytest.mark.parametrize("value", [0, 0.0, False, "", "  ", [0], [False, ""], [{"x": 0}]], ids=repr)
def test_what_donut_drops_is_a_field_here(value: Any) -> None:
    """Deviation: there, a wrong 0 costs nothing and a right one earns nothing."""
    assert score(field_f1, [{"a": value}], [{"a": value}]) == 1
    assert score(field_f1, [{}], [{"a": value}]) == 0
    assert score(field_f1, [{"a": value, "b": 1}], [{"b": 1}]) < 1
    assert values(record_match, [{"a": value}, {}], [{"a": value}] * 2) == [1, 0]


def test_a_list_of_plain_values_and_objects_keeps_both() -> None:
    """Deviation: Donut drops the objects."""
    assert score(field_f1, [{"a": ["x"]}], [{"a": ["x", {"b": "y"}]}]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("empty", [None, [], {}, [None], [[]], {"b": None}], ids=repr)
def test_what_holds_nothing_is_no_field(empty: Any) -> None:
    assert score(field_f1, [{"a": empty, "b": 1}], [{"b": 1}]) == 1


def test_counts_are_pooled_over_rows() -> None:
    said, true = [{"a": 1}, {"a": 1, "b": 2, "c": 4}], [{"a": 1}, {"a": 9, "b": 2, "c": 3}]
    assert score(field_f1, said, true) == pytest.approx(2 * 2 / (2 * 2 + 4))


def test_nothing_to_find() -> None:
    assert score(field_f1, [{}], [{}]) == 1
    assert score(field_f1, [{"a": 1}], [{}]) == 0
    assert score(field_f1, [None], [{}]) == 0, "an answer nobody could read is never right"
    assert score(field_f1, [None, {"a": 1}], [{"b": 1}, {"a": 1}]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("said", "true", "equal"),
    [
        ({"a": 1, "b": " x"}, {"b": "x", "a": "1"}, True),
        ({"a": ["x"]}, {"a": "x"}, True),
        ({"a": {"b": 1}}, {"a": [{"b": 1}]}, True),
        ({"a": None, "b": 1}, {"b": 1}, True),
        ({"a": ["x", "y"]}, {"a": ["y", "x"]}, False),
        (
            {"m": [{"n": "cake", "k": 1}, {"n": "tea", "k": 2}]},
            {"m": [{"n": "cake", "k": 2}, {"n": "tea", "k": 1}]},
            False,
        ),
        ({"a": 1}, {"a": 1, "b": 0}, False),
        ({"a": 1, "b": 0}, {"a": 1}, False),
        ({"A": 1}, {"a": 1}, False),
        (None, {"a": 1}, False),
    ],
)
def test_a_record_matches_as_a_whole(said: Any, true: Any, equal: bool) -> None:
    assert score(record_match, [said], [true]) == equal


def test_depth_does_not_matter() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert score(field_f1, [{"a": deep}], [{"a": "x"}]) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (12.5, "12.50"),
        (1, "1"),
        (1.0, 1),
        ("1,250.00", 1250),
        ("1.250,00", 1250.0),
        ("1 250,50", "1250.5"),
        ("1'250.00", 1250),
        ("12,50", 12.5),
        ("1,250,000", 1250000),
        ("-5", "−5"),
        ("0.125", 0.125),
        ("2024-03-05", "March 5, 2024"),
        ("5 March 2024", "2024/03/05"),
        ("05-Mar-2024", "2024-03-05T10:00:00Z"),
        ("25/03/2024", "2024-03-25"),
        ("03/25/2024", "2024-03-25"),
        ("05.03.2024", "2024-03-05"),
        ("5/5/2024", "2024-05-05"),
        ("2024年3月5日", "2024-03-05"),
        ("5th of March 2024", "2024-03-05"),
        ("true", True),
        ("Yes", True),
        (" no ", False),
        (" a ", "a"),
        (1000.0, 1000),
    ],
)
def test_one_value_written_in_two_ways(one: Any, other: Any) -> None:
    assert score(typed_field_f1, [{"a": one}], [{"a": other}]) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,250", 1250),
        ("1,250", 1.25),
        ("1.250", 1250),
        ("1.250", 1.25),
        ("007", 7),
        ("05/03/2024", "2024-03-05"),
        ("05/03/2024", "2024-05-03"),
        (None, ""),
        (None, "null"),
        (1, True),
        ("1", True),
        ("$5", 5),
        ("31/02/2024", "2024-03-02"),
        ("12.5", "12.05"),
        ("1e3", 1000),
        ("٣", 3),
        ("A", "a"),
        ("+5", 5),
    ],
)
def test_what_may_mean_two_things_is_compared_as_text(one: Any, other: Any) -> None:
    assert score(typed_field_f1, [{"a": one}], [{"a": other}]) == 0
    assert score(typed_field_f1, [{"a": one, "b": other}], [{"a": one, "b": other}]) == 1


def test_null_is_not_missing() -> None:
    assert score(typed_field_f1, [{"a": None, "b": 1}], [{"a": None, "b": 1}]) == 1
    assert score(typed_field_f1, [{"b": 1}], [{"a": None, "b": 1}]) == pytest.approx(2 / 3)
    assert score(typed_field_f1, [{"a": None, "b": 1}], [{"b": 1}]) == pytest.approx(2 / 3)
    assert score(typed_field_f1, [{"a": []}], [{"a": {}}]) == 1
    assert score(typed_field_f1, [{"a": []}], [{"a": None}]) == 0


def test_typed_fields_are_found_in_lists_and_objects() -> None:
    said = {"items": [{"price": "3.50", "n": "2"}, {"price": 4, "n": 1}], "paid": "yes"}
    true = {"items": [{"n": 1, "price": "4.00"}, {"n": 2, "price": 3.5}], "paid": True}
    assert score(typed_field_f1, [said], [true]) == 1
    assert score(typed_field_f1, [{"a": "x"}], [{"a": ["x"]}]) == 1
    assert score(typed_field_f1, [None, {}], [{}, {}]) == 0
