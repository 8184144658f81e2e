"""What a check leaves in the run folder: its result as JSON and as a page, and the quarantine where rows may be bad."""

from pathlib import Path
from typing import Any

from vlmtune.checks.rows.checking import Check
from vlmtune.checks.rows.findings import reason
from vlmtune.checks.rows.page import render
from vlmtune.checks.rows.quarantine import Quarantine
from vlmtune.checks.rows.thumbnails import thumbnails
from vlmtune.files import write_atomic, write_json

RESULT, PAGE = "data_check.json", "data_check.html"
CACHE = "pictures-looked-at.jsonl"


def check(asked: Check, folder: Path) -> dict[str, Any]:
    """Check a dataset; write the result, the page and the quarantine into a run folder. Returns the result."""
    found, rows = asked.run(folder / RESULT)
    write_json(folder / RESULT, found)
    write_atomic(folder / PAGE, render(found, thumbnails(found, rows)))
    if found["max_bad_fraction"] > 0 and found["status"] != "errors":
        quarantine = Quarantine(folder, asked.config, asked.inputs.facts())
        for role, those in rows.items():
            bad: dict[int, str] = {}
            for each in found["findings"]:
                if each["severity"] == "error" and each["role"] == role and each["row"] is not None:
                    bad.setdefault(each["row"], reason(each["where"], each["what"]))
            quarantine.keep(role, those, bad, "data check")
    return found
