"""Error rates equal jiwer's on composed text, edits pooled over rows."""

from typing import Any

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_vectors import VECTORS, score

from vlmtune.metrics import cer, wer

GROUP = VECTORS["ocr_cer_wer"]
TEXT = st.text("ab é日", max_size=12)
ROWS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


@pytest.mark.parametrize("case", GROUP["vectors"], ids=lambda case: f"{case['ref']!r} {case['hyp']!r}")
def test_official_values(case: dict[str, Any]) -> None:
    """`cer_nfc`; the one word "café", composed on one side only, is one wrong word for jiwer and none here."""
    composed = case["ref"].startswith("caf")
    assert score(cer, [case["hyp"]], [[case["ref"]]]) == pytest.approx(case["cer_nfc"], abs=1e-12)
    assert score(wer, [case["hyp"]], [[case["ref"]]]) == pytest.approx(0 if composed else case["wer"], abs=1e-12)


def test_official_corpus() -> None:
    corpus = GROUP["corpus"]
    references = [[text] for text in corpus["refs"]]
    assert score(cer, corpus["hyps"], references) == pytest.approx(corpus["cer_micro"], abs=1e-12)
    assert score(wer, corpus["hyps"], references) == pytest.approx(corpus["wer_micro"], abs=1e-12)


@settings(deadline=None)
@given(ROWS)
def test_jiwer_agrees(rows: list[tuple[str, str]]) -> None:
    said, true = [answer for answer, _ in rows], [text for _, text in rows]
    references = [[text] for text in true]
    assert score(cer, said, references) == pytest.approx(jiwer.cer(true, said), abs=1e-12)
    assert score(wer, said, references) == pytest.approx(jiwer.wer(true, said), abs=1e-12)


def test_line_breaks_separate_words() -> None:
    """jiwer splits at spaces alone, and finds one wrong word here."""
    assert score(wer, ["one two\tthree"], [["one\ntwo three\n"]]) == 0
    assert score(cer, ["one two"], [["one\ntwo"]]) == pytest.approx(1 / 7)


def test_nothing_to_read() -> None:
    assert score(cer, ["", "ab"], [[""], ["ab"]]) == 0
    assert score(cer, ["xyz", "ab"], [[""], ["ab"]]) == 1.5
    assert score(cer, ["xyz"], [[""]]) == 3
    assert score(wer, ["x y"], [[" "]]) == 2


def test_an_answer_nobody_could_read_is_never_right() -> None:
    assert score(cer, [None, "ab"], [[""], ["ab"]]) == 0.5
    assert score(wer, [None], [["one two"]]) == 1


def test_the_nearest_of_several_references_counts() -> None:
    assert score(wer, ["one two"], [["one two three four", "one two", "x"]]) == 0


def test_lower_is_better() -> None:
    assert not cer.higher_is_better
    assert not wer.higher_is_better
