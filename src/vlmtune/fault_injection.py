"""Named points at which a test can make the process fail; inactive otherwise.

`hit(point)` is called at every write that must survive a crash. A test sets VLMTUNE_FAULT for a child process to
"point:action" or "point:action:n" (the n-th hit, counted from 1). The action is `kill` (SIGKILL, like a power cut),
`int` (SIGINT, like Ctrl-C), `term` (SIGTERM) or `full` (no space left on the device).
"""

import errno
import os
import signal
from collections import Counter

ARMED = "VLMTUNE_FAULT"
_hits: Counter[str] = Counter()


def hit(point: str) -> None:
    """Do nothing, unless a test armed exactly this point.

    Raises:
        OSError: the armed action is `full`.
    """
    armed = os.environ.get(ARMED)
    if not armed:
        return
    name, action, *nth = armed.split(":")
    if name != point:
        return
    _hits[point] += 1
    if _hits[point] != int(nth[0] if nth else 1):
        return
    if action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}[action])
