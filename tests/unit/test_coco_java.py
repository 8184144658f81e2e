"""What is missing for METEOR or SPICE is named in time; SPICE is the mean of its rows."""

import shutil
from pathlib import Path

import pytest

from vlmtune.config import load
from vlmtune.errors import EnvironmentProblem
from vlmtune.metrics import coco_java, spice
from vlmtune.predictions import Line
from vlmtune.scoring.score import choose_metrics
from vlmtune.tasks import captioning

JAVA = pytest.mark.skipif(
    shutil.which("java") is None, reason="METEOR is a Java program: apt-get install default-jre-headless"
)


def test_what_is_missing_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = [Line("1", None, {"references": ["a red dog runs"]})]
    monkeypatch.setattr(coco_java.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'vlmtune\[coco\]'"):
        choose_metrics(captioning.TASK, ["meteor"], lines)
    assert choose_metrics(captioning.TASK, None, lines), "an error only where the config asks for it"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="no `java` on the PATH"):
        choose_metrics(captioning.TASK, ["spice"], lines)


@JAVA
def test_spice_without_its_parser_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(coco_java, "_folder", lambda name: tmp_path)
    with pytest.raises(EnvironmentProblem, match="CoreNLP.*not downloaded yet.*run: .*Spice"):
        choose_metrics(captioning.TASK, ["spice"], [Line("1", "a", {"references": ["a"]})])


@JAVA
def test_spice_is_the_mean_of_pycocoevalcaps_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a stand-in for Java, as the parser cannot be shipped: what is passed on, and what is read back."""
    from pycocoevalcap.spice import spice as official

    asked: list[dict[int, list[str]]] = []

    class Scripted:
        def compute_score(self, expected: dict[int, list[str]], given: dict[int, list[str]]) -> object:
            asked.append(given)
            return 0.0, [{"All": {"f": value}} for value in (0.25, float("nan"), 0.5)]

    monkeypatch.setattr(coco_java, "_java_and_models", lambda: None)
    monkeypatch.setattr(official, "Spice", Scripted)
    stats = spice.measure(["A dog.", None, "cats"], [["a dog"], ["x"], ["cats", "two cats"]])
    assert asked == [{0: ["a dog"], 1: [""], 2: ["cats"]}]
    assert spice.summarise(stats).tolist() == [0.25, 0.0, 0.5]
    assert float(spice.summarise(stats.sum(axis=0))) == 0.25


def test_a_config_may_name_them() -> None:
    config = load("demo", ["evaluation.metrics=[bleu, meteor, spice]"]).config
    assert config.evaluation.metrics == ["bleu", "meteor", "spice"]
