"""Rows that are left out because they cannot be used: which, why, and the rows that remain.

`quarantine.json` in the run folder lists them for every role, with the data and settings they were found with. `data
check` writes it. Training checks its own rows if the file has no entry for them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from pydantic import NonNegativeInt
from typing_extensions import TypedDict

from vlmtune.config import Config
from vlmtune.data import Rows, Subset
from vlmtune.dataset_check.findings import printable
from vlmtune.dataset_check.splits import evaluated_fingerprints
from vlmtune.errors import DataError, IntegrityError
from vlmtune.files import read_json, write_json
from vlmtune.progress import Progress
from vlmtune.run_layout import QUARANTINE
from vlmtune.signals import StopRequest
from vlmtune.training.dataset import TrainingExamples

SCHEMA_VERSION = 1
CHECK = "data check"
"""`found_by` of entries that compared train rows with evaluated ones."""

MAX_NAMED = 10
"""Rows named in a message."""


class Remaining(Subset):
    """The rows of a split without those left out.

    Args:
        rows: the whole split.
        left_out: indices of the other rows, with their reasons.
    """

    def __init__(self, rows: Rows, left_out: Mapping[int, str]) -> None:
        self.left_out = [rows.id(row) for row in sorted(left_out)]
        super().__init__(rows, [row for row in range(len(rows)) if row not in left_out], self.left_out)


def settings_key(config: Config, preprocessing: Mapping[str, Any]) -> str:
    """Hash of everything other than the data that decides whether a row can be used."""
    training = config.training
    settings = {
        "task": config.task.model_dump(mode="json"),
        "target": config.dataset.target,
        "max_tokens": training.max_tokens,
        "trained_turns": training.trained_turns,
        "preprocessing": preprocessing,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


class _LeftOut(TypedDict):
    row: NonNegativeInt
    reason: str


class _Entry(TypedDict):
    fingerprint: str | None
    settings: str
    compared: NotRequired[dict[str, str | None] | None]
    left_out: list[_LeftOut]


class _File(TypedDict):
    """Types of what is read from a quarantine file."""

    roles: dict[str, _Entry]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The quarantine of a run folder for one config and its preprocessing (`Encoder.facts`).

    `run` is the config of the whole run where `config` is that of an additional evaluation set or of a mixed dataset.
    """

    folder: Path
    config: Config
    preprocessing: Mapping[str, Any]
    run: Config | None = None

    @property
    def file(self) -> Path:
        """The quarantine file."""
        return self.folder / QUARANTINE

    def _roles(self) -> "Mapping[str, _Entry]":
        """The entries of the file, by role.

        Raises:
            IntegrityError: the file is not a quarantine file.
        """
        roles: Mapping[str, _Entry] = read_json(self.file, _File)["roles"]
        return roles

    def read(self, name: str, rows: Rows) -> dict[int, str] | None:
        """Rows that the file leaves out, with their reasons; None if its entry is for other rows or settings.

        Train rows may be left out by `data check` because they show evaluated images, so the entry is only valid for
        the rows that are evaluated now.

        Args:
            name: role of the rows, or NAME/ROLE for an additional evaluation set.
            rows: the whole split.

        Raises:
            IntegrityError: the file is not a quarantine file.
            DataError: train rows were compared with other rows than are evaluated now.
        """
        if not self.file.is_file():
            return None
        entry = self._roles().get(name)
        settings = settings_key(self.config, self.preprocessing)
        if entry is None or (entry["fingerprint"], entry["settings"]) != (rows.fingerprint, settings):
            return None
        if entry.get("compared") is not None and entry["compared"] != evaluated_fingerprints(self.run or self.config):
            raise DataError(
                f"{self.file}: the {name} rows were compared with other evaluated rows than there are now; run "
                "`vlmtune data check` again"
            )
        left_out = {row["row"]: row["reason"] for row in entry["left_out"]}
        if max(left_out, default=0) >= len(rows):
            raise IntegrityError(
                f"{self.file}: {name} has no row {max(left_out)}; delete the file and run `vlmtune data check` again"
            )
        return left_out

    def write(
        self,
        name: str,
        rows: Rows,
        bad: Mapping[int, str],
        found_by: str,
        compared: Mapping[str, str | None] | None = None,
    ) -> None:
        """Write the entry of one role; entries of other roles are kept.

        Args:
            name: role of the rows, as for `read`.
            rows: the whole split.
            bad: rows to leave out, with their reasons.
            found_by: the step that found them.
            compared: names and fingerprints of the rows these were compared with.
        """
        roles: dict[str, Any] = {**self._roles()} if self.file.is_file() else {}
        roles[name] = {
            "fingerprint": rows.fingerprint,
            "settings": settings_key(self.config, self.preprocessing),
            "found_by": found_by,
            "compared": compared,
            "rows": len(rows),
            "left_out": [{"id": rows.id(row), "row": row, "reason": printable(bad[row])} for row in sorted(bad)],
        }
        write_json(self.file, {"schema_version": SCHEMA_VERSION, "roles": roles})

    def left_out(
        self, name: str, rows: Rows, examples: TrainingExamples | None, progress: Progress, stop: StopRequest
    ) -> dict[int, str]:
        """Rows that cannot be used, with their reasons: from the file, or checked now and written to it.

        Rows that are only answered, for which `examples` is None, are read but not decoded: an undecodable image
        becomes a counted failure, unless `data check` left the row out.

        Raises:
            DataError: there are more than `dataset.max_bad_fraction` allows.
        """
        bad = self.read(name, rows)
        is_new = bad is None
        if bad is None:
            if self.file.is_file() and name in self._roles():
                progress.note(f"{self.file} is about other {name} rows or settings; checking them again")
            bad = unreadable(rows) if examples is None else examples.bad_rows(name, progress, stop)
        check_budget(name, bad, len(rows), self.config.dataset.max_bad_fraction)
        if is_new:
            self.write(name, rows, bad, "prediction" if examples is None else "training")
        return bad


def unreadable(rows: Rows) -> dict[int, str]:
    """Rows that cannot be read, with their reasons; images are not decoded."""
    bad = {}
    for row in range(len(rows)):
        try:
            rows[row]
        except DataError as error:
            bad[row] = str(error)
    return bad


def check_budget(name: str, bad: Mapping[int, str], count: int, allowed: float) -> None:
    """Check that at most the allowed fraction of rows is bad, and that some are good.

    Raises:
        DataError: otherwise; names some of the bad rows.
    """
    if not bad or (len(bad) / count <= allowed and len(bad) < count):
        return
    named = [f"  {reason}" for _, reason in sorted(bad.items())[:MAX_NAMED]]
    more = [f"  and {len(bad) - MAX_NAMED} more"] if len(bad) > MAX_NAMED else []
    raise DataError(
        f"{len(bad)} of {count} {name} rows cannot be used ({len(bad) / count:.1%}), more than "
        f"dataset.max_bad_fraction allows ({allowed:.1%}):\n" + "\n".join([*named, *more])
    )
