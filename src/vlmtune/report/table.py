"""All rows of a comparison as CSV, for a page that shows only some of them; the columns are those of its CSV button."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vlmtune.report.rows import expected, label
from vlmtune.scoring.results import ComparisonFile, ExampleResult
from vlmtune.terminal import cleaner


def path_beside(page: Path) -> Path:
    """The table's file: `report_rows.csv` beside `report.html`."""
    return page.with_name(f"{page.stem}_rows.csv")


def write(comparison: ComparisonFile, stream: BinaryIO) -> None:
    """Write the table in UTF-8, with a byte-order mark by which spreadsheets recognize that."""
    safe = cleaner()
    names = [entry["name"] for entry in comparison["metrics"]]
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    rows = csv.writer(text)
    scores = [f"{name} {what}" for name in names for what in ("A", "B", "change")]
    rows.writerow(["id", "A", "B", "references", "flags A", "flags B", *scores])
    for number, example in enumerate(comparison["examples"]):
        texts = [label(example, number), example["a"], example["b"], " | ".join(expected(example))]
        flags = [" ".join(example["flags"][side]) for side in ("a", "b")]
        rows.writerow([*(text and _cell(text, safe) for text in (*texts, *flags)), *_numbers(example, names)])
    text.detach()  # flushed, and the stream left open


def _numbers(example: ExampleResult, names: list[str]) -> Iterator[float | None]:
    scores, deltas = example["scores"], example["deltas"]
    for name in names:
        yield from (None, None) if scores is None else (scores["a"][name], scores["b"][name])
        yield None if deltas is None else deltas[name]


def _cell(text: str, safe: Callable[[str], str]) -> str:
    """Text that looks like a formula gets an apostrophe, so that no spreadsheet evaluates it."""
    return f"'{safe(text)}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else safe(text)
