"""COCO's caption metrics, and the share of required keywords that a caption mentions.

BLEU-1..4, CIDEr-D and ROUGE-L are those of COCO's evaluation (github.com/tylin/coco-caption; pycocoevalcap on PyPI), on
the tokens of `_tokenization.words`: lower-cased, punctuation dropped. BLEU on other tokens is in `ngrams`. Truth:
`references`, one or more texts; `keyword_recall` alone compares with `keywords`.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._ngram_counts import (
    Floats,
    Ints,
    Order,
    Texts,
    clipped_matches,
    closest_length,
    number_symbols,
    per_row,
    ratio,
)
from vlmtune.metrics._tokenization import SIGNATURE as TOKENS
from vlmtune.metrics._tokenization import Words, words

ORDERS = 4
SIGMA = 6.0
"""CIDEr-D: standard deviation, in words, of the Gaussian that penalises a difference in length."""

BETA = 1.2
"""ROUGE-L: weight of recall."""

_SIGNATURE = f"coco-caption|nrefs:{{nrefs}}|case:lower|{TOKENS}"

Answers = Sequence[str | None]
References = Sequence[Sequence[str]]


# Five metrics measure the same rows in turn, first of one side of a comparison, then of the other.
@lru_cache(maxsize=2)
def _compared(answers: tuple[str | None, ...], references: tuple[tuple[str, ...], ...]) -> tuple[Stats, Floats]:
    """BLEU's statistics [N, 9] (matches and n-grams of orders 1-4, closest reference length), CIDEr-D per row [N]."""
    texts = number_symbols([words(answer or "") for answer in answers], [[*map(words, row)] for row in references])
    orders = list(texts.orders(ORDERS))
    stats = np.column_stack([clipped_matches(texts, orders), closest_length(texts)])
    stats.setflags(write=False)
    return stats, _cider_d(texts, orders)


def _cider_d(texts: Texts, orders: Sequence[Order]) -> Floats:
    """10 x the mean, over orders and references, of clipped cosines of tf-idf vectors, weighted by length [N]."""
    row_index, similarity = texts.row_index, np.zeros(len(texts.row_index))
    for order in orders:
        answers, references, shared = order.answers, order.references, order.shared
        idf = np.log(max(texts.rows, 1)) - np.log(np.maximum(_document_frequency(order, row_index), 1))
        answer, reference = answers.count * idf[answers.ngram], references.count * idf[references.ngram]
        common = np.minimum(answer[order.at[shared]], reference[shared]) * reference[shared]
        dot = np.bincount(references.text[shared], common, len(row_index))
        norm = np.sqrt(np.bincount(answers.text, answer**2, texts.rows))[row_index]
        norm = norm * np.sqrt(np.bincount(references.text, reference**2, len(row_index)))
        similarity += dot / np.where(norm > 0, norm, 1)
    difference = texts.answer_lengths[row_index] - texts.reference_lengths
    similarity *= np.exp(-(difference**2) / (2 * SIGMA**2))
    counts = np.bincount(row_index, minlength=texts.rows)
    return 10 / len(orders) * np.bincount(row_index, similarity, texts.rows) / counts


def _document_frequency(order: Order, row_index: Ints) -> Ints:
    """CIDEr's document frequency [distinct]: in how many rows a reference has the n-gram."""
    references = order.references
    pairs = np.unique(row_index[references.text] * order.distinct + references.ngram)
    return np.bincount(pairs % order.distinct, minlength=order.distinct)


def _measure_bleu(answers: Answers, references: References) -> Stats:
    return _compared(tuple(answers), tuple(map(tuple, references)))[0]


def _bleu(order: int) -> Metric:
    def summarise(sums: Stats) -> Stats:
        # The official script's two constants against division by zero. They matter only for single short rows.
        tiny, small = 1e-15, 1e-9
        matches, possible = sums[..., :order], sums[..., ORDERS : ORDERS + order]
        product = ((matches + tiny) / (possible + small)).prod(axis=-1)
        ratio_of_lengths = (sums[..., ORDERS] + tiny) / (sums[..., -1] + small)
        score: Stats = product ** (1 / order) * np.exp(1 - 1 / np.minimum(ratio_of_lengths, 1))
        return score

    return Metric(
        name=f"bleu_{order}",
        measure=_measure_bleu,
        summarise=summarise,
        signature=f"{_SIGNATURE}|order:{order}|smooth:none|reference length:closest",
    )


bleu_1, bleu_2, bleu_3, bleu_4 = (_bleu(order) for order in range(1, ORDERS + 1))


cider_d = Metric(
    name="cider_d",
    measure=lambda answers, references: per_row(_compared(tuple(answers), tuple(map(tuple, references)))[1]),
    summarise=ratio,
    signature=f"{_SIGNATURE}|order:4|sigma:6|idf:references of the evaluated rows|0..10",
    scale=10.0,
)
"""CIDEr-D (Vedantam et al. 2015). Inverse document frequencies come from the references of the rows given to `measure`
and are the same for every resample. A single row scores 0: its n-grams are in every row there is."""


def _rouge_l(answer: Words, references: Sequence[Words]) -> float:
    from rapidfuzz.distance import LCSseq

    # The official script splits at single spaces, so a text without words is one empty word.
    answer, texts = answer or ("",), [reference or ("",) for reference in references]
    common = [LCSseq.similarity(answer, text) for text in texts]
    precision = max(common) / len(answer)
    recall = max(length / len(text) for length, text in zip(common, texts, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if max(common) else 0.0


def _measure_rouge_l(answers: Answers, references: References) -> Stats:
    return per_row(
        0.0 if answer is None else _rouge_l(words(answer), [*map(words, row)])
        for answer, row in zip(answers, references, strict=True)
    )


rouge_l = Metric(
    name="rouge_l",
    measure=_measure_rouge_l,
    summarise=ratio,
    signature=f"{_SIGNATURE}|beta:1.2",
)
"""ROUGE-L (Lin and Och 2004): F-score of the longest common subsequence; precision and recall each from the reference
that is best for it."""


def _measure_keywords(answers: Answers, keywords: References) -> Stats:
    """Stats [N, 2]: keywords mentioned, keywords required. "|" separates alternatives; whole words, any case."""
    rows = []
    for answer, required in zip(answers, keywords, strict=True):
        text = " ".join(["", *re.findall(r"\w+", (answer or "").lower()), ""])
        mentioned = sum(any(f" {one.lower()} " in text for one in keyword.split("|")) for keyword in required)
        rows.append((mentioned, len(required)))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


keyword_recall = Metric(
    name="keyword_recall",
    measure=_measure_keywords,
    summarise=ratio,
    signature="whole words|case:lower|micro",
    truth="keywords",
)
