"""The result of a check as one page: a single file without a script, that needs no network and no other file."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmtune.checks.rows.drawing import histogram
from vlmtune.checks.rows.findings import KINDS
from vlmtune.checks.rows.summary import verdict
from vlmtune.checks.rows.thumbnails import Key, pictured
from vlmtune.report import sheets

FOLDER = Path(__file__).parent
TONES = {"clean": "good", "warnings": "even", "left_out": "even", "errors": "bad"}
STATUSES = {"clean": "clean", "warnings": "warnings", "left_out": "rows left out", "errors": "errors"}
FIRST, LISTED = 8, 200
"""Findings of one kind that are seen at once, and that the page has; the JSON has all."""


def render(found: Mapping[str, Any], pictures: Mapping[Key, bytes]) -> str:
    """The page as HTML; text of rows is only ever text.

    Args:
        found: what a check found.
        pictures: WebP thumbnails of the findings that `pictured` chooses.
    """
    images = {key: base64.b64encode(data).decode() for key, data in pictures.items()}
    return sheets.render(
        "page-of-check.html.jinja",
        [FOLDER],
        styles=[FOLDER / "page.css"],
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
