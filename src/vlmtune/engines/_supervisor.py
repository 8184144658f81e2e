"""Supervises a server and ends it when the parent process ends, however that happens. Runs as a standalone script.

    python _supervisor.py COMMAND…

It must lead its own process group. Standard input is a pipe held open by the parent: it closes when the parent ends,
even by kill -9. The whole group then gets SIGTERM and, after a grace period, SIGKILL. Where this process itself is
killed, the system ends the server, and the parent the rest of the group.
"""

import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 10.0
POLL_S = 0.2
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def main(command: list[str]) -> None:
    """Run a command until it or the parent ends, then end everything it started."""
    # A handler, not SIG_IGN: the server would inherit an ignored signal.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)  # noqa: PLW1509 - one thread
    while server.poll() is None and not select.select([0], [], [], POLL_S)[0]:
        pass
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    os.killpg(0, signal.SIGKILL)  # including this process


def die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
