"""Chooses the source that reads a file, a folder or a Hub dataset, and the split for each role."""

import csv
import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from vlmtune.data import (
    DESCRIPTIONS,
    IMAGE_ENDINGS,
    JSON_ENDINGS,
    REMOTE,
    SEPARATORS,
    TABLE_ENDINGS,
    Folder,
    ending,
    errors_named,
    head,
    names_text,
    separator_hint,
)
from vlmtune.errors import ConfigError
from vlmtune.json_values import parse_json
from vlmtune.scaffold.annotations import annotation_files, image_names, per_image_format, recognize
from vlmtune.scaffold.draft import SourceSettings
from vlmtune.scaffold.questions import Option, Undecided
from vlmtune.scaffold.split_names import assign_splits, preferred, role_of
from vlmtune.videos import FILE_ENDINGS

METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables of the source `imagefolder`."""

SAVED = ("dataset_dict.json", "state.json")
"""Files by which a folder of `Dataset.save_to_disk` is known."""

TAR = ".tar"
BINARY = {".parquet", ".arrow", ".feather", ".xlsx"}
PEEKED_NAMES = 50
"""Names of images in a file that are looked up."""

MAX_LISTED = 5
MAX_BESIDE = 30
"""Entries of a folder above the rows, up to which images are looked for in it."""

MEDIA_ENDINGS = (*IMAGE_ENDINGS, *FILE_ENDINGS)
"""Endings of images and videos."""

_IMAGE = re.compile(rf"(?:{'|'.join(map(re.escape, MEDIA_ENDINGS))})(?:[\"',;\t|]|$)", re.IGNORECASE)
_WORD = re.compile(r"\w[\w-]{3,}")
"""What may be the name of an image without its ending."""

_ROWS = (*JSON_ENDINGS, *TABLE_ENDINGS)
_HUB_ADDRESS = "https://huggingface.co/datasets/"
_HUB_NAME = re.compile(r"[\w-]+|[\w.-]+/[\w.-]+")


def find_source(text: str, given: dict[str, Any]) -> SourceSettings:
    """Find the rows.

    Args:
        text: a file, a folder, or a name on the Hub.
        given: keys of the dataset block that the user set.

    Raises:
        ConfigError: there is nothing that can be read; says what could be.
        Undecided: several files or formats could be meant.
        EnvironmentProblem, DataError: the Hub cannot be reached, or has no such dataset.
    """
    text = text.removeprefix(_HUB_ADDRESS).rstrip("/") if text.startswith(_HUB_ADDRESS) else text
    path = Path(text).expanduser()
    if path.is_file():
        return _file(path, given)
    if path.is_dir():
        return _folder(path, given)
    if text.startswith(REMOTE):
        raise ConfigError(f"{text}: only datasets of the Hub are fetched; download it, and name the file or folder")
    if not _HUB_NAME.fullmatch(text):
        raise ConfigError(f"{text}: no such file or folder, and not the name of a Hub dataset, such as org/name")
    return _hub(text, given)


def _file(path: Path, given: Mapping[str, Any]) -> SourceSettings:
    sources = {**dict.fromkeys(JSON_ENDINGS, "jsonl"), **dict.fromkeys(TABLE_ENDINGS, "table"), TAR: "webdataset"}
    suffix, folder = ending(path), path.parent
    if (found := recognize(path)) is not None:
        return _annotations(folder, [path], found, given)
    if suffix not in sources:
        raise ConfigError(f"{path}: a file of rows must end in {', '.join(sources)}; for images, pass their folder")
    if suffix in SEPARATORS and any(map(_IMAGE.search, head(path).partition("\n")[:1])):
        raise ConfigError(f"{path}: its first line names an image, so it has no header; add one, such as image,label,…")
    block = {"source": sources[suffix], "path": str(folder)}
    if suffix in SEPARATORS and (separator := _separator(path)) is not None:
        block["separator"] = separator
    names = [path.name]
    if role_of(path.stem) is not None or suffix == TAR:
        names = [file.name for file in _files(folder, (suffix,)) if role_of(file.stem) is not None or suffix == TAR]
    splits, warning = assign_splits(names, given, lambda role, group: (_pattern(role, group, folder), ""))
    if isinstance(given.get("path"), str):
        splits = {role: _relative(folder / split, Path(given["path"]).expanduser()) for role, split in splits.items()}
    return SourceSettings(block, f"{path.name} holds rows", splits, warning)


def with_image_root(settings: SourceSettings, image: str) -> SourceSettings:
    """The settings with the nearest folder above the file in which an image path exists; unchanged if none does.

    Annotation files often lie in a folder next to the folders of images.
    """
    folder = Path(settings.block["path"])
    places = [folder, *(Path(os.path.normpath(folder / each)) for each in ("..", "../.."))]
    inside = [each for each in places if not Path(image).is_absolute() or Path(image).is_relative_to(each.absolute())]
    root = next((each for each in inside if (each / image).is_file()), folder)
    return with_root(settings, root)


def with_root(settings: SourceSettings, root: Path) -> SourceSettings:
    """The settings with another folder, above that of the rows."""
    folder = Path(settings.block["path"])
    if root == folder:
        return settings
    splits = {role: _relative(folder / split, root) for role, split in settings.splits.items()}
    reason = f"{settings.reason}; image paths are relative to {root}"
    return replace(settings, block={**settings.block, "path": str(root)}, splits=splits, reason=reason)


def _relative(file: Path, folder: Path) -> str:
    """The name of a file as a split of a source in `folder`."""
    file, folder = file.absolute(), folder.absolute()
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _separator(file: Path) -> str | None:
    """The separator that gives the header of a table most columns; None if the source finds it itself."""
    text = head(file)
    line, default = text.partition("\n")[0], SEPARATORS[ending(file)]
    if separator_hint(text) is not None:
        return None
    found = max((default, ",", ";", "\t", "|"), key=lambda mark: len(next(csv.reader([line], delimiter=mark), [])))
    return found if found != default else None


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    """Files that may hold rows, sorted by name."""
    return sorted(
        file
        for file in folder.iterdir()
        if ending(file) in endings
        and not file.name.startswith(".")
        and file.name not in METADATA
        and not DESCRIPTIONS.fullmatch(file.name)
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _annotations(folder: Path, files: Sequence[Path], found: str, given: Mapping[str, Any]) -> SourceSettings:
    """Annotation files of one format. Images are looked up below the folder, or the one above the annotations."""
    root = folder
    if not _images_below(folder) and is_small(folder.parent) and _images_below(folder.parent):
        root = folder.parent

    def choose(role: str, names: list[str]) -> tuple[str, str]:
        if len(names) > 1:
            options = [Option(f"{name} holds the {role} rows", (f"dataset.splits.{role}={name}",)) for name in names]
            raise Undecided(f"{root}: {names_text(names)} could each hold the {role} rows.", options)
        return names[0], ""

    splits, warning = assign_splits([file.relative_to(root).as_posix() for file in files], given, choose)
    block = {"source": "annotations", "path": str(root), "format": found}
    return SourceSettings(block, f"{files[0].name} is in the format {found}", splits, warning)


def is_small(folder: Path) -> bool:
    """Whether a folder may be that of one dataset, rather than of many other things."""
    return folder.is_dir() and len(list(islice(folder.iterdir(), MAX_BESIDE + 1))) <= MAX_BESIDE


def _images_below(folder: Path) -> bool:
    return any(file.suffix.lower() in MEDIA_ENDINGS for file in folder.rglob("*"))


def _folder(path: Path, given: Mapping[str, Any]) -> SourceSettings:
    if any((path / name).is_file() for name in SAVED):
        return _saved(path, given)
    if tars := _files(path, (TAR,)):
        return _file(tars[0], given)
    annotated = [each for each in annotation_files(path) if given.get("format") in (None, each[1])]
    if len({found for _, found in annotated}) > 1:
        options = [Option(f"{file.name}", (f"dataset.format={found}",)) for file, found in annotated]
        raise Undecided(f"{path}: there are annotations in several formats.", options[:MAX_LISTED])
    if annotated:
        return _annotations(path, [file for file, _ in annotated], annotated[0][1], given)
    files = _files(path, _ROWS)
    named = [file for file in files if role_of(file.stem) is not None]
    if named:
        same = [file for file in named if ending(file) == ending(named[0])]
        return _file(next((file for file in same if role_of(file.stem) == "train"), same[0]), given)
    files = files if len(files) <= 1 else _with_images(files, path) or files
    below = [] if files else _with_images([file for each in _folders(path) for file in _files(each, _ROWS)], path)
    if len(files or below) == 1 and _with_images(files or below, path):
        return _file((files or below)[0], given)
    return _per_image(path, given) or _images_or_table(path, files, given)


def _images_or_table(path: Path, files: Sequence[Path], given: Mapping[str, Any]) -> SourceSettings:
    """Folders of images, a file of rows beside them, or whatever `datasets` understands."""
    image_folders = [each.name for each in _folders(path) if _has_images(each)]
    splits = [name for name in image_folders if role_of(name) is not None]
    if (path / "images").is_dir() and splits == []:
        inside = [each.name for each in sorted((path / "images").iterdir()) if each.is_dir()]
        if inside and all(map(role_of, inside)):
            raise _unread_splits(path, inside)
    # Images in folders named by their labels need no table; one next to those folders is a list of classes or the like.
    is_labelled = any(_is_labelled(path / split) for split in splits)
    is_labelled |= len(image_folders) > 1 and not splits and not _with_images(files, path)
    if len(files) > 1 and image_folders and not is_labelled:
        sets = "; ".join(f"vlmtune init {file}" for file in files[:MAX_LISTED])
        listed = names_text([file.name for file in files])
        raise ConfigError(f"{path}: {listed} could each hold the rows; name one of them: {sets}")
    if len(files) == 1 and not is_labelled:
        return _file(files[0], given)
    if image_folders:
        names = splits or (image_folders if len(image_folders) == 1 else ["."])  # ".": label/image.jpg
        return _image_folders(path, names, given)
    return _hub(str(path), given, remote=False)


def _image_folders(path: Path, names: Sequence[str], given: Mapping[str, Any]) -> SourceSettings:
    """Folders of images; what lies beside the images is ignored, and said."""
    block: dict[str, Any] = {"source": "imagefolder", "path": str(path)}
    inside = (each for name in names for each in (path / name).rglob("*") if each.is_file())
    others = sorted(
        PurePosixPath(each.relative_to(path)).as_posix()
        for each in inside
        if not each.name.lower().endswith(MEDIA_ENDINGS)
        and not DESCRIPTIONS.fullmatch(each.name)
        and each.name not in METADATA
        and not any(part.startswith(".") for part in each.relative_to(path).parts)
    )
    if others and "ignore" not in given:
        block["ignore"] = sorted({f"*{Path(each).suffix}" if Path(each).suffix else each for each in others})
    splits, warning = assign_splits(names, given, preferred)
    ignored = f"{len(others):,} files that are no images are not read: {names_text(others)}" if others else ""
    text = "; ".join(filter(None, [warning.removeprefix("! "), ignored]))
    tables = sorted(each.name for each in path.iterdir() if ending(each) in _ROWS)
    reason = f"folders of images; {names_text(tables)} not read" if tables else "folders of images"
    return SourceSettings(block, reason, splits, f"! {text}" if text else "")


def _saved(path: Path, given: Mapping[str, Any]) -> SourceSettings:
    """A folder of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`: its Arrow files are tables."""
    states = sorted(path.glob("*/state.json")) or [path / "state.json"]
    patterns = {}
    for state in states:
        try:
            files = [str(each["filename"]) for each in parse_json(state.read_bytes())["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{state}: not as Dataset.save_to_disk writes it; save the dataset again") from None
        place = "" if state.parent == path else f"{state.parent.name}/"
        shards = sorted(each.name for each in state.parent.glob("data-*.arrow"))
        patterns[place] = f"{place}{files[0]}" if len(files) == 1 else f"{place}data-*.arrow"
        if sorted(files) != shards:
            raise ConfigError(f"{state}: lists {names_text(files)}, but there are {names_text(shards)}; save it again")

    def choose(role: str, names: list[str]) -> tuple[str, str]:
        chosen, warning = preferred(role, [name.rstrip("/") for name in names])
        return patterns.get(f"{chosen}/", patterns.get("", "")), warning

    splits, warning = assign_splits(list(patterns), given, choose)
    block = {"source": "table", "path": str(path)}
    return SourceSettings(block, "a folder of save_to_disk, whose Arrow files are tables", splits, warning)


def _per_image(path: Path, given: Mapping[str, Any]) -> SourceSettings | None:
    """Annotations in one file per image; None if there are none."""
    folder = Folder(path)
    found = per_image_format(folder)
    if found is None or given.get("format") not in (None, found.format):
        return None
    block: dict[str, Any] = {"source": "annotations", "path": str(path), "format": found.format}
    task: dict[str, Any] = {}
    if found.format == "sidecar":
        if len(found.sidecars) > 1 and "sidecars" not in given:
            options = [Option(f"the texts are in {each}", (f"dataset.sidecars={each}",)) for each in found.sidecars]
            raise Undecided(f"{path}: several files have the name of each image.", options)
        if all(each.endswith(".gt.txt") for each in found.texts):
            task["name"] = "ocr"
    names = sorted({_split_folder(each) or "." for each in found.paths})
    names = ["."] if "." in names else names
    splits, warning = assign_splits(names, given, preferred)
    return SourceSettings(
        block, f"the files of the images are in the format {found.format}", splits, warning, task=task
    )


def _split_folder(path: str) -> str | None:
    """The folder of a split in which a file lies: images/train of images/train/1.jpg."""
    parts = PurePosixPath(path).parts[:-1]
    place = next((n for n, part in enumerate(parts) if role_of(part) is not None), None)
    return None if place is None else "/".join(parts[: place + 1])


def _with_images(files: Sequence[Path], root: Path) -> list[Path]:
    """The files with a value in their first lines that names an image on disk."""
    return [file for file in files if _names_image(file, root)]


def _names_image(file: Path, root: Path) -> bool:
    """Whether a file names images by their paths, or by the names of images anywhere in the folder of the dataset."""
    if ending(file) in BINARY:
        return False
    names, folders = image_names(file)[:PEEKED_NAMES], [file.parent, file.parent.parent]
    if any((folder / name).is_file() for name in names for folder in folders):
        return True
    stems = {PurePosixPath(name.replace("\\", "/")).stem for name in names} or set(_WORD.findall(head(file, 1 << 12)))
    return bool(stems) and not stems.isdisjoint(Folder(root).by_stem)


def _unread_splits(path: Path, splits: Sequence[str]) -> ConfigError:
    """That the folders below `images` are splits, and nothing says what their images show."""
    return ConfigError(
        f"{path / 'images'}: {', '.join(splits)} are names of splits, not labels, and no file of rows names the "
        "images. Write one row per image or box (JSON lines, CSV) with the path of its image"
    )


def _has_images(folder: Path) -> bool:
    return any(
        file.suffix.lower() in MEDIA_ENDINGS or file.name in METADATA for file in folder.rglob("*") if file.is_file()
    )


def _is_labelled(split: Path) -> bool:
    """Whether the folder of a split has labels: subfolders of images, or a table."""
    in_subfolders = (file.suffix.lower() in MEDIA_ENDINGS for file in split.rglob("*/*") if file.is_file())
    return any((split / name).is_file() for name in METADATA) or any(in_subfolders)


def _hub(path: str, given: Mapping[str, Any], remote: bool = True) -> SourceSettings:
    import datasets

    name, revision = given.get("name"), given.get("revision")
    with errors_named(path, name, revision):
        configurations = datasets.get_dataset_config_names(path, revision=revision)
        if name is None and len(configurations) > 1 and "default" not in configurations:
            raise ConfigError(
                f"{path} has several configurations: {names_text(configurations)}; choose one with --set dataset.name=…"
            )
        names = datasets.get_dataset_split_names(path, name, revision=revision)
        splits, warning = assign_splits(names, given, preferred)
    reason = "a dataset on the Hub" if remote else "a folder that `datasets` can read"
    return SourceSettings({"source": "hub", "path": path}, reason, splits, warning, remote)


def _pattern(role: str, names: list[str], folder: Path) -> str:
    """The name of a role's file, or a pattern for its shards.

    Raises:
        Undecided: the names differ in more than numbers, or the pattern would match other files.
    """
    if len(names) == 1:
        return names[0]
    parts = list(zip(*(re.split(r"(\d+)", name) for name in names), strict=False))
    pattern = "".join(glob.escape(part[0]) if len(set(part)) == 1 else "*" for part in parts)
    are_shards = len({re.sub(r"\d+", "0", name) for name in names}) == 1
    if not are_shards or sorted(file.name for file in folder.glob(pattern)) != sorted(names):
        options = [Option(f"{name} holds the {role} rows", (f"dataset.splits.{role}={name}",)) for name in names]
        raise Undecided(
            f"{folder}: {names_text(names)} could each hold the {role} rows; a pattern such as "
            f"{role}-*{Path(names[0]).suffix} selects several.",
            options[:MAX_LISTED],
        )
    return pattern
