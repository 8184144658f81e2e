"""Rows are paired with themselves or left out, never with a neighbour."""

from dataclasses import replace

from vlmtune.predictions import Line
from vlmtune.scoring.pairing import pair

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
