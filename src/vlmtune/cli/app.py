"""The table of verbs."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vlmtune.cli import asking, data, looking, publishing, results, serving, starting, steps, suspecting
from vlmtune.cli.ending import ending
from vlmtune.cli.runs import runs_app

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

app.command()(steps.demo)
app.command()(starting.init)
app.command()(steps.run)
app.command()(steps.predict)
app.command()(steps.merge)
app.command()(steps.train)
app.command()(asking.export)
app.command()(publishing.push)
app.command()(serving.serve)
app.command()(results.compare)
app.command()(results.score)
app.command()(results.unsure)
app.command()(looking.doctor)
app.command()(looking.plan)
config_app.command("check")(looking.config_check)
config_app.command("show")(looking.config_show)
config_app.command("schema")(looking.config_schema)
config_app.command("diff")(looking.config_diff)
app.add_typer(config_app, name="config")
data_app.command("check")(data.check)
data_app.command("show")(data.show)
data_app.command("stats")(data.stats)
data_app.command("suspects")(suspecting.suspects)
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
    # As with `python -m vlmtune`: your own plugs may lie in the folder you stand in.
    sys.path.insert(0, str(Path.cwd()))
    # Not app(): that puts a hook of typer's own in place of the one which saves the traceback of a bug.
    command = typer.main.get_command(app)
    ending(lambda: command(standalone_mode=False))
