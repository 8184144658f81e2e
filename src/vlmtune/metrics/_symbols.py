"""Texts as arrays of numbers, one per symbol: words numbered by a vocabulary, characters by their code points.

Letters: N rows, Q references of all rows together, S symbols of all texts together, T texts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice, pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Tokenizer = Callable[[str], Sequence[str]]
References = tuple[tuple[str, ...], ...]

BLOCK = 30_000
"""Symbols that are counted together: their arrays stay in the processor's cache, which makes counting linear."""

_TEXTS_AT_ONCE = 2_000
"""Texts whose words are in memory together."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """The symbols [S] of T texts, one text after the other. `ends` [T + 1]: a leading 0, and where each text ends."""

    numbers: NDArray[np.int32]
    ends: Ints

    @classmethod
    def of(cls, numbers: NDArray[np.int32], lengths: Iterable[int]) -> "Symbols":
        """From the symbols and the length of each text."""
        return cls(numbers, np.cumsum([0, *lengths], dtype=np.int64))

    @property
    def lengths(self) -> Ints:
        """Symbols of each text [T]."""
        return np.diff(self.ends)

    def part(self, first: int, last: int) -> "Symbols":
        """The texts from number `first` to before `last`."""
        start, end = self.ends[first], self.ends[last]
        return Symbols(self.numbers[start:end], self.ends[first : last + 1] - start)


@dataclass(frozen=True, slots=True)
class Texts:
    """N answers and their Q references; `row_index` [Q], ascending, is the row of each reference."""

    answers: Symbols
    references: Symbols
    row_index: Ints

    @property
    def rows(self) -> int:
        """N."""
        return len(self.answers.ends) - 1

    def blocks(self) -> Iterator["Texts"]:
        """The rows in order, as many together as have about `BLOCK` symbols."""
        ends = np.searchsorted(self.row_index, np.arange(self.rows + 1))
        for first, last in row_ranges(self.answers.lengths + np.diff(self.references.ends[ends])):
            begin, end = int(ends[first]), int(ends[last])
            references = self.references.part(begin, end)
            yield Texts(self.answers.part(first, last), references, self.row_index[begin:end] - first)


def row_ranges(sizes: Ints, most: int | None = None) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of rows, first and behind the last, of about as many symbols each.

    Args:
        sizes: symbols of each row [N].
        most: symbols of a range; `BLOCK` by default.
    """
    block = np.cumsum(sizes) // (most or BLOCK)
    starts = np.flatnonzero(np.diff(block, prepend=-1)).tolist()
    yield from zip(starts, [*starts[1:], len(sizes)][: len(starts)], strict=True)


def words(
    answers: Sequence[str | None],
    references: References,
    tokenizer: Tokenizer,
    numbers: Mapping[str, int] | None = None,
) -> Texts:
    """Words of answers and references, numbered alike; those of references are kept for the next answers to them.

    Args:
        answers: N texts; None is an empty one.
        references: one or more texts for each row.
        tokenizer: splits a text into words; the same object for the same tokenizer.
        numbers: of words that have one already; nothing is kept then.
    """
    if numbers is None:
        known, numbered, row_index = numbered_references(references, tokenizer)
    else:
        more: dict[str, int] = {}
        numbered = _numbered(map(tokenizer, chain.from_iterable(references)), numbers, more)
        known, row_index = {**numbers, **more}, _rows_of(references)
    said = (tokenizer(answer or "") for answer, _ in zip(answers, references, strict=True))
    return Texts(_numbered(said, known), numbered, row_index)


_Result = TypeVar("_Result")
_CLEAR: list[Callable[[], None]] = []


def kept_texts(most: int) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """Decorates a function of texts whose last results are kept until `forget_texts`."""

    def decorate(function: Callable[..., _Result]) -> Callable[..., _Result]:
        cached = lru_cache(maxsize=most)(function)
        _CLEAR.append(cached.cache_clear)
        return cached

    return decorate


def forget_texts() -> None:
    """Free the references that are kept for the next answers to them, and what was counted in both."""
    for clear in _CLEAR:
        clear()


def as_key(references: Iterable[Iterable[str]]) -> References:
    """References as the key of a cache: the same object for equal ones, as every cache keeps its keys."""
    return _kept(tuple(map(tuple, references)))


@kept_texts(2)
def _kept(references: References) -> References:
    return references


@kept_texts(2)  # COCO's tokens and sacrebleu's
def numbered_references(references: References, tokenizer: Tokenizer) -> tuple[Mapping[str, int], Symbols, Ints]:
    """The number of each word of references, the references as numbers, and the row of each [Q]."""
    known: dict[str, int] = {}
    numbered = _numbered(map(tokenizer, chain.from_iterable(references)), {}, known)
    return known, numbered, _rows_of(references)


def _rows_of(references: References) -> Ints:
    return np.repeat(np.arange(len(references)), [len(texts) for texts in references])


def _numbered(texts: Iterable[Sequence[str]], known: Mapping[str, int], more: dict[str, int] | None = None) -> Symbols:
    """Texts with the numbers of known words; `more` gets those of the others, which follow the known ones."""
    more = {} if more is None else more
    lengths, numbers, remaining = [0], [np.zeros(0, np.int32)], iter(texts)
    while some := [*islice(remaining, _TEXTS_AT_ONCE)]:
        words = [*chain.from_iterable(some)]
        number = {word: known.get(word, -1) for word in dict.fromkeys(words)}
        for word in [word for word, known_as in number.items() if known_as < 0]:
            number[word] = more.setdefault(word, len(known) + len(more))
        lengths += map(len, some)
        numbers.append(np.fromiter(map(number.__getitem__, words), np.int32, len(words)))
    return Symbols(np.concatenate(numbers), np.cumsum(lengths, dtype=np.int64))


def characters(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Texts:
    """Code points of answers and references."""
    row_index = np.repeat(np.arange(len(references)), [len(texts) for texts in references])
    return Texts(_code_points(answers), _code_points([*chain.from_iterable(references)]), row_index)


def _code_points(texts: Sequence[str]) -> Symbols:
    # surrogatepass: half a pair is a character like others.
    encoded = "".join(texts).encode("utf-32-le", "surrogatepass")
    return Symbols.of(np.frombuffer(encoded, dtype="<i4").astype(np.int32), map(len, texts))


def as_strings(texts: Texts) -> tuple[list[str], list[str]]:
    """Answers and references with a character for each symbol, the same one for the same symbol in both.

    Libraries compare strings faster than lists of words.
    """
    _, number = np.unique(np.concatenate([texts.answers.numbers, texts.references.numbers]), return_inverse=True)
    text = number.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    behind = len(texts.answers.numbers)
    return tuple(  # type: ignore[return-value]
        [text[start + at : end + at] for start, end in pairwise(ends)]
        for at, ends in ((0, texts.answers.ends.tolist()), (behind, texts.references.ends.tolist()))
    )
