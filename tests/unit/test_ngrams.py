"""BLEU and chrF equal their official implementations, and their statistics add up to the corpus score."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_vectors import VECTORS, score
from sacrebleu.metrics import BLEU, CHRF

from vlmtune.metrics import (
    Metric,
    _ngram_counts,
    _symbols,
    _tokenization,
    bleu,
    bleu_4,
    captions,
    chrf,
    cider_d,
    ngrams,
    rouge_l,
    sacrebleu,
)

WORDS = st.lists(st.sampled_from(["a", "red", "Red", "ball", "is", "on", "grass", ",", ".", "two"]), max_size=12)
TEXT = WORDS.map(" ".join)
ROWS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=2, max_size=2)), min_size=1, max_size=6)
LETTERS = st.text("ab é\u2009\n", max_size=9)
SPELLED = st.lists(st.tuples(LETTERS, st.lists(LETTERS, min_size=1, max_size=3)), min_size=1, max_size=6)
Rows = list[tuple[str, list[str]]]


@pytest.mark.parametrize("vector", VECTORS["bleu"]["vectors"], ids=lambda vector: vector["preds"][0])
@pytest.mark.parametrize(("metric", "key"), [(bleu, "hf_bleu"), (sacrebleu, "sacrebleu_exp")], ids=lambda m: str(m)[:9])
def test_official_values(metric: Metric, key: str, vector: dict[str, list[str]]) -> None:
    assert score(metric, vector["preds"], vector["refs"]) == pytest.approx(vector[key], abs=1e-9)


@settings(deadline=None)
@given(ROWS)
def test_sacrebleu_is_the_library_s(rows: Rows) -> None:
    answers, references = [row[0] for row in rows], [row[1] for row in rows]
    official = BLEU().corpus_score(answers, [list(column) for column in zip(*references, strict=True)])
    assert score(sacrebleu, answers, references) == pytest.approx(official.score, abs=1e-9)


@settings(deadline=None)
@given(ROWS)
def test_with_one_reference_and_no_smoothing_both_definitions_meet(rows: Rows) -> None:
    answers, references = [row[0] for row in rows], [row[1][:1] for row in rows]
    official = BLEU(smooth_method="none").corpus_score(answers, [[r[0] for r in references]])
    assert score(bleu, answers, references) == pytest.approx(official.score / 100, abs=1e-9)


@settings(deadline=None)
@given(st.one_of(ROWS, SPELLED))
def test_chrf_is_the_library_s(rows: Rows) -> None:
    answers, references = [row[0] for row in rows], [row[1] for row in rows]
    columns = [[row[n] if n < len(row) else None for row in references] for n in range(max(map(len, references)))]
    official = CHRF().corpus_score(answers, columns)
    assert score(chrf, answers, references) == pytest.approx(official.score, abs=1e-9)


def test_closest_and_shortest_reference_differ() -> None:
    """`evaluate` measures brevity against the shortest reference, sacrebleu against the closest."""
    answers, references = ["a b c d e"], [["a b c d e f", "a b"]]
    assert score(bleu, answers, references) == 1
    assert score(sacrebleu, answers, references) < 100


def test_an_unparsed_answer_counts_as_an_empty_one() -> None:
    references = [["a red ball on the grass"], ["a blue car on the street"]]
    assert score(bleu, ["a red ball on the grass", None], references) == score(
        bleu, ["a red ball on the grass", ""], references
    )


@pytest.mark.parametrize("metric", [bleu, sacrebleu, chrf, bleu_4, cider_d, rouge_l], ids=lambda metric: metric.name)
def test_rows_count_the_same_in_blocks_of_any_size(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)

    def caption() -> str:
        return " ".join(
            rng.choice(["a", "red", "dog", "ball", "on", "grass", "é", ""]) for _ in range(rng.randint(0, 9))
        )

    answers = [None, *(caption() for _ in range(60))]
    references = [[caption() for _ in range(rng.randint(1, 4))] for _ in answers]
    whole = metric.measure(answers, references)
    for symbols in (1, 7, 100):
        monkeypatch.setattr(_symbols, "BLOCK", symbols)
        for module in (captions, ngrams):
            module._compared.cache_clear()
        assert (metric.measure(answers, references) == whole).all()


@settings(deadline=None)
@given(SPELLED, st.sampled_from([1, 7, 30_000]))
def test_shared_ngrams_are_those_of_plain_counting(rows: Rows, block: int) -> None:
    answers, references = zip(*rows, strict=True)
    texts = _symbols.characters(answers, references)
    expected: list[dict[tuple[int, int], list[int]]] = [{} for _ in range(4)]
    for row, (answer, some) in enumerate(rows):
        for number, text in enumerate(some):
            for length in range(1, 5):
                said, true = ([one[n : n + length] for n in range(len(one) - length + 1)] for one in (answer, text))
                both = Counter(said) & Counter(true)
                if both:
                    expected[length - 1][row, number] = sorted(both.values())
    found: list[dict[tuple[int, int], list[int]]] = [{} for _ in range(4)]
    first_row = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_symbols, "BLOCK", block)
        for part in texts.blocks():
            start = np.searchsorted(part.row_index, np.arange(part.rows))
            for length, one in enumerate(_ngram_counts.shared(part, 4)):
                assert (np.diff(one.ngram) >= 0).all()
                for reference, both in zip(one.reference.tolist(), one.both.tolist(), strict=True):
                    row = int(part.row_index[reference])
                    place = (first_row + row, reference - int(start[row]))
                    found[length].setdefault(place, []).append(both)
            first_row += part.rows
    assert [{place: sorted(both) for place, both in order.items()} for order in found] == expected


def test_document_frequencies_are_counted_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    documents = [[rng.choices("abcde", k=rng.randint(0, 9)) for _ in range(rng.randint(1, 3))] for _ in range(40)]
    texts = [(row, text) for row, some in enumerate(documents) for text in some]
    rows_with: dict[tuple[str, ...], set[int]] = {}
    for row, text in texts:
        for length in range(1, 5):
            for start in range(len(text) - length + 1):
                rows_with.setdefault(tuple(text[start : start + length]), set()).add(row)
    numbers = np.array([ord(symbol) for _, text in texts for symbol in text], np.int32)
    symbols = _symbols.Symbols.of(numbers, [len(text) for _, text in texts])
    for at_once in (1, 7, 100_000):
        monkeypatch.setattr(_ngram_counts, "_AT_ONCE", at_once)
        found = _ngram_counts.DocumentFrequencies.of(symbols, np.array([row for row, _ in texts]), 4)
        names: list[tuple[str, ...]] = [()]
        for keys, counts in zip(found.keys, found.counts, strict=True):
            names = [(*names[key >> 32], chr(key & 0xFFFF)) for key in keys.tolist()]
            length = len(names[0])
            expected = {ngram: len(rows) for ngram, rows in rows_with.items() if len(ngram) == length and len(rows) > 1}
            assert dict(zip(names, counts.tolist(), strict=True)) == expected


def test_nothing_of_the_texts_is_kept_after_they_are_forgotten() -> None:
    references = [["a red ball", "the ball"], ["grass"]]
    for metric in (bleu, bleu_4, cider_d, rouge_l, chrf):
        metric.measure(["a ball", "grass"], references)
    kept: list[Any] = [captions._compared, captions._documents, ngrams._compared, _tokenization._tokenizer_of]
    kept += [_symbols._kept, _symbols.numbered_references]
    assert all(one.cache_info().currsize for one in kept)
    _symbols.forget_texts()
    assert not any(one.cache_info().currsize for one in kept)
