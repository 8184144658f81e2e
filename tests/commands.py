"""Runs commands as users type them, each in its own process, in a child forked from a preloaded parent, or right here.

Importing torch and transformers costs a process 12 CPU-seconds, and the command line itself takes one; a forked child
has them for nothing.
"""

import contextlib
import functools
import io
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from pathlib import Path

import pytest

Ended = subprocess.CompletedProcess[str]
ROOT = Path(__file__).parents[1]
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["preload"])


def command(*words: str, cwd: Path, **environment: str) -> Ended:
    """Run one command to completion; `environment` overrides that of the tests."""
    return subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900, check=False
    )


def vlmtune(*words: str, cwd: Path, **environment: str) -> Ended:
    """Run `vlmtune WORDS…` in its own process."""
    return command(sys.executable, "-m", "vlmtune", *words, cwd=cwd, **environment)


def vlmtune_in_process(*words: str, cwd: Path, **environment: str) -> Ended:
    """Run `vlmtune WORDS…` in the process of the tests, where the promise is about what it says and not the process."""
    from vlmtune.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["vlmtune", *words])
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "excepthook", sys.excepthook)
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            main()
    return Ended(words, int(end.value.code or 0), out.getvalue(), err.getvalue())


def warm_vlmtune(*words: str, cwd: Path, before: Callable[[], None] | None = None, **environment: str) -> Ended:
    """Run `vlmtune WORDS…` in a child of a preloaded parent, which calls `before` first."""
    return _forked(None, words, cwd, environment, before)


def warm_script(script: str, *words: str, cwd: Path, **environment: str) -> Ended:
    """Run `python SCRIPT WORDS…` in a child of a preloaded parent."""
    return _forked(script, words, cwd, environment, None)


def _forked(
    script: str | None,
    words: tuple[str, ...],
    cwd: Path,
    environment: dict[str, str],
    before: Callable[[], None] | None,
) -> Ended:
    _start_parent()
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "stdout", Path(folder) / "stderr"
        child = _SERVER.Process(target=_call, args=(script, words, cwd, environment, *said, before))
        child.start()
        child.join(900)
        code = child.exitcode
        child.kill()
        return Ended(words, -1 if code is None else code, *(file.read_text() for file in said))


def warm_ranks(words: Sequence[str], cwd: Path, before: Sequence[Callable[[], None] | None]) -> list[Ended]:
    """Run a command in one process per entry of `before`, with the environment that torchrun would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def rank(number: int) -> Ended:
        own = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(len(before))}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return warm_vlmtune(*words, cwd=cwd, before=before[number], **own, **place)

    with ThreadPoolExecutor(len(before)) as pool:
        return list(pool.map(rank, range(len(before))))


@functools.cache
def _start_parent() -> None:
    """The parent silently skips what it cannot import, and needs to be told about this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def _call(
    script: str | None,
    words: tuple[str, ...],
    cwd: Path,
    environment: dict[str, str],
    stdout: Path,
    stderr: Path,
    before: Callable[[], None] | None,
) -> None:
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    assert "preload" in sys.modules, "the parent of this child preloaded nothing"
    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv = [script or "vlmtune", *words]
    if before is not None:
        before()
    if script is not None:
        runpy.run_path(script, run_name="__main__")
    from vlmtune.cli.app import main

    main()


Run = Callable[..., Ended]
