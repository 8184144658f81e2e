"""Text recognition: edits per character and per word. Lower is better, and rates above 1 are possible.

Truth: `references`; of several, the one with the lowest rate counts. Both sides are normalised to NFC, so that two ways
of encoding "é" are one character, and stripped. Rates are micro-averaged: edits of all rows over the length of all
references. An empty reference adds its insertions; where all are empty, the rate is the number of edits.
"""

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._ngram_counts import ratio

Symbols = Sequence[str]


def _characters(text: str) -> Symbols:
    return unicodedata.normalize("NFC", text).strip()


def _words(text: str) -> Symbols:
    return unicodedata.normalize("NFC", text).split()


def _edits(answer: Symbols, references: Sequence[Symbols]) -> tuple[int, int]:
    """(edits, length) of the reference with the lowest rate."""
    from rapidfuzz.distance import Levenshtein

    found = [(Levenshtein.distance(reference, answer), len(reference)) for reference in references]
    return min(found, key=lambda pair: pair[0] / max(pair[1], 1))


def _measure(split: Callable[[str], Symbols]) -> Callable[[Sequence[str | None], Sequence[Sequence[str]]], Stats]:
    def measure(answers: Sequence[str | None], references: Sequence[Sequence[str]]) -> Stats:
        """Stats [N, 2]: edits, symbols of the reference."""
        rows = []
        for answer, texts in zip(answers, references, strict=True):
            edits, length = _edits(split(answer or ""), [split(text) for text in texts])
            # An unreadable answer is never right, not even where there is nothing to read.
            rows.append((max(edits, 1) if answer is None else edits, length))
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    return measure


cer = Metric(
    name="cer",
    measure=_measure(_characters),
    summarise=ratio,
    signature="nrefs:{nrefs}|case:mixed|NFC|strip|micro",
    higher_is_better=False,
)
"""Character error rate: substitutions, deletions and insertions over characters of the reference. White space inside
the text counts."""

wer = Metric(
    name="wer",
    measure=_measure(_words),
    summarise=ratio,
    signature="nrefs:{nrefs}|case:mixed|NFC|words:white space|micro",
    higher_is_better=False,
)
"""Word error rate. Words are separated by any white space, line breaks included."""
