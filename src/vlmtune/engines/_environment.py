"""The environment as engines use it: secrets that a config only names, and what a server of ours is started with."""

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from vlmtune.errors import EnvironmentProblem

SERVER_KEY = "VLLM_API_KEY"
"""Where vLLM's server looks for the key that it asks of others."""

_NAMED = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


def named_secret(value: str | None) -> str | None:
    """Accept a secret by name alone; a value in a config would stand in every snapshot. Says what it is not, not what.

    Raises:
        PydanticCustomError: it is not written as ${env:NAME}.
    """
    if value is not None and _NAMED.fullmatch(value) is None:
        raise PydanticCustomError(
            "secret", "must name an environment variable, as ${env:NAME}, not hold the key itself"
        )
    return value


def no_login(address: str) -> str:
    """Accept an address without a user's name and password in it.

    Raises:
        PydanticCustomError: it has one.
    """
    if "@" in urlsplit(address).netloc:
        raise PydanticCustomError("secret", "must hold no name or password; name the key with inference.api_key")
    return address


def secret(value: str | None) -> str | None:
    """What stands in the variable that a config names.

    Raises:
        EnvironmentProblem: the variable is not set, or holds what the header of a request cannot carry.
    """
    found = _NAMED.fullmatch(value) if value is not None else None
    if found is None:
        return None
    key = os.environ.get(found[1])
    if not key:
        raise EnvironmentProblem(
            f"the environment variable {found[1]} is not set; inference.api_key reads the key there"
        )
    if not (key.isascii() and key.isprintable()):
        raise EnvironmentProblem(
            f"the environment variable {found[1]} holds a line break, or another character that no key has; set it anew"
        )
    return key


def server_key() -> str | None:
    """The key that a server which inherits our environment will ask for."""
    return os.environ.get(SERVER_KEY) or None


def with_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Our environment with more variables over it, for a process of ours."""
    return {**os.environ, **more}
