"""`python -m vlmtune`: what launchers call."""

import sys
from pathlib import Path

try:
    here = str(Path.cwd())
except FileNotFoundError:  # it was deleted; a command that needs it says so
    here = ""
# `python -m` puts the current folder first, where a downloaded dataset may have a file named numpy.py.
if not sys.flags.safe_path and sys.path[0] == here:
    del sys.path[0]

from vlmtune.cli.app import main

if __name__ == "__main__":
    main()
