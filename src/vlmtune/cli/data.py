"""The verbs that look at a dataset: data check, show and stats.

The verb that finds labels which are probably wrong.

The verb that writes a first config.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmtune.cli.options import AsJson, ConfigArg, Offline, Sets, Shown, load_config, say_next, set_offline
from vlmtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vlmtune.config import Config
    from vlmtune.tasks import Task


def check(
    config: ConfigArg, sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto", offline: Offline = False
) -> None:
    """Read and decode every row before GPU time is spent; every fault and copy on a page."""
    from vlmtune.dataset_check.runner import CACHE, PAGE, RESULT, Check
    from vlmtune.dataset_check.runner import check as look
    from vlmtune.dataset_check.text import render
    from vlmtune.pipeline.session import working

    set_offline(offline)
    with working(load_config(config, sets).config, progress) as session:
        folder = session.folder.root
        asked = Check(
            session.config,
            session.task,
            session.encoder.checkpoint,
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
    role: Annotated[str, typer.Option(help="Role of the rows: train, validation or test.")] = "train",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="Write a page with the resized pictures.")
    ] = None,
    color: Annotated[bool | None, typer.Option("--color/--no-color", help="Colours; by default in a terminal.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """One example as the model sees it: picture sizes, tokens, which are learnt, positions."""
    from vlmtune.dataset_check.examples import whole
    from vlmtune.dataset_check.show import Shown as Example
    from vlmtune.dataset_check.show import render
    from vlmtune.modeling.loading import find_checkpoint

    set_offline(offline)
    loaded = load_config(config, sets).config
    if role not in ("train", "validation", "test"):
        raise ConfigError(f"--role must be train, validation or test (got {role!r})")
    rows = whole(loaded, role)  # type: ignore[arg-type]
    shown = Example(loaded, _task(loaded), find_checkpoint(loaded.model), rows).row(role, row)  # type: ignore[arg-type]
    if output is not None:
        from vlmtune.dataset_check.report import write

        write(shown, rows[row], output)
        print(f"page: {output}", file=sys.stderr)
    colour = sys.stdout.isatty() if color is None else color
    print(json.dumps(shown, ensure_ascii=False) if as_json else render(shown, colour))


def stats(
    config: ConfigArg, sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto", offline: Offline = False
) -> None:
    """Rows, tokens, picture sizes, references and labels, from texts and image headers alone."""
    from vlmtune.dataset_check.stats import describe, render
    from vlmtune.modeling.loading import find_checkpoint
    from vlmtune.progress import open_progress

    set_offline(offline)
    loaded = load_config(config, sets).config
    found = describe(loaded, _task(loaded), find_checkpoint(loaded.model), open_progress(progress))
    print(json.dumps(found, ensure_ascii=False) if as_json else render(found))


def _task(config: "Config") -> "Task":
    from vlmtune import registry

    task: Task = registry.load("tasks", config.task.name).TASK
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


def label_errors(
    config: ConfigArg,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter whose training log is read; by default the one this config trains.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many labels.")] = 50,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="The page; by default in output.dir.")
    ] = None,
    sets: Sets = None,
    offline: Offline = False,
) -> None:
    """Training rows whose label is probably wrong, ranked by their losses: as JSON lines and as a page."""
    from vlmtune.dataset_check.label_errors import cards, rank_label_errors, read_loss_log, render
    from vlmtune.files import write_atomic
    from vlmtune.pipeline.session import Session

    set_offline(offline)
    session = Session(load_config(config, sets).config)
    log = read_loss_log(adapter or session.seeds[0].adapter_path())
    rows = session.rows("train")
    found = cards(rank_label_errors(log, count), rows)
    page = output or session.config.output.path("label_errors.html")
    write_atomic(page, render(found, len(rows), 1 + max(entry["epoch"] for entry in log)))
    for card in found:
        print(json.dumps(card.to_json(), ensure_ascii=False))
    print(f"page: {page}", file=sys.stderr)


def uncertain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A prediction file; its rows need no labels.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many rows.")] = 100,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write them to this file (.jsonl).")] = None,
) -> None:
    """Rows worth labelling next: those the model is least certain about, as JSON lines."""
    from vlmtune.files import write_atomic
    from vlmtune.predictions import read
    from vlmtune.scoring.diagnostics import unsure

    rows = unsure(read(file), count)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if output is None:
        print(text, end="")
    else:
        write_atomic(output, text)
        print(f"{output}: {len(rows)} rows")


def init(
    name: Annotated[
        str, typer.Argument(metavar="NAME_OR_FILE", help="A file or folder of rows, or a name on the Hub.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where the config goes; must not be there.")
    ] = None,
    sets: Sets = None,
    offline: Offline = False,
) -> None:
    """A first config for a dataset, with a reason beside every guess; --set settles what cannot be guessed."""
    from vlmtune.config import parse_overrides
    from vlmtune.hub import go_offline_if_unreachable
    from vlmtune.progress import open_progress
    from vlmtune.scaffold.writer import write

    set_offline(offline)
    if not Path(name).exists() and not offline:
        go_offline_if_unreachable(open_progress("auto"))
    written = write(name, output or Path(f"{Path(name).stem or 'config'}.yaml"), parse_overrides(sets or ()))
    for doubt in written.doubts:
        print(f"! {doubt}", file=sys.stderr)
    print(f"{written.file}: {written.task}\nnext: vlmtune data check {written.file}")
