"""Rows are paired with themselves or left out, never with a neighbour."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from vlmtune.predictions import Line
from vlmtune.scoring.pairing import PredictionFile, gather, pair

TRUTHS = {"references"}


def lines(*references: str, ids: bool = False, start: int = 0) -> list[Line]:
    return [Line(str(n) if ids else None, "x", {"references": [text]}) for n, text in enumerate(references, start)]


def test_ids_win_over_order() -> None:
    a, b = lines("p", "q", "r", ids=True), lines("p", "q", "r", ids=True)[::-1]
    found = pair(a, b, TRUTHS)
    assert (found.by, found.rows) == ("id", ((0, 2), (1, 1), (2, 0)))


def test_one_id_with_other_references_is_left_out_and_said() -> None:
    found = pair(lines("p", "q", ids=True), lines("p", "changed", ids=True), TRUTHS)
    assert found.rows == ((0, 0),)
    assert "1 rows with the same id have another image or other references" in found.notes[0]


def test_a_key_no_metric_uses_does_not_matter() -> None:
    a = [Line("1", "x", {"references": ["p"], "latency": 3})]
    b = [Line("1", "x", {"references": ["p"], "latency": 4})]
    assert pair(a, b, TRUTHS).rows == ((0, 0),)
    assert pair(a, b, {"references", "latency"}).by != "id"


def with_key(key: str, values: Sequence[object], references: Sequence[str]) -> list[Line]:
    return [Line(None, "x", {"references": [text], key: value}) for value, text in zip(values, references, strict=True)]


@pytest.mark.parametrize("key", ["file", "question", "doc_hash", "image", "messages"])
def test_rows_without_ids_are_paired_by_every_key_that_both_have(key: str) -> None:
    """Sorted by answer, the references agree row by row although one file lacks a row in the middle."""
    sorted_references = ["no"] * 5 + ["yes"] * 5
    names = [[{"role": "user", "content": f"{n}"}] if key == "messages" else f"{n}.jpg" for n in range(10)]
    a, whole = with_key(key, names, sorted_references), with_key(key, names, sorted_references)
    found = pair(a, [*whole[:2], *whole[3:]], TRUTHS)
    assert (found.by, found.rows) == ("keys", ((0, 0), (1, 1), *((n, n - 1) for n in range(3, 10))))
    assert f"paired by '{key}' and their references" in found.notes[0]
    assert pair(a, whole, TRUTHS).by == "order"
    assert pair(a, whole[::-1], TRUTHS).rows == tuple((n, 9 - n) for n in range(10))


def test_rows_of_which_nothing_agrees_are_refused_with_the_key() -> None:
    a, b = with_key("file", ["a", "b"], ["no", "no"]), with_key("file", ["c", "d"], ["no", "no"])
    found = pair(a, b, TRUTHS)
    assert found.rows == ()
    assert "2 rows of A have a value of 'file' that no row of B has" in found.notes[-1]
    assert "--ignore file" in found.notes[-1]


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("exact_match", 0, 1),
        ("latencyMs", 12, 15),
        ("thinking", "so", "thus"),
        ("p", 0.5, 0.25),
        ("Score", "0.1", "0.2"),
    ],
)
def test_what_a_model_or_a_metric_made_does_not_tell_rows_apart(key: str, one: object, other: object) -> None:
    a, b = with_key(key, [one, one], ["no", "yes"]), with_key(key, [other, other], ["no", "yes"])
    assert (pair(a, b, TRUTHS).by, pair(a, b, TRUTHS).rows) == ("order", ((0, 0), (1, 1)))


def test_a_longer_file_whose_end_repeats_could_lack_any_row() -> None:
    assert pair(lines("no", "no", "yes", "yes"), lines("no", "no", "yes"), TRUTHS).by == "order"
    found = pair(lines("no", "no", "yes", "yes", "yes"), lines("no", "no", "yes", "yes"), TRUTHS)
    assert found.rows == ()
    assert "5 rows were left out: several rows have the same references" in found.notes[1]


def test_references_that_differ_in_white_space_are_the_same_and_the_first_file_counts() -> None:
    a, b = lines("red", "blue", ids=True), lines("red ", "blue", ids=True)
    assert pair(a, b, TRUTHS).rows == ((0, 0), (1, 1))
    sides = (PredictionFile("a", a),), (PredictionFile("b", b),)
    evidence = gather(*sides, TRUTHS)
    assert "1 rows with the same id have references that differ in white space only" in evidence.notes[0]
    assert [line.references for line in evidence.answered.b[0]] == [("red",), ("blue",)]


def test_a_thousand_against_five_hundred_pairs_five_hundred_in_order() -> None:
    texts = [f"caption {n % 300}" for n in range(1000)]
    found = pair(lines(*texts), lines(*texts[:500]), TRUTHS)
    assert found.by == "order"
    assert found.rows == tuple((n, n) for n in range(500))
    assert "first 500 rows" in found.notes[0]


def test_without_ids_in_another_order_rows_meet_by_their_references() -> None:
    found = pair(lines("p", "q", "r"), lines("r", "p"), TRUTHS)
    assert (found.by, found.rows) == ("references", ((0, 1), (2, 0)))


def test_ids_of_another_kind_fall_back_to_references() -> None:
    found = pair(lines("p", "q", ids=True), lines("q", "p", ids=True, start=100), TRUTHS)
    assert (found.by, found.rows) == ("references", ((0, 1), (1, 0)))


def test_references_that_stand_in_several_rows_pair_nobody() -> None:
    found = pair(lines("same", "same", "q"), lines("q", "same", "same"), TRUTHS)
    assert found.rows == ((2, 0),)
    assert any("2 rows were left out: several rows have the same references" in note for note in found.notes)


def test_another_image_is_another_row() -> None:
    one, other = ([replace(line, image=image) for line in lines("yes", "no", ids=True)] for image in ("x", "y"))
    assert pair(one, other, TRUTHS).rows == ()
    assert "another image" in pair(one, [other[0], one[1]], TRUTHS).notes[0]
    apart = [replace(line, id=f"{line.id} of b") for line in other]
    assert pair(one, apart, TRUTHS).rows == ()


def test_nothing_in_common() -> None:
    assert pair(lines("p"), lines("q"), TRUTHS).rows == ()
    assert pair([Line(None, "x", {"references": []})], [Line(None, "x", {"references": []})], TRUTHS).rows == ()
