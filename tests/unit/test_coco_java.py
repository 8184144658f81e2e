"""METEOR equals pycocoevalcap, per row and for the corpus; what is missing for METEOR or SPICE is named in time."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from vlmtune.config import load
from vlmtune.errors import EnvironmentProblem
from vlmtune.metrics import coco_java, meteor, spice
from vlmtune.predictions import Line
from vlmtune.scoring.score import choose_metrics, score
from vlmtune.tasks import captioning

JAVA = pytest.mark.skipif(
    shutil.which("java") is None, reason="METEOR is a Java program: apt-get install default-jre-headless"
)
WORDS = "a man woman dog dogs is are running runs walks on the grass street , red big horse riding rides .".split()


def corpus(rows: int) -> tuple[list[str | None], list[list[str]]]:
    """Answers, some equal to a reference, some empty, one with METEOR's separator."""
    rng = random.Random(3)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 14)))

    references = [[sentence() for _ in range(rng.randint(1, 5))] for _ in range(rows)]
    answers: list[str | None] = [sentence() if rng.random() < 0.6 else rng.choice(texts) for texts in references]
    answers[:4] = ["", None, "a man ||| a dog", "Two dogs,  running!\non the grass."]
    return answers, references


@JAVA
def test_meteor_equals_pycocoevalcap() -> None:
    from pycocoevalcap.meteor.meteor import Meteor

    answers, references = corpus(120)
    tokens = [[coco_java._tokens(text) for text in texts] for texts in references]
    official = Meteor()
    corpus_score, rows = official.compute_score(
        dict(enumerate(tokens)), {n: [coco_java._tokens(answer)] for n, answer in enumerate(answers)}
    )
    stats = meteor.measure(answers, references)
    assert 0.1 < corpus_score < 0.6
    assert float(meteor.summarise(stats.sum(axis=0))) == pytest.approx(corpus_score, abs=1e-12)
    assert meteor.summarise(stats) == pytest.approx(rows, abs=1e-12)
    part = stats[20:60]
    other = official.compute_score(
        dict(enumerate(tokens[20:60])), {n: [coco_java._tokens(answer)] for n, answer in enumerate(answers[20:60])}
    )
    assert float(meteor.summarise(part.sum(axis=0))) == pytest.approx(other[0], abs=1e-12), "any subset, too"
    assert np.shape(meteor.summarise(stats.reshape(4, 30, -1).sum(axis=1))) == (4,)


@JAVA
def test_meteor_is_reported_where_it_is_named() -> None:
    lines = [Line(str(n), "a red dog runs", {"references": ["a red dog runs"]}) for n in range(3)]
    config = captioning.Config()
    named = score(lines, captioning.TASK, config, ["bleu", "meteor"])
    assert named.metrics["meteor"] == pytest.approx(1.0)
    assert "METEOR 1.5" in named.signatures["meteor"]
    assert "meteor" not in score(lines, captioning.TASK, config).metrics


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
