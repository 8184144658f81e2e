"""Drawings: well-formed, bounded, named, with tables whose numbers are those of the rows."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pages import boxed, captions, curve, labelled

from vlmtune.report import charts, rows, svg
from vlmtune.report.svg import WIDTH, Figure

STATES = {"captions": captions, "labels": labelled, "boxes": boxed}


def drawn(plain: dict[str, Any]) -> list[Figure]:
    figures = [
        charts.forest(plain),
        charts.slices(plain),
        charts.systems(plain),
        charts.learning_curve(plain.get("training")),
    ]
    seen = rows.overview(plain)
    for column in seen.columns:
        figures += [charts.outcomes(column), charts.histogram(column, seen.scored), charts.scatter(column)]
    return [figure for figure in figures if figure is not None]


@pytest.mark.parametrize("state", STATES)
def test_every_drawing_is_well_formed_named_and_within_its_frame(state: str) -> None:
    figures = drawn(STATES[state]())
    assert len({figure.name for figure in figures}) == len(figures) >= 3
    for figure in figures:
        svg = ElementTree.fromstring(figure.svg)
        assert [part.tag for part in svg[:2]] == ["title", "desc"]
        assert svg.get("aria-labelledby") == f"{svg[0].get('id')} {svg[1].get('id')}"
        assert len({len(row) for row in figure.table}) == 1
        for part in svg.iter():
            assert part.get("style") is None
            for name, most in (("x", WIDTH), ("x1", WIDTH), ("x2", WIDTH), ("cx", WIDTH), ("y", figure.height)):
                assert 0 <= float(part.get(name, 0)) <= most, ElementTree.tostring(part)


def test_names_are_text() -> None:
    plain = captions()
    figure = charts.forest({**plain, "metrics": [plain["metrics"][0] | {"name": "<script>&"}]})
    assert figure is not None
    assert [part.text for part in ElementTree.fromstring(figure.svg).iter("text")][-2] == "<script>&"


def test_outcomes_count_rows() -> None:
    plain = captions()
    column = rows.overview(plain).columns[0]
    counts = {row[0]: int(row[1]) for row in charts.outcomes(column).table[1:]}
    gains = [example["gain"] for example in plain["examples"]]
    assert counts["B better"] == sum(round(gain, 9) > 0 for gain in gains)
    assert sum(counts.values()) == len(gains)
    plain = labelled()
    right = [
        tuple(example["scores"][side]["accuracy"] for side in "ab")
        for example in plain["examples"]
        if example["scores"]
    ]
    table = charts.outcomes(rows.overview(plain).columns[0]).table
    assert [int(row[1]) for row in table[1:]] == [right.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))]


def test_histogram_and_scatter_hold_every_row_once() -> None:
    plain = captions(200)
    column = rows.overview(plain).columns[0]
    histogram, scatter = charts.histogram(column, np.ones(200, bool)), charts.scatter(column)
    assert histogram is not None
    assert scatter is not None
    assert sum(int(row[1]) for row in histogram.table[1:]) == 200
    assert sum(int(cell) for row in scatter.table[1:] for cell in row[1:]) == 200


def test_where_lower_is_better_a_fall_is_good() -> None:
    plain = captions(60)
    better = rows.overview(plain).columns[0]
    error = replace(better, higher_is_better=False)
    tables = [charts.outcomes(column).table for column in (better, error)]
    assert (tables[0][1][1], tables[0][3][1]) == (tables[1][3][1], tables[1][1][1])
    for draw in (lambda column: charts.histogram(column, np.ones(60, bool)), charts.scatter):
        drawings = [draw(column) for column in (better, error)]
        assert drawings[0] is not None
        assert drawings[1] is not None
        swapped = drawings[0].shapes.replace("good", "x").replace("bad", "good").replace("x", "bad")
        assert swapped.count("good") == drawings[1].shapes.count("good") > 0


def test_no_change_no_histogram_and_no_curve_no_figure() -> None:
    same = captions(30, 0.2, 0.2)
    for example in same["examples"]:
        example["deltas"] = dict.fromkeys(example["deltas"], 0.0)
    assert charts.histogram(rows.overview(same).columns[0], np.ones(30, bool)) is None
    assert charts.learning_curve(None) is None
    assert charts.learning_curve({"curve": []}) is None
    assert charts.forest({**same, "metrics": []}) is None


def test_a_change_has_the_colour_of_its_verdict() -> None:
    """Interval and test together: not green where only the interval leaves out 0, nor where nothing is concluded."""
    plain = captions(60)
    metric = plain["metrics"][0] | {"ci": [0.01, 0.2], "p": 0.2}
    part = {"column": "kind", "value": "x", "delta": 0.1, "ci": [0.01, 0.2], "p": 0.2}

    def colours(status: str, p: float, whole: str | None = None) -> list[str]:
        one = {
            **plain,
            "metrics": [metric | {"status": status}],
            "slices": [part | {"p": p}],
            "status": whole or status,
        }
        figures = (charts.forest(one), charts.slices(one), charts.systems({**one, "others": [one]}))
        return [figure.shapes.split('class="span ')[1].split('"')[0] for figure in figures if figure is not None]

    assert colours("improved", 0.01) == ["good"] * 3
    assert colours("worse", 0.01) == ["bad", "good", "bad"], "a slice has its own test"
    assert colours("no_difference", 0.2) == ["even"] * 3
    assert colours("improved", 0.01, "inconclusive") == ["even"] * 3


def test_the_curve_marks_the_selected_step() -> None:
    figure = charts.learning_curve({"curve": curve(60), "chosen_step": 40})
    assert figure is not None
    assert figure.svg.count(">selected<") == 1
    assert figure.table[0] == ["step", "loss", "validation loss"]
    assert [row[1] for row in figure.table[1:4]] == [f"{point['loss']:.4f}" for point in curve(60)[:3]]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.31, 0.02), (0, 4999), (1e-7, 3e-7), (5, 5)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = svg.ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)
