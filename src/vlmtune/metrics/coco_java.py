"""METEOR and SPICE as COCO's evaluation computes them: Java programs, from pycocoevalcap.

Both need Java and the optional package (`pip install 'vlmtune[coco]'`), so no task reports them unless
`evaluation.metrics` names them. They get the same tokens as the other caption metrics, joined by spaces, and give the
same values as pycocoevalcap on those tokens.

METEOR prints 23 counts per row whose sums give its corpus score, so resamples need no Java. SPICE is a mean over rows.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from vlmtune.errors import EnvironmentProblem
from vlmtune.metrics import Metric, Stats
from vlmtune.metrics._ngram_counts import per_row, ratio
from vlmtune.metrics._tokenization import COCO, words

Answers = Sequence[str | None]
References = Sequence[Sequence[str]]

METEOR_COUNTS = 23
"""Counts per row: 4 lengths; 4 matches for each of 4 stages; chunks; all matches of both sides."""

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""METEOR 1.5's parameters for English: weight of recall, fragmentation's exponent and weight, content words' weight."""

STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
"""Weights of exact, stem, synonym and paraphrase matches."""

SPICE_MODELS = "stanford-corenlp-3.6.0.jar"
"""The parser that SPICE uses; pycocoevalcap downloads it on first use."""


def _java() -> None:
    """Check that Java and pycocoevalcap are there.

    Raises:
        EnvironmentProblem: one of them is missing.
    """
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise EnvironmentProblem(
            "METEOR and SPICE need the optional package pycocoevalcap: pip install 'vlmtune[coco]'; or leave them out "
            "of evaluation.metrics"
        )
    if shutil.which("java") is None:
        raise EnvironmentProblem(
            "METEOR and SPICE are Java programs, and there is no `java` on the PATH: install it (Debian and Ubuntu: "
            "apt-get install default-jre-headless), or leave them out of evaluation.metrics"
        )


def _java_and_models() -> None:
    """The same for SPICE, which also needs Stanford's parser.

    Raises:
        EnvironmentProblem: something is missing.
    """
    _java()
    if not (_folder("spice") / "lib" / SPICE_MODELS).is_file():
        raise EnvironmentProblem(
            "SPICE needs Stanford CoreNLP 3.6.0 (400 MB), which is not downloaded yet. Where the network allows it, "
            f"run: {sys.executable} -c 'from pycocoevalcap.spice.spice import Spice; Spice()'; or leave spice out of "
            "evaluation.metrics"
        )


def _folder(name: str) -> Path:
    import pycocoevalcap

    return Path(pycocoevalcap.__path__[0]) / name


def _tokens(text: str | None) -> str:
    # "|||" separates fields of METEOR's protocol; pycocoevalcap removes it as well.
    return " ".join(words(text or "")).replace("|||", "").replace("  ", " ")


def _measure_meteor(answers: Answers, references: References) -> Stats:
    return _meteor_counts(tuple(answers), tuple(map(tuple, references)))


@lru_cache(maxsize=4)
def _meteor_counts(answers: tuple[str | None, ...], references: tuple[tuple[str, ...], ...]) -> Stats:
    """METEOR's counts [N, 23], with one start of Java for all rows."""
    _java()
    lines = [
        " ||| ".join(("SCORE", *map(_tokens, texts), _tokens(answer)))
        for answer, texts in zip(answers, references, strict=True)
    ]
    command = ["java", "-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    ended = subprocess.run(
        command, cwd=_folder("meteor"), input="".join(f"{line}\n" for line in lines), text=True, encoding="utf-8",
        capture_output=True, check=False,
    )  # fmt: skip
    printed = [line.split() for line in ended.stdout.splitlines()]
    if ended.returncode or [len(row) for row in printed] != [METEOR_COUNTS] * len(lines):
        last = " ".join(ended.stderr.split())[-300:] or f"{len(printed)} lines for {len(lines)} rows"
        raise EnvironmentProblem(f"METEOR's Java program failed (exit {ended.returncode}): {last}")
    counts: Stats = np.array(printed, dtype=np.float64).reshape(-1, METEOR_COUNTS)
    # An answer equal to a reference is not fragmented; the official sum leaves its one chunk out.
    counts[(counts[:, 0:2] == counts[:, 21:23]).all(axis=1) & (counts[:, 20] == 1), 20] = 0
    counts.setflags(write=False)
    return counts


def _meteor(sums: Stats) -> Stats:
    """METEOR 1.5 (Denkowski and Lavie 2014) from summed counts [..., 23].

    The counts: words of the answer and the reference, function words of both; per stage, matched content words of the
    answer and the reference, matched function words of both; chunks; matched words of the answer and the reference.
    """
    lengths, function_words = sums[..., 0:2], sums[..., 2:4]
    stages = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)
    matched = DELTA * stages[..., 0:2] + (1 - DELTA) * stages[..., 2:4]
    weighted = np.einsum("s,...sk->...k", STAGE_WEIGHTS, matched)
    possible = DELTA * (lengths - function_words) + (1 - DELTA) * function_words
    precision, recall = np.moveaxis(_divided(weighted, possible), -1, 0)
    mean = _divided(precision * recall, (1 - ALPHA) * recall + ALPHA * precision)
    fragmentation = _divided(sums[..., 20], sums[..., 21:23].mean(axis=-1))
    score: Stats = mean * (1 - GAMMA * fragmentation**BETA)
    return score


def _divided(over: Stats, under: Stats) -> Stats:
    """Quotient, 0 where the divisor is."""
    return over / np.where(under > 0, under, 1) * (under > 0)


meteor = Metric(
    name="meteor",
    measure=_measure_meteor,
    summarise=_meteor,
    signature=f"METEOR 1.5|lang:en|norm|nrefs:{{nrefs}}|case:lower|tok:{COCO}|corpus score",
    check=_java,
    self_check=False,
)


def _measure_spice(answers: Answers, references: References) -> Stats:
    return per_row(_spice(tuple(answers), tuple(map(tuple, references))))


@lru_cache(maxsize=4)
def _spice(answers: tuple[str | None, ...], references: tuple[tuple[str, ...], ...]) -> tuple[float, ...]:
    """SPICE's F-score per row, with one start of Java for all rows."""
    _java_and_models()
    from pycocoevalcap.spice.spice import Spice

    expected = {n: [_tokens(text) for text in texts] for n, texts in enumerate(references)}
    try:
        _, rows = Spice().compute_score(expected, {n: [_tokens(answer)] for n, answer in enumerate(answers)})
    except subprocess.CalledProcessError as failed:
        raise EnvironmentProblem(
            f"SPICE's Java program failed (exit {failed.returncode}); its messages are above"
        ) from None
    return tuple(float(np.nan_to_num(row["All"]["f"])) for row in rows)


spice = Metric(
    name="spice",
    measure=_measure_spice,
    summarise=ratio,
    signature=f"SPICE 1.0|CoreNLP 3.6.0|nrefs:{{nrefs}}|case:lower|tok:{COCO}|mean of rows",
    check=_java_and_models,
    self_check=False,
)
"""SPICE (Anderson et al. 2016): F-score of the propositions of a scene graph."""
