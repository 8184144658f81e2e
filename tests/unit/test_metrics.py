"""What holds for every metric: one definition gives the score, its resamples and the paired test."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from metric_vectors import score

import vlmtune.metrics
from vlmtune import registry
from vlmtune.metrics import Metric, cider_d, vqa_accuracy
from vlmtune.scoring.statistics import Resamples

TEXTS = (
    ["a red ball lies on grass", "two cats", "10", "a house is on the street", "", "a ball", "one red car"],
    [["a red ball lies on the grass", "a ball"], ["two blue cats here"], ["10.2"], ["a house is on the street", "10"],
     ["a tree"], ["a ball"], ["one red car by the road"]],
)  # fmt: skip
LABELS = ["cat", "dog", "bird"]
ROWS: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
    "references": TEXTS,
    "keywords": (TEXTS[0], [["red"], ["cat|cats", "dog"], ["5"], ["house", "street"], ["x"], ["ball"], ["car"]]),
    "label": (["cat", "dog", "bird", "cat", "x", "bird", "cat"], ["cat", "dog", "cat", "cat", "dog", "bird", "cat"]),
    "class": (
        ["cat", "dog", "cat", "cat", "x", "bird", "cat"],
        [{"label": name, "labels": LABELS} for name in ("cat", "dog", "dog", "cat", "dog", "bird", "cat")],
    ),
    "boxes": (
        [[[0, 0, 10, 10 - n], [50, 50, 60, 60]][: 1 + n % 3] for n in range(7)],
        [[[0, 0, 10 + n, 10 - n], [50, 51, 61, 59], [n, 5, 9, 9]][: 1 + n % 3] for n in (0, 5, 1, 9, 2, 6, 4)],
    ),
    "record": ([{"a": n % 3, "b": "x" * (1 + n // 4)} for n in range(7)], [{"a": n % 2, "b": "x"} for n in range(7)]),
}  # fmt: skip
"""Answers and truths by the name of the truth; some right, some wrong, each row differently."""


def every() -> list[Any]:
    files = [registry.load("metrics", name) for name in registry.available("metrics")]
    found = {value.name: value for file in files for value in vars(file).values() if isinstance(value, Metric)}
    return [pytest.param(metric, id=name) for name, metric in found.items()]


JAVA = {"meteor", "spice"}
"""Programs, started for every measurement; `tests/contract/test_meteor.py` has their tests."""

METRICS = [param for param in every() if param.id not in JAVA]


def test_all_metrics_of_the_design_are_here() -> None:
    assert {param.id for param in every()} == set(
        "bleu sacrebleu chrf bleu_1 bleu_2 bleu_3 bleu_4 cider_d rouge_l keyword_recall vqa_accuracy exact_match anls "
        "relaxed_accuracy exact_match_lenient textvqa_accuracy accuracy macro_f1 acc_at_05 mean_iou f1_at_05 coco_map "
        "cer wer field_f1 typed_field_f1 record_match meteor spice".split()
    )


@pytest.mark.parametrize("metric", METRICS)
def test_many_resamples_at_once_equal_each_resample_scored_alone(metric: Metric) -> None:
    answers, truths = ROWS[metric.truth]
    truths = [row * 3 for row in truths] if metric is vqa_accuracy else truths  # it asks how many agree
    stats = metric.measure(answers, truths)
    drawn = np.random.default_rng(0).integers(0, 7, (50, 7))
    together = metric.summarise(stats[drawn].sum(axis=1))
    assert together.shape == (50,)
    assert len(set(together)) > 2, "the rows must differ for this to say anything"
    for rows, value in zip(drawn, together, strict=True):
        if metric is cider_d or metric.linearised:
            # The idf belongs to the evaluated set, as does a linearised metric: a resample averages the rows' values.
            alone = float(metric.summarise(stats)[rows].mean())
        else:
            alone = score(metric, [answers[n] for n in rows], [truths[n] for n in rows])
        assert value == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_sums_of_the_bootstrap_can_be_summarised(metric: Metric) -> None:
    stats = metric.measure(*ROWS[metric.truth])
    (sums,) = Resamples(7, 20, seed=0).bootstrap([stats])
    assert np.isfinite(metric.summarise(sums)).all()
    assert np.isfinite(metric.summarise(np.zeros_like(sums))).all()


@pytest.mark.parametrize("metric", METRICS)
def test_right_answers_reach_the_end_of_the_scale_and_unread_ones_do_not(metric: Metric) -> None:
    texts = ["a red ball lies on the green grass", "one blue bird sings in an old tree"]
    right: dict[str, list[tuple[Any, Any]]] = {
        "references": [(text, [text] * 10) for text in texts],
        "keywords": [(text, text.split()) for text in texts],
        "label": [("cat", "cat"), ("dog", "dog")],
        "class": [(name, {"label": name, "labels": ["cat", "dog"]}) for name in ("cat", "dog")],
        "boxes": [([[1, 2, 3, 4]], [[1, 2, 3, 4]])] * 2,
        "record": [({"a": 1}, {"a": 1})] * 2,
    }
    answers, truths = zip(*right[metric.truth], strict=True)
    best = metric.scale if metric.higher_is_better else 0
    sign = 1 if metric.higher_is_better else -1
    assert score(metric, answers, truths) == pytest.approx(best)
    assert sign * score(metric, [answers[0], None], truths) < sign * best
    assert score(metric, [None, None], truths) == pytest.approx(0 if metric.higher_is_better else 1)


@pytest.mark.parametrize("metric", METRICS)
def test_shapes_and_arguments(metric: Metric) -> None:
    answers, truths = ROWS[metric.truth]
    kept = json.dumps([answers, truths])
    stats = metric.measure(answers, truths)
    assert stats.dtype == np.float64
    assert stats.shape[0] == 7
    assert np.ndim(metric.summarise(stats.sum(axis=0))) == 0
    assert json.dumps([answers, truths]) == kept, "arguments stay as they are"
    assert "{" not in metric.signature.format(nrefs=2, tokens="13a")
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter"):
        metric.measure(answers, truths[:-1])


def test_importing_all_metrics_stays_light() -> None:
    files = ", ".join(f"vlmtune.metrics.{name}" for name in registry.available("metrics"))
    code = f"import json, sys, {files}; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert {"sacrebleu", "rapidfuzz", "torch", "nltk", "sklearn", "jiwer", "pycocoevalcap"} & set(loaded) == set()


def test_an_unknown_metric_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no metric 'blue'"):
        _ = vlmtune.metrics.blue


def test_metrics_of_right_and_wrong_say_so() -> None:
    """Exact tests for shares apply to them (docs/statistics.md); every row of theirs scores 0 or 1."""
    binary = {param.id: param.values[0] for param in METRICS if param.values[0].binary}
    assert set(binary) == set(
        "accuracy exact_match exact_match_lenient relaxed_accuracy acc_at_05 record_match".split()
    )
    for metric in binary.values():
        answers, truths = ROWS[metric.truth]
        rows = np.asarray(metric.summarise(metric.measure([*answers, None], [*truths, truths[0]])))
        assert set(rows.tolist()) == {0.0, 1.0}, metric.name
