"""vlmtune: fine-tune a vision-language model on your own data, and prove whether it helped.

The public names are resolved when they are first used; importing the package does nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmtune.comparing import compare_files as compare
    from vlmtune.comparing import score_file as score
    from vlmtune.config import load_config
    from vlmtune.pipeline.api import predict, run, train

__all__ = ["compare", "load_config", "predict", "run", "score", "train"]


_HOMES = {
    "load_config": ("vlmtune.config", "load_config"),
    "train": ("vlmtune.pipeline.api", "train"),
    "predict": ("vlmtune.pipeline.api", "predict"),
    "run": ("vlmtune.pipeline.api", "run"),
    "score": ("vlmtune.comparing", "score_file"),
    "compare": ("vlmtune.comparing", "compare_files"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmtune' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
