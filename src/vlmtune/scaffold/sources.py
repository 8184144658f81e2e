"""Chooses the source that reads a file, a folder or a Hub dataset, and the split for each role."""

import csv
import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmtune.data import IMAGE_ENDINGS, SEPARATORS, TABLE_ENDINGS, errors_named
from vlmtune.errors import ConfigError
from vlmtune.scaffold.annotations import annotation_files, head, image_names, recognize
from vlmtune.scaffold.split_names import assign_splits, preferred, role_of

JSON = (".jsonl", ".json")
METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables of the source `imagefolder`."""

BINARY = {".parquet", ".arrow", ".feather"}
PEEKED_NAMES = 50
"""Names of images in a file that are looked up."""

_HUB_NAME = re.compile(r"[\w-]+|[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class SourceSettings:
    """Where the rows are.

    Attributes:
        block: keys of the dataset block that locate them.
        reason: why this source was chosen.
        splits: the split of each role.
        warning: what is doubtful about the splits, starting with "!"; "" if nothing is.
        remote: whether the dataset must be downloaded.
        task: keys of the task block that the format of the rows defines.
    """

    block: dict[str, Any]
    reason: str
    splits: dict[str, str]
    warning: str
    remote: bool = False
    task: dict[str, Any] = field(default_factory=dict)


def find_source(text: str, given: dict[str, Any]) -> SourceSettings:
    """Find the rows.

    Args:
        text: a file, a folder, or a name on the Hub.
        given: keys of the dataset block that the user set.

    Raises:
        ConfigError: there is nothing that can be read; says what could be.
        EnvironmentProblem, DataError: the Hub cannot be reached, or has no such dataset.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return _file(path, given)
    if path.is_dir():
        return _folder(path, given)
    if not _HUB_NAME.fullmatch(text):
        raise ConfigError(f"{text}: no such file or folder, and not the name of a Hub dataset, such as org/name")
    return _hub(text, given)


def _file(path: Path, given: Mapping[str, Any]) -> SourceSettings:
    sources = {**dict.fromkeys(JSON, "jsonl"), **dict.fromkeys(TABLE_ENDINGS, "table")}
    suffix, folder = path.suffix.lower(), path.parent
    if (found := recognize(path)) is not None:
        return _annotations(folder, [path], found, given)
    if suffix not in sources:
        raise ConfigError(f"{path}: a file of rows must end in {', '.join(sources)}; for images, pass their folder")
    block = {"source": sources[suffix], "path": str(folder)}
    if suffix in SEPARATORS and (separator := _separator(path)) != SEPARATORS[suffix]:
        block["separator"] = separator
    names = [path.name]
    if role_of(path.stem) is not None:
        names = [file.name for file in _files(folder, (suffix,)) if role_of(file.stem) is not None]
    splits, warning = assign_splits(names, given, lambda role, group: (_pattern(role, group, folder), ""))
    if isinstance(given.get("path"), str):
        splits = {role: _relative(folder / split, Path(given["path"]).expanduser()) for role, split in splits.items()}
    return SourceSettings(block, f"{path.name} holds rows", splits, warning)


def with_image_root(settings: SourceSettings, image: str) -> SourceSettings:
    """The settings with the nearest folder above the file in which an image path exists; unchanged if none does.

    Annotation files often lie in a folder next to the folders of images.
    """
    folder = Path(settings.block["path"])
    if not (folder / image).is_file():
        for parent in (Path(os.path.normpath(folder / "..")), Path(os.path.normpath(folder / "../.."))):
            if (parent / image).is_file():
                splits = {role: _relative(folder / split, parent) for role, split in settings.splits.items()}
                reason = f"{settings.reason}; image paths are relative to {parent}"
                return replace(settings, block={**settings.block, "path": str(parent)}, splits=splits, reason=reason)
    return settings


def _relative(file: Path, folder: Path) -> str:
    """The name of a file as a split of a source in `folder`."""
    file, folder = file.absolute(), folder.absolute()
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _separator(file: Path) -> str:
    """The separator that gives the header of a table most columns."""
    line = next(iter(head(file).splitlines()), "")
    default = SEPARATORS[file.suffix.lower()]
    return max((default, ",", ";", "\t"), key=lambda mark: len(next(csv.reader([line], delimiter=mark), [])))


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    """Files that may hold rows, sorted by name."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in endings and not file.name.startswith(".") and file.name not in METADATA
    )


def _annotations(folder: Path, files: Sequence[Path], found: str, given: Mapping[str, Any]) -> SourceSettings:
    """Annotation files of one format. Images are looked up below the folder, or the one above the annotations."""
    root = folder
    if not _images_below(folder) and _images_below(folder.parent):
        root = folder.parent

    def choose(role: str, names: list[str]) -> tuple[str, str]:
        if len(names) > 1:
            listed = "; ".join(f"--set dataset.splits.{role}={name}" for name in names)
            raise ConfigError(f"{root}: {', '.join(names)} could each hold the {role} rows; choose one: {listed}")
        return names[0], ""

    splits, warning = assign_splits([file.relative_to(root).as_posix() for file in files], given, choose)
    block = {"source": "annotations", "path": str(root), "format": found}
    boxed = found == "coco" and '"bbox"' in files[0].read_text(encoding="utf-8", errors="replace")
    task = {"unit": "pixels", "corners": "xywh"} if boxed else {}
    block |= {"rows_per": "label"} if boxed else {}
    return SourceSettings(block, f"{files[0].name} is in the format {found}", splits, warning, task=task)


def _images_below(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGE_ENDINGS for file in folder.rglob("*"))


def _folder(path: Path, given: Mapping[str, Any]) -> SourceSettings:
    annotated = list(annotation_files(path))
    if annotated:
        first = annotated[0][1]
        return _annotations(path, [file for file, found in annotated if found == first], first, given)
    files = _files(path, (*JSON, *TABLE_ENDINGS))
    named = [file for file in files if role_of(file.stem) is not None]
    if named:
        same = [file for file in named if file.suffix == named[0].suffix]
        return _file(next((file for file in same if role_of(file.stem) == "train"), same[0]), given)
    files = files if len(files) <= 1 else _with_images(files) or files
    image_folders = [each.name for each in sorted(path.iterdir()) if each.is_dir() and _has_images(each)]
    splits = [name for name in image_folders if role_of(name) is not None]
    # Images in folders named by their labels need no table; one next to those folders is a list of classes or the like.
    if len(files) == 1 and _with_images(files):
        return _file(files[0], given)
    if (path / "images").is_dir() and splits == []:
        inside = [each.name for each in sorted((path / "images").iterdir()) if each.is_dir()]
        if inside and all(map(role_of, inside)):
            raise _unread_yolo(path, inside)
    if len(files) > 1 and image_folders:
        listed = ", ".join(file.name for file in files[:5])
        sets = [f"vlmtune init {file}" for file in files[:5]]
        raise ConfigError(f"{path}: {listed} could each hold the rows; name one of them: {'; '.join(sets)}")
    if len(files) == 1 and not any(_is_labelled(path / split) for split in splits):
        return _file(files[0], given)
    if image_folders:
        block = {"source": "imagefolder", "path": str(path)}
        ignored = f"; {', '.join(file.name for file in files[:5])} not read" if files else ""
        names = splits or (image_folders if len(image_folders) == 1 else ["."])  # ".": label/image.jpg
        return SourceSettings(block, f"folders of images{ignored}", *assign_splits(names, given, preferred))
    return _hub(str(path), given, remote=False)


def _with_images(files: Sequence[Path]) -> list[Path]:
    """The files with a value in their first lines that names an image on disk, relative to the file or near it."""
    return [file for file in files if file.suffix.lower() not in BINARY and _names_image(file)]


def _names_image(file: Path) -> bool:
    folders = [file.parent, file.parent.parent]
    return any((folder / name).is_file() for name in image_names(file)[:PEEKED_NAMES] for folder in folders)


def _unread_yolo(path: Path, splits: Sequence[str]) -> ConfigError:
    """That the folders below `images` are splits, and no label was found for them."""
    return ConfigError(
        f"{path / 'images'}: {', '.join(splits)} are names of splits, not labels, and no file of rows names the "
        "images. Write one row per image or box (JSON lines, CSV) with the path of its image"
    )


def _has_images(folder: Path) -> bool:
    return any(
        file.suffix.lower() in IMAGE_ENDINGS or file.name in METADATA for file in folder.rglob("*") if file.is_file()
    )


def _is_labelled(split: Path) -> bool:
    """Whether the folder of a split has labels: subfolders of images, or a table."""
    in_subfolders = (file.suffix.lower() in IMAGE_ENDINGS for file in split.rglob("*/*") if file.is_file())
    return any((split / name).is_file() for name in METADATA) or any(in_subfolders)


def _hub(path: str, given: Mapping[str, Any], remote: bool = True) -> SourceSettings:
    import datasets

    name, revision = given.get("name"), given.get("revision")
    with errors_named(path, name, revision):
        configurations = datasets.get_dataset_config_names(path, revision=revision)
        if name is None and len(configurations) > 1 and "default" not in configurations:
            raise ConfigError(
                f"{path} has several configurations: {', '.join(configurations)}; choose one with --set dataset.name=…"
            )
        names = datasets.get_dataset_split_names(path, name, revision=revision)
        splits, warning = assign_splits(names, given, preferred)
    reason = "a dataset on the Hub" if remote else "a folder that `datasets` can read"
    return SourceSettings({"source": "hub", "path": path}, reason, splits, warning, remote)


def _pattern(role: str, names: list[str], folder: Path) -> str:
    """The name of a role's file, or a pattern for its shards.

    Raises:
        ConfigError: the names differ in more than numbers, or the pattern would match other files.
    """
    if len(names) == 1:
        return names[0]
    parts = list(zip(*(re.split(r"(\d+)", name) for name in names), strict=False))
    pattern = "".join(glob.escape(part[0]) if len(set(part)) == 1 else "*" for part in parts)
    are_shards = len({re.sub(r"\d+", "0", name) for name in names}) == 1
    if not are_shards or sorted(file.name for file in folder.glob(pattern)) != sorted(names):
        raise ConfigError(
            f"{folder}: {', '.join(names)} could each hold the {role} rows; choose one with --set "
            f"dataset.splits.{role}={names[0]}, or move the others elsewhere; a pattern such as "
            f"{role}-*{Path(names[0]).suffix} selects several"
        )
    return pattern
