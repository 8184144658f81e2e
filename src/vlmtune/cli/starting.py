"""The verb that writes a first config."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vlmtune.cli.arguments import Offline, Sets, set_offline


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
    from vlmtune.checks.starting.writing import write
    from vlmtune.config import arguments
    from vlmtune.hub import go_offline_if_unreachable
    from vlmtune.progress import open_progress

    set_offline(offline)
    if not Path(name).exists() and not offline:
        go_offline_if_unreachable(open_progress("auto"))
    written = write(name, output or Path(f"{Path(name).stem or 'config'}.yaml"), arguments(sets or ()))
    for doubt in written.doubts:
        print(f"! {doubt}", file=sys.stderr)
    print(f"{written.file}: {written.task}\nnext: vlmtune data check {written.file}")
