"""Labels are found in the sentences that untrained models write, and never in ones that deny them."""

import pytest
from growth import LINEAR, growth

from vlmtune.tasks import classification
from vlmtune.types import Unparsed

ANIMALS = ["fracture", "no fracture", "猫", "狗", "fox", "hare"]
LETTERS = ["A", "B", "C", "D"]
YES_NO = ["yes", "no"]


def find(text: str, labels: list[str]) -> str | None:
    answer = classification.parse(classification.Config(labels=labels), text)
    return None if isinstance(answer, Unparsed) else answer


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("There is no sign of a fracture.", "no fracture"),
        ("这是一只猫", "猫"),
        ("It is not a fox", None),
        ("这不是猫", None),
        ("不是狗，是猫", "猫"),
        ("不是狗而是猫", "猫"),
        ("非常像一只猫", "猫"),
        ("Not a hare but a fox.", "fox"),
        ("It is not a hare, it is a fox.", "fox"),
        ("No, it's a hare", "hare"),
        ("no fox, hare", None),
        ("The fracture is not visible.", "no fracture"),
        ("no fracture seen", "no fracture"),
        ("fracture: absent", "no fracture"),
        ("There's no doubt it is a fox", "fox"),
        ("A fox, not a hare", "fox"),
        ("fox or hare", None),
        ("The **fox**", "fox"),
        ("fox's tail", "fox"),
        ("foxes", None),
        ("I don't see a fox", None),
        ("without fracture", "no fracture"),
        ("Kein fracture", "no fracture"),
        ("I'm not sure, but it may be a fox", "fox"),
        ("猫ではありません", None),
        ("答案是猫。", "猫"),
        ("Answer: fox (not hare)", "fox"),
        ("Between fox and hare, the answer is hare.", "hare"),
        ("no acute displaced fracture is seen", "no fracture"),
        ("Fracture", "fracture"),
        ("fracture.", "fracture"),
        ("There is a fracture", "fracture"),
        ('{"label": "fox"}', "fox"),
        ("not a fox and not a hare", None),
        ("Neither fox nor hare", None),
        ("This is fox这是", "fox"),
        ("**Answer:** fox", "fox"),
        ("__fox__", "fox"),
        ("rather than a fox, a hare", None),
        ("a hare rather than a fox", "hare"),
        ("", None),
        ("fox\n\nThe ears are short, so it isn't a hare.", "fox"),
        ("no findings; fox", "fox"),
        ("Es ist kein fox", None),
    ],
)
def test_a_label_in_a_sentence(text: str, label: str | None) -> None:
    assert find(text, ANIMALS) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A fox", None),
        ("A", "A"),
        ("(A)", "A"),
        ("A.", "A"),
        ("answer: A", "A"),
        ("**A**", "A"),
        ("A. A fox", "A"),
        ("The answer is A because", "A"),
        ("Answer: A fox", None),
        ("a fox and a hare", None),
        ("B) fox, since A is wrong", "B"),
        ("The correct option is (C).", "C"),
        ("It is a B", "B"),
        ("a", "A"),
        ("not B", None),
        ("A or B", None),
        ("A, B", None),
        ("答案是A", "A"),
        ("选A", None),
        ("选B", "B"),
        ("Option A", "A"),
        ("This is a class A image", "A"),
        ("The answer: **B**", "B"),
        ("Ａ", "A"),
        ("grade A", "A"),
        ("A) fox", "A"),
        ("a) fox", "A"),
        ("The animal: a fox", None),
    ],
)
def test_an_option_letter_counts_where_it_stands_as_an_answer(text: str, label: str | None) -> None:
    assert find(text, LETTERS) == label


@pytest.mark.parametrize(
    ("text", "labels", "label"),
    [
        ("no fracture", ["fracture", "normal"], None),
        ("I don't know", ["T", "D", "I"], None),
        ("An X-ray", ["X", "Y"], None),
        ("Yes, there is no dog", ["yes", "no"], "yes"),
        ("No, there is a cat", ["yes", "no"], "no"),
        ("There is no dog", ["yes", "no"], "no"),
        ("No.", ["yes", "no"], "no"),
        ("No sign of a dog", ["yes", "no"], "no"),
        ("C++ of course", ["C", "C++", "C#"], "C++"),
        ("-1", ["1", "-1"], "-1"),
        ("the value is 2.5", ["2", "5"], None),
        ("2", ["1", "2"], "2"),
        ("It is 2.", ["1", "2"], "2"),
        ("U.S.", ["U.S.", "UK"], "U.S."),
        ("the U.S. flag", ["U.S.", "UK"], "U.S."),
        ("New York", ["new-york", "x"], "new-york"),
        ("a cat", ["a", "A"], None),
        ("A", ["a", "A"], "A"),
        ("?", ["?", "!"], "?"),
        ("Straße", ["strasse", "weg"], "strasse"),
        ("malignant", ["benign", "malignant"], "malignant"),
        ("non-malignant", ["benign", "malignant"], None),
        ("not benign", ["benign", "malignant"], None),
    ],
)
def test_other_label_sets(text: str, labels: list[str], label: str | None) -> None:
    assert find(text, labels) == label


@pytest.mark.parametrize("label", ["U.S.", "a.m.", '"STOP"', "No. 5", "C++", "no", "not a fox", "猫", "-1", "(A)", "A"])
def test_an_answer_equal_to_a_label_is_that_label(label: str) -> None:
    assert find(label, [label, "something else"]) == label
    assert find(f" {label}\n", [label, "something else"]) == label


def test_the_reason_says_what_was_wrong() -> None:
    config = classification.Config(labels=ANIMALS)
    said = ["a cow", "fox or hare", "It is not a fox", "A fox. It is not a fox."]
    assert [classification.parse(config, text) for text in said] == [
        Unparsed("names no label"),
        Unparsed("names 2 labels"),
        Unparsed("only denies a label"),
        Unparsed("both names and denies a label"),
    ]


@pytest.mark.parametrize("junk", ["[fox] ", "n't ", "\n", '"', "A or ", "answer: ", "a", "不", "no question "])
def test_long_junk_takes_as_long_as_it_is(junk: str) -> None:
    assert growth(lambda text: [find(text, labels) for labels in (ANIMALS, LETTERS, YES_NO)], junk) < LINEAR


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("这是一只熊猫", None),
        ("猫头鹰", None),
        ("热狗", None),
        ("斑马", None),
        ("鸟巢", None),
        ("熊猫和狗", "狗"),
        ("一只黑猫在睡觉", "猫"),
        ("小狗坐着", "狗"),
        ("图中是一匹马。", "马"),
        ("這是一隻狗", "狗"),
        ("没有猫", None),
        ("图中是一位男性", "男"),
        ("红色的球", "红"),
        ("粉红色", None),
        ("三个", "三"),
    ],
)
def test_a_chinese_label_of_one_character_is_not_a_part_of_another_word(text: str, label: str | None) -> None:
    assert find(text, ["猫", "狗", "马", "鸟", "男", "红", "三"]) == label
