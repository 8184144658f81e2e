"""COCO's caption metrics, and the share of required keywords that a caption mentions.

BLEU-1..4, CIDEr-D and ROUGE-L are those of COCO's evaluation (github.com/tylin/coco-caption; pycocoevalcap on PyPI), on
the tokens of `_tokenization.caption_words`: lower-cased, punctuation dropped. BLEU on other tokens is in `ngrams`.
Truth: `references`, one or more texts; `keyword_recall` alone compares with `keywords`.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._ngram_counts import (
    DocumentFrequencies,
    Floats,
    Order,
    clipped_matches,
    closest_length,
    orders,
    per_row,
    ratio,
)
from vlmtune.metrics._symbols import Texts, as_key, as_strings, kept_texts, numbered_references, words
from vlmtune.metrics._tokenization import Tokenizer, caption_name, caption_tokenizer
from vlmtune.text_units import DENSE

ORDERS = 4
SIGMA = 6.0
"""CIDEr-D: standard deviation, in tokens, of the Gaussian that penalises a difference in length."""

BETA = 1.2
"""ROUGE-L: weight of recall."""

_ANYTHING = 1e-3
"""What a row must reach in CIDEr-D's self-check: with several references the best possible score is not known, and 0
means that all its n-grams are in every row."""

_SIGNATURE = "coco-caption|nrefs:{nrefs}|case:lower|tok:{tokens}"
_DENSE_WORD = re.compile(rf"[{DENSE}]|[^\W{DENSE}]+")

Answers = Sequence[str | None]
References = Sequence[Sequence[str]]


# Five metrics measure the same rows in turn, first of one side of a comparison, then of the other.
@kept_texts(2)
def _compared(
    answers: tuple[str | None, ...], references: tuple[tuple[str, ...], ...], tokenizer: Tokenizer
) -> tuple[Stats, Floats]:
    """BLEU's statistics [N, 9] (matches and n-grams of orders 1-4, closest reference length), CIDEr-D per row [N]."""
    texts, documents = words(answers, references, tokenizer), _documents(references, tokenizer)
    stats, values = [np.zeros((0, 2 * ORDERS + 1))], [np.zeros(0)]
    for block in texts.blocks():
        found = list(orders(block, ORDERS, documents))
        stats.append(np.column_stack([clipped_matches(block, ORDERS), closest_length(block)]))
        values.append(_cider_d(block, found, texts.rows))
    compared = np.concatenate(stats)
    compared.setflags(write=False)
    return compared, np.concatenate(values)


@kept_texts(1)
def _documents(references: tuple[tuple[str, ...], ...], tokenizer: Tokenizer) -> DocumentFrequencies:
    _, numbered, row_index = numbered_references(references, tokenizer)
    return DocumentFrequencies.of(numbered, row_index, ORDERS)


def _cider_d(texts: Texts, found: Sequence[Order], documents: int) -> Floats:
    """10 x the mean, over orders and references, of clipped cosines of tf-idf vectors, weighted by length [N]."""
    row_index, similarity = texts.row_index, np.zeros(len(texts.row_index))
    for order in found:
        answers, references, shared = order.answers, order.references, order.shared
        idf = np.log(documents) - np.log(np.maximum(order.frequency, 1))
        answer, reference = answers.count * idf[answers.ngram], references.count * idf[references.ngram]
        common = np.minimum(answer[order.at[shared]], reference[shared]) * reference[shared]
        dot = np.bincount(references.text[shared], common, len(row_index))
        norm = np.sqrt(np.bincount(answers.text, answer**2, texts.rows))[row_index]
        norm = norm * np.sqrt(np.bincount(references.text, reference**2, len(row_index)))
        similarity += dot / np.where(norm > 0, norm, 1)
    difference = texts.answers.lengths[row_index] - texts.references.lengths
    similarity *= np.exp(-(difference**2) / (2 * SIGMA**2))
    counts = np.bincount(row_index, minlength=texts.rows)
    return 10 / len(found) * np.bincount(row_index, similarity, texts.rows) / counts


def _measure_bleu(answers: Answers, references: References, tokenizer: Tokenizer | None = None) -> Stats:
    return _compared(tuple(answers), as_key(references), tokenizer or caption_tokenizer(references))[0]


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
        counted_over=lambda pool: partial(_measure_bleu, tokenizer=caption_tokenizer(pool)),
        summarise=summarise,
        signature=f"{_SIGNATURE}|order:{order}|smooth:none|reference length:closest",
        tokens=caption_name,
    )


bleu_1, bleu_2, bleu_3, bleu_4 = (_bleu(order) for order in range(1, ORDERS + 1))


def _cider_d_over(pool: References) -> Callable[[Answers, References], Stats]:
    """CIDEr-D per row, with the document frequencies of other rows' references."""
    documents = as_key(pool)
    tokenizer = caption_tokenizer(documents)
    known, _, _ = numbered_references(documents, tokenizer)
    frequencies = _documents(documents, tokenizer)

    def measure(answers: Answers, references: References) -> Stats:
        texts, values = words(answers, as_key(references), tokenizer, known), [np.zeros(0)]
        for block in texts.blocks():
            values.append(_cider_d(block, list(orders(block, ORDERS, frequencies)), len(documents)))
        return per_row(np.concatenate(values))

    return measure


cider_d = Metric(
    name="cider_d",
    measure=lambda answers, references: per_row(
        _compared(tuple(answers), as_key(references), caption_tokenizer(references))[1]
    ),
    summarise=ratio,
    signature=f"{_SIGNATURE}|order:4|sigma:6|idf:references of the evaluated rows|0..10",
    tokens=caption_name,
    scale=10.0,
    attainable=lambda references: _ANYTHING,
    counted_over=_cider_d_over,
)
"""CIDEr-D (Vedantam et al. 2015). Inverse document frequencies come from the references of the rows given to `measure`
and are the same for every resample. A single row scores 0: its n-grams are in every row there is."""


_NO_WORDS = "\U0010ffff"
"""The official script splits at single spaces, so a text without words is one empty word."""


def _rouge_l(answer: str, references: Sequence[str]) -> float:
    """Of texts with a character for each word."""
    from rapidfuzz.distance import LCSseq

    common = [LCSseq.similarity(answer, text) for text in references]
    precision = max(common) / len(answer)
    recall = max(length / len(text) for length, text in zip(common, references, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if max(common) else 0.0


def _measure_rouge_l(answers: Answers, references: References, tokenizer: Tokenizer | None = None) -> Stats:
    kept = as_key(references)
    texts, values = words(answers, kept, tokenizer or caption_tokenizer(kept)), []
    for block in texts.blocks():
        said, true = ([text or _NO_WORDS for text in some] for some in as_strings(block))
        ends = np.searchsorted(block.row_index, np.arange(block.rows + 1)).tolist()
        values += [_rouge_l(text, true[ends[n] : ends[n + 1]]) for n, text in enumerate(said)]
    return per_row(0.0 if answer is None else value for answer, value in zip(answers, values, strict=True))


rouge_l = Metric(
    name="rouge_l",
    measure=_measure_rouge_l,
    counted_over=lambda pool: partial(_measure_rouge_l, tokenizer=caption_tokenizer(pool)),
    summarise=ratio,
    signature=f"{_SIGNATURE}|beta:1.2",
    tokens=caption_name,
)
"""ROUGE-L (Lin and Och 2004): F-score of the longest common subsequence; precision and recall each from the reference
that is best for it."""


def _keyword_units(keywords: References) -> str:
    dense = any(re.search(f"[{DENSE}]", keyword) for required in keywords for keyword in required)
    return "whole words, CJK and Thai by character" if dense else "whole words"


def _measure_keywords(answers: Answers, keywords: References, units: str | None = None) -> Stats:
    """Stats [N, 2]: keywords mentioned, keywords required. "|" separates alternatives; whole words, any case.

    If any keyword is in a script without spaces, each character of such scripts is a word of its own: "草地" is
    mentioned in "在草地上", and "cat" in "一只cat".
    """
    by_character, rows = (units or _keyword_units(keywords)) != "whole words", []
    word = _DENSE_WORD if by_character else re.compile(r"\w+")
    for answer, required in zip(answers, keywords, strict=True):
        text = " ".join(["", *word.findall((answer or "").lower()), ""])
        wanted = [[one.lower() for one in keyword.split("|")] for keyword in required]
        if by_character:
            wanted = [[" ".join(word.findall(one)) for one in alternatives] for alternatives in wanted]
        rows.append((sum(any(f" {one} " in text for one in some) for some in wanted), len(required)))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


keyword_recall = Metric(
    name="keyword_recall",
    measure=_measure_keywords,
    counted_over=lambda pool: partial(_measure_keywords, units=_keyword_units(pool)),
    summarise=ratio,
    signature="{tokens}|case:lower|micro",
    truth="keywords",
    tokens=_keyword_units,
    bounded=True,
)
