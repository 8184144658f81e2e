"""A comparison as one page: a single file that needs no network, no script and no other file.

A pure function of the comparison and the pictures: the same input gives the same bytes. Text of rows is only ever text.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune.report import ReportConfig, charts, text

Example = Mapping[str, Any]
STATUSES = {"improved": "good", "worse": "bad", "no_difference": "even", "inconclusive": "even"}
"""Colour of the verdict."""


def render(plain: Mapping[str, Any], pictures: Mapping[str, bytes], config: ReportConfig) -> str:
    """The page as HTML.

    Args:
        plain: a comparison as `Comparison.to_json` gives it, with its examples.
        pictures: WebP thumbnails by the hash of their image.
        config: what is shown.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (folder / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    groups = [(title, some) for title, some in _chosen(plain["examples"], config.examples) if some]
    return environment.get_template("page.html.jinja").render(
        plain=plain,
        tone=STATUSES[plain["status"]],
        style=Markup(style),
        style_hash=f"sha256-{digest}",
        forest=Markup(charts.forest(plain["metrics"])),
        metrics=text.metric_rows(plain),
        answers=text.answer_rows(plain),
        controls=text.control_lines(plain),
        groups=groups,
        shown=sum(len(some) for _, some in groups),
        pictures={key: base64.b64encode(data).decode() for key, data in pictures.items()},
        facts=_flat(plain["settings"]),
    )


def _chosen(examples: Sequence[Example], most: int) -> list[tuple[str, list[Example]]]:
    """The largest gains and losses, and rows evenly spaced over the rest in dataset order; each row once."""
    ranked = sorted(range(len(examples)), key=lambda n: (-examples[n]["gain"], n))
    third = max(1, most // 3)
    gains = [n for n in ranked[:third] if examples[n]["gain"] > 0]
    losses = [n for n in reversed(ranked[-third:]) if examples[n]["gain"] < 0 and n not in gains]
    rest = [n for n in range(len(examples)) if n not in {*gains, *losses}]
    room = max(0, most - len(gains) - len(losses))
    spaced = [rest[k * len(rest) // room] for k in range(room)] if len(rest) > room else rest
    named = [("Largest gains", gains), ("Largest losses", losses), ("Across the dataset", spaced)]
    return [(title, [examples[n] for n in numbers]) for title, numbers in named]


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted path, value) rows; what is None is left out."""
    if isinstance(value, Mapping):
        return [row for key, item in value.items() for row in _flat(item, f"{path}.{key}" if path else key)]
    return [] if value is None else [(path, str(value))]
