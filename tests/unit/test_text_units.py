"""Words are counted between spaces; in scripts without spaces characters are."""

import pytest
from languages import EN, JA, KO, TH, ZH

from vlmtune.text_units import count_short, first_units, language, unit_of, units


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (ZH, "zh"),
        (JA, "ja"),
        (KO, "ko"),
        (TH, "th"),
        (["ຫມາສີນ້ຳຕານ", "ឆ្កែពណ៌ត្នោត"], "th"),
        (EN, None),
        (["Ein brauner Hund läuft über die Wiese", "Кот спит на диване", "قطة نائمة على الأريكة"], None),
        (["🐶🌳", "😀"], None),
        (["1999", "12.50"], None),
        ([], None),
        ([""], None),
        (["一只 golden retriever 在草地上奔跑", "穿 T-shirt 的男人"], "zh"),
        ([*ZH, *EN], "zh"),
        ([*ZH, *EN * 10], None),
        (["a neon sign that says 出口 above the door"] * 3, None),
        ([*JA, *EN], "ja"),
        ([*JA, *EN * 3], None),
        (["一只の狗在草地上奔跑", *ZH * 5], "zh"),
    ],
)
def test_the_language_of_a_set_of_references(texts: list[str], expected: str | None) -> None:
    assert language(texts) == expected


def test_units_are_words_or_characters() -> None:
    text = "  A brown\tdog's\x1cred ball,\n twice…  "
    assert units(text) == text.split()
    assert units("café au lait — ŵ") == "café au lait — ŵ".split()
    assert units("一只 golden retriever 在草地") == ["一", "只", "golden", "retriever", "在", "草", "地"]
    assert len(units("茶色い犬")) == 4
    assert units("갈색 개가") == ["갈색", "개가"], "Korean has spaces"
    assert (unit_of(ZH), unit_of(TH), unit_of(KO), unit_of(EN), unit_of([])) == (
        "characters",
        "characters",
        "words",
        "words",
        "words",
    )
    assert unit_of([*EN, ZH[0]]) == "words"


def test_a_text_is_cut_at_the_end_of_a_unit() -> None:
    assert first_units("one  two\nthree", 2) == "one two"
    assert first_units("一只 red 球", 3) == "一只 red"
    assert first_units("one two", 5) == "one two"
    assert first_units("one", 0) == ""


def test_short_references_are_those_that_have_no_4_grams() -> None:
    assert count_short(["red apple", "taxi", "a man on a horse"]) == (2, 3)
    assert count_short(["red apple", "a man on a horse"]) is None
    assert count_short(["狗", "红苹果", "一只棕色的狗"]) == (2, 3)
    assert count_short(ZH) is None
    assert count_short(["개가 달린다", "아이가 논다"]) is None, "every syllable is a token"
    assert count_short([]) is None
