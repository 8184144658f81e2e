"""Options that several commands share, and what all commands print in the same way."""

import glob
import json
import shlex
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlmtune.progress import Style
from vlmtune.terminal import echo

if TYPE_CHECKING:
    from vlmtune.config import Config
    from vlmtune.scoring.comparison import Comparison
    from vlmtune.scoring.score import Score


def _configs(incomplete: str) -> list[str]:
    """Names of configs that begin like this; a shell completes files by itself."""
    from vlmtune.config.loader import shipped_folder

    return sorted(file.name for file in shipped_folder().glob(f"{glob.escape(incomplete)}*.yaml"))


ConfigArg = Annotated[
    str,
    typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a shipped config.", autocompletion=_configs),
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a key with a YAML value; repeatable.")
]
FileSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Set a key of task or evaluation, as in a config; repeatable."),
]
AnswerKey = Annotated[
    str | None,
    typer.Option(
        "--prediction", metavar="KEY", help="Key of the answers, if it is not recognized; dotted where nested."
    ),
]
ReferenceKey = Annotated[
    str | None, typer.Option("--reference", metavar="KEY", help="Key of the references, if it is not recognized.")
]
IdKey = Annotated[str | None, typer.Option("--id", metavar="KEY", help="Key of the ids, if it is not recognized.")]
Filter = Annotated[
    str | None, typer.Option("--filter", metavar="NAME", help="The filter to read, in samples of lm-eval with several.")
]
ReferencesFrom = Annotated[
    str | None,
    typer.Option("--references", metavar="FILE_OR_CONFIG", help="Where rows without references have them, by id."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ProgressStyle = Annotated[Style, typer.Option("--progress", help="How to show progress on stderr.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use local files only; never contact the Hub.")]
Role = Literal["train", "validation", "test"]
"""The same as `data.SplitRole`, which is too slow to import for `--help`."""


def load_config(config: str, sets: list[str] | None, offline: bool = False) -> "Config":
    """Load a config with its overrides; offline, nothing contacts the Hub from here on."""
    from vlmtune import hub
    from vlmtune.config import load_config as load

    if offline:
        hub.go_offline()
    return load(config, sets or ())


def print_comparison(comparison: "Comparison", as_json: bool = False) -> None:
    """Print a comparison on stdout."""
    from vlmtune.report import text

    result = comparison.result
    echo(json.dumps(result, ensure_ascii=False) if as_json else text.render(result))


def print_score(score: "Score | None", as_json: bool = False) -> None:
    """Print a score on stdout; None stands for a dataset without labels."""
    if as_json:
        plain = score.to_json() if score is not None else {"schema_version": 1, "metrics": {}}
        echo(json.dumps(plain, ensure_ascii=False))
        return
    if score is None:
        echo("answered; the dataset has no labels to score against")
        return
    if score.primary_reason:
        echo(f"primary metric: {score.primary_reason}")
    for warning in score.warnings:
        echo(f"! {warning}")
    for name, value in score.metrics.items():
        ends = score.intervals.get(name)
        interval = f"  (95% CI {ends[0]:.4f} to {ends[1]:.4f}, Wilson)" if ends else ""
        echo(f"{name:<18} {'-' if value is None else format(value, '.4f')}{interval}")
    echo("rows: " + ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in score.rows.items()))
    for note in score.notes:
        echo(f"note: {note}", err=True)


def print_next_command(command: str, config: str, sets: list[str] | None, extra: str = "") -> None:
    """Suggest the next command on stderr, with the same --set options."""
    words = ["vlmtune", command, config, *(word for pair in sets or () for word in ("--set", pair))]
    echo(f"next: {shlex.join(words)} {extra}".rstrip(), err=True)
