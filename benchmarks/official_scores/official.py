"""The official scripts' scores, written a second time and as literally as they are there, for comparison only.

Nothing here is shared with vlmtune. Each function names its script; `contractions.json` holds what the script of VQA
returned for every word that its table changes, and captions are split by the official tokenizer, a Java program.
tests/unit/test_official_scores.py compares these functions with values that the scripts themselves returned.
"""

import contextlib
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

CONTRACTIONS = json.loads((Path(__file__).parent / "contractions.json").read_text(encoding="utf-8"))["words"]
MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
NUMBERS = ["none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DIGITS = {word: str(max(n - 1, 0)) for n, word in enumerate(NUMBERS)}


@lru_cache(maxsize=2**16)
def _processed(text: str, comma: str) -> str:
    return _digits_and_articles(_punctuation(text, comma))


def _punctuation(text: str, comma: str) -> str:
    result = text
    for mark in MARKS:
        if mark + " " in text or " " + mark in text or re.search(comma, text) is not None:
            result = result.replace(mark, "")
        else:
            result = result.replace(mark, " ")
    return re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", result, int(re.UNICODE))


def _digits_and_articles(text: str) -> str:
    kept = []
    for word in text.lower().split():
        digit = DIGITS.get(word, word)
        if digit not in ["a", "an", "the"]:
            kept.append(digit)
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def _without(answers: list[str], left_out: int) -> list[str]:
    return [answer for n, answer in enumerate(answers) if n != left_out]


def _accuracy(answer: str, references: list[str]) -> float:
    each = [
        min(1.0, len([other for other in _without(references, n) if other == answer]) / 3)
        for n in range(len(references))
    ]
    return sum(each) / len(each)


def vqa_accuracy(answer: str, references: list[str]) -> float:
    """GT-Vision-Lab/VQA, vqaEval.py."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    references = [text.replace("\n", " ").replace("\t", " ").strip() for text in references]
    if len(set(references)) > 1:
        references = [_processed(text, r"(\d)(\,)(\d)") for text in references]
        answer = _processed(answer, r"(\d)(\,)(\d)")
    return _accuracy(answer, references)


def textvqa_accuracy(answer: str, references: list[str]) -> float:
    """facebookresearch/mmf, m4c_evaluators.py."""

    def processed(text: str) -> str:
        text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
        text = text.replace("\n", " ").replace("\t", " ").strip()
        return _processed(text, r"(?<=\d)(\,)+(?=\d)")

    return _accuracy(processed(answer), [processed(text) for text in references])


def exact_match(answer: str, references: list[str]) -> float:
    """QwenLM/Qwen-VL, evaluate_vqa.py."""
    return max(1.0 if answer.strip().lower() == text.strip().lower() else 0.0 for text in references)


def anls(answer: str, references: list[str]) -> float:
    """The script of the Robust Reading Competition, as in QwenLM/Qwen-VL, infographicsvqa_eval.py."""
    values = []
    for reference in references:
        one, two = (" ".join(text.strip().lower().split()) for text in (reference, answer))
        row = list(range(len(one) + 1))
        for n, letter in enumerate(two):
            above, row = row, [n + 1]
            for m, other in enumerate(one):
                row.append(above[m] if letter == other else 1 + min(above[m], above[m + 1], row[-1]))
        length = max(len(reference.upper()), len(answer.upper()))
        values.append(0.0 if length == 0 else row[-1] / length)
    best = 1 - min(values)
    return 0.0 if best < 0.5 else best


def relaxed_accuracy(answer: str, references: list[str]) -> float:
    """google-research/pix2struct, metrics.py, the best over the references."""

    def to_float(text: str) -> float | None:
        try:
            return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
        except ValueError:
            return None

    def correct(target: str) -> bool:
        said, true = to_float(answer), to_float(target)
        if said is not None and true:
            return abs(said - true) / abs(true) <= 0.05
        return answer.lower() == target.lower()

    return max(float(correct(target)) for target in references)


def _flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [one for name, child in value.items() for one in _flat(child, f"{key}.{name}" if key else name)]
    if isinstance(value, list):
        return [one for child in value for one in _flat(child, key)]
    return [(key, value)]


def _normalised(data: Any) -> Any:
    if not data:
        return {}
    if isinstance(data, dict):
        children = {key: _normalised(data[key]) for key in sorted(data, key=lambda key: (len(key), key))}
        return {key: child if isinstance(child, list) else [child] for key, child in children.items() if child}
    if isinstance(data, list):
        if all(isinstance(item, dict) for item in data):
            return [child for item in data if (child := _normalised(item))]
        return [str(item).strip() for item in data if type(item) in {str, int, float} and str(item).strip()]
    return [str(data).strip()]


def field_f1(answers: list[dict[str, Any]], records: list[dict[str, Any]]) -> float:
    """clovaai/donut, util.py, cal_f1."""
    right, wrong = 0, 0
    for answer, record in zip(answers, records, strict=True):
        said, true = _flat(_normalised(answer)), _flat(_normalised(record))
        for field in said:
            if field in true:
                right += 1
                true.remove(field)
            else:
                wrong += 1
        wrong += len(true)
    return right / (right + wrong / 2) if right + wrong else 1.0


def transcripts(answers: list[str], references: list[str]) -> dict[str, float]:
    """jiwer, on texts in NFC; words separated by any white space, the ends stripped."""
    import jiwer

    said, true = ([unicodedata.normalize("NFC", text).strip() for text in texts] for texts in (answers, references))
    spaced = [[" ".join(text.split()) for text in texts] for texts in (true, said)]
    strip = jiwer.ReduceToListOfListOfChars()
    return {
        "cer": float(jiwer.cer(true, said, reference_transform=strip, hypothesis_transform=strip)),
        "wer": float(jiwer.wer(*spaced)),
    }


def labels(answers: list[str], true: list[str], known: list[str]) -> dict[str, float]:
    """scikit-learn, over the fixed label set."""
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "accuracy": float(accuracy_score(true, answers)),
        "macro_f1": float(f1_score(true, answers, labels=known, average="macro", zero_division=0)),
    }


_TOKENS: dict[str, str] = {}
"""Tokens of the captions seen, separated by spaces: each start of the Java program takes a second."""


def tokenize(captions: Sequence[str]) -> None:
    """Split all of these captions with one start of pycocoevalcap's PTBTokenizer; needs Java."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    new = [text for text in dict.fromkeys(captions) if text not in _TOKENS]
    if new:
        with contextlib.redirect_stderr(io.StringIO()):
            found = PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(new)})
        _TOKENS.update({text: found[n][0] for n, text in enumerate(new)})


def captions(answers: list[str], references: list[list[str]]) -> dict[str, float]:
    """Sacrebleu and pycocoevalcap. Every row has the same number of references."""
    import sacrebleu
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    tokenize([*answers, *(text for texts in references for text in texts)])
    streams = [list(column) for column in zip(*references, strict=True)]
    said = {n: [_TOKENS[text]] for n, text in enumerate(answers)}
    true = {n: [_TOKENS[text] for text in texts] for n, texts in enumerate(references)}
    with contextlib.redirect_stdout(io.StringIO()):
        bleus = Bleu(4).compute_score(true, said)[0]
        cider, rouge = Cider().compute_score(true, said)[0], Rouge().compute_score(true, said)[0]
    return {
        "sacrebleu": sacrebleu.corpus_bleu(answers, streams).score,
        "chrf": sacrebleu.corpus_chrf(answers, streams).score,
        **{f"bleu_{n + 1}": float(value) for n, value in enumerate(bleus)},
        "cider_d": float(cider),
        "rouge_l": float(rouge),
    }
