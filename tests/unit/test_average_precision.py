"""COCO's mAP equals pycocotools on random sets; its linearised rows have the spread of the score over samples."""

import contextlib
import io
import random
from typing import Any

import numpy as np
import pytest
from metric_vectors import score

from vlmtune.metrics import coco_map, f1_at_05

Objects = list[dict[str, Any]]


def official(answers: list[Objects | None], truths: list[Objects]) -> float:
    """pycocotools' AP at [.50:.95]; boxes without a score get 1, in the order of rows and answers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = sorted({one["label"] for row in truths for one in row})
    numbers = {name: number for number, name in enumerate(names, start=1)}

    def entry(image: int, one: dict[str, Any]) -> dict[str, Any]:
        x1, y1, x2, y2 = one["box"]
        return {"image_id": image, "category_id": numbers[one["label"]], "bbox": [x1, y1, x2 - x1, y2 - y1]}

    true = [entry(n, one) for n, row in enumerate(truths) for one in row]
    annotations = [
        {**one, "id": n, "iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3]} for n, one in enumerate(true, start=1)
    ]
    found = [
        {**entry(n, one), "score": one.get("score", 1.0)}
        for n, row in enumerate(answers)
        for one in row or []
        if one["label"] in numbers
    ]
    if not found:
        return 0.0
    images = [{"id": n} for n in range(len(truths))]
    categories = [{"id": number} for number in numbers.values()]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def random_set(
    rng: random.Random, rows: int, classes: str, scored: bool = False
) -> tuple[list[Objects | None], list[Objects]]:
    """Answers that find most boxes of the truth, some with another label, and invent others; small whole numbers, so
    that IoUs coincide with thresholds and with each other."""

    def box() -> list[int]:
        x, y = rng.randrange(80), rng.randrange(80)
        return [x, y, x + rng.randrange(4, 20), y + rng.randrange(4, 20)]

    answers: list[Objects | None] = []
    truths: list[Objects] = []
    for _ in range(rows):
        true = [{"box": box(), "label": rng.choice(classes)} for _ in range(rng.choice([0, 1, 1, 2, 3, 6]))]
        found: Objects = []
        for one in true:
            if rng.random() < 0.8:
                left, top, right, bottom = (edge + rng.randrange(-2, 3) for edge in one["box"])
                label = one["label"] if rng.random() < 0.85 else rng.choice(classes)
                found.append({"box": [min(left, right - 1), min(top, bottom - 1), right, bottom], "label": label})
        found += [{"box": box(), "label": rng.choice([*classes, "other"])} for _ in range(rng.choice([0, 0, 1, 2]))]
        rng.shuffle(found)
        for one in found if scored else []:
            one["score"] = rng.choice([0.1, 0.5, 0.5, 0.9, rng.random()])
        answers.append(found if rng.random() < 0.95 else None)
        truths.append(true)
    return answers, truths


@pytest.mark.parametrize("scored", [False, True])
def test_pycocotools_agrees(scored: bool) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        answers, truths = random_set(rng, rng.choice([1, 2, 5, 30]), "abc"[: rng.choice([1, 2, 3])], scored)
        if any(truths):
            assert score(coco_map, answers, truths) == pytest.approx(official(answers, truths), abs=1e-12), seed


def test_at_most_100_boxes_of_a_class_count() -> None:
    box = {"box": [0, 0, 10, 10], "label": "a"}
    wrong = {"box": [50, 50, 60, 60], "label": "a"}
    for before in (99, 100):
        answers, truths = [[*[wrong] * before, box]], [[box]]
        assert score(coco_map, answers, truths) == pytest.approx(official(answers, truths))
        assert (score(coco_map, answers, truths) > 0) == (before < 100)


def test_right_boxes_that_do_not_count_are_said() -> None:
    """More than 100 right boxes of a class, or right ones without a label, miss 1 although F1 is 1."""
    assert coco_map.caveat is not None
    crowd = [[{"box": [n, 0, n + 1, 9], "label": "a"} for n in range(104)]]
    assert score(coco_map, crowd, crowd) == pytest.approx(official(crowd, crowd)) == pytest.approx(97 / 101)
    two = [[{"box": [0, 0, 9, 9], "label": "a"}, {"box": [20, 0, 29, 9], "label": "b"}]]
    bare = [[one["box"] for one in two[0]]]
    assert (score(f1_at_05, crowd, crowd), score(f1_at_05, bare, two), score(coco_map, bare, two)) == (1, 1, 0)
    said = coco_map.caveat([*crowd, *bare, None], [*crowd, *two, []])
    assert said is not None
    assert said.startswith("1 answers have more than 100 boxes of a class, of which only 100 count")
    assert "2 answered boxes have no label where their row has several classes" in said
    assert coco_map.caveat([*two, [[0, 0, 1, 1]]], [*two, [[0, 0, 1, 1]]]) is None


def test_boxes_without_a_label_count_for_the_only_class_of_their_row() -> None:
    box, other = [0, 0, 10, 10], [20, 20, 30, 30]
    one_class = [[{"box": box, "label": "cat"}], [{"box": other, "label": "dog"}]]
    assert score(coco_map, [[box], [other]], one_class) == 1
    two = [[{"box": box, "label": "cat"}, {"box": other, "label": "dog"}]]
    assert score(coco_map, [[box, other]], two) == 0
    assert score(coco_map, [[{"box": box, "label": "anything"}]], [[box]]) == 1, "data without classes"
    assert score(coco_map, [[], [box]], [[], [box]]) == 1
    assert score(coco_map, [[{"box": box, "label": "x"}], [box]], [[], [box]]) == 0.5, "one box too many"
    assert score(coco_map, [[], []], [[], []]) == 1


def test_linearised_rows_have_the_spread_of_the_score() -> None:
    """Over 100 samples of 64 rows, the standard error of the mean of the rows' values is the score's own spread."""
    scores, errors = [], []
    for seed in range(100):
        values = coco_map.measure(*random_set(random.Random(seed), 64, "ab"))[:, 0]
        scores.append(values.mean())
        errors.append(values.std(ddof=1) / 8)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(scores), rel=0.25)


def test_replacing_a_row_moves_the_score_as_its_statistics_say() -> None:
    """To first order: the row is one of 400."""
    answers, truths = random_set(random.Random(0), 400, "a")
    stats = coco_map.measure(answers, truths)
    whole = score(coco_map, answers, truths)
    changes = []
    for n in range(0, 400, 20):
        rest = [k for k in range(400) if k != n]
        real = score(coco_map, [answers[k] for k in rest], [truths[k] for k in rest]) - whole
        changes.append((real, float(coco_map.summarise(stats[rest].sum(axis=0))) - whole))
    real_changes, expected = np.array(changes).T
    assert np.corrcoef(real_changes, expected)[0, 1] > 0.85
