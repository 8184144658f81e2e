"""Rows of a comparison as the page shows them: metrics, order and texts.

Their numbers come from `scoring.examples`; `html` packs them for the page's script.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.report.text import precision
from vlmtune.scoring.results import ComparisonFile, ExampleResult, MetricResult
from vlmtune.text_units import Language, language
from vlmtune.thoughts import open_thought, split_thought

CONTRADICTIONS = 10
"""Groups of contradictory rows on the page."""

FIRST_CARDS = 20
"""Cards on the page without JavaScript."""


Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MetricColumn:
    """A metric, the kind of scores that rows have in it, and what the N rows have; NaN is none.

    `per_row`: every row has a score (macro-F1 has none). `mean`: the metric is their mean (BLEU is not). `binary`:
    the mean of scores that are all 0 or 1. `a`, `b`: scores [N] of each side. `delta`: changes [N].
    """

    name: str
    higher_is_better: bool
    digits: int
    per_row: bool
    mean: bool
    binary: bool
    a: Floats
    b: Floats
    delta: Floats

    @property
    def gains(self) -> Floats:
        """Improvement of B over A in each row [N], positive being better."""
        return self.delta if self.higher_is_better else -self.delta

    @property
    def scores(self) -> Floats:
        """(A, B) scores [n, 2] of the rows that have both."""
        pairs = np.stack([self.a, self.b], axis=1)
        return pairs[~np.isnan(pairs).any(axis=1)]


@dataclass(frozen=True, slots=True)
class Overview:
    """What a page says about all rows: `scored` are those that both sides answered [N], `failed` the numbers of those
    that a side did not, `language` that of the references where it has a tokenizer of its own.
    """

    columns: list[MetricColumn]
    scored: NDArray[np.bool_]
    failed: list[int]
    language: Language | None


def overview(comparison: ComparisonFile) -> Overview:
    """All rows, each of which is read once, because some comparisons make them anew whenever they are read."""
    examples, metrics = comparison["examples"], comparison["metrics"]
    values, scored = np.full((3, len(metrics), len(examples)), np.nan), np.zeros(len(examples), np.bool_)
    failed, references = list[int](), list[str]()
    for n, example in enumerate(examples):
        scores, deltas = example["scores"], example["deltas"]
        if scores and deltas:
            scored[n] = True
            for one, kind in zip(values, (scores["a"], scores["b"], deltas), strict=True):
                one[:, n] = [kind[entry["name"]] for entry in metrics]
        if example["failure"] is not None:
            failed.append(n)
        references += example["references"]
    found = [_column(entry, scored, *values[:, k]) for k, entry in enumerate(metrics)]
    return Overview(found, scored, failed, language(references))


def _column(entry: MetricResult, scored: NDArray[np.bool_], a: Floats, b: Floats, delta: Floats) -> MetricColumn:
    per_row = bool(scored.any()) and not np.isnan([a[scored], b[scored], delta[scored]]).any()
    mean = per_row and bool((np.abs(b - a - delta)[scored] < 1e-5).all())
    binary = mean and bool(np.isin([a[scored], b[scored]], (0, 1)).all())
    return MetricColumn(entry["name"], entry["higher_is_better"], precision(entry), per_row, mean, binary, a, b, delta)


def by_change(count: int, column: MetricColumn | None) -> list[int]:
    """Numbers of all `count` rows, the largest change first and failed rows last, which is the page's initial order."""
    if column is None:
        return list(range(count))
    order: list[int] = np.lexsort((-np.abs(np.nan_to_num(column.delta)), np.isnan(column.delta))).tolist()
    return order


def images_shown(comparison: ComparisonFile, most: int, seen: Overview | None = None) -> list[str]:
    """Hashes of the images that the page shows, the most important first.

    They are those of contradictory rows, of the rows with the largest gains and losses, of failed rows, and of a random
    sample.

    Args:
        comparison: as `Comparison.to_json` gives it, with its examples.
        most: rows of each kind, except that all failed rows are taken.
        seen: the overview of its rows.
    """
    seen, examples = seen or overview(comparison), comparison["examples"]
    first = next(iter(seen.columns), None)
    gain = np.nan_to_num(first.gains) if first is not None else np.zeros(len(examples))
    ranked = [n for n in np.argsort(-gain, kind="stable").tolist() if gain[n]]
    gains = [n for n in ranked[:most] if gain[n] > 0]
    losses = [n for n in ranked[::-1][:most] if gain[n] < 0]
    rest = sorted(set(range(len(examples))) - {*gains, *losses, *seen.failed})
    drawn = random.Random(0).sample(rest, min(most, len(rest)))
    alternating = [n for pair in zip(gains, losses, strict=False) for n in pair]
    first_cards = by_change(len(examples), first)[:FIRST_CARDS]
    numbers = dict.fromkeys([*first_cards, *alternating, *gains, *losses, *seen.failed, *drawn])
    contradictory = [group["image"] for group in comparison["contradictions"][:CONTRADICTIONS]]
    images = [*contradictory, *(examples[n]["image"] for n in numbers)]
    return list(dict.fromkeys(image for image in images if image is not None))


def parted(text: str) -> tuple[str | None, str]:
    """The thought of an answer, None without one, and the rest; of a thought that did not end nothing is left."""
    thought, answer = split_thought(text)
    if thought is None and open_thought(text) == text.lstrip() != "":
        return text, ""
    return thought or None, answer


def label(example: ExampleResult, number: int) -> str:
    """A row's id, or its number counted from 1."""
    return f"row {number + 1}" if example["id"] is None else str(example["id"])


def question(example: ExampleResult) -> str | None:
    """The question about the image, where rows have one and the prediction file records it."""
    asked = example.get("question", example["meta"].get("question"))
    return asked if isinstance(asked, str) else None


def expected(example: ExampleResult) -> list[str]:
    """The expected answer: the references, and whatever else metrics compare with."""
    texts = list(example["references"])
    for key, value in example.get("truth", {}).items():
        text = _readable(value)
        if text not in texts:
            texts.append(f"{key}: {text}")
    return texts


def _readable(value: Any) -> str:
    """A value for display: texts unchanged, a list of texts joined by commas, all else as JSON."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def failures(example: ExampleResult) -> list[tuple[str, str]]:
    """(side, reason) for each side without an answer."""
    records = example["failure"]
    sides = (("A", records["a"]), ("B", records["b"])) if records else ()
    return [(side, f"{record['stage']}: {record['reason']}") for side, record in sides if record is not None]


def metadata(example: ExampleResult) -> list[str]:
    """Image size and metadata of a row, as texts."""
    size = {"size": "x".join(map(str, example["image_size"]))} if "image_size" in example else {}
    return [f"{key}: {_readable(value)}" for key, value in {**size, **example["meta"]}.items() if key != "question"]
