"""What a check leaves in the run folder: its result as JSON and as a page, and the quarantine where rows may be bad."""

from pathlib import Path
from typing import Any

from vlmtune.checks.rows.checking import Check
from vlmtune.checks.rows.findings import first_reasons
from vlmtune.checks.rows.page import render
from vlmtune.checks.rows.quarantine import CHECK, Quarantine
from vlmtune.checks.rows.thumbnails import thumbnails
from vlmtune.files import write_atomic, write_json

RESULT, PAGE = "data_check.json", "data_check.html"
CACHE = "pictures-looked-at.jsonl"


def check(asked: Check, folder: Path) -> dict[str, Any]:
    """Check a dataset; write the result, the page and the quarantine into a run folder. Returns the result."""
    found, parts = asked.run(folder / RESULT)
    write_json(folder / RESULT, found)
    rows = {part.name: part.rows for part in parts if part.rows is not None}
    write_atomic(folder / PAGE, render(found, thumbnails(found, rows)))
    if found["status"] != "errors":
        compared = {part.name: part.fingerprint for part in parts if part.evaluated and part.name != "train"}
        for part in parts:
            if part.rows is not None and part.config.dataset.max_bad_fraction > 0:
                quarantine = Quarantine(folder, part.config, asked.inputs.facts())
                bad = first_reasons(found["findings"], part.name)
                quarantine.keep(part.name, part.rows, bad, CHECK, compared if part.name == "train" else None)
    return found
