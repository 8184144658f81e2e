"""Kills a process at a random moment of its work, or signals it once a file exists.

Random moments are in CPU time: by the clock, a busy machine would see every child killed while it is still starting.
"""

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.util import Finalize
from pathlib import Path


def killed_after(cpu_seconds: float) -> Callable[[], None]:
    """Called first in a child: kill it (-9) after that much CPU time."""
    return functools.partial(_arm, cpu_seconds)


def signalled_when(pattern: str, number: int, note: Path) -> Callable[[], None]:
    """Called first in a child: send it a signal once a path below its folder matches, and record the time."""
    return functools.partial(_watch, pattern, number, note)


def timed(file: Path) -> Callable[[], None]:
    """Called first in a child: write its CPU time to the file when it exits."""
    return functools.partial(Finalize, None, _note, (file,), exitpriority=1)


def _arm(cpu_seconds: float) -> None:
    threading.Thread(target=_wait, args=(cpu_seconds,), daemon=True).start()


def _wait(cpu_seconds: float) -> None:
    while time.process_time() < cpu_seconds:
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(pattern: str, number: int, note: Path) -> None:
    def watch() -> None:
        while not any(Path().glob(pattern)):
            time.sleep(0.01)
        note.write_text(str(time.time()), encoding="utf-8")
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def _note(file: Path) -> None:
    file.write_text(str(time.process_time()), encoding="utf-8")
