"""Commands as users type them, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Ended = subprocess.CompletedProcess[str]
Run = Callable[..., Ended]
ROOT = Path(__file__).parents[1]


def command(*words: str, cwd: Path, **environment: str) -> Ended:
    """Run one command to its end; `environment` is laid over the tests' own."""
    return subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600, check=False
    )


def vlmtune(*words: str, cwd: Path, **environment: str) -> Ended:
    """`vlmtune WORDS…`."""
    return command(sys.executable, "-m", "vlmtune", *words, cwd=cwd, **environment)
