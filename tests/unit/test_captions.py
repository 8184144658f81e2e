"""COCO's metrics equal pycocoevalcap on the same tokens; keyword recall counts whole words and alternatives."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from metric_vectors import VECTORS, score, values
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from vlmtune.metrics import bleu_1, bleu_2, bleu_3, bleu_4, cider_d, keyword_recall, rouge_l
from vlmtune.metrics._tokenization import words

BLEUS = (bleu_1, bleu_2, bleu_3, bleu_4)
WORDS = "a the two red dog dogs ball runs on grass in water with , .".split()
TEXT = st.lists(st.sampled_from(WORDS), max_size=11).map(" ".join)
ROWS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=4)), min_size=1, max_size=6)
Rows = Sequence[tuple[str, list[str]]]


def official(rows: Rows) -> dict[str, tuple[float, list[float]]]:
    """pycocoevalcap on our tokens: score and values of rows, by the name of our metric."""
    answers = {n: [" ".join(words(answer))] for n, (answer, _) in enumerate(rows)}
    references = {n: [" ".join(words(text)) for text in texts] for n, (_, texts) in enumerate(rows)}
    bleu, bleu_rows = Bleu(4).compute_score(references, answers, verbose=0)
    found = {metric.name: (bleu[n], bleu_rows[n]) for n, metric in enumerate(BLEUS)}
    found["rouge_l"] = Rouge().compute_score(references, answers)
    if any(words(text) for _, texts in rows for text in texts):  # where no reference has a word, theirs stops
        found["cider_d"] = Cider().compute_score(references, answers)
    return found


def same(rows: Rows) -> None:
    answers, references = [answer for answer, _ in rows], [texts for _, texts in rows]
    for metric in (*BLEUS, cider_d, rouge_l):
        if metric.name in (theirs := official(rows)):
            corpus, each = theirs[metric.name]
            assert score(metric, answers, references) == pytest.approx(corpus, abs=1e-12), metric.name
            assert values(metric, answers, references) == pytest.approx(list(each), abs=1e-12), metric.name


@settings(deadline=None)
@given(ROWS)
@example([("", [""])])
def test_any_rows_score_as_in_pycocoevalcap(rows: Rows) -> None:
    same(rows)


def test_a_corpus_scores_as_in_pycocoevalcap() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{n}" for n in range(300)]
    rows = []
    for _ in range(500):
        base = [vocabulary[min(int(rng.expovariate(0.02)), 299)] for _ in range(rng.randint(4, 16))]
        near = [[word if rng.random() > 0.3 else rng.choice(vocabulary) for word in base] for _ in range(6)]
        answer, *references = (" ".join(words[: rng.randint(3, 16)]) for words in near)
        rows.append((answer, references[: rng.randint(1, 5)]))
    assert 0.2 < score(bleu_4, [row[0] for row in rows], [row[1] for row in rows]) < 0.8
    same(rows)


def test_official_values() -> None:
    group = VECTORS["coco_caption_pretokenised"]
    answers, references = [group["res"][n][0] for n in group["gts"]], list(group["gts"].values())
    for n, metric in enumerate(BLEUS):
        assert score(metric, answers, references) == pytest.approx(group["Bleu_1..4"][n], abs=1e-12)
        assert values(metric, answers, references) == pytest.approx(group["Bleu_per_sample"][n], abs=1e-12)
    for metric, name in ((cider_d, "CIDEr_D"), (rouge_l, "ROUGE_L")):
        assert score(metric, answers, references) == pytest.approx(group[name], abs=1e-12)
        assert values(metric, answers, references) == pytest.approx(group[f"{name}_per"], abs=1e-12)


def test_case_and_punctuation_do_not_count() -> None:
    said, true = ["A dog, running!", "x"], [["a dog running"], ["y"]]
    assert score(rouge_l, said, true) == 0.5
    assert score(bleu_1, said[:1], true[:1]) == pytest.approx(1)


def test_one_row_alone_tells_cider_nothing() -> None:
    assert score(cider_d, ["a red dog"], [["a red dog"]]) == 0
    assert score(cider_d, ["a red dog here", "two cats"], [["a red dog here"], ["two cats on grass"]]) > 2


def test_rarity_comes_from_the_references_never_from_the_answers() -> None:
    references = [["a red dog on the road"], ["a red cat on the sofa"], ["one bird"]]
    alone = values(cider_d, ["a red dog on the road", "x", "y"], references)[0]
    assert values(cider_d, ["a red dog on the road"] * 3, references)[0] == alone


def test_a_line_break_in_a_caption_moves_no_other_caption() -> None:
    references = [["a dog\u2028runs"], ["two\rcats sit"], ["one bird flies"]]
    for metric in (*BLEUS[:2], rouge_l):
        assert values(metric, ["a dog runs", "two cats sit", "one bird flies"], references) == pytest.approx([1, 1, 1])


def recall(answer: str | None, *keywords: str) -> float:
    return score(keyword_recall, [answer], [keywords])


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


def test_keywords_are_pooled_not_averaged() -> None:
    assert score(keyword_recall, ["red", "x"], [["red"], ["a", "b", "c"]]) == 0.25
