"""The verb that serves a model to other programs."""

from pathlib import Path
from typing import Annotated

import typer

from vlmtune.cli.arguments import ConfigArg, Offline, Sets, load_config, set_offline
from vlmtune.progress import open_progress


def serve(
    config: ConfigArg,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder; it is served beside the untouched model.")
    ] = None,
    port: Annotated[int, typer.Option(help="Where to listen, on this machine alone.")] = 8000,
    sets: Sets = None,
    offline: Offline = False,
) -> None:
    """A vLLM server with the config's model, until Ctrl-C; any program that speaks OpenAI's API can ask it."""
    from vlmtune.pipeline.serving import serving

    set_offline(offline)
    with serving(load_config(config, sets).config, open_progress("auto"), adapter, port) as running:
        print(f"{running.base_url}  model {running.model}\n{running.curl}", flush=True)
        running.wait()
