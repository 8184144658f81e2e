"""Whether splits have rows in common, from the config and the files alone: no row is read."""

import filecmp
import glob
import itertools
import math
import os
import re
from pathlib import Path

from vlmtune.data._contract import ROLES, DatasetConfig, SplitRole

COMPARED_FILES = 20
"""Files of two folders whose bytes are compared."""


def overlapping_roles(one: DatasetConfig, other: DatasetConfig, role: SplitRole) -> set[SplitRole]:
    """Roles of dataset block `one` that may contain rows of `role` in block `other`.

    These are the roles of the same split of the same source, under any name. Where both blocks divide it by the same
    shares, only the role of the same name.
    """
    split = getattr(other.splits, role)
    if _is_local(one) and _is_local(other) and _folder(one) != _folder(other):
        theirs = _matching_files(_folder(other), other.all_rows or split)
        names = {known: one.all_rows or getattr(one.splits, known) for known in ROLES}
        return {
            known for known, name in names.items() if _have_common_files(_matching_files(_folder(one), name), theirs)
        }
    keys = ("source", "name", "revision") if _is_local(one) else ("source", "path", "name", "revision")
    first, second = (block.model_dump(include=set(keys)) for block in (one, other))
    if first != second:
        return set()
    if (one.split_column, one.all_rows) != (other.split_column, other.all_rows):  # whatever the rows say
        whole = one.model_copy(update={"split_column": None, "all_rows": None})
        names = {known: one.all_rows or getattr(one.splits, known) for known in ROLES}
        return {known for known in ROLES if have_common_rows(whole, names[known], other.all_rows or split)}
    same_shares = one.shares is not None and one.shares == other.shares and one.splits == other.splits

    def overlaps(known: SplitRole) -> bool:
        name = getattr(one.splits, known)
        # Shares divide a split only among roles that spell its name alike.
        return have_common_rows(one, name, split) and (known == role or not (same_shares and name == split))

    return {known for known in ROLES if overlaps(known)}


def have_common_rows(config: DatasetConfig, one: str, other: str) -> bool:
    """Whether two splits of a source have common rows, as far as their names tell: no row is read.

    A file may be named in several ways, and by patterns; a folder contains those below it, and copies have the same
    rows. A split of a Hub dataset contains its slices (`train[:50%]`), and a sum (`train+test`) its parts. With a
    `split_column` they are values, or several of them.
    """
    if one == other:
        return True
    if config.split_column is not None:
        return bool(set(one.split("|")) & set(other.split("|")))
    if not _is_local(config):
        return any(itertools.starmap(_slices_overlap, itertools.product(one.split("+"), other.split("+"))))
    return _have_common_files(*(_matching_files(_folder(config), name) for name in (one, other)))


def _is_local(config: DatasetConfig) -> bool:
    return isinstance(getattr(config, "path", None), str) and config.source != "hub"


def _folder(config: DatasetConfig) -> Path:
    """The folder of a local dataset, without links."""
    return Path(os.path.realpath(Path(config.path).expanduser()))  # type: ignore[attr-defined]


def _slices_overlap(one: str, other: str) -> bool:
    """Whether two slices of Hub splits (`train[10%:20%]`) overlap, as far as their numbers tell."""
    (name, one_range), (other_name, other_range) = (_slice(text) for text in (one, other))
    if name != other_name:
        return False
    if one_range is None or other_range is None:
        return "[" not in one or "[" not in other
    (start, end, unit), (other_start, other_end, other_unit) = one_range, other_range
    return unit == other_unit and max(start, other_start) < min(end, other_end)


_SLICE = re.compile(r"\[(-?\d*)(%?):(-?\d*)(%?)\]")


def _slice(text: str) -> tuple[str, tuple[float, float, str] | None]:
    """Name and range (start, end, unit) of a slice; the range is None where it is open or counts from the end."""
    name, bracket, rest = text.strip().partition("[")
    match = _SLICE.fullmatch(bracket + rest.replace(" ", ""))
    if match is None:
        return name, None
    start, unit, end, other_unit = match.groups()
    unit = unit or other_unit
    whole = 100.0 if unit else math.inf
    low, high = float(start or 0), float(end or whole)
    if min(low, high) < 0 and not unit:
        return name, None
    return name, (low + whole if low < 0 else low, high + whole if high < 0 else high, unit)


def _have_common_files(first: set[Path], second: set[Path]) -> bool:
    """Whether two sets of files and folders have some in common, one contains one of the other, or is a copy of it."""
    parents = [{parent for file in files for parent in file.parents} for files in (first, second)]
    if first & second or first & parents[1] or second & parents[0]:
        return True
    return any(itertools.starmap(_is_copy, itertools.product(first, second)))


def _is_copy(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes, or two folders the same files, as far as their names, their sizes and the
    bytes of some of them tell; never raises.
    """
    try:
        if one.is_file() and other.is_file():
            return one.stat().st_size == other.stat().st_size > 0 and filecmp.cmp(one, other, shallow=False)
        files = _sizes(one) if one.is_dir() and other.is_dir() else {}
        if not files or files != _sizes(other):
            return False
        return not any(filecmp.cmpfiles(one, other, sorted(files)[:COMPARED_FILES], shallow=False)[1:])
    except OSError:
        return False


def _sizes(folder: Path) -> dict[str, int]:
    """Sizes of all files below a folder, by their paths in it."""
    return {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def _matching_files(folder: Path, name: str) -> set[Path]:
    """The files or folders that a split names, without links; the name itself where there are none."""
    is_pattern = glob.has_magic(name) and not Path(name).is_absolute() and name != "."
    matching = list(folder.glob(name)) if is_pattern else []
    return {Path(os.path.realpath(match)) for match in matching or [folder / name]}
