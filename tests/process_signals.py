"""A process that is killed at a random moment of its work, or signalled when a file is there.

At random moments its own time counts, and not that on the wall: a busy machine would let every child be killed while it
still starts.
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
    """What a child calls first: it is killed (-9) when it has worked that long."""
    return functools.partial(_arm, cpu_seconds)


def signalled_when(pattern: str, number: int, note: Path) -> Callable[[], None]:
    """What a child calls first: it sends itself a signal when a path below its folder fits, and notes the time."""
    return functools.partial(_watch, pattern, number, note)


def timed(file: Path) -> Callable[[], None]:
    """What a child calls first: at its end it writes into the file how long it has worked."""
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
