"""Which source reads a name, file or folder, and which of its splits play which role."""

import csv
import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmtune.data import IMAGE_ENDINGS, SEPARATORS, TABLE_ENDINGS, errors_named
from vlmtune.errors import ConfigError

JSON = (".jsonl", ".json")
DESCRIBED = ("metadata.csv", "metadata.jsonl")
_ON_THE_HUB = re.compile(r"[\w-]+|[\w.-]+/[\w.-]+")
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing", "testa", "minitest"),
}


@dataclass(frozen=True)
class Place:
    """The keys of a dataset block that say where the rows are, and why; `remote` is what has to be fetched first."""

    block: dict[str, Any]
    why: str
    splits: dict[str, str]
    doubt: str
    remote: bool = False


def find(text: str, told: dict[str, Any]) -> Place:
    """Where the rows are.

    Args:
        text: a file, a folder, or a name on the Hub.
        told: keys of the dataset block that the user said already.

    Raises:
        ConfigError: nothing there that can be read; says what could be.
        EnvironmentProblem, DataError: the Hub cannot be reached, or has no such dataset.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return _file(path, told)
    if path.is_dir():
        return _folder(path, told)
    if not _ON_THE_HUB.fullmatch(text):
        raise ConfigError(
            f"{text}: no such file or folder, and no name of a dataset on the Hub, which is like org/name"
        )
    return _on_the_hub(text, told)


def _file(path: Path, told: Mapping[str, Any]) -> Place:
    kinds = {**dict.fromkeys(JSON, "jsonl"), **dict.fromkeys(TABLE_ENDINGS, "table")}
    suffix, folder = path.suffix.lower(), path.parent
    if suffix not in kinds:
        raise ConfigError(f"{path}: a file of rows ends in {', '.join(kinds)}; pictures lie in a folder, name that")
    block = {"source": kinds[suffix], "path": str(folder)}
    if suffix in SEPARATORS and (separator := _separator(path)) != SEPARATORS[suffix]:
        block["separator"] = separator
    names = [path.name]
    if _role(path.stem) is not None:
        names = [file.name for file in _files(folder, (suffix,)) if _role(file.stem) is not None]
    splits, doubt = _roles(names, told, lambda role, group: (_pattern(role, group, folder), ""))
    if isinstance(told.get("path"), str):
        splits = {role: _below(folder / split, Path(told["path"]).expanduser()) for role, split in splits.items()}
    return Place(block, f"{path.name} holds rows", splits, doubt)


def lifted(place: Place, image: str) -> Place:
    """A place whose folder is the nearest one above that holds a picture of its rows; itself where none does.

    Annotations often lie in a folder beside those of the pictures.
    """
    folder = Path(place.block["path"])
    if not (folder / image).is_file():
        for above in (Path(os.path.normpath(folder / "..")), Path(os.path.normpath(folder / "../.."))):
            if (above / image).is_file():
                splits = {role: _below(folder / split, above) for role, split in place.splits.items()}
                why = f"{place.why}; their pictures lie below {above}"
                return replace(place, block={**place.block, "path": str(above)}, splits=splits, why=why)
    return place


def _below(file: Path, folder: Path) -> str:
    """A file as a split of a source in `folder`."""
    file, folder = file.absolute(), folder.absolute()
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _separator(file: Path) -> str:
    """What parts the first line of a table into most names."""
    with file.open("rb") as stream:
        line = stream.readline(1 << 16).decode("utf-8-sig", "replace")
    usual = SEPARATORS[file.suffix.lower()]
    return max((usual, ",", ";", "\t"), key=lambda mark: len(next(csv.reader([line], delimiter=mark), [])))


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    """Files that may hold rows, by name."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in endings and not file.name.startswith(".") and file.name not in DESCRIBED
    )


def _folder(path: Path, told: Mapping[str, Any]) -> Place:
    files = _files(path, (*JSON, *TABLE_ENDINGS))
    rows = [file for file in files if _role(file.stem) is not None]
    if rows:
        same = [file for file in rows if file.suffix == rows[0].suffix]
        return _file(next((file for file in same if _role(file.stem) == "train"), same[0]), told)
    inner = [each for each in sorted(path.iterdir()) if each.is_dir() and _has_pictures(each)]
    splits = [each.name for each in inner if _role(each.name) is not None]
    # Pictures that lie in folders of labels need no table; a table beside them is a list of classes, or the like.
    if len(files) == 1 and not any(_is_labelled(path / split) for split in splits):
        return _file(files[0], told)
    if inner:
        block = {"source": "imagefolder", "path": str(path)}
        unread = f"; {', '.join(file.name for file in files[:5])} not read" if files else ""
        names = splits or ([each.name for each in inner] if len(inner) == 1 else ["."])  # label/picture.jpg
        return Place(block, f"folders of pictures{unread}", *_roles(names, told, _first))
    return _on_the_hub(str(path), dict(told), remote=False)


def _has_pictures(folder: Path) -> bool:
    return any(
        file.suffix.lower() in IMAGE_ENDINGS or file.name in DESCRIBED for file in folder.rglob("*") if file.is_file()
    )


def _is_labelled(split: Path) -> bool:
    """Whether what the pictures show is told in their split's folder."""
    deep = (file.suffix.lower() in IMAGE_ENDINGS for file in split.rglob("*/*") if file.is_file())
    return any((split / name).is_file() for name in DESCRIBED) or any(deep)


def _on_the_hub(path: str, told: dict[str, Any], remote: bool = True) -> Place:
    import datasets

    name, revision = told.get("name"), told.get("revision")
    with errors_named(path, name, revision):
        configurations = datasets.get_dataset_config_names(path, revision=revision)
        if name is None and len(configurations) > 1 and "default" not in configurations:
            raise ConfigError(
                f"{path} has several configurations: {', '.join(configurations)}; choose one with --set dataset.name=…"
            )
        splits, doubt = _roles(datasets.get_dataset_split_names(path, name, revision=revision), told, _first)
    why = "a dataset on the Hub" if remote else "`datasets` understands this folder"
    return Place({"source": "hub", "path": path}, why, splits, doubt, remote)


def _role(name: str) -> str | None:
    """The role that a split's name speaks of; the first word that is one counts."""
    for word in re.split(r"[^a-z]+", name.lower()):
        for role, words in _WORDS.items():
            if word in words:
                return role
    return None


def _pattern(role: str, names: list[str], folder: Path) -> str:
    """The name of a role's file, or the pattern of its files.

    Raises:
        ConfigError: they differ in more than numbers, or other files would fit the pattern.
    """
    if len(names) == 1:
        return names[0]
    parts = list(zip(*(re.split(r"(\d+)", name) for name in names), strict=False))
    pattern = "".join(glob.escape(part[0]) if len(set(part)) == 1 else "*" for part in parts)
    alike = len({re.sub(r"\d+", "0", name) for name in names}) == 1
    if not alike or sorted(file.name for file in folder.glob(pattern)) != sorted(names):
        raise ConfigError(
            f"{folder}: {', '.join(names)} could each hold the {role} rows; say which, as --set "
            f"dataset.splits.{role}={names[0]}, or move the others away; a pattern such as "
            f"{role}-*{Path(names[0]).suffix} takes several"
        )
    return pattern


def _first(role: str, names: list[str]) -> tuple[str, str]:
    """The split that is called just like its role, else the first one; and what that leaves out."""
    chosen = next((name for name in names if name.lower() in _WORDS[role]), names[0])
    others = ", ".join(name for name in names if name != chosen)
    return chosen, f"{others} not used: {role} is {chosen}" if others else ""


def _roles(
    names: Sequence[str], told: Mapping[str, Any], choose: Callable[[str, list[str]], tuple[str, str]]
) -> tuple[dict[str, str], str]:
    """Split of each role, and what is doubtful about that; "" where nothing is.

    Args:
        names: the splits that are there.
        told: keys of the dataset block that the user said; his splits are taken as they are.
        choose: what is taken of several for one role, and what is doubtful about that.

    Raises:
        ConfigError: there is none.
    """
    said = told.get("splits")
    found: dict[str, str] = {role: str(split) for role, split in said.items()} if isinstance(said, Mapping) else {}
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_role(Path(name).stem) or "train", []).append(name)
    doubts = []
    for role, group in groups.items():
        if role not in found:
            found[role], doubt = choose(role, group)
            doubts.append(doubt)
    if not found:
        raise ConfigError("the dataset has no splits")
    only = next(iter(found.values()))
    train = found.get("train", only)
    validation = found.get("validation", train)
    splits = {"train": train, "validation": validation, "test": found.get("test", validation)}
    if splits["test"] == train:
        doubts.append(f"only {only} was found: dataset.shares parts its rows among the roles")
    elif validation == train:
        doubts.append(f"no split that chooses a checkpoint was found: dataset.shares takes a part of {train} for it")
    elif splits["test"] == validation:
        doubts.append(f"no split to report on was found: dataset.shares parts {validation} in two")
    doubts = [doubt for doubt in doubts if doubt]
    return splits, f"! {'; '.join(doubts)}" if doubts else ""
