"""Accuracy and macro-F1 equal scikit-learn's, over a label set that neither data nor resamples change."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_vectors import VECTORS, score, values
from sklearn.metrics import accuracy_score, f1_score

from vlmtune.errors import DataError
from vlmtune.metrics import accuracy, macro_f1

LABELS = ["cat", "dog", "bird", "fish"]
ROWS = st.lists(st.tuples(st.sampled_from([*LABELS, "Cat", None]), st.sampled_from(LABELS)), min_size=1, max_size=12)


def of(labels: list[str], *truth: str) -> list[dict[str, Any]]:
    return [{"label": label, "labels": labels} for label in truth]


@pytest.mark.parametrize("case", VECTORS["classification"]["vectors"], ids=lambda case: case["note"])
def test_official_values(case: dict[str, Any]) -> None:
    """Where the vector names no label set, scikit-learn makes one of all it sees, answers included; we never do."""
    labels = case["labels"] or list(dict.fromkeys([*case["y_true"], *case["y_pred"]]))
    assert score(accuracy, case["y_pred"], case["y_true"]) == case["accuracy"]
    assert score(macro_f1, case["y_pred"], of(labels, *case["y_true"])) == pytest.approx(case["macro_f1"], abs=1e-12)


def test_an_answer_outside_the_set_adds_no_class() -> None:
    """The vector's 0.56 counts "__none__" as a third class with F1 0; over the task's two classes it is 0.83."""
    case = VECTORS["classification"]["vectors"][1]
    for answers in (case["y_pred"], ["a", None, "a", "b"]):
        assert score(macro_f1, answers, of(["a", "b"], *case["y_true"])) == pytest.approx((1 + 2 / 3) / 2)


@settings(deadline=None)
@given(ROWS)
def test_scikit_learn_agrees(rows: list[tuple[str | None, str]]) -> None:
    said, true = [answer for answer, _ in rows], [label for _, label in rows]
    theirs = [answer or "unparsed" for answer in said]
    assert score(accuracy, said, true) == pytest.approx(accuracy_score(true, theirs), abs=1e-12)
    official = f1_score(true, theirs, labels=LABELS, average="macro", zero_division=0)
    assert score(macro_f1, said, of(LABELS, *true)) == pytest.approx(official, abs=1e-12)


def test_a_class_absent_from_a_resample_counts_zero_over_the_same_classes() -> None:
    stats = macro_f1.measure(["cat", "dog", "dog"], of(["cat", "dog"], "cat", "dog", "cat"))
    resamples = np.stack([stats[[0, 0, 0]].sum(axis=0), stats[[0, 1, 1]].sum(axis=0), stats[[0, 1, 2]].sum(axis=0)])
    assert macro_f1.summarise(resamples) == pytest.approx([0.5, 1, (2 / 3 + 2 / 3) / 2])


def test_a_label_outside_the_task_s_set_is_a_mistake_in_the_data() -> None:
    with pytest.raises(DataError, match="'cow' is not one of the labels of the task: cat, dog, bird, fish"):
        macro_f1.measure(["cat"], of(LABELS, "cow"))


def test_labels_are_compared_as_they_are() -> None:
    assert values(accuracy, ["Cat", "cat", None], ["cat"] * 3) == [0, 1, 0]
