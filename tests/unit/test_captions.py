"""Keyword recall counts whole words and alternatives."""

import pytest

from vlmtune.metrics import keyword_recall


def recall(answer: str | None, *keywords: str) -> float:
    return float(keyword_recall.summarise(keyword_recall.measure([answer], [keywords]).sum(axis=0)))


@pytest.mark.parametrize(
    ("answer", "keywords", "value"),
    [
        ("Two red balls on the grass .", ["ball|balls", "red"], 1.0),
        ("A football is reddish.", ["ball|balls", "red"], 0.0),
        ("RED! (ball)", ["ball|balls", "red"], 1.0),
        ("a ball", ["ball|balls", "red", "tree|trees", "green"], 0.25),
        ("", ["red"], 0.0),
        (None, ["red"], 0.0),
        ("a red fire truck", ["fire truck"], 1.0),
        ("anything", [], 0.0),
    ],
)
def test_share_of_named_things(answer: str | None, keywords: list[str], value: float) -> None:
    assert recall(answer, *keywords) == value


def test_rows_are_pooled_not_averaged() -> None:
    stats = keyword_recall.measure(["red", "x"], [["red"], ["a", "b", "c"]])
    assert keyword_recall.summarise(stats.sum(axis=0)) == 0.25
