"""Every error vlmtune raises on purpose, with the exit code it ends a command with.

    VlmtuneError
    ├── ConfigError            2  the command line or the configuration is wrong
    │   ├── AdapterRefused        the engine cannot load this adapter
    │   └── UnknownPlugin         no plugin of that name (registry.py)
    ├── DataError              3  the dataset cannot be used as described
    │   ├── ImageError            an image cannot be decoded
    │   ├── EmptyField            a field of a row is empty or missing
    │   └── ExampleTooLong        an example exceeds training.max_tokens
    ├── EnvironmentProblem     4  this machine lacks something
    │   └── DoesNotFit            its GPU has too little memory for these settings
    ├── RemoteError            5  a remote engine kept failing
    ├── GateFailed             6  the comparison did not pass
    ├── Diverged               7  a loss or gradient was not finite
    ├── FolderLocked           8  another process uses the run folder
    ├── IntegrityError         9  artifacts do not belong together
    ├── Terminated            75  SIGTERM
    └── Interrupted          130  Ctrl-C

Messages say what is wrong, where (file:line, split, row id) and what to do. Any other exception is a bug: the command
line saves its traceback and exits with 1.
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
    """Base class. `str(error)` is the message for the user."""

    exit_code: Exit = Exit.BUG


class ConfigError(VlmtuneError):
    """The command line or the configuration is wrong; nothing was started."""

    exit_code = Exit.USAGE


class AdapterRefused(ConfigError):
    """The engine cannot load this adapter; merged into the model, it works."""


class DataError(VlmtuneError):
    """The dataset cannot be used as described: missing column, zero rows, a bad row, a bad image."""

    exit_code = Exit.DATA


class ImageError(DataError):
    """One image cannot be decoded. `reason` is short enough for a table."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.where = where


class EmptyField(DataError):
    """A field of a row is empty or missing. `field` is the column, so that they can be counted."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ExampleTooLong(DataError):
    """An example has more tokens than `training.max_tokens`; vlmtune never truncates."""


class EnvironmentProblem(VlmtuneError):
    """This machine lacks something: GPU, memory, disk, network, credential, an optional package."""

    exit_code = Exit.ENVIRONMENT


class DoesNotFit(EnvironmentProblem):
    """The GPU's memory is too small for these settings; others may fit."""


class RemoteError(VlmtuneError):
    """A remote engine kept failing despite retries; the answers so far are kept."""

    exit_code = Exit.REMOTE


class GateFailed(VlmtuneError):
    """The comparison does not meet the user's condition."""

    exit_code = Exit.GATE


class Diverged(VlmtuneError):
    """A loss or gradient was not finite; the optimizer step was skipped."""

    exit_code = Exit.DIVERGED


class FolderLocked(VlmtuneError):
    """A running process uses this run folder."""

    exit_code = Exit.LOCKED


class IntegrityError(VlmtuneError):
    """Artifacts that must belong together do not: checkpoint, adapter and base model, fingerprints, configs."""

    exit_code = Exit.INTEGRITY


class Terminated(VlmtuneError):
    """SIGTERM was received and the state is saved; the same command resumes."""

    exit_code = Exit.TERMINATED


class Interrupted(VlmtuneError):
    """Ctrl-C was received and the state is saved; the same command resumes."""

    exit_code = Exit.INTERRUPTED
