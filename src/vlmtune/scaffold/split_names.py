"""Which role the name of a split means, and which split each role gets. A test split is never trained on."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune.errors import ConfigError
from vlmtune.scaffold.questions import Option, Undecided

ROLE_NAMES = {
    "train": ("train", "training", "trn", "restval"),
    "validation": ("validation", "valid", "val", "dev", "eval", "devel"),
    "test": ("test", "testing", "tst", "testa", "testb", "minitest", "holdout"),
}
"""Words in the names of splits. `restval` is the part of COCO's validation images that Karpathy's split trains on."""


def role_of(name: str) -> str | None:
    """The role that the name of a split mentions first; PublicTest mentions test."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    for word in re.split(r"[^a-z]+", spaced):
        for role, words in ROLE_NAMES.items():
            if word in words:
                return role
    return None


def preferred(role: str, names: list[str]) -> tuple[str, str]:
    """The split with the name of the role, else the first one; and a warning about the others."""
    chosen = next((name for name in names if name.lower() in ROLE_NAMES[role]), names[0])
    others = ", ".join(name for name in names if name != chosen)
    return chosen, f"{others} not used: {role} is {chosen}" if others else ""


def assign_splits(
    names: Sequence[str], given: Mapping[str, Any], choose: Callable[[str, list[str]], tuple[str, str]]
) -> tuple[dict[str, str], str]:
    """The split of each role, and what is doubtful about it ("" if nothing is).

    Args:
        names: the splits of the dataset.
        given: keys of the dataset block that the user set; their splits are not changed.
        choose: (role, candidates) -> (split, warning).

    Raises:
        ConfigError: there is no split.
        Undecided: there is only a test split.
    """
    given_splits = given.get("splits")
    found: dict[str, str] = {}
    if isinstance(given_splits, Mapping):
        found = {role: str(split) for role, split in given_splits.items()}
    candidates: dict[str, list[str]] = {}
    for name in names:
        candidates.setdefault(role_of(Path(name).stem) or "train", []).append(name)
    warnings = []
    for role, group in candidates.items():
        if role not in found:
            found[role], warning = choose(role, group)
            warnings.append(warning)
    if not found:
        raise ConfigError("the dataset has no splits")
    if set(found) == {"test"}:
        raise Undecided(
            f"there is only a test split, {found['test']}, which is not trained on.",
            [Option(f"divide {found['test']} among all roles", (f"dataset.splits.train={found['test']}",))],
        )
    train = found.get("train", found.get("validation", ""))
    validation = found.get("validation", train)
    splits = {"train": train, "validation": validation, "test": found.get("test", validation)}
    warnings.append(_shared(splits, found))
    text = "; ".join(filter(None, warnings))
    return splits, f"! {text}" if text else ""


def _shared(splits: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Which roles divide a split by shares; "" if none do."""
    train, validation, test = splits["train"], splits["validation"], splits["test"]
    if test == train:
        return f"only {train} was found: dataset.shares divides its rows among the roles"
    if validation == train:
        missing = "validation" if "train" in found else "train"
        return f"no {missing} split was found: dataset.shares takes part of {train} for it"
    return f"no test split was found: dataset.shares divides {validation}" if test == validation else ""
