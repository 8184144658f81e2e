"""Arguments that several verbs share, and how a config is loaded with them.

Results as they stand on stdout, and what to do next on stderr.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from vlmtune.progress import Style

if TYPE_CHECKING:
    from vlmtune.config import LoadedConfig
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmtune.config import Config
    from vlmtune.scoring.comparison import Comparison
    from vlmtune.scoring.score import Score

ConfigArg = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a shipped config.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one key; repeatable, the value is YAML.")
]
ForFiles = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="A key of the blocks task or evaluation, as in a config; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Shown = Annotated[Style, typer.Option("--progress", help="How progress is shown on stderr.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use local files only; never ask the Hub.")]


def load_config(config: str, sets: list[str] | None) -> "LoadedConfig":
    """The config with its overrides."""
    from vlmtune.config import load

    return load(config, sets or ())


def set_offline(offline: bool) -> None:
    """From here on, local files only."""
    if offline:
        from vlmtune.hub import go_offline

        go_offline()


def print_comparison(comparison: "Comparison", as_json: bool = False) -> None:
    """The comparison on stdout."""
    from vlmtune.report import text

    plain = comparison.to_json(examples=False)
    print(json.dumps(plain, ensure_ascii=False) if as_json else text.render(plain))


def print_score(score: "Score | None", as_json: bool = False) -> None:
    """The score on stdout; None is that of rows without labels."""
    plain: dict[str, Any] = score.to_json() if score is not None else {"schema_version": 1, "metrics": {}}
    if as_json:
        print(json.dumps(plain, ensure_ascii=False))
        return
    if score is None:
        print("answered; there are no labels to score them by")
        return
    for name, value in plain["metrics"].items():
        ends = plain["intervals"].get(name)
        interval = f"  (95% CI {ends[0]:.4f} to {ends[1]:.4f}, Wilson)" if ends else ""
        print(f"{name:<18} {'-' if value is None else format(value, '.4f')}{interval}")
    print("rows: " + ", ".join(f"{count} {what}" for what, count in plain["rows"].items()))


def say_next(verb: str, config: str, sets: list[str] | None, more: str = "") -> None:
    """The command that goes on from here, with the same --set."""
    words = ["vlmtune", verb, config, *(word for pair in sets or () for word in ("--set", pair))]
    print(f"next: {shlex.join(words)} {more}".rstrip(), file=sys.stderr)


def say_where(config: "Config") -> None:
    """Where the page is."""
    print(f"next: open {config.output.path(config.output.report)}", file=sys.stderr)
