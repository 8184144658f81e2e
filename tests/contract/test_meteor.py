"""METEOR equals pycocoevalcap's, which runs it in Java, per row, for the corpus and for any subset."""

import random
import shutil

import numpy as np
import pytest

from vlmtune.metrics import coco_java, meteor
from vlmtune.predictions import Line
from vlmtune.scoring.score import score
from vlmtune.tasks import captioning

pytestmark = pytest.mark.skipif(
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


def test_meteor_is_reported_where_it_is_named() -> None:
    lines = [Line(str(n), "a red dog runs", {"references": ["a red dog runs"]}) for n in range(3)]
    config = captioning.Config()
    named = score(lines, captioning.TASK, config, ["bleu", "meteor"])
    assert named.metrics["meteor"] == pytest.approx(1.0)
    assert "METEOR 1.5" in named.signatures["meteor"]
    assert "meteor" not in score(lines, captioning.TASK, config).metrics
