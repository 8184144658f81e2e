"""CPU-seconds of a command and of all processes that it leaves behind, such as the forked children of the tests.

    python scripts/cpu_seconds.py python -m pytest tests/unit

Linux alone: processes whose parent has ended become children of this one, and are waited for.
"""

import ctypes
import os
import resource
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("error: this system cannot hand over the children of a process that ended")
    code = subprocess.call(sys.argv[1:])
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} CPU-seconds", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
