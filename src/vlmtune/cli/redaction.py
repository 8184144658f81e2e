"""What a command says at its end, without the secrets of the environment: an exception of any library may quote one."""

import os
import re

_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
"""How variables are called that hold one."""

SHORTEST = 8
"""Characters of a secret; shorter values are flags and placeholders, and stand in many words."""


def redacted(text: str) -> str:
    """The text with the name of a variable in brackets, wherever the secret in it stood."""
    secrets = {value: name for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= SHORTEST}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, f"[{secrets[value]}]")
    return text
