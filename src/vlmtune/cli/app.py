"""The table of verbs.

How a command ends: one message, one exit code, and a saved traceback where it is a bug of ours.

What a command says at its end, without the secrets of the environment: an exception of any library may quote one.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NoReturn

import typer

from vlmtune.cli import compare, data, export, inspect, run
from vlmtune.cli.runs import runs_app
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


app = typer.Typer(
    name="vlmtune",
    help="Fine-tune a vision-language model on your own data, and prove whether it helped.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(
    help="Look at a configuration without running it.", no_args_is_help=True, rich_markup_mode=None
)
data_app = typer.Typer(help="Look at a dataset before training on it.", no_args_is_help=True, rich_markup_mode=None)

app.command()(run.demo)
app.command()(data.init)
app.command()(run.run)
app.command()(run.predict)
app.command()(run.merge)
app.command()(run.train)
app.command()(export.export)
app.command()(export.push)
app.command()(export.serve)
app.command()(compare.compare)
app.command()(compare.score)
app.command()(inspect.doctor)
app.command()(inspect.plan)
config_app.command("check")(inspect.config_check)
config_app.command("show")(inspect.config_show)
config_app.command("schema")(inspect.config_schema)
app.add_typer(config_app, name="config")
data_app.command("check")(data.check)
data_app.command("show")(data.show)
data_app.command("stats")(data.stats)
data_app.command("label-errors")(data.label_errors)
data_app.command("uncertain")(data.uncertain)
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"vlmtune {version('vlmtune')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Fine-tune a vision-language model on your own data, and prove whether it helped."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> NoReturn:
    """The `vlmtune` command."""
    # As with `python -m vlmtune`: custom plugins may lie in the current directory.
    sys.path.insert(0, str(Path.cwd()))
    # Not app(): that puts a hook of typer's own in place of the one which saves the traceback of a bug.
    command = typer.main.get_command(app)
    ending(lambda: command(standalone_mode=False))


_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
"""How variables are called that hold one."""

SHORTEST = 8
"""Characters of a secret; shorter values are flags and placeholders, and stand in many words."""


def redacted(text: str) -> str:
    """The text with the name of a variable in brackets, wherever the secret in it stood."""
    secrets = {value: name for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= SHORTEST}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, f"[{secrets[value]}]")
    return text
