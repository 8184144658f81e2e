"""The rows of a comparison as the page needs them: which metrics they know, in which order they come, in which words.

Numbers of a row are those of `scoring.examples`; `payload` packs them for the script.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmtune.report.text import precision

Example = Mapping[str, Any]
FIRST = 20
"""Cards that stand on the page without its script."""


@dataclass(frozen=True, slots=True)
class Column:
    """A metric as the rows know it. `alone` says whether it is a number of one row, `mean` whether the score is the
    mean of those, `binary` whether they are all 0 or 1 as well.
    """

    name: str
    higher_is_better: bool
    digits: int
    alone: bool
    mean: bool
    binary: bool

    def good(self, example: Example) -> float | None:
        """How much better B is in this row; None where a side failed."""
        delta = None if example["deltas"] is None else example["deltas"][self.name]
        return delta if delta is None or self.higher_is_better else -delta

    def values(self, examples: Iterable[Example]) -> list[tuple[float, float]]:
        """Scores of A and B of the rows that have both."""
        both = [
            (row["scores"]["a"][self.name], row["scores"]["b"][self.name])
            for row in examples
            if row["scores"] is not None
        ]
        return [(a, b) for a, b in both if a is not None and b is not None]


def columns(plain: Mapping[str, Any]) -> list[Column]:
    """The metrics of a comparison, the primary one first."""
    found = []
    scored = [row for row in plain["examples"] if row["scores"] is not None]
    for entry in plain["metrics"]:
        name = entry["name"]
        own = [(row["scores"]["a"][name], row["scores"]["b"][name], row["deltas"][name]) for row in scored]
        whole = [(a, b, delta) for a, b, delta in own if None not in (a, b, delta)]
        alone = bool(own) and len(whole) == len(own)
        mean = alone and all(abs(b - a - delta) < 1e-5 for a, b, delta in whole)
        binary = mean and all({a, b} <= {0, 1} for a, b, _ in whole)
        found.append(Column(name, entry["higher_is_better"], precision(entry), alone, mean, binary))
    return found


def in_order(examples: Sequence[Example], column: Column | None) -> list[int]:
    """Row numbers, the largest change first, failed rows last: the order the page opens with."""
    sizes = [None if column is None else column.good(example) for example in examples]
    return sorted(range(len(examples)), key=lambda n: (sizes[n] is None, -abs(sizes[n] or 0.0), n))


def pictured(plain: Mapping[str, Any], most: int) -> list[str]:
    """Images the page shows, most important first: largest losses and gains, failed rows, rows drawn at random.

    Args:
        plain: a comparison as `Comparison.to_json` gives it.
        most: rows of each kind.
    """
    examples, first = plain["examples"], next(iter(columns(plain)), None)
    good = [None if first is None else first.good(example) for example in examples]
    ranked = sorted((n for n, value in enumerate(good) if value), key=lambda n: (-(good[n] or 0.0), n))
    gains = [n for n in ranked[:most] if (good[n] or 0.0) > 0]
    losses = [n for n in ranked[::-1][:most] if (good[n] or 0.0) < 0]
    failed = [n for n, example in enumerate(examples) if example["failure"] is not None]
    rest = sorted(set(range(len(examples))) - {*gains, *losses, *failed})
    drawn = random.Random(0).sample(rest, min(most, len(rest)))
    first_cards = in_order(examples, first)[:FIRST]
    alternating = [n for pair in zip(gains, losses, strict=False) for n in pair]
    chosen = dict.fromkeys([*first_cards, *alternating, *gains, *losses, *failed, *drawn])
    images = (examples[n]["image"] for n in chosen)
    return list(dict.fromkeys(image for image in images if image is not None))


def name(example: Example, number: int) -> str:
    """What a row is called: its id, else its place."""
    return f"row {number + 1}" if example["id"] is None else str(example["id"])


def question(example: Example) -> str | None:
    """What was asked about the image, where rows differ in that and the file says so."""
    asked = example.get("question", example["meta"].get("question"))
    return asked if isinstance(asked, str) else None


def expected(example: Example) -> list[str]:
    """What a right answer says: the references, and whatever else the metrics compared with."""
    found = list(example["references"])
    for key, value in example.get("truth", {}).items():
        said = _said(value)
        if said not in found:
            found.append(f"{key}: {said}")
    return found


def _said(value: Any) -> str:
    """A value for people: texts as they are, a list of texts with commas, all else as JSON."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def failures(example: Example) -> list[tuple[str, str]]:
    """(side, what happened) of a row without an answer."""
    found = example["failure"] or {}
    return [(side.upper(), f"{what['stage']}: {what['reason']}") for side, what in found.items() if what is not None]


def meta(example: Example) -> list[str]:
    """The row's own remarks as texts."""
    size = {"size": "x".join(map(str, example["image_size"]))} if "image_size" in example else {}
    return [f"{key}: {_said(value)}" for key, value in {**size, **example["meta"]}.items() if key != "question"]
