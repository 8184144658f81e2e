"""The finished things in a run folder: what has a manifest of ours, and what was moved aside."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.errors import IntegrityError
from vlmtune.files import read_json
from vlmtune.runs import Origin, manifest_path, read_manifest

KINDS = ("baseline", "untrained", "adapter", "tuned", "shard", "merged")
"""Kinds of artifacts, in the order of a run."""

_MANIFEST = ".manifest.json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished file or folder."""

    path: Path
    kind: str
    manifest: Mapping[str, Any]

    @property
    def aside(self) -> bool:
        """Whether it has another name than the one it was made under: a run of the other kind moved it away."""
        return bool(self.manifest.get("artifact", self.path.name) != self.path.name)

    @property
    def key(self) -> str:
        """Hash of what it is made from, as its work folder had it."""
        return Origin(self.manifest["origin"], self.manifest["mock"]).key


def finished(root: Path) -> Iterator[Path]:
    """Artifacts that have a manifest, readable or not."""
    for path in sorted(root.iterdir()):
        if path.name.endswith(_MANIFEST) and path.is_file():
            stem = path.name.removesuffix(_MANIFEST)
            about = next(
                (file for file in sorted(root.glob(f"{stem}.*")) if _is_answers(file, stem)), root / f"{stem}.jsonl"
            )
        elif not path.name.startswith(".") and (path / "vlmtune.json").is_file():
            about = path
        else:
            continue
        if not is_foreign(manifest_path(about)) and not _is_damaged(about):
            yield about


def is_foreign(manifest: Path) -> bool:
    """Whether other programs have written a file that has the name of a manifest: whole, and without our version."""
    try:
        return "schema_version" not in read_json(manifest)
    except IntegrityError:
        return False


def _is_damaged(path: Path) -> bool:
    """Whether `runs recover` moved it aside: it has such a name, and its manifest does not say that it is its own."""
    if is_aside(path) != "damaged":
        return False
    try:
        return (read_manifest(path) or {}).get("artifact") != path.name
    except IntegrityError:
        return True


def is_readable(artifact: Path) -> bool:
    """Whether it has a manifest of ours that can be read."""
    try:
        return read_manifest(artifact) is not None
    except IntegrityError:
        return False


def _is_answers(file: Path, stem: str) -> bool:
    """Whether a manifest `<stem>.manifest.json` is about this file."""
    return file.stem == stem and not file.name.endswith((_MANIFEST, ".controls.json", ".metrics.json"))


def read_all(root: Path) -> tuple[list[Artifact], list[str]]:
    """The artifacts of a run folder, in the order of a run, and what is wrong with others."""
    found, problems = [], []
    for path in finished(root):
        try:
            manifest = read_manifest(path)
        except IntegrityError as error:
            problems.append(str(error))
            continue
        if manifest is None or not path.exists():
            problems.append(f"{manifest_path(path)}: describes {path.name}, which is not there")
        else:
            found.append(Artifact(path, _kind(manifest["origin"]), manifest))
    return sorted(found, key=lambda one: (KINDS.index(one.kind), one.path.name)), problems


def _kind(origin: Mapping[str, Any]) -> str:
    if "training" in origin:
        return "adapter"
    if "inference" not in origin:
        return "merged"
    if "shard" in origin:
        return "shard"
    if "column" in origin:
        return "untrained"
    return "baseline" if origin.get("adapter") is None else "tuned"


def is_aside(path: Path) -> str | None:
    """Why a file was moved aside, by its name: `mock` or `real` made it, or it was `damaged`; None for any other."""
    found = re.search(r"\.(mock|real|damaged)(-\d+)?(\.|$)", path.name)
    return found[1] if found else None
