"""Numbers from answers; no model, no torch, no network.

A metric is two pure functions. `measure(answers, truths) -> stats [rows, k]` gives sufficient statistics per row and
sees the whole set, so a corpus metric can count documents; `summarise(sums [..., k]) -> [...]` turns summed
statistics into the score, over any number of resamples at once. One definition thus gives the score, its confidence
interval and the paired test. An answer is None where it could not be parsed: `measure` counts that row as wrong.

Files here are nouns; `vlmtune.metrics.bleu` finds the metric of that name in whichever file it stands.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's definition.

    `truth` names what `measure` compares with (a key of `Example.truth` and of a prediction line): "references", a list
    of texts; "keywords", a list of words; "label", a text; "class", {"label": text, "labels": list of texts}; "boxes",
    a list of [x1, y1, x2, y2] from 0 to 1000; "record", a JSON object. `signature` says which of the many definitions
    of that name this is; "{nrefs}" in it becomes the number of references per row.
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


def __getattr__(name: str) -> Metric:
    for module in pkgutil.iter_modules(__path__):
        if not name.startswith("_") and not module.name.startswith("_"):
            found = vars(importlib.import_module(f"{__name__}.{module.name}")).get(name)
            if isinstance(found, Metric):
                return found
    raise AttributeError(f"module {__name__!r} has no metric {name!r}")
