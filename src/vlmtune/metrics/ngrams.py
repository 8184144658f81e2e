"""BLEU in the field's two definitions, from one count of n-grams.

`bleu` is what fine-tuning scripts report (`evaluate`'s bleu, after tensorflow/nmt): shortest reference, no smoothing, 0..1.
`sacrebleu` is the machine translation community's: closest reference, exponential smoothing, 0..100. Both keep case and
split words with mteval's 13a rules. Columns of their stats: matches of orders 1-4, n-grams of orders 1-4, reference
length.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from vlmtune.metrics import Metric, Stats

ORDERS = 4
Words = tuple[str, ...]


@lru_cache(maxsize=1)
def _tokenizer_13a() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenizer: Callable[[str], str] = Tokenizer13a()
    return tokenizer


@lru_cache(maxsize=2**17)
def _words(text: str) -> Words:
    return tuple(_tokenizer_13a()(text.rstrip()).split())


def count_ngrams(words: Words) -> Counter[Words]:
    """How often each n-gram of orders 1 to 4 occurs."""
    return Counter(words[i : i + n] for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


@lru_cache(maxsize=2**17)
def _counts(answer: str, references: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Clipped matches and n-grams per order, then lengths of the references."""
    known: Counter[Words] = Counter()
    for reference in references:
        known |= count_ngrams(_words(reference))
    words = _words(answer)
    matches = [0] * ORDERS
    for ngram, count in count_ngrams(words).items():
        matches[len(ngram) - 1] += min(count, known[ngram])
    possible = [max(0, len(words) - n) for n in range(ORDERS)]
    return (*matches, *possible), tuple(len(_words(reference)) for reference in references)


def _measure(
    answers: Sequence[str | None], references: Sequence[Sequence[str]], length: Callable[[int, tuple[int, ...]], int]
) -> Stats:
    rows = []
    for answer, texts in zip(answers, references, strict=True):
        counts, lengths = _counts(answer or "", tuple(texts))
        rows.append((*counts, length(counts[ORDERS], lengths)))
    return np.array(rows, dtype=np.float64).reshape(-1, 2 * ORDERS + 1)


def _shortest(answer: int, references: tuple[int, ...]) -> int:
    return min(references)


def _closest(answer: int, references: tuple[int, ...]) -> int:
    return min(references, key=lambda length: (abs(length - answer), length))


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


bleu = Metric(
    name="bleu",
    measure=lambda answers, references: _measure(answers, references, _shortest),
    summarise=_bleu,
    signature="nrefs:{nrefs}|case:mixed|tok:13a|order:4|smooth:none|reference length:shortest (as in evaluate)",
)
sacrebleu = Metric(
    name="sacrebleu",
    measure=lambda answers, references: _measure(answers, references, _closest),
    summarise=_sacrebleu,
    signature="nrefs:{nrefs}|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
    scale=100.0,
)
