"""vlmtune: fine-tune a vision-language model on your own data, and prove whether it helped.

The public names are resolved when they are first used; importing the package does nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmtune.api import predict, run, train
    from vlmtune.compare_files import compare_files as compare
    from vlmtune.compare_files import score_file as score
    from vlmtune.config import load_config

__all__ = ["compare", "load_config", "predict", "run", "score", "train"]


_HOMES = {
    "load_config": ("vlmtune.config", "load_config"),
    "train": ("vlmtune.api", "train"),
    "predict": ("vlmtune.api", "predict"),
    "run": ("vlmtune.api", "run"),
    "score": ("vlmtune.compare_files", "score_file"),
    "compare": ("vlmtune.compare_files", "compare_files"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmtune' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
