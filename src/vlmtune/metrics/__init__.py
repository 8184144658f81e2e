"""Metrics: scores of answers, without a model, torch or the network.

A metric is two pure functions. `measure(answers, truths) -> stats [N, K]` returns K sufficient statistics for each of N
rows and sees the whole set, so that a corpus metric can count documents; `summarise(sums [..., K]) -> [...]` turns
summed statistics into scores, of any number of resamples at once. One definition thus gives the score, its confidence
interval and the paired test. An answer is None where it could not be parsed: `measure` counts that row as wrong.

For example, accuracy on the rows right, wrong, right has the statistics [[1, 1], [0, 1], [1, 1]] (hits, rows); their
sum is [2, 3], and `summarise` divides: 0.667.

`vlmtune.metrics.bleu` is the metric of that name, whichever file defines it; `custom_metric` finds a user's.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.errors import ConfigError
from vlmtune.metrics._custom import by_row, mean
from vlmtune.metrics._symbols import forget_texts as forget_texts

Stats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's definition.

    `truth` names what `measure` compares with (a key of `Example.truth` and of a prediction line): "references", a list
    of texts; "keywords", a list of words; "label", a text; "class", {"label": text, "labels": list of texts}; "boxes",
    a list of [x1, y1, x2, y2] from 0 to 1000, or of {"box", "label"}; "record", a JSON object. `signature` says which
    of the many definitions of that name this is; "{nrefs}" in it becomes the number of references per row, "{tokens}"
    what `tokens` returns.
    """

    name: str
    measure: Callable[[Sequence[Any], Sequence[Any]], Stats]
    summarise: Callable[[Stats], Stats]
    signature: str
    truth: str = "references"
    higher_is_better: bool = True
    scale: float = 1.0
    """Where the scale ends: at 1, or at 100 or 10 where the field's definition says so. Error rates may exceed it."""

    binary: bool = False
    """Whether every row scores 0 or 1, so that exact tests for shares apply."""

    allows_empty: bool = False
    """Whether an empty truth is one: an image may show no object. Elsewhere it means that the row has no truth."""

    check: Callable[[], None] | None = None
    """Raises EnvironmentProblem if this machine lacks what the metric needs; called before any model is loaded."""

    tokens: Callable[[Sequence[Any]], str] | None = None
    """The name of the tokenizer, if that depends on the language of the truths of the whole set."""

    attainable: Callable[[Any], float] | None = None
    """What a row's own references must score in the self-check, from its truth; None: the best end of the scale."""

    self_check: bool = True
    """Whether references are scored against themselves: not where that says nothing, or asks a server."""

    linearised: bool = False
    """Whether statistics are linearised: only the whole set has a score, and a part of it is measured anew."""

    bounded: bool = False
    """Whether rows score from 0 to `scale` with both ends common, so that one changed row can move by the whole scale.
    Intervals then allow for such a change even if the rows at hand show none. It goes without saying where `binary`."""

    counted_over: Callable[[Sequence[Any]], Callable[[Sequence[Any], Sequence[Any]], Stats]] | None = None
    """`measure` with document frequencies and tokenizer of some truths; None if it takes nothing from a whole set."""

    caveat: Callable[[Sequence[Any], Sequence[Any]], str | None] | None = None
    """Given answers and truths, what a reader of the score has to know about these rows; None if nothing."""


def custom_metric(name: str) -> Metric:
    """A user's metric by its dotted name, `module.name`: a `Metric`, or a function.

    The function takes a row's answer as the task reads it and its list of references, and returns a number. The score
    is the mean over rows, higher is better; an answer that cannot be read scores 0. Else, write a `Metric`.

    Raises:
        ConfigError: no such module, or it has no metric or function of that name.
    """
    path, _, last = name.rpartition(".")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"metric {name!r}: name a custom metric as module.function")
    try:
        module = importlib.import_module(path)
    except SyntaxError as error:
        raise ConfigError(f"metric {name!r}: {path} is not valid Python: {error}") from None
    except ModuleNotFoundError as missing:
        if missing.name is None or not (path == missing.name or path.startswith(missing.name + ".")):
            raise
        raise ConfigError(
            f"metric {name!r}: there is no module {path!r} to import; searched in the current folder and the "
            "installed packages"
        ) from None
    found = vars(module).get(last)
    if isinstance(found, Metric):
        return found
    if callable(found):
        return Metric(last, functools.partial(by_row, name, found), mean, f"{name}|mean", self_check=False)
    raise ConfigError(f"metric {name!r}: {path} has no function and no Metric named {last!r}")


def __getattr__(name: str) -> Metric:
    for module in pkgutil.iter_modules(__path__):
        if not name.startswith("_") and not module.name.startswith("_"):
            found = vars(importlib.import_module(f"{__name__}.{module.name}")).get(name)
            if isinstance(found, Metric):
                return found
    raise AttributeError(f"module {__name__!r} has no metric {name!r}")
