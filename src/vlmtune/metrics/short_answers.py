"""Short answers to questions: right or wrong, or nearly right. Truth: `references`, the accepted answers.

Every metric here is a mean over rows of a value from 0 to 1, that of the reference which suits the answer best (VQA
accuracy asks how many agree). An unreadable answer is wrong, even where a reference is empty. Texts are compared as the
official scripts compare them: to these metrics "The answer is red" is not "red", and to most of them neither is "red.";
`exact_match_lenient` reads both sides more freely, and is a metric of its own.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._ngram_counts import per_row, ratio

Answers = Sequence[str | None]
References = Sequence[Sequence[str]]

_QUOTES = " \"'`“”„‘’«»"
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:n] + word[n + 1 :] for n, letter in enumerate(word) if letter == "'"]


# The official table restores one apostrophe at a time ("couldn'tve", "couldnt've"), and drops that of "somebody'd".
_RESTORED = {short: word for word in _CONTRACTIONS.split() for short in _without_one_apostrophe(word)}
_RESTORED["somebody'd"] = "somebodyd"


@lru_cache(maxsize=2**16)
def normalise_vqa(text: str) -> str:
    """A text as VQA's evaluation compares it.

    Punctuation marks become spaces; a mark is deleted instead where it also occurs next to a space, or where the text
    has a number with a comma. Periods are deleted, except before a digit; number words become digits; articles are
    deleted; contractions get their apostrophe back. "The two dogs, dont bark." becomes "2 dogs don't bark". Source:
    processPunctuation and processDigitArticle of github.com/GT-Vision-Lab/VQA.
    """
    given, number = text, re.search(r"\d,\d", text) is not None
    for mark in _MARKS:
        beside_space = f"{mark} " in given or f" {mark}" in given
        text = text.replace(mark, "" if number or beside_space else " ")
    # 32: the official script passes re.UNICODE in the position of `count`.
    text = re.sub(r"\.(?!\d)", "", text, count=32)
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in ("a", "an", "the"))


@lru_cache(maxsize=2**16)
def normalise_textvqa(text: str) -> str:
    """A text as TextVQA's evaluation compares it: VQA's normalisation, after lower-casing, deleting commas and question
    marks, and splitting "'s" off its word. "Joe's, no?" becomes "joe 's no". Source: EvalAIAnswerProcessor of
    github.com/facebookresearch/mmf.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalise_vqa(_one_line(text))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _vqa(answer: str, references: Sequence[str]) -> float:
    answer, *known = map(_one_line, (answer, *references))
    if len(set(known)) > 1:
        answer, *known = map(normalise_vqa, (answer, *known))
    return _leave_one_out(answer, known)


def _textvqa(answer: str, references: Sequence[str]) -> float:
    return _leave_one_out(normalise_textvqa(answer), [normalise_textvqa(text) for text in references])


def _leave_one_out(answer: str, known: Sequence[str]) -> float:
    agree = known.count(answer)
    left_out_agrees, other_left_out = min(1.0, (agree - 1) / 3), min(1.0, agree / 3)
    return (agree * left_out_agrees + (len(known) - agree) * other_left_out) / len(known)


def _attainable_vqa(references: Sequence[str]) -> float:
    """1 with fewer than four references, so that the self-check names these rows; else what the people agree on."""
    return 1.0 if len(references) < 4 else max(_vqa(text, references) for text in dict.fromkeys(references))


def _attainable_textvqa(references: Sequence[str]) -> float:
    """As for VQA accuracy."""
    return 1.0 if len(references) < 4 else max(_textvqa(text, references) for text in dict.fromkeys(references))


def _unnormalised(answers: Answers, references: References) -> str | None:
    """How many answers get 0 in VQA accuracy for their spelling alone."""
    rows = 0
    for answer, texts in zip(answers, references, strict=True):
        known = {_one_line(text) for text in texts} if len(texts) > 1 else set()
        if answer is not None and len(known) == 1 and (text := _one_line(answer)) not in known:
            rows += normalise_vqa(text) == normalise_vqa(known.pop())
    if not rows:
        return None
    return (
        f"{rows} of {len(answers)} answers differ from their reference only in letter case, punctuation or the like "
        "and score 0: where all references of a row are one string, the official script normalises nothing; "
        "textvqa_accuracy normalises every row"
    )


def _lenient(text: str) -> str:
    """The text in lower case, without quotes around it, one final stop, and more than one space in a row."""
    plain = " ".join(text.casefold().split())
    bare = plain.strip(_QUOTES)
    if bare.endswith(".") and not bare.endswith(".."):
        bare = bare[:-1].strip(_QUOTES)
    return bare or plain


def _exact_lenient(answer: str, references: Sequence[str]) -> float:
    return float(_lenient(answer) in map(_lenient, references))


def _exact(answer: str, references: Sequence[str]) -> float:
    return float(any(answer.strip().lower() == reference.strip().lower() for reference in references))


def _anls(answer: str, references: Sequence[str]) -> float:
    from rapidfuzz.distance import Levenshtein

    written, nearest = " ".join(answer.lower().split()), 1.0
    for reference in references:
        # The official script divides by the length of the raw texts in capitals ("ß" counts as two).
        longest = max(len(reference.upper()), len(answer.upper()))
        edits = Levenshtein.distance(written, " ".join(reference.lower().split()))
        nearest = min(nearest, edits / longest if longest else 0.0)
    return 1 - nearest if 1 - nearest >= 0.5 else 0.0


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _relaxed(answer: str, references: Sequence[str]) -> float:
    return float(any(_close(reference, answer) for reference in references))


def _close(target: str, answer: str) -> bool:
    expected, answered = _number(target), _number(answer)
    if answered is not None and expected:
        return abs(answered - expected) / abs(expected) <= 0.05
    return answer.lower() == target.lower()


def _mean_of(value: Callable[[str, Sequence[str]], float]) -> Callable[[Answers, References], Stats]:
    def measure(answers: Answers, references: References) -> Stats:
        pairs = zip(answers, references, strict=True)
        return per_row(0.0 if answer is None else value(answer, known) for answer, known in pairs)

    return measure


vqa_accuracy = Metric(
    name="vqa_accuracy",
    measure=_mean_of(_vqa),
    summarise=ratio,
    signature="nrefs:{nrefs}|leave one out|3 agree|norm:vqa v2, unless all references are equal",
    attainable=_attainable_vqa,
    bounded=True,
    caveat=_unnormalised,
)
"""VQA accuracy (Antol et al. 2015; github.com/GT-Vision-Lab/VQA, a013f00): mean over the references, each left out in
turn, of min(agreeing others / 3, 1). Where all references are the same string, nothing is normalised. Designed for
ten answers by ten people: with fewer than four references no answer can reach 1, with one every answer gets 0."""

exact_match = Metric(
    name="exact_match",
    measure=_mean_of(_exact),
    summarise=ratio,
    signature="nrefs:{nrefs}|case:lower|strip|any reference",
    binary=True,
)
"""Whether the answer is a reference, regardless of case and surrounding white space (QwenLM/Qwen-VL's eval_mm)."""

textvqa_accuracy = Metric(
    name="textvqa_accuracy",
    measure=_mean_of(_textvqa),
    summarise=ratio,
    signature="nrefs:{nrefs}|leave one out|3 agree|norm:EvalAI, every row",
    attainable=_attainable_textvqa,
    bounded=True,
)
"""TextVQA's accuracy (Singh et al. 2019; github.com/facebookresearch/mmf, m4c_evaluators.py): VQA accuracy with the
answer processor of EvalAI's server, on every row, also where all references are the same. Designed for ten answers."""

exact_match_lenient = Metric(
    name="exact_match_lenient",
    measure=_mean_of(_exact_lenient),
    summarise=ratio,
    signature="nrefs:{nrefs}|both sides without case, outer quotes, one final stop, repeated white space|any reference",
    binary=True,
)
"""Whether the answer is a reference when both are read freely: "apple inc" is "“Apple Inc.”". No benchmark's metric."""

anls = Metric(
    name="anls",
    measure=_mean_of(_anls),
    summarise=ratio,
    signature="nrefs:{nrefs}|case:lower|threshold:0.5, counted|as rrc.cvc.uab.es",
    bounded=True,
)
"""ANLS (Biten et al. 2019) as the Robust Reading Competition's script computes it: 1 - edits / longer length against
the nearest reference, 0 below 0.5. The paper's equation excludes 0.5 itself; the script and leaderboard count it."""

relaxed_accuracy = Metric(
    name="relaxed_accuracy",
    measure=_mean_of(_relaxed),
    summarise=ratio,
    signature="nrefs:{nrefs}|5% of the reference|as pix2struct",
    binary=True,
)
"""ChartQA's relaxed accuracy (Methani et al. 2020; github.com/google-research/pix2struct): numbers within 5 % of the
reference, percentages as fractions; otherwise, and for a reference of 0, equal texts regardless of case."""
