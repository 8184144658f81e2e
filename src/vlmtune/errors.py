"""Every error vlmtune raises on purpose, drawn once, with the exit code each one ends a command with.

Knows nothing else. A message says what is wrong, where (file:line, split, row id) and what to do. Anything that
is not a `VlmtuneError` is a bug of ours: the command line saves its traceback and exits 1.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line; scripts rely on them."""

    DONE = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    ENVIRONMENT = 4
    REMOTE = 5
    GATE = 6
    DIVERGED = 7
    LOCKED = 8
    INTEGRITY = 9
    TERMINATED = 75
    INTERRUPTED = 130


class VlmtuneError(Exception):
    """Root of the tree. `str(error)` is what the user reads."""

    exit_code: Exit = Exit.BUG


class ConfigError(VlmtuneError):
    """The command line or the configuration is wrong; nothing was started."""

    exit_code = Exit.USAGE


class AdapterRefused(ConfigError):
    """The engine cannot put this adapter on its model; merged into the model it can answer all the same."""


class DataError(VlmtuneError):
    """The dataset cannot be used as described: missing column, zero rows, a bad row, a bad image."""

    exit_code = Exit.DATA


class ImageError(DataError):
    """One image cannot be decoded. `reason` is short enough to stand in a table."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.where = where


class ExampleTooLong(DataError):
    """An example needs more tokens than fit; vlmtune never cuts one."""


class EnvironmentProblem(VlmtuneError):
    """This machine lacks something: GPU, memory, disk, network, credential, an optional package."""

    exit_code = Exit.ENVIRONMENT


class RemoteError(VlmtuneError):
    """A remote engine kept failing after retries; what was answered is kept."""

    exit_code = Exit.REMOTE


class GateFailed(VlmtuneError):
    """The comparison did not pass what the user asked for."""

    exit_code = Exit.GATE


class Diverged(VlmtuneError):
    """A loss or gradient was not finite; the optimizer step was not taken."""

    exit_code = Exit.DIVERGED


class FolderLocked(VlmtuneError):
    """A live process works in this run folder."""

    exit_code = Exit.LOCKED


class IntegrityError(VlmtuneError):
    """Things that must belong together do not: checkpoint, adapter and base, fingerprints, configs."""

    exit_code = Exit.INTEGRITY


class Terminated(VlmtuneError):
    """SIGTERM arrived and the state is saved: the same command goes on."""

    exit_code = Exit.TERMINATED


class Interrupted(VlmtuneError):
    """Ctrl-C arrived and the state is saved: the same command goes on."""

    exit_code = Exit.INTERRUPTED
