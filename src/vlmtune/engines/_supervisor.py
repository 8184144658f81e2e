"""Runs a server on behalf of a process and ends it with that process, however it dies. Started as a script, alone.

    python _supervisor.py COMMAND…

It must lead a process group of its own. Standard input is a pipe whose other end the parent holds: it closes when the
parent ends, kill -9 included. Then the whole group is asked to end, and after a while killed.
"""

import os
import select
import signal
import subprocess
import sys
import time

PATIENCE_S = 10.0
TICK_S = 0.2


def main(words: list[str]) -> None:
    """Run a command until it or the parent ends; takes along all that it started."""
    # A handler, not SIG_IGN: what is ignored stays ignored in the server.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    while server.poll() is None and not select.select([0], [], [], TICK_S)[0]:
        pass
    os.killpg(0, signal.SIGTERM)
    until = time.monotonic() + PATIENCE_S
    while server.poll() is None and time.monotonic() < until:
        time.sleep(TICK_S)
    os.killpg(0, signal.SIGKILL)  # this process, too


if __name__ == "__main__":
    main(sys.argv[1:])
