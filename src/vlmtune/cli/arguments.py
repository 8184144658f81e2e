"""Arguments that several verbs share, and how a config is loaded with them."""

from typing import TYPE_CHECKING, Annotated

import typer

from vlmtune.progress import Style

if TYPE_CHECKING:
    from vlmtune.config import LoadedConfig

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
