"""A process that is killed at a random moment of its work.

Its own time counts, and not that on the wall: a busy machine would let every child be killed while it still starts.
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


def timed(file: Path) -> Callable[[], None]:
    """What a child calls first: at its end it writes into the file how long it has worked."""
    return functools.partial(Finalize, None, _note, (file,), exitpriority=1)


def _arm(cpu_seconds: float) -> None:
    threading.Thread(target=_wait, args=(cpu_seconds,), daemon=True).start()


def _wait(cpu_seconds: float) -> None:
    while time.process_time() < cpu_seconds:
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)


def _note(file: Path) -> None:
    file.write_text(str(time.process_time()), encoding="utf-8")
