"""A user's own metric is one function in a module that the config names."""

import sys
from pathlib import Path

import pytest
from builders import QUICK, judged, lines
from commands import vlmtune_in_process

from vlmtune.config import load
from vlmtune.errors import ConfigError
from vlmtune.metrics import custom_metric

MODULE = '''
"""Metrics of a team."""
import numpy as np
from vlmtune.metrics import Metric


def brief(answer, references):
    return float(len(answer.split()) <= 9)


def spoiled(answer, references):
    return None


def bleu(answer, references):
    return 1.0


LONG = Metric(
    "long",
    lambda answers, truths: np.array([[len(answer or "")] for answer in answers], float),
    lambda sums: sums[..., 0],
    "letters",
    higher_is_better=False,
)
NUMBER = 5
'''
CONFIG = """\
model: {name: tiny}
dataset: {source: scenes, references: [caption_0]}
task: {name: captioning}
evaluation: {metrics: %s, primary: %s}
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "team_metrics.py").write_text(MODULE)
    (tmp_path / "broken_metrics.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "team_metrics", raising=False)


def test_a_function_is_scored_tested_and_may_be_the_primary_metric() -> None:
    evaluation = QUICK.model_copy(update={"metrics": ["bleu", "team_metrics.brief"], "primary": "brief"})
    found = judged(lines(60, 0.1, extra=3), lines(60, 0.1), evaluation)
    first = found.result["metrics"][0]
    assert (first["name"], first["a"], first["b"]) == ("brief", 0.0, 1.0)
    assert first["signature"] == "team_metrics.brief|mean"
    assert found.status == "improved"


def test_a_whole_metric_keeps_what_it_says() -> None:
    metric = custom_metric("team_metrics.LONG")
    assert (metric.name, metric.higher_is_better) == ("long", False)


@pytest.mark.parametrize(
    ("metrics", "primary", "said"),
    [
        ("[team_metrics.brev]", "null", "has no function and no Metric named 'brev'"),
        ("[team_metrics.NUMBER]", "null", "has no function and no Metric named 'NUMBER'"),
        ("[..x]", "null", "module.function"),
        ("[broken_metrics.f]", "null", "is not valid Python"),
        ("[no_such_module.f]", "null", "there is no module 'no_such_module'"),
        ("[team_metrics.bleu]", "null", "is also the name of another metric"),
        ("[bleu, team_metrics.brief]", "chrf", "is not among"),
    ],
)
def test_mistakes_are_found_before_anything_starts(metrics: str, primary: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG % (metrics, primary))
    with pytest.raises(ConfigError, match=said):
        load(str(tmp_path / "c.yaml"))


def test_a_config_knows_it_by_its_short_name(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG % ("[team_metrics.brief]", "brief"))
    assert load(str(tmp_path / "c.yaml")).config.evaluation.primary == "brief"


def test_what_is_no_number_is_refused_with_the_answer() -> None:
    evaluation = QUICK.model_copy(update={"metrics": ["team_metrics.spoiled"]})
    with pytest.raises(
        ConfigError, match=r"'team_metrics.spoiled' must return a finite number \(got None for the answer"
    ):
        judged(lines(30, 0.1), lines(30, 0.1), evaluation)


def test_files_are_scored_by_it_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("".join(line.to_json() + "\n" for line in lines(30, 0.1)))
    scored = vlmtune_in_process("score", "p.jsonl", "--metrics", "bleu,team_metrics.brief", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert "brief              1.0000" in scored.stdout
