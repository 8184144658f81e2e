"""The result of a check as one page: a single file without a script, that needs no network and no other file.

A histogram as SVG, in the style of the report's charts.

Small pictures of what a check found, for its page.

One example as a page: its pictures at the size the model reads them, its tokens, what is learnt.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmtune.data import Rows
from vlmtune.dataset_check.findings import KINDS
from vlmtune.dataset_check.text import verdict
from vlmtune.errors import DataError
from vlmtune.files import write_atomic
from vlmtune.images import decode_rgb, thumbnail
from vlmtune.report import svg, templates
from vlmtune.report.svg import WIDTH, Figure
from vlmtune.types import Example

TOP, BOTTOM, LEFT = 18.0, 168.0, 40.0


def histogram(name: str, title: str, counted: Mapping[str, Any]) -> Figure:
    """Counts of whole numbers in bins of equal width.

    Args:
        name: distinguishes the drawings of a page.
        title: what is counted.
        counted: whole `edges` of the bins [n + 1], the upper one not in its bin, and their `counts` [n].
    """
    edges, counts = counted["edges"], counted["counts"]
    most, low, high = max(counts), edges[0], edges[-1]
    width = (WIDTH - LEFT) / len(counts)

    def across(value: float) -> float:
        return float(LEFT + (value - low) / (high - low) * (WIDTH - LEFT))

    parts = svg.count_axis(most, LEFT, TOP, BOTTOM)
    for number, count in enumerate(counts):
        height = (BOTTOM - TOP) * count / most
        if count:
            # A bar of one row among thousands must still be seen: it is the longest row.
            size = width - 1, max(height, 1.5)
            parts.append(svg.bar(LEFT + number * width + 0.5, BOTTOM - size[1], *size, "b"))
    for tick in svg.ticks(low, high, 6):
        anchor = "end" if across(tick) > WIDTH - 12 else "middle"
        parts.append(svg.text(across(tick), BOTTOM + 16, f"{tick:,.0f}", anchor, "axis"))
    table = [["from", "to", "rows"]]
    table += [[f"{edges[n]:,}", f"{edges[n + 1] - 1:,}", f"{count:,}"] for n, count in enumerate(counts)]
    said = f"{sum(counts):,} in all, from {low:,} to {high - 1:,}."
    return Figure(name, title, said, "".join(parts), BOTTOM + 22, table)


FOLDER = Path(__file__).parent
TONES = {"clean": "good", "warnings": "even", "left_out": "even", "errors": "bad"}
STATUSES = {"clean": "clean", "warnings": "warnings", "left_out": "rows left out", "errors": "errors"}
FIRST, LISTED = 8, 200
"""Findings of one kind that are seen at once, and that the page has; the JSON has all."""


Key = tuple[str, int, int]
"""(role, row, which of its pictures)."""


def render(found: Mapping[str, Any], pictures: Mapping[Key, bytes]) -> str:
    """The page as HTML; text of rows is only ever text.

    Args:
        found: what a check found.
        pictures: WebP thumbnails of the findings that `pictured` chooses.
    """
    images = {key: base64.b64encode(data).decode() for key, data in pictures.items()}
    return templates.render(
        "report.html.jinja",
        [FOLDER],
        styles=[FOLDER / "report.css"],
        found=found,
        tone=TONES[found["status"]],
        status=STATUSES[found["status"]],
        verdict=verdict(found),
        sections=_sections(found, images),
        roles=[_role(split) for split in found["splits"]],
        table=_table(found),
    )


def _table(found: Mapping[str, Any]) -> list[list[str]]:
    """The roles in numbers, header first."""
    rows = [["role", "split", "rows", "bad", "pictures", "tokens, median", "95 %", "longest", "of pictures", "learnt"]]
    for split in found["splits"]:
        tokens = split["tokens"]
        lengths = ["-"] * 5
        if tokens is not None:
            lengths = [f"{tokens[key]:,.0f}" for key in ("p50", "p95", "max")]
            lengths += [f"{tokens[key]:.0%}" if tokens[key] else "-" for key in ("image_share", "supervised_share")]
        counts = [f"{split[key]:,}" for key in ("rows", "bad", "pictures")]
        rows.append([split["role"], split["split"], *counts, *lengths])
    return rows


def _role(split: Mapping[str, Any]) -> dict[str, Any]:
    """Drawings of one role."""
    name, tokens = split["role"], split["tokens"]
    traits = [[trait, f"{count:,}", f"{count / split['pictures']:.1%}"] for trait, count in split["traits"].items()]
    sides = {side: split[side] for side in ("width", "height") if split[side] is not None}
    return {
        "name": name,
        "tokens": histogram(f"tokens-{name}", f"Tokens of {name} rows", tokens["histogram"]) if tokens else None,
        "traits": [["pictures", "number", "share"], *traits] if traits else None,
        "sides": [["pixels", "smallest", "median", "95 %", "largest"]]
        + [[side, *(f"{spread[key]:,.0f}" for key in ("min", "p50", "p95", "max"))] for side, spread in sides.items()],
    }


def _sections(found: Mapping[str, Any], images: Mapping[Key, str]) -> list[dict[str, Any]]:
    """Findings by kind, errors first."""
    chosen = {id(each) for each in pictured(found)}
    sections = []
    for kind, about in KINDS.items():
        counts = [count for count in found["counts"] if count["kind"] == kind]
        if not counts:
            continue
        mine = [each for each in found["findings"] if each["kind"] == kind]
        total = sum(count["count"] for count in counts)
        cards = [_card(each, images) for each in mine if id(each) in chosen]
        sections.append(
            {
                "kind": kind,
                "about": about,
                "total": total,
                "where": ", ".join(f"{count['count']:,} in {count['role']}" for count in counts),
                "cards": [card for card in cards if card["pictures"]],
                "rows": mine[:FIRST],
                "further": mine[FIRST:LISTED],
                "more": total - len(mine[:LISTED]),
            }
        )
    return sections


def _card(each: Mapping[str, Any], images: Mapping[Key, str]) -> dict[str, Any]:
    """A finding with its picture, and the other one of a pair beside it."""
    places = [{"role": each["role"], "row": each["row"], "id": each["id"], "image": each["image"]}]
    places += [each["other"]] if each["other"] is not None else []
    shown = [(place, images.get((place["role"], place["row"], place["image"]))) for place in places]
    return {"what": each["what"], "pictures": [(place, data) for place, data in shown if data is not None]}


SIDE = 200
PICTURED = 12
"""Findings of one kind with their pictures."""

OF_TEXT = ("row", "image", "lesson", "long", "text")
"""Kinds whose pictures say nothing about them, or cannot be seen."""


def pictured(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Findings that are shown with pictures: the first of every kind that is about a row whose pictures can be seen."""
    shown: dict[str, list[Mapping[str, Any]]] = {}
    for each in found["findings"]:
        if each["row"] is not None and each["kind"] not in OF_TEXT:
            some = shown.setdefault(each["kind"], [])
            if len(some) < PICTURED:
                some.append(each)
    return [each for some in shown.values() for each in some]


def thumbnails(found: Mapping[str, Any], rows: Mapping[str, Rows]) -> dict[Key, bytes]:
    """WebP thumbnails of the pictures of these findings, and of the other one of each pair."""
    wanted: dict[Key, None] = {}
    for each in pictured(found):
        wanted[each["role"], each["row"], each["image"]] = None
        if each["other"] is not None:
            other = each["other"]
            wanted[other["role"], other["row"], other["image"]] = None
    made: dict[Key, bytes] = {}
    for key in wanted:
        role, row, image = key
        try:
            refs = rows[role][row].images
            if image < len(refs):
                made[key] = thumbnail(decode_rgb(refs[image]), SIDE)
        except DataError:  # the row cannot be read, or has another picture that cannot be decoded
            continue
    return made


def write(shown: Mapping[str, Any], example: Example, file: Path) -> None:
    """Write the page of an example that `Shown.row` gave; text of rows is only ever text."""
    html = templates.render(
        "row.html.jinja",
        [FOLDER],
        styles=[FOLDER / "report.css"],
        shown=shown,
        images=[
            _resized(ref, *picture["resized"]) for ref, picture in zip(example.images, shown["pictures"], strict=True)
        ],
    )
    write_atomic(file, html)


def _resized(ref: Any, width: int, height: int) -> str:
    """A picture as the model reads it, up to the rounding of the last bit, as WebP in base64."""
    from PIL import Image

    buffer = io.BytesIO()
    decode_rgb(ref).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "WEBP", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()
