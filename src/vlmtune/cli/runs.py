"""The verbs that look after run folders: runs ls, show, recover, gc."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from vlmtune.cli.options import AsJson

runs_app = typer.Typer(
    help="Run folders: what is in them, how to go on, what is damaged, what can go.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output.dir of a config.")]


@runs_app.command("ls")
def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to look, and below.")] = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Every run folder in a folder: its state, the steps done, the result, size and last change."""
    from vlmtune.maintenance import summary
    from vlmtune.maintenance.inspect import find, look

    found, now = [look(path) for path in find(folder)], time.time()
    if as_json:
        print(json.dumps({"schema_version": 1, "runs": [summary.plain(run, now) for run in found]}, ensure_ascii=False))
    else:
        print(summary.table(found, now) if found else f"{folder}: no run folder there")


@runs_app.command()
def show(
    run: RunArg,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show it live until it ends or you press Ctrl-C; it is only read.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Everything about one run: artifacts and what made them, checkpoints, the curve, the verdict, what to do next."""
    from vlmtune.maintenance import summary
    from vlmtune.maintenance.inspect import look

    if follow:
        _follow(run, as_json)
    found = summary.everything(look(run), time.time())
    print(json.dumps(found, ensure_ascii=False) if as_json else summary.show(found))


def _follow(run: Path, as_json: bool) -> None:
    """Show a live run until it ends or Ctrl-C comes: redrawn in a terminal, a line per change elsewhere."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from vlmtune.maintenance import watch

    console = Console(stderr=as_json)
    looks = watch.glimpses(run, time.sleep)
    try:
        if not console.is_terminal:
            last = None
            for seen in looks:
                if seen.seen != last:
                    last = seen.seen
                    console.file.write(watch.line(seen) + "\n")
                    console.file.flush()
            return
        with Live(console=console, auto_refresh=False) as live:
            for seen in looks:
                live.update(Text("\n".join(watch.screen(seen, run, console.width)), no_wrap=True), refresh=True)
    except KeyboardInterrupt:
        return


@runs_app.command()
def recover(
    run: RunArg,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is damaged and what would be done.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a run folder in order after a crash. Nothing that has a manifest is deleted; exit 8 while a process works."""
    from vlmtune.maintenance import repair
    from vlmtune.progress import open_progress

    found = repair.search(run) if dry_run else repair.mend(run, open_progress("none"))
    if as_json:
        print(json.dumps(repair.plain(run, found, not dry_run), ensure_ascii=False))
    else:
        print(repair.describe(found, not dry_run) if found else f"{run}: nothing is damaged")


@runs_app.command()
def gc(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    yes: Annotated[bool, typer.Option("--yes", help="Free it; without this it is only said.")] = False,
    as_json: AsJson = False,
) -> None:
    """Free what nothing will read again: finished work, older checkpoints, mock results moved aside by a real run."""
    from vlmtune.maintenance import garbage
    from vlmtune.progress import open_progress

    for run in runs:  # all are looked at before anything is freed in one
        garbage.search(run)
    found = [one for run in runs for one in (garbage.free(run, open_progress("none")) if yes else garbage.search(run))]
    if as_json:
        print(json.dumps(garbage.plain(runs, found, yes), ensure_ascii=False))
    else:
        print(garbage.describe(found, yes) if found else "nothing to free")
