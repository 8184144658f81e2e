"""The trials of a search: the best is found for a part of the cost, and a search that was killed goes on as it was."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vlmtune.search import Range, SearchConfig
from vlmtune.search.study import JOURNAL, Failed, Report, Study, Trial

RATES = [10.0**-n for n in range(1, 10)]
LISTED = SearchConfig(space={"training.learning_rate": list(RATES)})
MIXED = SearchConfig(
    space={"training.learning_rate": Range(low=1e-6, high=1e-1, log=True), "training.lora.rank": [4, 8, [16]]}, trials=8
)


class Killed(BaseException):
    pass


class Curve:
    """In place of a training: the nearer the learning rate is to 1e-4, the lower the loss, from the first stage on."""

    def __init__(self, study: Study, kill_after: int | None = None) -> None:
        self.spent, self._study, self._left = 0, study, kill_after

    def __call__(self, number: int, values: Mapping[str, Any], report: Report) -> None:
        off = abs(math.log10(values["training.learning_rate"]) + 4)
        for evaluations in range(1, self._study.evaluations + 1):
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise Killed
            self.spent += 1
            report(evaluations, off + 5 / evaluations)


def ended(settings: SearchConfig, folder: Path, train: Any = None) -> tuple[list[Trial], Study, int]:
    study = Study(settings, folder, higher_is_better=False)
    curve = Curve(study)
    return list(study.run(train or curve)), study, curve.spent


def test_nine_trials_find_the_best_rate_for_a_part_of_the_cost(tmp_path: Path) -> None:
    trials, study, spent = ended(LISTED, tmp_path)
    best = study.best(trials)
    assert sorted(trial.values["training.learning_rate"] for trial in trials) == sorted(RATES)
    assert best is not None
    assert best.values == {"training.learning_rate": 1e-4}
    assert best.value == pytest.approx(5 / 9)
    assert spent < 0.6 * 9 * 9
    assert {trial.state for trial in trials} == {"complete", "stopped"}
    assert all(trial.evaluations[-1][0] < 1 for trial in trials if trial.state == "stopped")


def test_ranges_and_lists_of_any_value_are_tried(tmp_path: Path) -> None:
    trials, study, _ = ended(MIXED, tmp_path)
    assert len(trials) == 8
    assert all(1e-6 <= trial.values["training.learning_rate"] <= 1e-1 for trial in trials)
    assert {str(trial.values["training.lora.rank"]) for trial in trials} <= {"4", "8", "[16]"}
    assert len({trial.values["training.learning_rate"] for trial in trials}) == 8
    assert study.best(trials) is not None
    whole, *_ = ended(SearchConfig(space={"training.epochs": Range(low=1, high=3)}, trials=4), tmp_path / "b", _epochs)
    assert {trial.values["training.epochs"] for trial in whole} <= {1, 2, 3}


def _epochs(number: int, values: Mapping[str, Any], report: Report) -> None:
    report(1, float(values["training.epochs"]))


@pytest.mark.parametrize("settings", [LISTED, MIXED], ids=["a list", "ranges"])
@pytest.mark.parametrize("kill_after", [0, 4, 9, 20])
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(
    settings: SearchConfig, kill_after: int, tmp_path: Path
) -> None:
    whole, *_ = ended(settings, tmp_path / "whole")
    study = Study(settings, tmp_path / "killed", higher_is_better=False)
    with pytest.raises(Killed):
        list(study.run(Curve(study, kill_after)))
    assert ended(settings, tmp_path / "killed")[0] == whole
    again, _, spent = ended(settings, tmp_path / "killed")
    assert (again, spent) == (whole, 0)


def test_a_trial_that_fails_says_why_and_stops_nothing(tmp_path: Path) -> None:
    def train(number: int, values: Mapping[str, Any], report: Report) -> None:
        if number == 0:
            raise Failed("too large")
        if number == 2:
            return
        report(9, math.nan if number == 1 else float(number))

    trials, study, _ = ended(LISTED, tmp_path, train)
    assert [trial.state for trial in trials] == ["failed"] * 3 + ["complete"] * 6
    assert [trial.reason for trial in trials[:3]] == [
        "too large",
        "the metric became nan",
        "the metric is not defined on the validation rows",
    ]
    best = study.best(trials)
    assert best is not None
    assert best.number == 3
    assert study.best(trials[:3]) is None


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    ended(LISTED, tmp_path)
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    (tmp_path / JOURNAL).write_text("\n".join(["nonsense", *lines]) + "\n")
    with pytest.raises(Exception, match=f"{JOURNAL} cannot be read"):
        ended(LISTED, tmp_path)
