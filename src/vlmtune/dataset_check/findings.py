"""What can be wrong with a row: every kind of finding with its weight and what to do about it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of finding. A row with an error cannot be used, or must not."""

    severity: Severity
    title: str
    advice: str


KINDS: Mapping[str, Kind] = {
    "split": Kind("error", "Splits that cannot be opened", "Correct the dataset block of the config."),
    "leak": Kind(
        "error",
        "Evaluated pictures that are trained on",
        "Remove them from the train split. With dataset.max_bad_fraction above 0, the train rows are left out.",
    ),
    "row": Kind("error", "Rows that cannot be read", "Repair the row, or remove it."),
    "image": Kind("error", "Pictures that cannot be decoded", "Replace the file, or remove the row."),
    "label": Kind("error", "Labels outside the label set", "Correct the label, or add it to task.labels."),
    "box": Kind(
        "error",
        "Boxes that cannot be right",
        "Correct the box; where all boxes of a split are wrong, check task.unit and task.corners.",
    ),
    "lesson": Kind("error", "Rows that cannot be taught or asked", "Repair the row, or remove it."),
    "long": Kind(
        "error",
        "Rows that are too long",
        "Raise training.max_tokens, lower model.max_pixels, or shorten the text: nothing is ever cut.",
    ),
    "near-leak": Kind(
        "warning",
        "Evaluated pictures that resemble trained ones",
        "Look at the pairs. Where they are copies, remove them from the train split.",
    ),
    "shared": Kind(
        "warning",
        "Pictures that the validation split shares with another",
        "Rows that choose a checkpoint should be neither trained on nor reported.",
    ),
    "copy": Kind("warning", "Rows that ask the same about the same picture", "Remove all but one."),
    "near-copy": Kind(
        "warning", "Pictures that resemble another of their split", "Look at the pairs; they count twice in a score."
    ),
    "text": Kind("warning", "Texts that were read in a wrong encoding", "Read the source again as UTF-8."),
    "edge": Kind("warning", "Boxes that reach over the edge", "Clip the box to the picture."),
    "tiny": Kind("warning", "Tiny pictures", "They are enlarged, and show nothing more for it."),
    "narrow": Kind("warning", "Very narrow or flat pictures", "Cut them, if only a part matters."),
    "animated": Kind("warning", "Animations", "Only the first frame is seen."),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A row; `row` counts from 0 in its split's order. Of several pictures of the row, `image` is the one.

    `role` may be a further evaluation set, as NAME/ROLE.
    """

    role: str
    row: int
    id: str
    image: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"role": self.role, "row": self.row, "id": self.id, "image": self.image}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found in a row, or in a whole split where `place` is None.

    `where` is the file, line or column as far as `what` needs it; `other` is the other one of a pair.
    """

    kind: str
    role: str
    what: str
    place: Place | None = None
    other: Place | None = None
    where: str = ""

    @property
    def severity(self) -> Severity:
        """Whether the row cannot be used."""
        return KINDS[self.kind].severity

    def to_json(self) -> dict[str, Any]:
        """Plain values; what stands in `data_check.json`."""
        row = {"row": self.place.row, "id": self.place.id, "image": self.place.image} if self.place else {}
        return {
            "kind": self.kind,
            "severity": self.severity,
            "role": self.role,
            "row": None,
            "id": None,
            "image": None,
            **row,
            "what": printable(self.what),
            "where": printable(self.where),
            "other": self.other.to_json() if self.other else None,
            "do": KINDS[self.kind].advice,
        }


def printable(text: str) -> str:
    """A text that UTF-8 can hold: bytes of a file's name that are none become escapes."""
    return text.encode(errors="backslashreplace").decode()


def reason(where: str, what: str) -> str:
    """What is wrong, with where it stands."""
    return f"{where}: {what}" if where else what


def bad_rows(findings: Iterable[Finding], role: str) -> dict[int, str]:
    """Rows of a role that cannot be used, each with its first reason, in their order."""
    return first_reasons((found.to_json() for found in findings if found.severity == "error"), role)


def first_reasons(findings: Iterable[Mapping[str, Any]], role: str) -> dict[int, str]:
    """As `bad_rows`, of findings as plain values."""
    bad: dict[int, str] = {}
    for found in findings:
        if found["role"] == role and found["severity"] == "error" and found["row"] is not None:
            bad.setdefault(found["row"], reason(found["where"], found["what"]))
    return dict(sorted(bad.items()))
