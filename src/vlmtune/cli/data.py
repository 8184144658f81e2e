"""Commands for datasets: init, and data check, show, stats, label-errors and uncertain."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmtune.cli.options import (
    AsJson,
    ConfigArg,
    Offline,
    ProgressStyle,
    Role,
    Sets,
    load_config,
    print_next_command,
)
from vlmtune.errors import ConfigError, DataError
from vlmtune.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmtune.config import Config
    from vlmtune.scaffold.questions import Undecided
    from vlmtune.tasks import Task


def check(
    config: ConfigArg,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
) -> None:
    """Read and decode every row before GPU time is spent, and write all findings to a page."""
    from vlmtune.dataset_check.runner import DatasetCheck
    from vlmtune.dataset_check.text import render
    from vlmtune.pipeline.session import open_session
    from vlmtune.run_layout import DATA_CHECK, DATA_CHECK_PAGE, image_index_path

    with open_session(load_config(config, sets, offline), progress) as session:
        folder = session.folder.root
        check = DatasetCheck(
            session.config,
            session.task,
            session.encoder.checkpoint,
            image_index_path(folder),
            session.progress,
            session.stop,
        )
        result = check.write(folder)
    echo(json.dumps(result, ensure_ascii=False) if as_json else render(result))
    echo(f"page: {folder / DATA_CHECK_PAGE}", err=True)
    if result["status"] == "errors":
        count = f"{result['errors']:,} {'error' if result['errors'] == 1 else 'errors'}"
        raise DataError(f"{count}; all are listed in {folder / DATA_CHECK}. {_remedy(result)}")
    print_next_command("run", config, sets)


def show(
    config: ConfigArg,
    row: Annotated[int, typer.Option("--row", help="Which row, counting from 0.")] = 0,
    role: Annotated[Role, typer.Option(help="Which rows.")] = "train",
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Rows of a mixed dataset or of an additional evaluation set.")
    ] = None,
    augmented: Annotated[
        int | None, typer.Option(metavar="STEP", min=1, help="As training.augmentation changes it in this step.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="Write a page with the resized images.")
    ] = None,
    color: Annotated[
        bool | None, typer.Option("--color/--no-color", help="Use colors; the default in a terminal.")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Show one row as the model sees it: image sizes, tokens, positions, which tokens are supervised."""
    from vlmtune.dataset_check.examples import all_rows
    from vlmtune.dataset_check.show import ExampleViewer, render, write_page
    from vlmtune.modeling.loading import find_checkpoint
    from vlmtune.training.mixture import MixedRows

    loaded = load_config(config, sets, offline)
    if dataset is not None:
        loaded = loaded.for_set(loaded.named_set(dataset))
    if augmented is not None and (role != "train" or not loaded.training.augmentation.active):
        raise ConfigError("--augmented shows train rows as training.augmentation changes them; turn something on there")
    rows = all_rows(loaded, role)
    viewer = ExampleViewer(
        loaded,
        _task(loaded),
        find_checkpoint(loaded.model),
        rows if dataset is None else MixedRows({dataset: rows}),
    )
    step = None if augmented is None else augmented - 1
    shown = viewer.describe(role, row, step)
    if output is not None:
        write_page(shown, rows[row] if step is None else viewer.example(row, 0, step), output)
        echo(f"page: {output}", err=True)
    color = sys.stdout.isatty() if color is None else color
    echo(json.dumps(shown, ensure_ascii=False) if as_json else render(shown, color), styled=color)


def stats(
    config: ConfigArg,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
) -> None:
    """Summarize rows, tokens, image sizes, references and labels, reading only texts and image headers."""
    from vlmtune.dataset_check.stats import describe, render
    from vlmtune.modeling.loading import find_checkpoint
    from vlmtune.progress import open_progress

    loaded = load_config(config, sets, offline)
    summary = describe(loaded, _task(loaded), find_checkpoint(loaded.model), open_progress(progress))
    echo(json.dumps(summary, ensure_ascii=False) if as_json else render(summary))


def _task(config: "Config") -> "Task":
    from vlmtune import registry

    task: Task = registry.load("tasks", config.task.name).TASK
    return task


def _remedy(result: dict[str, Any]) -> str:
    """What to do about the errors of a check."""
    if any(each["severity"] == "error" and each["row"] is None for each in result["findings"]):
        return "Fix the config or the data"
    bad = {split["role"]: split["bad_fraction"] for split in result["splits"] if split["bad"]}
    if any("/" in role for role in bad):
        return f"Fix the data, or exclude bad rows with max_bad_fraction in the dataset block of {', '.join(bad)}"
    return f"Fix the data, or exclude bad rows: --set dataset.max_bad_fraction={_rounded_up(max(bad.values()))}"


def _rounded_up(share: float) -> str:
    """A fraction rounded up to few digits."""
    for digits in range(1, 8):
        rounded = min(1.0, round(share + 0.5 * 10**-digits, digits))
        if share <= rounded <= max(1.2 * share, 0.001):
            return f"{rounded:g}"
    return f"{share}"


def label_errors(
    config: ConfigArg,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter whose training log is read; by default that of the config.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many labels.")] = 50,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.html", help="Where to write the page; by default in output.dir."),
    ] = None,
    sets: Sets = None,
    offline: Offline = False,
) -> None:
    """Rank training rows whose label is probably wrong by their losses, as JSON lines and as a page."""
    from vlmtune.dataset_check.label_errors import label_error_cards, rank_label_errors, read_loss_log, render
    from vlmtune.files import write_atomic
    from vlmtune.pipeline.session import Session, training_set
    from vlmtune.run_layout import LABEL_ERRORS

    session = Session(load_config(config, sets, offline))
    log = read_loss_log(adapter or session.seeds[0].files.adapter)
    train = training_set(session, session.rows("train"), [one.rows("train") for one in session.mixed])
    rows = train.examples.rows
    ranked = label_error_cards(rank_label_errors(log, count), rows)
    page = output or session.files.root / LABEL_ERRORS
    write_atomic(page, render(ranked, len(rows), 1 + max(entry["epoch"] for entry in log)))
    for card in ranked:
        echo(json.dumps(card.to_json(), ensure_ascii=False))
    echo(f"page: {page}", err=True)


def uncertain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A prediction file; its rows need no labels.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many rows.")] = 100,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write them to a file (.jsonl).")] = None,
    task: Annotated[
        str | None, typer.Option(help="Task that reads the answers; by default that of the manifest.")
    ] = None,
) -> None:
    """Rank the rows worth labelling next: those the model is least certain about, as JSON lines."""
    from vlmtune.compare_files import read_answered_file
    from vlmtune.files import write_atomic
    from vlmtune.scoring.diagnostics import uncertain_rows

    rows = uncertain_rows(read_answered_file(file, task), count)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if output is None:
        echo(text, end="")
    else:
        write_atomic(output, text)
        echo(f"{output}: {len(rows)} rows")


def init(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A file, a folder or a dataset on the Hub.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write the config; must not exist.")
    ] = None,
    sets: Sets = None,
    offline: Offline = False,
) -> None:
    """Write a first config for a dataset, explaining each choice. On a terminal, asks what the data does not say."""
    from vlmtune.config import parse_overrides
    from vlmtune.hub import go_offline, go_offline_if_unreachable
    from vlmtune.progress import open_progress
    from vlmtune.scaffold.questions import Undecided
    from vlmtune.scaffold.writer import write

    if offline:
        go_offline()
    elif not Path(name).exists():
        go_offline_if_unreachable(open_progress("auto"))
    chosen = list(sets or ())
    while True:
        try:
            scaffold = write(name, output or Path(f"{Path(name).stem or 'config'}.yaml"), parse_overrides(chosen))
            break
        except Undecided as undecided:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            chosen += _ask(undecided)
    for warning in scaffold.warnings:
        echo(f"! {warning}", err=True)
    echo(f"{scaffold.file}: {scaffold.task}\nnext: vlmtune data check {scaffold.file}")


def _ask(undecided: "Undecided") -> "Sequence[str]":
    """The settings of the option that the user chooses."""
    echo(undecided.question, err=True)
    for number, option in enumerate(undecided.options, 1):
        echo(f"  {number}  {option.meaning}  ({option.arguments})", err=True)
    chosen = 0
    while not 1 <= chosen <= len(undecided.options):
        chosen = typer.prompt(f"Which (1 to {len(undecided.options)})", type=int, err=True)
    return undecided.options[chosen - 1].sets
