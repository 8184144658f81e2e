"""vlmtune: fine-tune a vision-language model on your own data, and measure whether it helped.

The public names are loaded from `vlmtune.api` on first use: importing the package alone imports nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmtune.api import *  # noqa: F403

__all__ = ["compare", "load_config", "predict", "run", "score", "train"]  # noqa: F405


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vlmtune' has no attribute {name!r}")
    return getattr(importlib.import_module("vlmtune.api"), name)
