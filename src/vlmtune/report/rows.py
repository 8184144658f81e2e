"""Rows of a comparison as the page shows them: metrics, order and texts.

Their numbers come from `scoring.examples`; `html` packs them for the page's script.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vlmtune.report.text import precision
from vlmtune.scoring.results import ComparisonFile, ExampleResult
from vlmtune.thoughts import open_thought, split_thought

CONTRADICTIONS = 10
"""Groups of contradictory rows on the page."""

FIRST_CARDS = 20
"""Cards on the page without JavaScript."""


@dataclass(frozen=True, slots=True)
class MetricColumn:
    """A metric and the kind of scores that rows have in it.

    `per_row`: every row has a score (macro-F1 has none). `mean`: the metric is their mean (BLEU is not). `binary`:
    the mean of scores that are all 0 or 1.
    """

    name: str
    higher_is_better: bool
    digits: int
    per_row: bool
    mean: bool
    binary: bool

    def gain(self, example: ExampleResult) -> float | None:
        """Improvement of B over A in this row, positive being better; None where a side failed."""
        delta = None if example["deltas"] is None else example["deltas"][self.name]
        return delta if delta is None or self.higher_is_better else -delta

    def scores(self, examples: Iterable[ExampleResult]) -> list[tuple[float, float]]:
        """(A, B) scores of the rows that have both."""
        known = (row["scores"] for row in examples)
        both = [(scores["a"][self.name], scores["b"][self.name]) for scores in known if scores is not None]
        return [(a, b) for a, b in both if a is not None and b is not None]


def columns(comparison: ComparisonFile) -> list[MetricColumn]:
    """The metrics of a comparison, the primary one first."""
    metric_columns = []
    scored = [(row["scores"], row["deltas"]) for row in comparison["examples"]]
    for entry in comparison["metrics"]:
        name = entry["name"]
        triples = [
            (scores["a"][name], scores["b"][name], deltas[name]) for scores, deltas in scored if scores and deltas
        ]
        complete = [(a, b, delta) for a, b, delta in triples if a is not None and b is not None and delta is not None]
        per_row = bool(triples) and len(complete) == len(triples)
        mean = per_row and all(abs(b - a - delta) < 1e-5 for a, b, delta in complete)
        binary = mean and all({a, b} <= {0, 1} for a, b, _ in complete)
        metric_columns.append(MetricColumn(name, entry["higher_is_better"], precision(entry), per_row, mean, binary))
    return metric_columns


def by_change(examples: Sequence[ExampleResult], column: MetricColumn | None) -> list[int]:
    """Row numbers, the largest change first and failed rows last, which is the page's initial order."""
    gains = [None if column is None else column.gain(example) for example in examples]
    return sorted(range(len(examples)), key=lambda n: (gains[n] is None, -abs(gains[n] or 0.0), n))


def images_shown(comparison: ComparisonFile, most: int) -> list[str]:
    """Hashes of the images that the page shows, the most important first.

    They are those of contradictory rows, of the rows with the largest gains and losses, of failed rows, and of a random
    sample.

    Args:
        comparison: as `Comparison.to_json` gives it, with its examples.
        most: rows of each kind, except that all failed rows are taken.
    """
    examples, first = comparison["examples"], next(iter(columns(comparison)), None)
    gain = [0.0 if first is None else first.gain(example) or 0.0 for example in examples]
    ranked = sorted((n for n, value in enumerate(gain) if value), key=lambda n: (-gain[n], n))
    gains = [n for n in ranked[:most] if gain[n] > 0]
    losses = [n for n in ranked[::-1][:most] if gain[n] < 0]
    failed = [n for n, example in enumerate(examples) if example["failure"] is not None]
    rest = sorted(set(range(len(examples))) - {*gains, *losses, *failed})
    drawn = random.Random(0).sample(rest, min(most, len(rest)))
    alternating = [n for pair in zip(gains, losses, strict=False) for n in pair]
    first_cards = by_change(examples, first)[:FIRST_CARDS]
    numbers = dict.fromkeys([*first_cards, *alternating, *gains, *losses, *failed, *drawn])
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
