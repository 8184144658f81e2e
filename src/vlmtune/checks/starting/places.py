"""Which source reads a name, file or folder, and which of its splits play which role."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.data._hub_errors import errors_named
from vlmtune.data._pictures import ENDINGS as PICTURES
from vlmtune.data._tables import ENDINGS as TABLES
from vlmtune.errors import ConfigError

JSON = (".jsonl", ".json")
DESCRIBED = ("metadata.csv", "metadata.jsonl")
_ON_THE_HUB = re.compile(r"[\w-]+|[\w.-]+/[\w.-]+")
_WORDS = {
    "train": ("train", "training"),
    "select": ("validation", "valid", "val", "dev", "eval"),
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
    path = Path(text)
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path)
    if not _ON_THE_HUB.fullmatch(text):
        raise ConfigError(
            f"{text}: no such file or folder, and no name of a dataset on the Hub, which is like org/name"
        )
    return _on_the_hub(text, told)


def _file(path: Path) -> Place:
    kinds = {**dict.fromkeys(JSON, "jsonl"), **dict.fromkeys(TABLES, "table")}
    if path.suffix not in kinds:
        raise ConfigError(f"{path}: a file of rows ends in {', '.join(kinds)}; pictures lie in a folder, name that")
    block = {"source": kinds[path.suffix], "path": str(path.parent)}
    siblings = sorted(other.name for other in path.parent.glob(f"*{path.suffix}") if _role(other.stem) is not None)
    names = siblings if _role(path.stem) is not None else [path.name]
    splits, doubt = _roles(names)
    return Place(block, f"{path.name} holds rows", splits, doubt)


def _folder(path: Path) -> Place:
    files = [file for file in sorted(path.iterdir()) if file.suffix in (*JSON, *TABLES) and file.name not in DESCRIBED]
    rows = [file for file in files if _role(file.stem) is not None] or (files if len(files) == 1 else [])
    if rows:
        same = [file for file in rows if file.suffix == rows[0].suffix]
        return _file(next((file for file in same if _role(file.stem) == "train"), same[0]))
    splits = sorted(inner.name for inner in path.iterdir() if inner.is_dir() and _has_pictures(inner))
    if splits:
        names = [name for name in splits if _role(name) is not None]
        block = {"source": "imagefolder", "path": str(path)}
        if not names and len(splits) > 1:  # label/picture.jpg without a split above
            raise ConfigError(
                f"{path}: has {', '.join(splits[:5])}, none of which is called like a split; put them into "
                f"{path}/train, and some of each into {path}/validation and {path}/test"
            )
        return Place(block, "folders of pictures", *_roles(names or splits))
    return _on_the_hub(str(path), {}, remote=False)


def _has_pictures(folder: Path) -> bool:
    return any(
        file.suffix.lower() in PICTURES or file.name in DESCRIBED for file in folder.rglob("*") if file.is_file()
    )


def _on_the_hub(path: str, told: dict[str, Any], remote: bool = True) -> Place:
    import datasets

    name, revision = told.get("name"), told.get("revision")
    with errors_named(path, name, revision):
        configurations = datasets.get_dataset_config_names(path, revision=revision)
        if name is None and len(configurations) > 1 and "default" not in configurations:
            raise ConfigError(
                f"{path} has several configurations: {', '.join(configurations)}; choose one with --set dataset.name=…"
            )
        splits, doubt = _roles(datasets.get_dataset_split_names(path, name, revision=revision))
    why = "a dataset on the Hub" if remote else "`datasets` understands this folder"
    return Place({"source": "hub", "path": path}, why, splits, doubt, remote)


def _role(name: str) -> str | None:
    """The role that a split's name speaks of; the first word that is one counts."""
    for word in re.split(r"[^a-z]+", name.lower()):
        for role, words in _WORDS.items():
            if word in words:
                return role
    return None


def _roles(names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Split of each role, and what is doubtful about that; "" where nothing is."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(_role(Path(name).stem) or "train", name)
    if not found:
        raise ConfigError("the dataset has no splits")
    only = next(iter(found.values()))
    train = found.get("train", only)
    select = found.get("select", train)
    splits = {"train": train, "select": select, "test": found.get("test", select)}
    if splits["test"] == train:
        return splits, f"! only {only} was found: dataset.shares parts its rows among the roles"
    if select == train:
        return splits, f"! no split that chooses a checkpoint was found: dataset.shares takes a part of {train} for it"
    if splits["test"] == select:
        return splits, f"! no split to report on was found: dataset.shares parts {select} in two"
    return splits, ""
