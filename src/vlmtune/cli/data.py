"""The verbs that look at a dataset: data check, show and stats."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmtune.cli.arguments import AsJson, ConfigArg, Offline, Sets, Shown, load_config, set_offline
from vlmtune.cli.printing import say_next
from vlmtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vlmtune.config import Config
    from vlmtune.tasks import Task


def check(
    config: ConfigArg, sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto", offline: Offline = False
) -> None:
    """Read and decode every row before GPU time is spent; every fault and copy on a page."""
    from vlmtune.checks.rows.checking import Check
    from vlmtune.checks.rows.outcome import CACHE, PAGE, RESULT
    from vlmtune.checks.rows.outcome import check as look
    from vlmtune.checks.rows.summary import render
    from vlmtune.pipeline.session import working

    set_offline(offline)
    with working(load_config(config, sets).config, progress) as session:
        folder = session.folder.root
        asked = Check(
            session.config,
            session.task,
            session.inputs.checkpoint,
            folder / ".vlmtune" / CACHE,
            session.progress,
            session.stop,
        )
        found = look(asked, folder)
    print(json.dumps(found, ensure_ascii=False) if as_json else render(found))
    print(f"page: {folder / PAGE}", file=sys.stderr)
    if found["status"] == "errors":
        count = f"{found['errors']:,} {'error' if found['errors'] == 1 else 'errors'}"
        raise DataError(f"{count}; all stand in {folder / RESULT}. {_way_on(found)}")
    say_next("run", config, sets)


def show(
    config: ConfigArg,
    row: Annotated[int, typer.Option("--row", help="Which row, counted from 0.")] = 0,
    role: Annotated[str, typer.Option(help="Role of the rows: train, select or test.")] = "train",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="Write a page with the resized pictures.")
    ] = None,
    color: Annotated[bool | None, typer.Option("--color/--no-color", help="Colours; by default in a terminal.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """One example as the model sees it: picture sizes, tokens, which are learnt, positions."""
    from vlmtune.checks.rows.reading import whole
    from vlmtune.checks.rows.showing import Shown as Example
    from vlmtune.checks.rows.showing import render
    from vlmtune.models import find_checkpoint

    set_offline(offline)
    loaded = load_config(config, sets).config
    if role not in ("train", "select", "test"):
        raise ConfigError(f"--role must be train, select or test (got {role!r})")
    rows = whole(loaded, role)  # type: ignore[arg-type]
    shown = Example(loaded, _task(loaded), find_checkpoint(loaded.model), rows).row(role, row)  # type: ignore[arg-type]
    if output is not None:
        from vlmtune.checks.rows.row_page import write

        write(shown, rows[row], output)
        print(f"page: {output}", file=sys.stderr)
    colour = sys.stdout.isatty() if color is None else color
    print(json.dumps(shown, ensure_ascii=False) if as_json else render(shown, colour))


def stats(
    config: ConfigArg, sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto", offline: Offline = False
) -> None:
    """Rows, tokens, picture sizes, references and labels, from texts and image headers alone."""
    from vlmtune.checks.rows.stats import describe, render
    from vlmtune.models import find_checkpoint
    from vlmtune.progress import open_progress

    set_offline(offline)
    loaded = load_config(config, sets).config
    found = describe(loaded, _task(loaded), find_checkpoint(loaded.model), open_progress(progress))
    print(json.dumps(found, ensure_ascii=False) if as_json else render(found))


def _task(config: "Config") -> "Task":
    from vlmtune import plugs

    task: Task = plugs.load("tasks", config.task.name).TASK
    return task


def _way_on(found: dict[str, Any]) -> str:
    """What to do about a result with errors."""
    if any(each["severity"] == "error" and each["row"] is None for each in found["findings"]):
        return "Correct the config or the data"
    bad = {split["role"]: split["bad_fraction"] for split in found["splits"] if split["bad"]}
    if any("/" in role for role in bad):
        return f"Correct the data, or leave bad rows out by max_bad_fraction in the dataset block of {', '.join(bad)}"
    return f"Correct the data, or leave bad rows out: --set dataset.max_bad_fraction={_above(max(bad.values()))}"


def _above(share: float) -> str:
    """A short number that is not below a share."""
    for digits in range(1, 8):
        rounded = min(1.0, round(share + 0.5 * 10**-digits, digits))
        if share <= rounded <= max(1.2 * share, 0.001):
            return f"{rounded:g}"
    return f"{share}"
