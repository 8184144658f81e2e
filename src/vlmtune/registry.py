"""The base class of every config, and the plugin loader.

A folder is the registry: `load("tasks", "captioning")` imports `vlmtune.tasks.captioning`. A dotted name imports a
user's module, so plugins can live outside the package. A file whose name begins with an underscore holds code that
plugins share and is not a plugin itself.
"""

import difflib
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from vlmtune.errors import ConfigError

RENAMED_KEYS = {
    "dataset.lone": "dataset.identifiable",
    "dataset.limit.select": "dataset.limit.validation",
    "dataset.shares.select": "dataset.shares.validation",
    "dataset.splits.select": "dataset.splits.validation",
    "evaluation.also": "evaluation.additional",
    "training.row_tokens": "training.pack_tokens",
    "training.select_by": "training.best_metric",
}
"""Old names of config keys and today's. Old ones are errors that name the new one; manifests are read under either."""

REMOVED_KEYS = {
    "inference.answers_as": "set inference.served_model to the name that the server answers with",
    "inference.length_key": "every request sends max_tokens",
    "inference.retry_s": "the first retry waits about half a second, later ones longer",
    **dict.fromkeys(
        [
            *("output.baseline", "output.baseline_metrics", "output.comparison", "output.regressions", "output.report"),
            *("output.tuned", "output.tuned_metrics"),
        ],
        "the files of a run have fixed names; output.dir chooses their folder",
    ),
}
"""Config keys that no longer exist, and what to do instead."""

RENAMED_ROLES = {"select": "validation"}
"""The same for the roles of splits."""


def renamed(name: str) -> str | None:
    """Today's name of a config key that was renamed, both as dotted paths; None for any other.

    The dataset block of an additional evaluation set has the keys of the main one:
    "evaluation.additional[0].dataset.limit.select" is renamed as well.
    """
    for old, new in RENAMED_KEYS.items():
        if name == old or name.endswith(f".{old}"):
            return name.removesuffix(old) + new
    return None


def under_current_names(manifest: dict[str, Any]) -> dict[str, Any]:
    """The entries of a manifest in which keys were renamed since, under today's names: origin and training curve."""
    origin = dict(manifest["origin"])
    if isinstance(training := origin.get("training"), dict):
        origin["training"] = {(renamed(f"training.{key}") or key).rpartition(".")[2]: training[key] for key in training}
    if isinstance(inference := origin.get("inference"), dict):
        origin["inference"] = {key: inference[key] for key in inference if f"inference.{key}" not in REMOVED_KEYS}
    if isinstance(dataset := origin.get("dataset"), dict):
        origin["dataset"] = {RENAMED_ROLES.get(key, key): value for key, value in dataset.items()}
    for old, name in (("set", "evaluation_set"), ("column", "prompt_baseline")):
        if old in origin:
            origin[name] = origin.pop(old)
    if not isinstance(curve := manifest.get("curve"), list):
        return {"origin": origin}
    points = [
        {re.sub("^select_", "validation_", key): value for key, value in point.items()}
        for point in curve
        if isinstance(point, dict)
    ]
    return {"origin": origin, "curve": points}


class BaseConfig(BaseModel):
    """Base of every config: frozen, unknown keys forbidden, each field documented by the string under it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


SECRET_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
"""How a config names an environment variable that holds a secret."""


def _named_secret(value: str | None) -> str | None:
    """Accept a secret by name only: a value would end up in every snapshot. The error does not repeat it."""
    if value is not None and SECRET_REFERENCE.fullmatch(value) is None:
        raise PydanticCustomError(
            "secret", "must name an environment variable, as ${env:NAME}, not hold the key itself"
        )
    return value


def _no_login(address: str) -> str:
    """Accept a URL without a user's name and password in it."""
    if "@" in urlsplit(address).netloc:
        raise PydanticCustomError("secret", "must hold no name or password; name the key with api_key")
    return address


SecretName = Annotated[str | None, AfterValidator(_named_secret)]
"""A secret as ${env:NAME}; null for none."""

ServerUrl = Annotated[str, AfterValidator(_no_login), Field(pattern=r"^https?://[^\s?#]+$")]
"""URL of a server, without a login, as it is stored with results."""


class UnknownPlugin(ConfigError):
    """No plugin of that name; `available` are those that exist."""

    def __init__(self, folder: str, name: str) -> None:
        self.available = available(folder)
        super().__init__(
            f"no {name!r} in {folder}; there are: {', '.join(self.available)}" + did_you_mean(name, self.available)
        )


def did_you_mean(word: str, words: list[str], otherwise: str = "") -> str:
    """The end of a message about an unknown `word`: its closest match among `words`, or `otherwise` without one.

    >>> did_you_mean("trian", ["train", "test"])
    "; did you mean 'train'?"
    """
    nearest = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else otherwise


def available(folder: str) -> list[str]:
    """Names of the plugins shipped in `vlmtune/<folder>`, sorted."""
    package = importlib.import_module(f"vlmtune.{folder}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Let a user's module be imported from the current folder inside this block.

    Only inside, and after all other folders: a downloaded dataset may have a file named numpy.py.
    """
    here = str(Path.cwd())
    if added := here not in sys.path:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def load(folder: str, name: str) -> ModuleType:
    """Import one plugin. An ImportError raised inside it is not hidden.

    Raises:
        UnknownPlugin: neither shipped nor importable under its dotted name.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise UnknownPlugin(folder, name)
    if "." not in name:
        if name not in available(folder):
            raise UnknownPlugin(folder, name)
        return importlib.import_module(f"vlmtune.{folder}.{name}")
    try:
        with _current_folder_importable():
            return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name and (name == missing.name or name.startswith(missing.name + ".")):
            raise UnknownPlugin(folder, name) from None
        raise
