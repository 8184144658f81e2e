"""What counts as a word: a run of letters between spaces, or a single character in scripts that write none.

Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan put no spaces between words; Korean does, but attaches
particles to them. `language` says which of these a set of references is written in, so that metrics tokenize the whole
set alike.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

Language = Literal["zh", "ja", "ko", "th"]
"""Chinese, Japanese, Korean; "th" stands for Thai and the other scripts of Southeast Asia without spaces."""

Unit = Literal["words", "characters"]

_HAN = "\u3005\u3007\u3105-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_SOUTHEAST = "\u0e01-\u0e3a\u0e40-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3"

_UNSPACED = _HAN + _KANA + _SOUTHEAST
DENSE = _UNSPACED + _HANGUL
"""Inside of a character class: letters that metrics do not leave to spaces to separate."""

FEWEST_WORDS = 4
"""Words below which a text has no 4-gram for BLEU to count."""

_UNIT = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_TOKEN = re.compile(rf"[{DENSE}]|[^\s{DENSE}]+")
_WORD = re.compile(rf"[^\W\d_{DENSE}]+")
_LETTERS = {
    name: re.compile(f"[{letters}]")
    for name, letters in {"han": _HAN, "kana": _KANA, "ko": _HANGUL, "th": _SOUTHEAST, "dense": DENSE}.items()
}

_FEWEST_CHINESE = 0.1
_FEWEST = 0.5
"""Share of references from which the whole set is tokenized as that language. Chinese needs fewer: its tokenizer splits
the text around the Chinese as it is split without any, the other languages' do not."""

_KANA_SHARE = 0.05
"""Share of kana among kana and Han characters from which a set is Japanese; Chinese borrows a の at times."""


def units(text: str) -> list[str]:
    """Words between white space; in scripts without spaces every character is one.

    "a red ball" has 3 units, "一只红色的球" has 6, "一只 golden retriever" has 4.
    """
    return text.split() if text.isascii() else _UNIT.findall(text)


def count_short(texts: Sequence[str]) -> tuple[int, int] | None:
    """(texts of fewer than `FEWEST_WORDS` words, all texts) where most are that short; None where they are not.

    Every character of scripts without spaces is a word, and of Korean.
    """
    short = sum(len(text.split() if text.isascii() else _TOKEN.findall(text)) < FEWEST_WORDS for text in texts)
    return (short, len(texts)) if short > len(texts) / 2 else None


def first_units(text: str, count: int) -> str:
    """The text up to the end of its unit number `count`, with white space as single spaces."""
    end = 0
    for number, unit in enumerate(_UNIT.finditer(text)):
        if number == count:
            break
        end = unit.end()
    return " ".join(text[:end].split())


def unit_of(texts: Sequence[str]) -> Unit:
    """What `units` mostly counts in these texts."""
    unspaced = sum(bool(re.search(f"[{_UNSPACED}]", text)) and _is_dense(text) for text in texts if not text.isascii())
    return "characters" if unspaced > sum(bool(text.strip()) for text in texts) / 2 else "words"


def language(texts: Iterable[str]) -> Language | None:
    """The language of a set of texts if it needs a tokenizer of its own, else None.

    A text counts as written in such a language if it has more characters of its scripts than words of others: "a sign
    that says 出口" does not, "一只 golden retriever 在草地上" does.
    """
    total, dense, counts = 0, 0, dict.fromkeys(_LETTERS, 0)
    for text in texts:
        total += bool(text.strip())
        if not text.isascii() and _is_dense(text):
            dense += 1
            counts = {name: count + len(_LETTERS[name].findall(text)) for name, count in counts.items()}
    if not dense:
        return None
    cjk = counts["han"] + counts["kana"]
    found: Language = "zh" if cjk >= max(counts["ko"], counts["th"]) else "ko" if counts["ko"] > counts["th"] else "th"
    if found == "zh" and counts["kana"] > _KANA_SHARE * cjk:
        found = "ja"
    return found if dense >= (_FEWEST_CHINESE if found == "zh" else _FEWEST) * total else None


def _is_dense(text: str) -> bool:
    letters = len(_LETTERS["dense"].findall(text))
    return letters > 0 and letters > len(_WORD.findall(text))
