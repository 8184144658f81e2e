"""Commands for run folders: runs ls, show, recover, gc; and view, which shows them in a browser."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from vlmtune.cli.options import AsJson
from vlmtune.terminal import echo

runs_app = typer.Typer(
    help="Inspect, repair and clean up run folders.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output.dir of a config.")]


def view(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to search, recursively.")] = Path("outputs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 chooses a free one.")] = 8765,
) -> None:
    """Show all runs of a folder in a browser of this machine, live and read-only, until Ctrl-C."""
    from vlmtune.view.server import open_server

    with open_server(folder, port) as server:
        echo(f"http://127.0.0.1:{server.server_port}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


@runs_app.command("ls")
def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to search, recursively.")] = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """List run folders with state, progress, result and size."""
    from vlmtune.maintenance import summary
    from vlmtune.maintenance.inspect import find_runs, inspect_run

    listed, now = [inspect_run(path) for path in find_runs(folder)], time.time()
    if as_json:
        runs = [summary.to_json(run, now) for run in listed]
        echo(json.dumps({"schema_version": 1, "runs": runs}, ensure_ascii=False))
    else:
        echo(summary.table(listed, now) if listed else f"{folder}: no run folder found")


@runs_app.command()
def show(
    run: RunArg,
    follow: Annotated[
        bool, typer.Option("--follow", help="Update live until the run ends or Ctrl-C; only reads.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one run: artifacts and their provenance, checkpoints, learning curve, verdict, what to do next."""
    from vlmtune.maintenance import summary
    from vlmtune.maintenance.inspect import inspect_run

    if follow:
        _follow(run, as_json)
    details = summary.details(inspect_run(run), time.time())
    echo(json.dumps(details, ensure_ascii=False) if as_json else summary.describe(details))


def _follow(run: Path, as_json: bool) -> None:
    """Follow a run until it ends or Ctrl-C: redrawn in a terminal, otherwise one line per change."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from vlmtune.maintenance import watch

    console = Console(stderr=as_json)
    snapshots = watch.snapshots(run, time.sleep)
    try:
        if not console.is_terminal:
            last = None
            for snapshot in snapshots:
                if snapshot.changes != last:
                    last = snapshot.changes
                    console.file.write(watch.log_line(snapshot) + "\n")
                    console.file.flush()
            return
        with Live(console=console, auto_refresh=False) as live:
            for snapshot in snapshots:
                lines = watch.render(snapshot, run, console.width)
                live.update(Text("\n".join(lines), no_wrap=True), refresh=True)
    except KeyboardInterrupt:
        return


@runs_app.command()
def recover(
    run: RunArg,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report damage and what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Repair a run folder after a crash. Nothing with a manifest is deleted; exits with 8 while the run is active."""
    from vlmtune.maintenance import repair
    from vlmtune.progress import open_progress

    damage = repair.find_damage(run) if dry_run else repair.repair(run, open_progress("none"))
    if as_json:
        echo(json.dumps(repair.to_json(run, damage, not dry_run), ensure_ascii=False))
    else:
        echo(repair.describe(damage, not dry_run) if damage else f"{run}: nothing is damaged")


@runs_app.command()
def gc(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete; by default only lists.")] = False,
    as_json: AsJson = False,
) -> None:
    """List or delete what nothing will read again: finished work, old checkpoints, archived mock results."""
    from vlmtune.maintenance import garbage
    from vlmtune.progress import open_progress

    deletable = [item for run in runs for item in garbage.find_garbage(run)]
    if yes:  # only after all of them were checked
        deletable = [item for run in runs for item in garbage.collect(run, open_progress("none"))]
    if as_json:
        echo(json.dumps(garbage.to_json(runs, deletable, yes), ensure_ascii=False))
    else:
        echo(garbage.describe(deletable, yes) if deletable else "nothing to delete")
