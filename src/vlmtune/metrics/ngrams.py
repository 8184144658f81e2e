"""Metrics of machine translation: n-grams that an answer shares with its references. Case and punctuation count.

`bleu` is what fine-tuning scripts report (`evaluate`'s bleu, after tensorflow/nmt): shortest reference, no smoothing,
0..1. `sacrebleu` is the machine translation community's: closest reference, exponential smoothing, 0..100. Both split
words with mteval's 13a rules, and text without spaces as sacrebleu recommends. `chrf` compares characters. COCO's BLEU,
on other tokens, is in `captions`. Truth: `references`, one or more texts.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._ngram_counts import clipped_matches, closest_length, first_of_row, shared
from vlmtune.metrics._symbols import Texts, as_key, characters, kept_texts, row_ranges, words
from vlmtune.metrics._tokenization import Tokenizer, sacrebleu_name, sacrebleu_tokenizer

ORDERS = 4
CHARACTERS = 6


# Both definitions of BLEU measure the same rows in turn, first of one side of a comparison, then of the other.
@kept_texts(2)
def _compared(answers: tuple[str | None, ...], references: tuple[tuple[str, ...], ...], tokenizer: Tokenizer) -> Stats:
    """Matches of orders 1-4, n-grams of orders 1-4, lengths of the closest and of the shortest reference [N, 10]."""
    texts = words(answers, references, tokenizer)
    lengths = texts.references.lengths
    shortest = lengths[first_of_row(texts.row_index, lengths)]
    matches = [clipped_matches(block, ORDERS) for block in texts.blocks()]
    empty = np.zeros((0, 2 * ORDERS))
    return np.column_stack([np.concatenate([empty, *matches]), closest_length(texts), shortest])


def _measure(
    length: int,
    answers: Sequence[str | None],
    references: Sequence[Sequence[str]],
    tokenizer: Tokenizer | None = None,
) -> Stats:
    """Stats [N, 9]: matches of orders 1-4, n-grams of orders 1-4, length of one reference (a column of `_compared`)."""
    compared = _compared(tuple(answers), as_key(references), tokenizer or sacrebleu_tokenizer(references))
    return compared[:, [*range(2 * ORDERS), length]]


def _brevity(answer: Stats, reference: Stats) -> Stats:
    short = (answer > 0) & (answer < reference)
    penalty = np.exp(1 - reference / np.where(answer > 0, answer, 1))
    return np.where(short, penalty, (answer > 0).astype(np.float64))


def _geometric_mean(precisions: Stats) -> Stats:
    safe = np.log(np.where(precisions > 0, precisions, 1))
    return np.where((precisions > 0).all(axis=-1), np.exp(safe.mean(axis=-1)), 0.0)


def _bleu(sums: Stats) -> Stats:
    matches, possible = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    precisions = matches / np.where(possible > 0, possible, 1)
    return _brevity(possible[..., 0], sums[..., -1]) * _geometric_mean(precisions)


def _sacrebleu(sums: Stats) -> Stats:
    matches, possible = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    missed = (matches == 0) & (possible > 0)
    halved = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), matches)
    precisions = halved / np.where(possible > 0, possible, 1)
    score = _brevity(possible[..., 0], sums[..., -1]) * _geometric_mean(precisions)
    return 100 * np.where(matches.any(axis=-1), score, 0.0)


def _measure_chrf(answers: Sequence[str | None], references: Sequence[Sequence[str]]) -> Stats:
    """Stats [N, 18]: per order 1-6, n-grams of the answer, of its best reference, of both.

    An order that the reference is too short for counts no n-grams of the answer either (sacrebleu's "effective order").
    """
    pairs = zip(answers, references, strict=True)
    sizes = np.array([len(answer or "") + sum(map(len, row)) for answer, row in pairs], dtype=np.int64)
    blocks = (_chrf_block(answers[first:last], references[first:last]) for first, last in row_ranges(sizes))
    return np.concatenate([np.zeros((0, 3 * CHARACTERS)), *blocks])


def _chrf_block(answers: Sequence[str | None], references: Sequence[Sequence[str]]) -> Stats:
    said = ["".join((answer or "").split()) for answer in answers]
    true = [["".join(text.split()) for text in row] for row in references]
    # An answer that is a reference shares all its n-grams with it, and no other reference is better.
    lengths = np.array([*map(len, said)])
    stats = np.repeat(np.maximum(lengths[:, None] - np.arange(CHARACTERS), 0), 3, axis=1).astype(np.float64)
    others = [n for n, text in enumerate(said) if not text or text not in true[n]]
    stats[others] = _best_references(characters([said[n] for n in others], [true[n] for n in others]))
    return stats


def _best_references(texts: Texts) -> Stats:
    columns = []
    for shorter, found in enumerate(shared(texts, CHARACTERS)):
        of_reference = np.maximum(texts.references.lengths - shorter, 0)
        of_answer = np.maximum(texts.answers.lengths[texts.row_index] - shorter, 0)
        both = np.bincount(found.reference, found.both, len(of_reference))
        columns += [np.where(of_reference > 0, of_answer, 0), of_reference, both]
    stats = np.stack(columns, axis=1).astype(np.float64)
    return stats[first_of_row(texts.row_index, -_chrf(stats))]


def _chrf(sums: Stats) -> Stats:
    # Summed in sacrebleu's order: the last bit decides which of two equally good references is best.
    precision = recall = orders = np.zeros(sums.shape[:-1])
    for n in range(0, 3 * CHARACTERS, 3):
        answer, reference, both = sums[..., n], sums[..., n + 1], sums[..., n + 2]
        counts = (answer > 0) & (reference > 0)
        precision = precision + np.where(counts, both / np.where(counts, answer, 1), 0.0)
        recall = recall + np.where(counts, both / np.where(counts, reference, 1), 0.0)
        orders = orders + counts
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    either = precision + recall > 0
    return 100 * np.where(either, 5 * precision * recall / np.where(either, 4 * precision + recall, 1), 0.0)


bleu = Metric(
    name="bleu",
    measure=partial(_measure, 2 * ORDERS + 1),
    counted_over=lambda pool: partial(_measure, 2 * ORDERS + 1, tokenizer=sacrebleu_tokenizer(pool)),
    summarise=_bleu,
    signature="nrefs:{nrefs}|case:mixed|tok:{tokens}|order:4|smooth:none|reference length:shortest (as in evaluate)",
    tokens=sacrebleu_name,
)
sacrebleu = Metric(
    name="sacrebleu",
    measure=partial(_measure, 2 * ORDERS),
    counted_over=lambda pool: partial(_measure, 2 * ORDERS, tokenizer=sacrebleu_tokenizer(pool)),
    summarise=_sacrebleu,
    signature="nrefs:{nrefs}|case:mixed|eff:no|tok:{tokens}|smooth:exp|version:2.6.0",
    tokens=sacrebleu_name,
    scale=100.0,
)
chrf = Metric(
    name="chrf",
    measure=_measure_chrf,
    summarise=_chrf,
    signature="nrefs:{nrefs}|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    scale=100.0,
)
"""chrF2 (Popović 2015; beta 2) as sacrebleu computes it: F-score of the mean precision and mean recall of character
n-grams, orders 1-6, white space removed, counts added up over rows; a row counts its best reference."""
