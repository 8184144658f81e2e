"""BLEU equals its official implementations, and its statistics add up to the corpus score."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from vlmtune.metrics import Metric, bleu, sacrebleu

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "metric_vectors.json").read_text())["bleu"]["vectors"]
WORDS = st.lists(st.sampled_from(["a", "red", "Red", "ball", "is", "on", "grass", ",", ".", "two"]), max_size=12)
TEXT = WORDS.map(" ".join)
ROWS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=2, max_size=2)), min_size=1, max_size=6)


def score(metric: Metric, answers: list[str], references: list[list[str]]) -> float:
    return float(metric.summarise(metric.measure(answers, references).sum(axis=0)))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["preds"][0])
@pytest.mark.parametrize(("metric", "key"), [(bleu, "hf_bleu"), (sacrebleu, "sacrebleu_exp")], ids=lambda m: str(m)[:9])
def test_official_values(metric: Metric, key: str, vector: dict[str, object]) -> None:
    assert score(metric, vector["preds"], vector["refs"]) == pytest.approx(vector[key], abs=1e-9)


@given(ROWS)
def test_sacrebleu_is_the_library_s(rows: list[tuple[str, list[str]]]) -> None:
    answers, references = [row[0] for row in rows], [row[1] for row in rows]
    official = BLEU().corpus_score(answers, [list(column) for column in zip(*references, strict=True)])
    assert score(sacrebleu, answers, references) == pytest.approx(official.score, abs=1e-9)


@given(ROWS)
def test_with_one_reference_and_no_smoothing_both_definitions_meet(rows: list[tuple[str, list[str]]]) -> None:
    answers, references = [row[0] for row in rows], [row[1][:1] for row in rows]
    official = BLEU(smooth_method="none").corpus_score(answers, [[r[0] for r in references]])
    assert score(bleu, answers, references) == pytest.approx(official.score / 100, abs=1e-9)


def test_many_resamples_at_once_equal_one_at_a_time() -> None:
    answers = ["a red ball on grass", "two balls", "", "a house is on the street"]
    references = [["a red ball is on the grass", "a ball"], ["two blue balls"], ["a tree"], ["a house on the street", "x"]]
    for metric in (bleu, sacrebleu):
        stats = metric.measure(answers, references)
        drawn = np.random.default_rng(0).integers(0, 4, (50, 4))
        together = metric.summarise(stats[drawn].sum(axis=1))
        assert together.shape == (50,)
        for rows, value in zip(drawn, together, strict=True):
            alone = score(metric, [answers[n] for n in rows], [references[n] for n in rows])
            assert value == pytest.approx(alone, abs=1e-12)


def test_an_unparsed_answer_counts_as_an_empty_one() -> None:
    references = [["a red ball on the grass"], ["a blue car on the street"]]
    assert score(bleu, ["a red ball on the grass", None], references) == score(
        bleu, ["a red ball on the grass", ""], references
    )


def test_unknown_metric_is_an_attribute_error() -> None:
    import vlmtune.metrics

    with pytest.raises(AttributeError, match="no metric 'blue'"):
        _ = vlmtune.metrics.blue
