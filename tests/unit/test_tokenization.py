"""COCO's tokens: what Java's PTBTokenizer gives, and on plain sentences what nltk's Treebank tokenizer gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_vectors import MORE
from nltk.tokenize import TreebankWordTokenizer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from vlmtune.metrics._tokenization import sacrebleu_words, words

PUNCTUATION = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
_PIECES = """
    a dog's dogs man's it's don't can't won't they'll we've I'm she'd t-shirt black-and-white two 1,000 3.5 7:30 and/or
    "red" , ; : ? ! ... -- $5 50% #5 & cannot gonna Boston sky kayak keeps Kelvin's
"""
SENTENCES = st.lists(st.sampled_from(_PIECES.split()), min_size=1, max_size=12).map(" ".join)


@pytest.mark.parametrize("case", MORE["ptb_tokens"], ids=lambda case: case["in"][:30])
def test_tokens_are_the_java_program_s(case: dict[str, str]) -> None:
    assert list(words(case["in"])) == case["out"]


@settings(deadline=None)
@given(SENTENCES)
def test_tokens_of_a_plain_sentence_are_the_treebank_s(sentence: str) -> None:
    """Without what the two tell apart: brackets, several sentences, typographic signs, single quotes."""
    sentence += "."
    official = TreebankWordTokenizer().tokenize(sentence)
    assert list(words(sentence)) == [token.lower() for token in official if token not in PUNCTUATION]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a\rb\nc\u2028d\u2029e\x0bf\x85g\u00a0h\u3000i\tj", "a b c d e f g h i j"),
        ("A “dog’s” ‘toy’ — red…", "A \"dog's\" 'toy' -- red..."),
        ("a «dog» ‹toy› – red", "a \"dog\" 'toy' - red"),
        ("a well\u2011known co\u00adop\ufeff\u200b dog 🐶", "a well-known coop dog"),
    ],
)
def test_typography_and_white_space_do_not_matter(text: str, plain: str) -> None:
    assert words(text) == words(plain)


@pytest.mark.parametrize(
    ("text", "tokens", "java"),
    [
        ("happy :)", "happy -rrb-", "happy :-rrb-"),
        ("yes?no", "yes no", "yes?no"),
        ("the ’90s", "the '90s", "the ’90s"),
        ("well\u2011known", "well-known", "well\u2011known"),
        ("call 555-1234 now", "call 555-1234 now", "call 555 -1234 now"),
        ("5 ₹", "5 ₹", "5"),
        ("1 1/2 cups", "1 1/2 cups", "1\u00a01/2 cups"),
    ],
)
def test_where_java_s_tokens_are_left_on_purpose(text: str, tokens: str, java: str) -> None:
    """Smileys, questions without a space, and telephone numbers are rare in captions and need long tables; a sign's two
    typographic forms should be one word."""
    assert " ".join(words(text)) == tokens != java


def test_a_letter_before_the_end_is_a_word_before_a_name_an_initial() -> None:
    assert words("plan B.") == ("plan", "b")
    assert words("plan B. The end") == ("plan", "b", "the", "end")
    assert words("R. L. Stine") == ("r.", "l.", "stine")


def test_long_runs_take_no_time() -> None:
    """Nothing is quadratic: a model that repeats itself does not stop the score."""
    for piece in (".", "-", "+", "a", "a.", "a-", "'", "<a ", "a@", "n't", "!", "1,", "&", "A&", "\u0301"):
        words(piece * 20_000)


@settings(deadline=None)
@given(st.text())
def test_any_text_has_tokens_without_white_space(text: str) -> None:
    assert all(token and token.split() == [token] for token in words(text))


@settings(deadline=None, max_examples=500)
@given(st.text(st.sampled_from("aBc '.,-é!1&\n"), max_size=12))
def test_texts_that_need_no_rules_are_split_as_by_sacrebleu(text: str) -> None:
    assert list(sacrebleu_words("13a", text)) == Tokenizer13a()(text.rstrip()).split()


@settings(deadline=None)
@given(st.lists(st.sampled_from("a A dogs cannot Gonna mr st etc don".split()), max_size=6), st.booleans())
def test_a_text_of_nothing_but_words_needs_no_rules(chosen: list[str], period: bool) -> None:
    text = " ".join(chosen) + " ." * period
    assert words(text) == words(f"{text} !!")[:-1]
