"""The result of a check as one HTML file with thumbnails, without scripts or external resources."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmtune.data import Rows
from vlmtune.dataset_check.findings import KINDS
from vlmtune.dataset_check.text import verdict
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb, thumbnail
from vlmtune.report import svg, templates
from vlmtune.report.svg import WIDTH, Figure

FOLDER = Path(__file__).parent
TOP, BOTTOM, LEFT = 18.0, 168.0, 40.0
TONES = {"clean": "good", "warnings": "even", "left_out": "even", "errors": "bad"}
STATUSES = {"clean": "clean", "warnings": "warnings", "left_out": "rows left out", "errors": "errors"}
MAX_VISIBLE, MAX_LISTED = 8, 200
"""Findings per kind that are visible at once, and that the page contains at all; the JSON has all."""

THUMBNAIL_SIDE = 200
MAX_ILLUSTRATED = 12
"""Findings per kind with thumbnails."""

WITHOUT_IMAGES = ("row", "image", "example", "too-long", "encoding", "collection", "placeholder")
"""Kinds that are not about the image, or whose image cannot be decoded."""

ImageKey = tuple[str, int, int]
"""(role, row, position of the image in the row)."""


def render(result: Mapping[str, Any], images: Mapping[ImageKey, bytes]) -> str:
    """The page as HTML; dataset text is always escaped.

    Args:
        result: the result of a check.
        images: WebP thumbnails of the findings that `illustrated` selects.
    """
    from markupsafe import Markup

    encoded = {key: Markup(base64.b64encode(data).decode()) for key, data in images.items()}
    return templates.render(
        "report.html.jinja",
        [FOLDER],
        styles=[FOLDER / "report.css"],
        result=result,
        tone=TONES[result["status"]],
        status=STATUSES[result["status"]],
        verdict=verdict(result),
        sections=_sections(result, encoded),
        splits=[_split_charts(split) for split in result["splits"]],
        table=_table(result),
    )


def _table(result: Mapping[str, Any]) -> list[list[str]]:
    """The splits in numbers, header first."""
    rows = [["role", "split", "rows", "bad", "images", "tokens p50", "p95", "longest", "of images", "supervised"]]
    for split in result["splits"]:
        tokens = split["tokens"]
        lengths = ["-"] * 5
        if tokens is not None:
            lengths = [f"{tokens[key]:,.0f}" for key in ("p50", "p95", "max")]
            fractions = (tokens["image_fraction"], tokens["supervised_fraction"])
            lengths += [f"{fraction:.0%}" if fraction else "-" for fraction in fractions]
        counts = [f"{split[key]:,}" for key in ("rows", "bad", "images")]
        rows.append([split["role"], split["split"], *counts, *lengths])
    return rows


def _split_charts(split: Mapping[str, Any]) -> dict[str, Any]:
    """Figures and tables of one split."""
    name, tokens = split["role"], split["tokens"]
    properties = [
        [label, f"{count:,}", f"{count / split['images']:.1%}"] for label, count in split["properties"].items()
    ]
    empty = [[field, f"{count:,}"] for field, count in split["empty_fields"].items()]
    sides = {side: split[side] for side in ("width", "height") if split[side] is not None}
    return {
        "name": name,
        "empty": [["field", "rows without it"], *empty] if empty else None,
        "tokens": histogram(f"tokens-{name}", f"Tokens of {name} rows", tokens["histogram"]) if tokens else None,
        "properties": [["images", "number", "fraction"], *properties] if properties else None,
        "sides": [["pixels", "smallest", "median", "95 %", "largest"]]
        + [[side, *(f"{values[key]:,.0f}" for key in ("min", "p50", "p95", "max"))] for side, values in sides.items()],
    }


def histogram(name: str, title: str, bins: Mapping[str, Any]) -> Figure:
    """A histogram of integers.

    Args:
        name: distinguishes the figures of a page.
        title: what is counted.
        bins: integer `edges` of bins of equal width [n + 1], upper edges excluded, and their `counts` [n].
    """
    edges, counts = bins["edges"], bins["counts"]
    most, low, high = max(counts), edges[0], edges[-1]
    width = (WIDTH - LEFT) / len(counts)

    def across(value: float) -> float:
        return float(LEFT + (value - low) / (high - low) * (WIDTH - LEFT))

    shapes = svg.count_axis(most, LEFT, TOP, BOTTOM)
    for number, count in enumerate(counts):
        height = (BOTTOM - TOP) * count / most
        if count:
            # The bar of a single long row must remain visible beside thousands of short ones.
            size = width - 1, max(height, 1.5)
            shapes.append(svg.bar(LEFT + number * width + 0.5, BOTTOM - size[1], *size, "b"))
    for tick in svg.ticks(low, high, 6):
        anchor = "end" if across(tick) > WIDTH - 12 else "middle"
        shapes.append(svg.text(across(tick), BOTTOM + 16, f"{tick:,.0f}", anchor, "axis"))
    table = [["from", "to", "rows"]]
    table += [[f"{edges[n]:,}", f"{edges[n + 1] - 1:,}", f"{count:,}"] for n, count in enumerate(counts)]
    description = f"{sum(counts):,} in total, from {low:,} to {high - 1:,}."
    return Figure(name, title, description, "".join(shapes), BOTTOM + 22, table)


def _sections(result: Mapping[str, Any], images: Mapping[ImageKey, str]) -> list[dict[str, Any]]:
    """The findings by kind, errors first."""
    with_images = {id(finding) for finding in illustrated(result)}
    sections = []
    for kind, about in KINDS.items():
        counts = [count for count in result["counts"] if count["kind"] == kind]
        if not counts:
            continue
        findings = [finding for finding in result["findings"] if finding["kind"] == kind]
        total = sum(count["count"] for count in counts)
        cards = [_card(finding, images) for finding in findings if id(finding) in with_images]
        sections.append(
            {
                "kind": kind,
                "about": about,
                "total": total,
                "where": ", ".join(f"{count['count']:,} in {count['role']}" for count in counts),
                "cards": [card for card in cards if card["images"]],
                "visible": findings[:MAX_VISIBLE],
                "further": findings[MAX_VISIBLE:MAX_LISTED],
                "more": total - len(findings[:MAX_LISTED]),
            }
        )
    return sections


def _card(finding: Mapping[str, Any], images: Mapping[ImageKey, str]) -> dict[str, Any]:
    """A finding with its image, or with both images of a pair."""
    locations = [finding, *([finding["other"]] if finding["other"] is not None else [])]
    thumbs = [(one, images.get((one["role"], one["row"], one["image"]))) for one in locations]
    images_shown = [(one, data) for one, data in thumbs if data is not None]
    # Two similar images speak for themselves; two answers do not.
    speaks = finding["other"] is None or finding["kind"] == "contradiction"
    return {"message": finding["message"] if speaks else "", "images": images_shown}


def illustrated(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Findings that are shown with images: the first ones of every kind that is about images."""
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    for finding in result["findings"]:
        if finding["row"] is not None and finding["kind"] not in WITHOUT_IMAGES:
            some = chosen.setdefault(finding["kind"], [])
            if len(some) < MAX_ILLUSTRATED:
                some.append(finding)
    return [finding for some in chosen.values() for finding in some]


def thumbnails(result: Mapping[str, Any], rows: Mapping[str, Rows]) -> dict[ImageKey, bytes]:
    """WebP thumbnails of the illustrated findings, both images for pairs."""
    keys: dict[ImageKey, None] = {}
    for finding in illustrated(result):
        for one in (finding, finding["other"]):
            if one is not None:
                keys[one["role"], one["row"], one["image"]] = None
    thumbs: dict[ImageKey, bytes] = {}
    for role, row, position in keys:
        try:
            refs = rows[role][row].images
            if position < len(refs):
                thumbs[role, row, position] = thumbnail(decode_rgb(refs[position]), THUMBNAIL_SIDE)
        except DataError:  # the row cannot be read, or another of its images cannot be decoded
            continue
    return thumbs
