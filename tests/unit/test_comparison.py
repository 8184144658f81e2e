"""A comparison: what it concludes, what it refuses, what it says beside the numbers."""

from dataclasses import replace

import pytest
from pieces import QUICK, judged, lines

from vlmtune.errors import ConfigError, DataError, IntegrityError
from vlmtune.scoring import EvaluationConfig
from vlmtune.scoring.controls import cut_like
from vlmtune.scoring.score import score
from vlmtune.scoring.traits import repeats_itself
from vlmtune.tasks import captioning


def test_better_worse_and_equal() -> None:
    poor, good, same = lines(60, 0.7), lines(60, 0.2), lines(60, 0.7, seed=2)
    assert judged(poor, good).status == "improved"
    assert judged(good, poor).status == "worse"
    equal = judged(poor, same)
    assert equal.status == "no_difference"
    assert "is excluded" in equal.verdict


def test_a_file_against_itself_has_no_difference_at_all() -> None:
    some = lines(60, 0.5)
    comparison = judged(some, some)
    assert comparison.status == "no_difference"
    for metric in comparison.facts["metrics"]:
        assert (metric["delta"], metric["ci"], metric["p"]) == (0.0, [0.0, 0.0], 1.0)
    assert all(example["gain"] == 0 for example in comparison.examples)
    assert comparison.facts["warnings"] == []


def test_only_shared_rows_are_compared_and_the_rest_is_said() -> None:
    comparison = judged(lines(100, 0.5), lines(60, 0.3))
    rows = comparison.facts["rows"]
    assert (rows["a"], rows["b"], rows["paired"], rows["only_a"], rows["only_b"]) == (100, 60, 60, 40, 0)
    shared = judged(lines(100, 0.5)[:60], lines(60, 0.3))
    assert comparison.facts["metrics"] == shared.facts["metrics"]
    assert "60 rows are in both files; left out: 40 only in base" in comparison.facts["warnings"]


def test_too_many_failures_conclude_nothing() -> None:
    good = lines(100, 0.1)
    failed = [replace(line, prediction=None, failure={"stage": "engine", "reason": "x"}) for line in good]
    some = judged(lines(100, 0.7), [*failed[:5], *good[5:]])
    assert (some.status, some.facts["rows"]["compared"]) == ("improved", 95)
    many = judged(lines(100, 0.7), [*failed[:6], *good[6:]])
    assert many.status == "inconclusive"
    assert "0 and 6 of 100 paired rows failed" in many.verdict
    assert judged(lines(100, 0.7), failed).facts["metrics"] == []


def test_too_few_independent_rows_give_no_interval() -> None:
    few = judged(lines(19, 0.7), lines(19, 0.1))
    assert few.status == "inconclusive"
    assert few.facts["metrics"][0]["ci"] is None
    grouped = [[replace(line, cluster=f"c{n % 10}") for n, line in enumerate(lines(60, noise))] for noise in (0.7, 0.1)]
    assert judged(*grouped).facts["rows"]["groups"] == 10
    assert judged(*grouped).status == "inconclusive"


def test_rows_that_chose_the_checkpoint_are_no_evidence() -> None:
    a, b = lines(100, 0.5), lines(100, 0.3)
    chosen = {"selection_ids": [line.id for line in a[:40]], "mock": False}
    comparison = judged(a, b, manifest_b=chosen)
    assert comparison.facts["rows"]["compared"] == 60
    assert comparison.facts["metrics"] == judged(a[40:], b[40:]).facts["metrics"]
    everything = {"selection_ids": [line.id for line in a], "mock": False}
    assert judged(a, b, manifest_b=everything).status == "inconclusive"


def test_a_gain_by_shorter_answers_alone_is_called_that() -> None:
    long, short = lines(80, 0.5, extra=10), lines(80, 0.5)
    comparison = judged(long, short)
    assert comparison.status == "improved"
    assert "Answer length alone explains it" in comparison.verdict
    assert comparison.facts["controls"]["length"]["a_cut"] == pytest.approx(comparison.facts["metrics"][0]["b"])
    better = judged(long, lines(80, 0.1))
    assert "length" not in better.verdict
    assert better.facts["controls"]["length"]["explains"] is False


def test_answers_are_cut_to_the_other_side_s_lengths_by_rank() -> None:
    assert cut_like(["a b c d", "e f", "g h i"], ["x", "x y", "x y z"]) == ["a b c", "e", "g h"]
    assert cut_like(["a"], ["x y z"]) == ["a"]


def test_the_image_control_shows_what_exchanged_images_cost() -> None:
    a = lines(50, 0.1)
    blind = [{"id": line.id, "prediction": other.prediction} for line, other in zip(a, a[1:] + a[:1], strict=True)]
    image = judged(a, a, controls_a={"image": {"lines": blind}}).facts["controls"]["image"]["a"]
    assert image["rows"] == 50
    assert image["kept"] < 0.4
    assert image["ci"][0] > 0
    assert image["drop"] == pytest.approx(image["own"] - image["exchanged"])


def test_gain_of_a_row_is_the_change_of_the_corpus_score() -> None:
    a, b = lines(30, 0.6), lines(30, 0.2)
    comparison = judged(a, b)
    for n in (0, 7, 29):
        mixed = [*a[:n], b[n], *a[n + 1 :]]
        before, after = (score(x, captioning.TASK, captioning.Config()).metrics["bleu"] for x in (a, mixed))
        assert comparison.examples[n]["gain"] == pytest.approx(after - before)


def test_mock_and_real_answers_are_not_mixed() -> None:
    some = lines(30, 0.5)
    with pytest.raises(IntegrityError, match="USE_MOCK"):
        judged(some, some, manifest_a={"mock": True}, manifest_b={"mock": False})


def test_other_settings_are_said_first() -> None:
    some = lines(30, 0.5)
    made = [{"mock": False, "origin": {"inference": {"max_new_tokens": n}, "adapter": n}} for n in (32, 64)]
    warnings = judged(some, some[:20], manifest_a=made[0], manifest_b=made[1]).facts["warnings"]
    assert warnings[0] == "the two sides were not made alike: inference.max_new_tokens: 32 there, 64 here"


def test_a_metric_that_fell_while_the_primary_rose_is_said() -> None:
    a = [replace(line, truth={**line.truth, "keywords": ["zebra"]}) for line in lines(60, 0.7)]
    b = [replace(after, truth=before.truth) for before, after in zip(a, lines(60, 0.1), strict=True)]
    a = [replace(line, prediction=f"{line.prediction} zebra") for line in a]
    comparison = judged(a, b)
    assert comparison.status == "improved"
    assert "keyword_recall got worse: 1.0000 → 0.0000 (-1.0000 to -1.0000)" in comparison.facts["warnings"]


def test_what_cannot_be_compared_is_named() -> None:
    some = lines(30, 0.5)
    with pytest.raises(DataError, match="base has no rows"):
        judged([], some)
    with pytest.raises(DataError, match="no row in common"):
        judged(some, [replace(line, truth={"references": ["other"]}) for line in some])
    with pytest.raises(DataError, match=r"row 'row 0' has no 'references', which bleu compares with"):
        judged([replace(line, truth={"references": []}) for line in some], some)
    with pytest.raises(ConfigError, match="no metric 'bleuu'; .* did you mean 'bleu'"):
        judged(some, some, EvaluationConfig(metrics=["bleuu"]))
    with pytest.raises(ConfigError, match=r"evaluation.primary: 'sacrebleu' is not measured here"):
        judged(some, some, EvaluationConfig(metrics=["bleu"], primary="sacrebleu"))


def test_the_primary_metric_comes_first() -> None:
    some = lines(30, 0.5)
    comparison = judged(some, some, QUICK.model_copy(update={"primary": "sacrebleu"}))
    assert [metric["name"] for metric in comparison.facts["metrics"]] == ["sacrebleu", "bleu"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a red ball a red ball a red ball", True),
        ("x ball ball ball", True),
        ("a red ball and a red ball and a blue ball", False),
        ("ball ball", False),
        ("", False),
    ],
)
def test_loops_are_found(text: str, found: bool) -> None:
    assert repeats_itself(text) is found
