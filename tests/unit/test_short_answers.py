"""Short answers score as in the official scripts, executed: vectors of both files."""

from typing import Any

import pytest
from metric_vectors import MORE, VECTORS, score, values

from vlmtune.metrics import (
    anls,
    exact_match,
    exact_match_lenient,
    relaxed_accuracy,
    textvqa_accuracy,
    vqa_accuracy,
)
from vlmtune.metrics.short_answers import normalise_textvqa, normalise_vqa

Case = dict[str, Any]


def said(case: Case) -> str:
    return f"{case['pred']!r:.30}"


@pytest.mark.parametrize("case", [*VECTORS["vqa_accuracy"]["vectors"], *MORE["vqa_accuracy"]], ids=said)
def test_vqa_accuracy(case: Case) -> None:
    assert score(vqa_accuracy, [case["pred"]], [case["answers"]]) == pytest.approx(case["value"], abs=1e-12)


@pytest.mark.parametrize(
    "case", [*VECTORS["vqa_normalise"]["vectors"], *MORE["vqa_normalise"]], ids=lambda c: c["in"][:30]
)
def test_vqa_normalisation(case: Case) -> None:
    assert normalise_vqa(case["in"]) == case["out"]


@pytest.mark.parametrize("case", MORE["textvqa_accuracy"], ids=said)
def test_textvqa_accuracy(case: Case) -> None:
    assert score(textvqa_accuracy, [case["pred"]], [case["answers"]]) == pytest.approx(case["value"], abs=1e-12)


@pytest.mark.parametrize("case", MORE["textvqa_normalise"], ids=lambda c: c["in"][:30])
def test_textvqa_normalisation(case: Case) -> None:
    assert normalise_textvqa(case["in"]) == case["out"]


def test_references_that_all_agree_are_not_normalised() -> None:
    assert score(vqa_accuracy, ["Yes"], [["yes"] * 10]) == 0
    assert score(vqa_accuracy, ["Yes"], [["yes"] * 9 + ["Yes"]]) == 1
    assert score(vqa_accuracy, [" two\n"], [["two"] * 10]) == 1


def test_vqa_accuracy_with_few_references_stays_low_as_the_official_one_does() -> None:
    few = [score(vqa_accuracy, ["red"], [["red"] * count]) for count in (1, 2, 3, 4)]
    assert few == pytest.approx([0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("case", VECTORS["exact_match"]["vectors"], ids=said)
def test_exact_match(case: Case) -> None:
    """`strip_lower` of the three variants; raw equality and SQuAD's without articles are other metrics."""
    assert score(exact_match, [case["pred"]], [case["refs"]]) == case["strip_lower"]


def test_exact_match_accepts_any_reference() -> None:
    assert values(exact_match, ["B ", "c"], [["a", " b"], ["a", "b"]]) == [1, 0]


@pytest.mark.parametrize("case", [*VECTORS["relaxed_accuracy"]["vectors"], *MORE["relaxed_accuracy"]])
def test_relaxed_accuracy(case: Case) -> None:
    """`value`, not `qwen`: there, target and prediction are exchanged, so that 5 % is taken of the prediction."""
    assert score(relaxed_accuracy, [case["pred"]], [[case["target"]]]) == case["value"]


@pytest.mark.parametrize("case", [{**c, "value": c["official_rrc"]} for c in VECTORS["anls"]["vectors"]], ids=said)
def test_anls_vectors(case: Case) -> None:
    """`official_rrc`: the paper's equation and two libraries drop a similarity of exactly 0.5, the script counts it."""
    assert score(anls, [case["pred"]], [case["answers"]]) == pytest.approx(case["value"], abs=1e-12)


@pytest.mark.parametrize("case", MORE["anls"], ids=said)
def test_anls_is_the_official_script_s(case: Case) -> None:
    assert score(anls, [case["pred"]], [case["answers"]]) == pytest.approx(case["value"], abs=1e-12)


def test_a_half_counts() -> None:
    assert values(anls, ["abcd", "abc", ""], [["abxy"], ["axyz"], [""]]) == [0.5, 0, 1]


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("apple inc", '"Apple Inc."', True),
        ("“U.S.”", "u.s", True),
        ("'Yes.'", "yes", True),
        ("a  b\n", "A b", True),
        ("etc..", "etc", False),
        ("3.5", "35", False),
        ('"', "", False),
        ("...", "...", True),
        ("red car", "red", False),
    ],
)
def test_the_lenient_match_reads_both_sides(answer: str, reference: str, same: bool) -> None:
    assert score(exact_match_lenient, [answer], [["x", reference]]) == same
    assert score(exact_match_lenient, [reference], [[answer]]) == same
    assert score(exact_match_lenient, [reference], [[reference]]) == 1


def test_spelling_that_vqa_accuracy_does_not_forgive_is_counted() -> None:
    assert vqa_accuracy.caveat is not None
    answers = ["Yes", "yes", "two", "no", "Yes", None, "Yes"]
    references = [["yes"] * 10, ["yes"] * 10, ["2"] * 10, ["yes"] * 10, ["yes"] * 9 + ["no"], ["yes"] * 10, ["yes"]]
    note = vqa_accuracy.caveat(answers, references)
    assert note is not None
    assert note.startswith("2 of 7 answers differ from their reference only in letter case")
    assert vqa_accuracy.caveat(answers[1:2], references[1:2]) is None


SHORT_METRICS = [vqa_accuracy, textvqa_accuracy, exact_match, exact_match_lenient, anls, relaxed_accuracy]


@pytest.mark.parametrize("metric", SHORT_METRICS, ids=lambda m: m.name)
def test_an_answer_nobody_could_read_is_wrong_even_where_the_reference_is_empty(metric: Any) -> None:
    assert values(metric, [None, ""], [[""] * 10] * 2) == [0, 1]
