"""Rows that are left out because they cannot be used: which, why, and what is left of a split without them.

`quarantine.json` in the run folder says for every role which rows those are, and of which data and settings it speaks.
`data check` writes it; a training that finds no word about its rows looks for itself.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.config import Config
from vlmtune.data import Rows, Subset
from vlmtune.dataset_check.findings import printable
from vlmtune.dataset_check.splits import compared_with_train
from vlmtune.errors import DataError
from vlmtune.files import read_json, write_json
from vlmtune.progress import Progress
from vlmtune.run_folder import QUARANTINE
from vlmtune.signals import StopRequest
from vlmtune.training.dataset import TrainingExamples

SCHEMA_VERSION = 1
CHECK = "data check"
"""Who compares train rows with evaluated ones."""

NAMED = 10
"""Rows named in a message."""


class Remaining(Subset):
    """The rows of a split that are not left out.

    Args:
        rows: the whole split.
        left_out: rows that are not here, with their reasons.
    """

    def __init__(self, rows: Rows, left_out: Mapping[int, str]) -> None:
        self.left_out = [rows.id(row) for row in sorted(left_out)]
        super().__init__(rows, [row for row in range(len(rows)) if row not in left_out], self.left_out)


def settings_key(config: Config, preprocessing: Mapping[str, Any]) -> str:
    """Hash of what else than the data decides whether a row can be used."""
    training = config.training
    decide = {
        "task": config.task.model_dump(mode="json"),
        "target": config.dataset.target,
        "max_tokens": training.max_tokens,
        "trained_turns": training.trained_turns,
        "preprocessing": preprocessing,
    }
    return hashlib.sha256(json.dumps(decide, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The quarantine of a run folder, for one config and what happens to its images and texts (`Encoder.facts`)."""

    folder: Path
    config: Config
    preprocessing: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """Where it is written."""
        return self.folder / QUARANTINE

    def known(self, name: str, rows: Rows) -> dict[int, str] | None:
        """Rows that the file leaves out, with their reasons; None where it speaks of other rows or settings.

        Train rows that `data check` left out may be so because they show what is evaluated: that they speak of the rows
        that are evaluated now is looked up.

        Args:
            name: role of the rows; that of a further evaluation set begins with its name.
            rows: the whole split.

        Raises:
            IntegrityError: the file is none of ours.
            DataError: train rows were compared with other rows than those that are evaluated now.
        """
        if not self.file.is_file():
            return None
        entry = read_json(self.file).get("roles", {}).get(name)
        settings = settings_key(self.config, self.preprocessing)
        if entry is None or (entry["fingerprint"], entry["settings"]) != (rows.fingerprint, settings):
            return None
        if entry.get("compared") is not None and entry["compared"] != compared_with_train(self.config):
            raise DataError(
                f"{self.file}: which {name} rows show what is evaluated was found out with other evaluated rows "
                "than there are now; run `vlmtune data check` again"
            )
        return {each["row"]: each["reason"] for each in entry["left_out"]}

    def keep(
        self,
        name: str,
        rows: Rows,
        bad: Mapping[int, str],
        found_by: str,
        compared: Mapping[str, str | None] | None = None,
    ) -> None:
        """Write down which rows are left out; what the file says of other roles stays.

        Args:
            name: role of the rows, as for `known`.
            rows: the whole split.
            bad: rows that are left out, with their reasons.
            found_by: which step found them.
            compared: names and fingerprints of other rows with which these were compared.
        """
        plain: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "roles": {}}
        if self.file.is_file():
            plain = read_json(self.file)
        plain["roles"][name] = {
            "fingerprint": rows.fingerprint,
            "settings": settings_key(self.config, self.preprocessing),
            "found_by": found_by,
            "compared": compared,
            "rows": len(rows),
            "left_out": [{"id": rows.id(row), "row": row, "reason": printable(bad[row])} for row in sorted(bad)],
        }
        write_json(self.file, plain)

    def left_out(
        self, name: str, rows: Rows, lessons: TrainingExamples, progress: Progress, stop: StopRequest
    ) -> dict[int, str]:
        """Rows that cannot be used, with their reasons: as the file says, or found and written there now.

        Rows that are answered are only read: one whose picture cannot be decoded fails, and is counted, unless
        `data check` left it out.

        Raises:
            DataError: more than `dataset.max_bad_fraction` allows.
        """
        bad = self.known(name, rows)
        found = bad is None
        if bad is None:
            if self.file.is_file() and name in read_json(self.file).get("roles", {}):
                progress.note(f"{self.file} speaks of other {name} rows or settings; they are looked at again")
            bad = lessons.bad_rows(name, progress, stop) if name in ("train", "validation") else unreadable(rows)
        refuse_many(name, bad, len(rows), self.config.dataset.max_bad_fraction)
        if found:
            self.keep(name, rows, bad, "training" if name in ("train", "validation") else "prediction")
        return bad


def unreadable(rows: Rows) -> dict[int, str]:
    """Rows that cannot be read, with their reasons; no picture is looked at."""
    bad = {}
    for row in range(len(rows)):
        try:
            rows[row]
        except DataError as error:
            bad[row] = str(error)
    return bad


def refuse_many(name: str, bad: Mapping[int, str], count: int, allowed: float) -> None:
    """That no more rows are bad than `dataset.max_bad_fraction` allows, and some are left.

    Raises:
        DataError: more are, or all; names some of them.
    """
    if not bad or (len(bad) / count <= allowed and len(bad) < count):
        return
    named = [f"  {reason}" for _, reason in sorted(bad.items())[:NAMED]]
    more = [f"  and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    raise DataError(
        f"{len(bad)} of {count} {name} rows cannot be used ({len(bad) / count:.1%}), more than "
        f"dataset.max_bad_fraction allows ({allowed:.1%}):\n" + "\n".join([*named, *more])
    )
