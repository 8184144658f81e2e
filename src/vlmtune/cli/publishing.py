"""The verb that publishes an adapter."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vlmtune.cli.arguments import AsJson, ConfigArg, Offline, Sets, load_config, set_offline
from vlmtune.errors import ConfigError

HUB = "hf:"


def push(
    config: ConfigArg,
    to: Annotated[str, typer.Option("--to", metavar="hf:ORG/NAME", help="Where to: a model repository on the Hub.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder; by default the one that the config trains.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="The base model on the Hub, where model.name is a folder.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Everybody may see it; private by default.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also when it got worse, or nothing is known.")] = False,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Push nothing: write into this folder what would go.")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """The adapter to the Hugging Face Hub, with a card written from its comparison; no row of the data goes there."""
    from vlmtune.pipeline.publishing import Wish, assemble
    from vlmtune.pipeline.publishing import push as upload
    from vlmtune.pipeline.session import Session

    set_offline(offline)
    if not to.startswith(HUB) or to.count("/") != 1:
        raise ConfigError(f"--to must be hf:ORG/NAME (got {to!r})")
    session = Session(load_config(config, sets).config)
    wish = Wish(to.removeprefix(HUB), adapter, base, anyway)
    if into is not None:
        if into.exists():
            raise ConfigError(f"{into} is there already; choose another folder with --into")
        files = assemble(session, wish, into)
        print(json.dumps({"schema_version": 1, "files": [str(file) for file in files]}) if as_json else _listed(files))
        return
    address = upload(session, wish, public)
    print(json.dumps({"schema_version": 1, "address": address}) if as_json else address)


def _listed(files: list[Path]) -> str:
    return "\n".join(f"{file}  {file.stat().st_size:,} bytes" for file in files)
