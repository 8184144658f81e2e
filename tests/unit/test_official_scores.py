"""`vlmtune score` gives the official scripts' values on answers that break careless scorers, task reading included.

benchmarks/official_scores runs the same on 20,000 answers a task.
"""

import importlib.util
import json
import shutil
import sys
from types import ModuleType

import pytest
from commands import ROOT
from metric_vectors import MORE, VECTORS

FOLDER = ROOT / "benchmarks" / "official_scores"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


official = module("official")
run = module("run")
java = pytest.mark.skipif(
    shutil.which("java") is None,
    reason="the official tokenizer of captions is a Java program: apt-get install default-jre-headless",
)


@pytest.mark.parametrize("task", [pytest.param(task, marks=java if task == "captioning" else ()) for task in run.TASKS])
def test_scores_equal_the_official_ones_on_nasty_answers(task: str) -> None:
    found = run.compare(task, 200, seed=1)
    assert found
    assert {name: kept for name, kept in found.items() if kept["differing"]} == {}


def test_the_comparison_would_notice_a_stripped_stop() -> None:
    answers = [line["prediction"] for _, line in run.draw("docvqa", 400, seed=1)]
    assert sum(text.rstrip().endswith((".", '"')) for text in answers) > 40
    assert sum("<think>" in text for text in answers) > 10


def test_what_is_compared_with_equals_the_scripts_themselves() -> None:
    """`official.py` on cases for which the scripts were executed."""
    for name in ("vqa_accuracy", "textvqa_accuracy", "anls"):
        for case in MORE[name]:
            assert getattr(official, name)(case["pred"], case["answers"]) == pytest.approx(case["value"], abs=1e-12), (
                case
            )
    for case in MORE["relaxed_accuracy"]:
        assert official.relaxed_accuracy(case["pred"], [case["target"]]) == case["value"], case
    for case in VECTORS["exact_match"]["vectors"]:
        assert official.exact_match(case["pred"], case["refs"]) == case["strip_lower"], case
    assert "vlmtune" not in official.__dict__
    assert "from vlmtune" not in (FOLDER / "official.py").read_text(encoding="utf-8")


def test_twenty_thousand_answers_a_task_were_compared() -> None:
    results = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    assert set(results["tasks"]) == set(run.TASKS)
    for metrics in results["tasks"].values():
        assert {kept["differing"] for kept in metrics.values()} == {0}
        assert {kept["files"] * run.A_FILE for kept in metrics.values()} == {20_000}
