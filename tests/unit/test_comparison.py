"""A comparison: what it concludes, what it refuses, what it says beside the numbers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import QUICK, judged, lines
from simulations import compared

from vlmtune.errors import ConfigError, DataError, IntegrityError
from vlmtune.metrics import Metric
from vlmtune.predictions import Line
from vlmtune.scoring import EvaluationConfig
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.diagnostics import truncate_to_lengths
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.scoring.score import repeats_itself, score
from vlmtune.scoring.statistics import holm
from vlmtune.tasks import Task, captioning


def _hits(answers: Sequence[Any], truths: Sequence[Any]) -> np.ndarray:
    return np.array([[float(answer == truth[0]), 1.0] for answer, truth in zip(answers, truths, strict=True)])


RIGHT = Metric(
    name="right",
    measure=_hits,
    summarise=lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1),
    signature="the first reference",
    binary=True,
)
SHARE = replace(RIGHT, name="share", binary=False)


def right_or_wrong(count: int, share: float, seed: int) -> list[Line]:
    rng = np.random.default_rng(seed)
    return [Line(str(n), "yes" if rng.random() < share else "no", {"references": ["yes"]}) for n in range(count)]


def asked(a: Sequence[Line], *b: Sequence[Line], metrics: tuple[Metric, ...] = (RIGHT, SHARE)) -> Comparison:
    task: Task = replace(captioning.TASK, metrics=metrics)
    sides = [PredictionFile(name, side) for name, side in zip("abcde", (a, *b), strict=False)]
    return compare(sides[0], sides[1], task, captioning.Config(), QUICK, sides[2:])


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
    for metric in comparison.result["metrics"]:
        assert (metric["delta"], metric["ci"], metric["p"]) == (0.0, None, 1.0)
        assert metric["no_interval"].startswith("no row differs")
    assert all(example["gain"] == 0 for example in comparison.examples)
    assert comparison.result["warnings"] == []


def test_only_shared_rows_are_compared_and_the_rest_is_said() -> None:
    comparison = judged(lines(100, 0.5), lines(60, 0.3))
    rows = comparison.result["rows"]
    assert (rows["a"], rows["b"], rows["paired"], rows["only_a"], rows["only_b"]) == (100, 60, 60, 40, 0)
    shared = judged(lines(100, 0.5)[:60], lines(60, 0.3))
    assert comparison.result["metrics"] == shared.result["metrics"]
    assert "60 rows are in both files; left out: 40 only in base" in comparison.result["warnings"]


def test_too_many_failures_conclude_nothing() -> None:
    good = lines(100, 0.1)
    failed = [replace(line, prediction=None, failure={"stage": "engine", "reason": "x"}) for line in good]
    some = judged(lines(100, 0.7), [*failed[:5], *good[5:]])
    assert (some.status, some.result["rows"]["compared"]) == ("improved", 95)
    many = judged(lines(100, 0.7), [*failed[:6], *good[6:]])
    assert many.status == "inconclusive"
    assert "0 and 6 of 100 paired rows failed" in many.verdict
    assert judged(lines(100, 0.7), failed).result["metrics"] == []


def test_too_few_independent_rows_give_no_interval() -> None:
    few = judged(lines(19, 0.7), lines(19, 0.1))
    assert few.status == "inconclusive"
    assert few.result["metrics"][0]["ci"] is None
    grouped = [[replace(line, cluster=f"c{n % 10}") for n, line in enumerate(lines(60, noise))] for noise in (0.7, 0.1)]
    assert judged(*grouped).result["rows"]["groups"] == 10
    assert judged(*grouped).status == "inconclusive"


def test_rows_that_chose_the_checkpoint_are_no_evidence() -> None:
    a, b = lines(100, 0.5), lines(100, 0.3)
    chosen = {"selection_ids": [line.id for line in a[:40]], "mock": False}
    comparison = judged(a, b, manifest_b=chosen)
    assert comparison.result["rows"]["compared"] == 60
    assert comparison.result["metrics"] == judged(a[40:], b[40:]).result["metrics"]
    assert (
        "40 rows were left out: they were used to choose the checkpoint or a setting" in comparison.result["warnings"]
    )


def test_a_split_that_chose_the_checkpoint_as_a_whole_is_shown_and_concludes_nothing() -> None:
    a, b = lines(100, 0.5), lines(100, 0.3)
    everything = {"selection_ids": [line.id for line in a], "mock": False}
    comparison = judged(a, b, manifest_b=everything)
    assert comparison.status == "inconclusive"
    assert "every paired row was used to choose the checkpoint" in comparison.verdict
    assert comparison.result["metrics"] == judged(a, b).result["metrics"], "the numbers are shown all the same"
    warned = [warning for warning in comparison.result["warnings"] if "the whole split was used" in warning]
    assert len(warned) == 1
    assert "favour tuned; compare on held-out rows (dataset.splits.test)" in warned[0]


def test_rows_paired_by_references_know_who_chose_them_by_their_own_id() -> None:
    a, b = lines(60, 0.5), [replace(line, id=f"mine {n}") for n, line in enumerate(lines(60, 0.3))]
    chosen = {"selection_ids": [f"mine {n}" for n in range(20)], "mock": False}
    comparison = judged(a, b, manifest_b=chosen)
    assert (comparison.result["paired_by"], comparison.result["rows"]["selection"]) == ("order", 20)


def test_a_gain_by_shorter_answers_alone_is_called_that() -> None:
    long, short = lines(80, 0.5, extra=10), lines(80, 0.5)
    comparison = judged(long, short)
    assert comparison.status == "improved"
    assert "Answer length alone explains it" in comparison.verdict
    assert comparison.result["controls"]["length"]["a_truncated"] == pytest.approx(comparison.result["metrics"][0]["b"])
    better = judged(long, lines(80, 0.1))
    assert "length" not in better.verdict
    assert better.result["controls"]["length"]["explains"] is False


def test_answers_are_cut_to_the_other_side_s_lengths_by_rank() -> None:
    assert truncate_to_lengths(["a b c d", "e f", "g h i"], ["x", "x y", "x y z"]) == ["a b c", "e", "g h"]
    assert truncate_to_lengths(["a"], ["x y z"]) == ["a"]


def test_an_error_rate_that_rises_with_other_images_is_no_blindness() -> None:
    """Lower is better here: what looks at the picture gets worse without it by a larger number."""
    rate = replace(RIGHT, name="error", higher_is_better=False, summarise=lambda sums: 1 - sums[..., 0] / sums[..., 1])
    task: Task = replace(captioning.TASK, metrics=(rate,))
    seeing = right_or_wrong(60, 0.9, 1)
    for answer, blind in (("no", False), (None, True)):
        other = [{"id": line.id, "prediction": answer or line.prediction} for line in seeing]
        side = PredictionFile("b", seeing, None, {"image": {"lines": other}})
        found = compare(PredictionFile("a", seeing), side, task, captioning.Config(), QUICK)
        assert any("does not look at the image" in warning for warning in found.result["warnings"]) is blind


def test_the_image_control_shows_what_exchanged_images_cost() -> None:
    a = lines(50, 0.1)
    blind = [{"id": line.id, "prediction": other.prediction} for line, other in zip(a, a[1:] + a[:1], strict=True)]
    image = judged(a, a, controls_a={"image": {"lines": blind}}).result["controls"]["image"]["a"]
    assert image["rows"] == 50
    assert image["kept"] < 0.4
    assert image["ci"][0] > 0
    assert image["drop"] == pytest.approx(image["original"] - image["shuffled"])


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
    warnings = judged(some, some[:20], manifest_a=made[0], manifest_b=made[1]).result["warnings"]
    assert warnings[0] == "the two sides have different settings: inference.max_new_tokens: 32 there, 64 here"


def test_a_metric_that_fell_while_the_primary_rose_is_said() -> None:
    a = [replace(line, truth={**line.truth, "keywords": ["zebra"]}) for line in lines(60, 0.7)]
    b = [replace(after, truth=before.truth) for before, after in zip(a, lines(60, 0.1), strict=True)]
    a = [replace(line, prediction=f"{line.prediction} zebra") for line in a]
    comparison = judged(a, b)
    assert comparison.status == "improved"
    assert "keyword_recall got worse: 1.0000 → 0.0000 (-1.0000 to -0.9032)" in comparison.result["warnings"]


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
    assert [metric["name"] for metric in comparison.result["metrics"]][:2] == ["sacrebleu", "bleu"]


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


def test_a_metric_of_right_and_wrong_has_exact_tests() -> None:
    a, b = right_or_wrong(90, 0.5, 1), right_or_wrong(90, 0.62, 2)
    found, share = asked(a, b).result["metrics"]
    only = [
        sum(x.prediction == "yes" != y.prediction for x, y in zip(*sides, strict=True)) for sides in ((a, b), (b, a))
    ]
    assert (found["mcnemar"]["only_a"], found["mcnemar"]["only_b"]) == tuple(only)
    assert 0.005 < found["mcnemar"]["p"] < 0.6
    assert found["p"] == pytest.approx(found["mcnemar"]["p"], abs=0.04), "the random exchange estimates the same"
    for side in ("a", "b"):
        low, high = found["rate_ci"][side]
        assert low < found[side] < high
    assert (share["mcnemar"], share["rate_ci"]) == (None, None), "only metrics that say so"


def test_rows_of_one_group_or_several_seeds_have_no_exact_test() -> None:
    a, b = (
        [replace(line, cluster=f"c{n // 2}") for n, line in enumerate(right_or_wrong(90, share, 3))]
        for share in (0.5, 0.7)
    )
    assert asked(a, b).result["metrics"][0]["mcnemar"] is None
    task = replace(captioning.TASK, metrics=(RIGHT,))
    seeds = tuple(PredictionFile(f"s{n}", right_or_wrong(90, 0.6, n)) for n in range(2))
    found = compare(PredictionFile("a", right_or_wrong(90, 0.5, 9)), seeds, task, captioning.Config(), QUICK)
    assert found.result["metrics"][0]["mcnemar"] is None


def test_one_side_s_share_has_an_interval() -> None:
    task, some = replace(captioning.TASK, metrics=(RIGHT, SHARE)), right_or_wrong(50, 0.5, 1)
    found = score(some, task, captioning.Config())
    assert set(found.intervals) == {"right"}
    low, high = found.intervals["right"]
    assert 0 < low < found.metrics["right"] < high < 1
    grouped = [replace(line, cluster="all") for line in some]
    assert score(grouped, task, captioning.Config()).intervals == {}


def test_failures_counted_as_worst_answers_stand_beside() -> None:
    a, b = right_or_wrong(100, 0.5, 1), right_or_wrong(100, 0.6, 2)
    assert asked(a, b).result["metrics"][0]["failures_as_worst"] is None
    lost = [replace(line, prediction=None, failure={"stage": "engine", "reason": "x"}) for line in b[:3]]
    entry = asked(a, [*lost, *b[3:]]).result["metrics"][0]
    wrong = [*(replace(line, prediction="no") for line in b[:3]), *b[3:]]
    expected = asked(a, wrong).result["metrics"][0]
    assert entry["failures_as_worst"] == {key: expected[key] for key in ("a", "b", "delta", "ci")}
    assert entry["delta"] == asked(a[3:], b[3:]).result["metrics"][0]["delta"]


def test_failures_that_decide_are_said() -> None:
    a = [*right_or_wrong(190, 1, 1), *right_or_wrong(200, 0, 1)[190:]]
    b = [*(replace(line, prediction=None) for line in a[:9]), *a[9:]]
    comparison = asked(a, b)
    assert comparison.status == "no_difference"
    assert comparison.result["warnings"][0].startswith(
        "the verdict depends on failed rows: with them scored as worst answers, right changes by -0.045"
    )


def test_all_but_the_primary_metric_are_corrected_for_their_number() -> None:
    a, b = right_or_wrong(90, 0.5, 1), right_or_wrong(90, 0.62, 2)
    more = tuple(replace(SHARE, name=f"share {n}") for n in range(3))
    entries = asked(a, b, metrics=(RIGHT, *more)).result["metrics"]
    assert entries[0]["p_adjusted"] == entries[0]["p"]
    assert [entry["p_adjusted"] for entry in entries[1:]] == holm([entry["p"] for entry in entries[1:]])
    assert entries[1]["p_adjusted"] == pytest.approx(3 * entries[1]["p"])


def test_others_say_what_they_would_say_alone() -> None:
    a, b, c, d = lines(60, 0.7), lines(60, 0.2), lines(50, 0.7, seed=2), lines(60, 0.9)
    together = asked(a, b, c, d, metrics=captioning.TASK.metrics[:1])
    plain = together.result
    assert [other["status"] for other in plain["others"]] == ["no_difference", "worse"]
    assert [other["names"]["b"] for other in plain["others"]] == ["c", "d"]
    assert all(set(other) == set(plain) for other in plain["others"])
    assert [other["rows"]["compared"] for other in plain["others"]] == [50, 60]
    for system, lines_of in zip((plain, *plain["others"]), (b, c, d), strict=True):
        alone = asked(a, lines_of, metrics=captioning.TASK.metrics[:1]).result
        for key in ("status", "rows", "lengths", "controls"):
            assert system[key] == alone[key], key
        assert {**system["metrics"][0], "p_adjusted": None} == {**alone["metrics"][0], "p_adjusted": None}
    raw = [system["metrics"][0]["p"] for system in (plain, *plain["others"])]
    assert [system["metrics"][0]["p_adjusted"] for system in (plain, *plain["others"])] == holm(raw)


def test_a_gain_that_does_not_survive_several_systems_is_said() -> None:
    a = [Line(str(n), "yes" if n < 50 else "no", {"references": ["yes"]}) for n in range(100)]
    b = [replace(line, prediction="yes" if 5 <= n < 65 else "no") for n, line in enumerate(a)]
    alone = asked(a, b)
    assert alone.status == "improved"
    assert 0.01 < alone.result["metrics"][0]["p"] < 0.05
    assert not any("Holm" in warning for warning in alone.result["warnings"])
    several = asked(a, b, *(right_or_wrong(100, 0.5, n) for n in (21, 22, 23)), metrics=(RIGHT,))
    assert several.result["warnings"][0].startswith(
        "several systems were compared: after Holm's correction right has p ="
    )


def test_rows_that_got_worse_come_worst_first() -> None:
    a, b = lines(60, 0.4), lines(60, 0.4, seed=2)
    comparison = judged(a, b)
    worse = comparison.regressions()
    gains = [row["gain"] for row in worse]
    assert gains == sorted(gains)
    assert len(worse) == sum(example["gain"] < 0 for example in comparison.examples) > 5
    assert judged(a, a).regressions() == []
    errors = replace(SHARE, name="errors", higher_is_better=False)
    wrong = asked(right_or_wrong(40, 0.5, 1), right_or_wrong(40, 0.5, 2), metrics=(errors,)).regressions()
    assert wrong
    assert all(row["gain"] > 0 for row in wrong)


def test_sampled_answers_are_said() -> None:
    some = lines(30, 0.5)
    made = {"mock": False, "origin": {"inference": {"temperature": 0.7}}}
    warnings = judged(some, some, manifest_a=made, manifest_b=made).result["warnings"]
    assert warnings == ["answers were sampled and will differ next time: base, tuned; at temperature 0 they do not"]


def test_the_detectable_difference_is_2_8_standard_errors() -> None:
    entry = judged(lines(80, 0.5), lines(80, 0.4)).result["metrics"][2]
    assert entry["interval_method"] == "jackknife_t"
    assert entry["detectable"] == pytest.approx(2.8016 / 3.92 * (entry["ci"][1] - entry["ci"][0]), rel=0.05)


# Several training seeds are one side: their mean score, and rows that are never pooled


def seeded(*b: PredictionFile, a: PredictionFile | None = None) -> Comparison:
    return compare(a or PredictionFile("base", lines(80, 0.6)), b, captioning.TASK, captioning.Config(), QUICK)


def seeds(count: int, noise: float = 0.4) -> list[PredictionFile]:
    return [PredictionFile(f"seed {n}", lines(80, noise, seed=10 + n)) for n in range(count)]


def test_the_image_control_is_of_all_seeds_that_ran_it() -> None:
    """Not of the first alone, which here looks at the picture as no other does."""
    several = seeds(3)
    blind = [
        {"image": {"lines": [{"id": line.id, "prediction": line.prediction} for line in side.lines]}}
        for side in several
    ]
    seeing = {"image": {"lines": [{"id": line.id, "prediction": "nothing at all here"} for line in several[0].lines]}}
    sides = [replace(side, controls=seeing if n == 0 else blind[n]) for n, side in enumerate(several)]
    found = seeded(*sides).result["controls"]["image"]["b"]
    alone = seeded(sides[0]).result["controls"]["image"]["b"]
    assert found["drop"] == pytest.approx(alone["original"] / 3)
    assert found["rows"] == 80
    part = seeded(sides[0], several[1]).result["controls"]["image"]["b"]
    assert part["drop"] == pytest.approx(alone["drop"]), "a seed whose control was not run is left out"


def test_the_score_is_the_mean_of_the_seeds_and_every_seed_is_named() -> None:
    several = seeds(3)
    found = seeded(*several)
    alone = [seeded(side).result["metrics"][0]["b"] for side in several]
    entry = found.result["metrics"][0]
    assert entry["seeds"] == {"a": [pytest.approx(entry["a"])], "b": pytest.approx(alone)}
    assert entry["b"] == pytest.approx(np.mean(alone))
    assert (entry["p"], entry["p_adjusted"]) == (None, None)
    assert found.result["seeds"] == {"a": ["base"], "b": ["seed 0", "seed 1", "seed 2"]}
    assert all(f"{score:.4f}" in found.verdict for score in alone)
    assert "holds for the recipe" in found.verdict
    assert "holds for this adapter, not for the recipe" in seeded(several[0]).verdict


def test_a_prompt_baseline_is_no_adapter() -> None:
    prompted = PredictionFile("other prompt", lines(80, 0.3), {"mock": False, "origin": {"adapter": None}})
    assert "adapter" not in seeded(prompted).verdict


def test_seeds_are_not_pooled() -> None:
    """Three times the same rows are no more rows: the seed effect decides how wide the interval is."""
    rng = np.random.default_rng(5)
    base = rng.normal(0, 0.01, 100)
    near, far = ([base + shift for shift in (0.5 - spread, 0.5, 0.5 + spread)] for spread in (0.01, 0.4))
    ends = [compared([base], side).result["metrics"][0]["ci"] for side in (near, far)]
    assert ends[0][0] > 0.45
    assert ends[1][0] < 0 < ends[1][1]
    assert compared([base], far).status == "no_difference"


def test_rows_must_be_in_and_answered_by_every_seed() -> None:
    one, two, three = seeds(3)
    two = replace(two, lines=two.lines[:70])
    gone = [replace(three.lines[0], prediction=None, failure={"stage": "engine", "reason": "x"}), *three.lines[1:]]
    rows = seeded(one, two, replace(three, lines=gone)).result["rows"]
    assert (rows["paired"], rows["compared"], rows["failed_a"], rows["failed_b"]) == (70, 69, 0, 1)


def test_the_same_answers_twice_are_not_two_seeds() -> None:
    one, _ = seeds(2)
    assert (
        "seed 0 and again have the same answers: they are one training run, not two seeds"
        in (seeded(one, replace(one, name="again")).result["warnings"])
    )


def test_seeds_with_different_settings_give_a_warning() -> None:
    made = [{"mock": False, "origin": {"adapter": n, "inference": {"max_new_tokens": 32 * n}}} for n in (1, 2)]
    one, two = (replace(side, manifest=manifest) for side, manifest in zip(seeds(2), made, strict=True))
    assert seeded(one, two).result["warnings"][0].startswith("seeds of one side have different settings: inference")


def test_length_alone_can_explain_the_gain_of_several_seeds() -> None:
    wordy = PredictionFile("base", lines(80, 0.5, extra=10))
    short = [PredictionFile(f"seed {n}", lines(80, 0.5, seed=n)) for n in (1, 2)]
    assert "Answer length alone explains it" in seeded(*short, a=wordy).verdict
