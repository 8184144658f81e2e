"""The command table, and how a command exits: one message, one exit code, a saved traceback if it is a bug.

Tracebacks are redacted as messages are, because an exception of any library may quote a secret of the environment.
"""

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NoReturn

import typer

from vlmtune.cli import compare, completion, data, export, inspect, run
from vlmtune.cli.runs import runs_app, view
from vlmtune.errors import Exit, Interrupted, VlmtuneError
from vlmtune.files import DISK_FULL, translate_os_errors
from vlmtune.terminal import echo, redacted

SUMMARY = "Fine-tune a vision-language model on your own data, and measure whether it helped."

_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Base class of what the argument parser raises; typer does not export it."""

app = typer.Typer(
    name="vlmtune", help=SUMMARY, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
config_app = typer.Typer(help="Inspect a config without running it.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(help="Inspect a dataset, before or after training.", no_args_is_help=True, rich_markup_mode=None)

COMMANDS: dict[typer.Typer, list[Callable[..., None]]] = {
    app: [
        *(run.demo, data.init, run.run, run.search, run.learning_curve, run.label, run.predict),
        *(run.merge, run.train, export.export, export.merge_adapters, export.push, export.serve),
        *(compare.compare, compare.score, inspect.doctor, inspect.plan, view, completion.completion),
    ],
    config_app: [inspect.check, inspect.show, inspect.schema],
    data_app: [data.check, data.show, data.stats, data.label_errors, data.uncertain],
}
for group, functions in COMMANDS.items():
    for function in functions:
        group.command()(function)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        echo(f"vlmtune {version('vlmtune')}")
        raise typer.Exit


@app.callback(invoke_without_command=True, help=SUMMARY)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        echo(context.get_help())


def main() -> NoReturn:
    """The `vlmtune` command."""
    completion.prepare_completion()
    # Not app(): that would replace the hook that saves the traceback of a bug by one of typer's.
    command = typer.main.get_command(app)
    run_and_exit(lambda: command(standalone_mode=False))


def run_and_exit(command: Callable[[], object]) -> NoReturn:
    """Run a command and exit with the code of its outcome.

    Any unexpected exception is a bug: it propagates, so that Python exits with 1 after the hook saved the traceback.
    """
    sys.excepthook = _save_traceback
    _escape_unprintable()
    try:
        # typer turns Ctrl-C into a returned exit code.
        if command() == Interrupted.exit_code:
            raise KeyboardInterrupt
        if sys.stdout is not None:  # it is None where it was closed before the start
            sys.stdout.flush()
    except VlmtuneError as error:
        _exit(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _exit("stopped immediately", Interrupted.exit_code)
    except (BrokenPipeError, SystemExit) as end:
        # typer turns a closed pipe into an exit.
        if not isinstance(end, BrokenPipeError) and not isinstance(end.__context__, BrokenPipeError):
            raise
        _discard_output()
        sys.exit(0)
    except OSError as error:
        _exit_for_system(error)
    except _UsageError as error:
        message = error.format_message().replace("Value error, ", "")  # of pydantic, in some versions of typer
        _exit(f"{message}{'' if message.endswith(('.', '?')) else '.'} See: vlmtune --help", Exit.USAGE)
    sys.exit(0)


def _escape_unprintable() -> None:
    """Print characters that the terminal's encoding does not have, as in plain ASCII, with a backslash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _exit_for_system(error: OSError) -> NoReturn:
    """Exit for what the system refuses: a path, in another user's folder for example, a full disk, a folder that is
    gone. Any other error of the system is a bug.
    """
    if error.filename is not None:
        try:
            with translate_os_errors(Path(os.fsdecode(error.filename))):
                raise error
        except VlmtuneError as named:
            _exit(str(named), named.exit_code)
    if error.errno in DISK_FULL:
        _discard_output()
        _exit("the output cannot be written: no space left", Exit.ENVIRONMENT)
    if error.errno == errno.ENOENT and not _has_current_folder():
        _exit("the current folder no longer exists; change to another one", Exit.ENVIRONMENT)
    raise error


def _has_current_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _discard_output() -> None:
    """Send what is still to be printed nowhere: Python would try again as it ends, and fail with another exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit(message: str, code: Exit) -> NoReturn:
    echo(f"error: {message}", err=True)
    sys.exit(code)


def _save_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="vlmtune-bug-", suffix=".txt", delete=False) as file:
        file.write(redacted("".join(traceback.format_exception(kind, error, trace))))
    echo(f"error: a bug in vlmtune, please report it: {kind.__name__}: {error}", err=True)
    echo(f"the traceback is in {file.name}", err=True)
