"""How a command ends: one message, one exit code, and a saved traceback where it is a bug of ours."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import typer

from vlmtune.cli.redaction import redacted
from vlmtune.errors import Exit, Interrupted, VlmtuneError

_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Root of what the parser raises; typer does not name it publicly."""


def ending(command: Callable[[], object]) -> NoReturn:
    """Run one command and leave with the exit code of how it ended.

    What nobody expected is a bug of ours: Python ends with 1 by itself, after the hook has saved the traceback.
    """
    sys.excepthook = _save_traceback
    try:
        # typer turns Ctrl-C into a returned exit code.
        if command() == Interrupted.exit_code:
            raise KeyboardInterrupt
    except VlmtuneError as error:
        _end(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _end("stopped at once", Interrupted.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except _UsageError as error:
        message = error.format_message()
        _end(f"{message}{'' if message.endswith(('.', '?')) else '.'} See: vlmtune --help", Exit.USAGE)
    sys.exit(0)


def _end(message: str, code: Exit) -> NoReturn:
    print(f"error: {redacted(message)}", file=sys.stderr)
    sys.exit(code)


def _save_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="vlmtune-bug-", suffix=".txt", delete=False) as file:
        file.write(redacted("".join(traceback.format_exception(kind, error, trace))))
    print(f"error: a bug in vlmtune, please report it: {kind.__name__}: {redacted(str(error))}", file=sys.stderr)
    print(f"the traceback is in {file.name}", file=sys.stderr)
