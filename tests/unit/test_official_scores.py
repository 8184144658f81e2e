"""`vlmtune score` gives the official scripts' values on answers that break careless scorers, task reading included.

benchmarks/official_scores runs the same on 20,000 answers a task.
"""

import importlib.util
import sys
from types import ModuleType

import pytest
from commands import ROOT

FOLDER = ROOT / "benchmarks" / "official_scores"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


module("official")
run = module("run")


@pytest.mark.parametrize("task", list(run.TASKS))
def test_scores_equal_the_official_ones_on_nasty_answers(task: str) -> None:
    found = run.compare(task, 200, seed=1, command=task == "vqa")
    assert found
    assert {name: kept for name, kept in found.items() if kept["differing"]} == {}


def test_the_comparison_would_notice_a_stripped_stop() -> None:
    answers = [line["prediction"] for _, line in run.draw("docvqa", 400, seed=1)]
    assert sum(text.rstrip().endswith((".", '"')) for text in answers) > 40
    assert sum("<think>" in text for text in answers) > 10
