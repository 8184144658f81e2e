"""Findings of a check: their kinds, each with a severity and advice, and the rows they are about."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding. A row with an error cannot or must not be used."""

    severity: Severity
    title: str
    advice: str


KINDS: Mapping[str, Kind] = {
    "split": Kind("error", "Splits that cannot be opened", "Correct the dataset block of the config."),
    "leak": Kind(
        "error",
        "Evaluated images in the training data",
        "Remove them from the train split. With dataset.max_bad_fraction above 0, these train rows are left out.",
    ),
    "row": Kind("error", "Rows that cannot be read", "Repair the row, or remove it."),
    "image": Kind("error", "Images and videos that cannot be decoded", "Replace the file, or remove the row."),
    "label": Kind("error", "Labels outside the label set", "Correct the label, or add it to task.labels."),
    "box": Kind(
        "error",
        "Invalid boxes",
        "Correct the box. If all boxes of a split are invalid, check task.unit and task.corners.",
    ),
    "constant": Kind(
        "error",
        "Targets that are equal in every row",
        "Check dataset.references and dataset.target: a model would learn to write this text whatever it sees.",
    ),
    "collection": Kind(
        "error",
        "Targets that are a list or an object as text",
        "They would be taught with brackets and quotes. Write each answer as text, or set task.name=extraction for "
        "objects; rows with messages may answer in any format.",
    ),
    "placeholder": Kind(
        "error",
        "Placeholders in texts",
        "Other programs fill them from further columns; here they would be asked or taught as they are. Fill them in.",
    ),
    "example": Kind("error", "Rows without a valid prompt or target", "Repair the row, or remove it."),
    "too-long": Kind(
        "error",
        "Rows that are too long",
        "Raise training.max_tokens, lower model.max_pixels (of videos model.video.max_pixels), or shorten the text: "
        "nothing is ever truncated.",
    ),
    "contradiction": Kind(
        "warning",
        "Different answers to the same question about the same image",
        "No model can be right about both: keep the right one.",
    ),
    "cut-off": Kind(
        "warning",
        "References longer than inference.max_new_tokens",
        "Raise inference.max_new_tokens before the run: an answer that is cut off is scored as it is.",
    ),
    "near-leak": Kind(
        "warning",
        "Evaluated images that resemble training images",
        "Look at the pairs. If they are duplicates, remove them from the train split.",
    ),
    "validation-overlap": Kind(
        "warning",
        "Validation images that occur in another split",
        "Rows that choose a checkpoint should be neither trained on nor reported.",
    ),
    "duplicate": Kind("warning", "Rows with the same question and image as another", "Remove all but one."),
    "near-duplicate": Kind(
        "warning", "Images that resemble another of their split", "Look at the pairs; they count twice in a score."
    ),
    "encoding": Kind("warning", "Texts read in a wrong encoding", "Read the source again as UTF-8."),
    "edge": Kind("warning", "Boxes that extend beyond the edge", "Clip the box to the image."),
    "tiny": Kind("warning", "Tiny images", "They are enlarged, which adds no detail."),
    "narrow": Kind("warning", "Very narrow or flat images", "Crop them if only a part matters."),
    "animated": Kind("warning", "Animations", "Only the first frame is used; dataset.video reads all of them."),
    "variable frame rate": Kind(
        "warning",
        "Videos with a variable frame rate",
        "Their times are counted as if all frames were shown equally long, as the models' processors do. Encode them "
        "with a constant rate, as `ffmpeg -i in.mp4 -vf fps=25 out.mp4` does.",
    ),
    "sparse": Kind(
        "warning",
        "Videos with more frames than model.video.max_frames",
        "Their frames are taken farther apart than model.video.fps says. Cut them, or raise model.video.max_frames.",
    ),
}


@dataclass(frozen=True, slots=True)
class RowLocation:
    """A row by role, index in its split (from 0) and id, and one of its images by index.

    `role` may be that of an additional evaluation set, as NAME/ROLE.
    """

    role: str
    row: int
    id: str
    image: int = 0

    def to_json(self, where: str, size: Sequence[int] | None) -> dict[str, Any]:
        """Plain values, with the place of the image."""
        plain = {"role": self.role, "row": self.row, "id": self.id, "image": self.image}
        return {**plain, "where": printable(where), "size": size}


Place = tuple[str, Sequence[int] | None]
"""File, line, column and path of an image or row, and the width and height in pixels; None if they are unknown."""

NOWHERE: Place = ("", None)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem in a row, or in a whole split if `location` is None.

    `where` is the file, line or column, if it is not that of the location; `other` is the second row of a pair; `field`
    is the column that is empty or missing.
    """

    kind: str
    role: str
    message: str
    location: RowLocation | None = None
    other: RowLocation | None = None
    where: str = ""
    field: str = ""

    @property
    def severity(self) -> Severity:
        """Whether the row cannot be used ("error")."""
        return KINDS[self.kind].severity

    def to_json(self, place: Callable[[RowLocation], Place]) -> dict[str, Any]:
        """Plain values, as in `data_check.json`.

        Args:
            place: where the image of a location is.
        """
        at, (where, size) = self.location, place(self.location) if self.location else NOWHERE
        return {
            "kind": self.kind,
            "severity": self.severity,
            "role": self.role,
            "row": at.row if at else None,
            "id": at.id if at else None,
            "image": at.image if at else None,
            "message": printable(self.message),
            "where": printable(self.where or where),
            "size": size,
            "field": self.field or None,
            "other": self.other.to_json(*place(self.other)) if self.other else None,
            "advice": KINDS[self.kind].advice,
        }


def printable(text: str) -> str:
    """Text that UTF-8 can encode: bytes of a file name that are not UTF-8 become escapes."""
    return text.encode(errors="backslashreplace").decode()


def bad_rows(findings: Iterable[Finding]) -> set[int]:
    """Rows that cannot be used, by index."""
    return {one.location.row for one in findings if one.severity == "error" and one.location is not None}


def first_reasons(findings: Iterable[Mapping[str, Any]], role: str) -> dict[int, str]:
    """Rows of a role that cannot be used, with the first reason of each, from findings as plain values."""
    bad: dict[int, str] = {}
    for finding in findings:
        if finding["role"] == role and finding["severity"] == "error" and finding["row"] is not None:
            where = f"{finding['where']}: " if finding["where"] else ""
            bad.setdefault(finding["row"], f"{where}{finding['message']}")
    return dict(sorted(bad.items()))
